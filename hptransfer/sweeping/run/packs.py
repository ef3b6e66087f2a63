"""The packs of a sweep's trials: their sizes are recorded, or measured and then recorded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hptransfer.config import TrialConfig
from hptransfer.config.identity import trial_key
from hptransfer.execution import measure_packs
from hptransfer.execution.pack_sizes import (
    PackSize,
    TimedPack,
    Trials,
    by_shape,
    choose_sizes,
    even_parts,
    longest_first,
    read_packs,
    sizes_text,
    timed_packs,
    write_packs,
)
from hptransfer.sweeping.design.trials import pending
from hptransfer.sweeping.run.job import Job
from hptransfer.system.console import say


def pending_packs(
    job: Job, folder: Path, trials: Sequence[TrialConfig], done: Collection[str]
) -> list[Trials]:
    """Cut the trials into packs and return those of which a row is missing, longest first.

    Packs have the size `runtime.pack_size` where it is set, else the sizes that the folder
    records; sizes of shapes that the folder does not know are measured and recorded.
    """
    groups = {
        key: group
        for key, group in by_shape(trials).items()
        if any(trial_key(config) not in done for config in group)
    }
    given = job.composed.runtime.pack_size
    if given is not None:
        packs = [tuple(part) for group in groups.values() for part in even_parts(group, given)]
        return sorted(pending(packs, done), key=lambda pack: -pack[0].model.width)
    recorded = read_packs(folder)
    known = {key: recorded[key] for key in groups if key in recorded}
    packs = _pending_timed(groups, known, done)
    unknown = {key: group for key, group in groups.items() if key not in recorded}
    if unknown:
        chosen = measured_sizes(job, folder, unknown, [pack.seconds for pack in packs])
        packs += _pending_timed(groups, chosen, done)
    return [pack.trials for pack in longest_first(packs)]


def _pending_timed(
    groups: Mapping[str, Trials], chosen: Mapping[str, PackSize], done: Collection[str]
) -> list[TimedPack]:
    packs = [
        pack
        for key, choice in chosen.items()
        for pack in timed_packs(groups[key], choice.size, choice.cost())
    ]
    return [pack for pack in packs if pending([pack.trials], done)]


def measured_sizes(
    job: Job, folder: Path, groups: Mapping[str, Trials], others: Sequence[float]
) -> dict[str, PackSize]:
    """Measure what packs of these shapes cost; return their sizes, recorded in the folder.

    Args:
        others: seconds of the packs of all other shapes, which run beside these.
    """
    say("measuring pack sizes ...", quiet=job.quiet)
    found = measure_packs(
        list(groups.values()),
        job.composed.runtime,
        job.composed.executor,
        say=lambda text: say(text, quiet=job.quiet),
    )
    assert found.workers is not None, "a measurement counts the places"
    for note in found.notes:
        say(note, quiet=job.quiet)
    chosen = choose_sizes(groups, found.by_key(groups), found.workers, others)
    write_packs(folder, {**read_packs(folder), **chosen})
    say(sizes_text(chosen.values()), quiet=job.quiet)
    return chosen
