"""A sweep's job: its folder, the gate before it, and the trials that are still missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer import results
from hptransfer.compose import Composed, as_run_yaml, compose_file, sweep_config
from hptransfer.config import TrialConfig
from hptransfer.disk import write_text
from hptransfer.executors import run_packs, survey
from hptransfer.identity import trial_key, with_scaling
from hptransfer.interruption import end_if_asked
from hptransfer.ledger import LedgerWriter, write_curve
from hptransfer.ledger_rows import row, rows_in
from hptransfer.outcome import TrialResult
from hptransfer.pack_cost import even_parts
from hptransfer.packing import (
    Chosen,
    Pack,
    TimedPack,
    by_shape,
    chosen_sizes,
    halved_text,
    longest_first,
    sizes_text,
    timed_packs,
)
from hptransfer.progress import Progress, say
from hptransfer.questions import HYPERPARAMETERS, SweepConfig
from hptransfer.results import ResultsFolder
from hptransfer.sweep import check_same_question, check_target, hps, pending, wanted
from hptransfer.vocabulary import Scaling


class CheckFailed(Exception):
    """The coordinate check failed, so no compute is spent on the arm; exit code 1."""

    exit_code = 1


@dataclass(frozen=True)
class Job:
    """A sweep with its folder, and how much to say."""

    composed: Composed
    sweep: SweepConfig
    folder: ResultsFolder
    quiet: bool = False


def open_job(composed: Composed, root: Path, *, quiet: bool) -> Job:
    """Prepare a sweep's folder: refuse a changed question, write the sweep as run."""
    sweep = sweep_config(composed)
    wanted(sweep)  # raises on widths that the family cannot have
    if sweep.target is not None:
        check_target(sweep, sweep.target)
    folder = ResultsFolder(root / sweep.name)
    if folder.sweep_file.is_file():
        check_same_question(recorded_sweep(folder), sweep)
    _require_data(sweep, composed)
    write_text(folder.sweep_file, as_run_yaml(composed, name=sweep.name))
    return Job(composed, sweep, folder, quiet)


def recorded_sweep(folder: ResultsFolder) -> SweepConfig:
    """Return the sweep as it was run."""
    return sweep_config(compose_file(folder.sweep_file, [], as_run=True))


def _require_data(sweep: SweepConfig, composed: Composed) -> None:
    from hptransfer.data import load
    from hptransfer.trial import torch_device

    if composed.executor.name == "local" or composed.executor.address == "local":
        torch_device(composed.runtime)
    load(sweep.base.data, composed.runtime.data_folder)


def check(job: Job) -> list[dict[str, Any]]:
    """Check every arm once at the sweep's widths and central learning rate; kept in check.json."""
    asked = {"widths": list(job.sweep.widths), "asked_log2_lr": central_log2_lr(job.sweep)}
    arms = [scaling.value for scaling in job.sweep.parametrizations]
    recorded = results.read_json(job.folder.check_file, "checks")
    kept = recorded["checks"] if recorded else []
    known = {c["parametrization"]: c for c in kept if asked.items() <= c.items()}
    missing = [arm for arm in arms if arm not in known]
    if missing:
        from hptransfer.coordinate_check import coordinate_check

        for arm in missing:
            base = with_scaling(job.sweep.base, Scaling(arm))
            known[arm] = coordinate_check(
                base, asked["widths"], asked["asked_log2_lr"], job.composed.runtime
            )
        results.write_json(job.folder.check_file, {"checks": list(known.values())})
    return [known[arm] for arm in arms]


def central_log2_lr(sweep: SweepConfig) -> float:
    """Return the middle of the learning-rate axis, or the base trial's rate where it is fixed."""
    axes = dict(sweep.search)
    if "lr" in axes:
        return (axes["lr"].low + axes["lr"].high) / 2
    return HYPERPARAMETERS["lr"].log2(sweep.base)


def gate(job: Job) -> list[dict[str, Any]]:
    """Check all arms; refuse to go on where a µP arm fails."""
    if len(job.sweep.widths) < 2 or not job.composed.tree["sweep"]["gate"]:
        return []
    checks = check(job)
    for answer in checks:
        if answer["parametrization"] == Scaling.mup.value and answer["verdict"] == "fail":
            raise CheckFailed(failure_sentence(answer))
    return checks


def failure_sentence(answer: dict[str, Any]) -> str:
    """Say why a coordinate check failed, and what to do."""
    worst = answer["worst"]
    reason = " ".join(answer["warnings"]) or (
        f"{worst['module']} ({worst['quantity']}, step {worst['step']}) changes by "
        f"{worst['slope']} octaves per width doubling; at most {answer['limit']} is µP."
    )
    return (
        f"The coordinate check of the {answer['parametrization']} arm failed: {reason} Mend the "
        "parametrization, or set sweep.gate=false to sweep all the same."
    )


def sweep(job: Job) -> int:
    """Run what is missing of a sweep; return how many trials ran."""
    return run_trials(job, job.folder.path, list(wanted(job.sweep).values()))


def run_trials(job: Job, folder: Path, trials: Sequence[TrialConfig]) -> int:
    """Run the packs of which a row is missing, and append the missing rows.

    Packs are cut from all trials, never from the missing ones, so that a continued sweep has the
    same packs as an undisturbed one.
    """
    with LedgerWriter(folder) as writer:
        done = set(writer.ledger.keys)
        recorded = sum(trial_key(config) in done for config in trials)
        todo = pending_packs(job, folder, trials, done)
        provenance = results.provenance()

        with Progress(len(trials), recorded, quiet=job.quiet, packs=todo) as progress:
            if writer.notice:
                progress.note(writer.notice)

            def on_results(index: int, finished: list[TrialResult]) -> None:
                fresh = [r for r in finished if trial_key(r.config) not in done]
                for result in fresh:
                    write_curve(folder, trial_key(result.config), result.curve)
                writer.append([row(r, hps(r.config, job.sweep.axes), provenance) for r in fresh])
                done.update(trial_key(result.config) for result in fresh)
                if notice := halved_text(finished):
                    progress.note(notice)
                progress.finished(index, fresh)
                end_if_asked()

            run_packs(
                todo,
                job.composed.runtime,
                job.composed.executor,
                on_results=on_results,
                on_start=lambda index: progress.started(index, todo[index]),
            )
    return len(trials) - recorded


def pending_packs(
    job: Job, folder: Path, trials: Sequence[TrialConfig], done: Collection[str]
) -> list[Pack]:
    """Cut the trials into packs and return those of which a row is missing, longest first.

    A given `runtime.pack_size` is used; else sizes are those the folder records, or measured and
    then recorded.
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
    recorded = results.read_packs(folder)
    known = {key: recorded[key] for key in groups if key in recorded}
    packs = _pending_timed(groups, known, done)
    unknown = {key: group for key, group in groups.items() if key not in recorded}
    if unknown:
        chosen = measured_sizes(job, unknown, [pack.seconds for pack in packs])
        results.write_packs(folder, {**recorded, **chosen})
        packs += _pending_timed(groups, chosen, done)
    return [pack.trials for pack in longest_first(packs)]


def _pending_timed(
    groups: Mapping[str, Pack], chosen: Mapping[str, Chosen], done: Collection[str]
) -> list[TimedPack]:
    packs = [
        pack
        for key, choice in chosen.items()
        for pack in timed_packs(groups[key], choice.size, choice.cost())
    ]
    return [pack for pack in packs if pending([pack.trials], done)]


def measured_sizes(
    job: Job, groups: Mapping[str, Pack], others: Sequence[float]
) -> dict[str, Chosen]:
    """Measure what packs of these shapes cost and choose their sizes; say so unless quiet."""
    say("measuring pack sizes ...", quiet=job.quiet)
    found = survey(list(groups.values()), job.composed.runtime, job.composed.executor)
    for note in found.notes:
        say(note, quiet=job.quiet)
    costs = dict(zip(groups, found.costs, strict=True))
    chosen = chosen_sizes(groups, costs, found.workers, others)
    say(sizes_text(chosen.values()), quiet=job.quiet)
    return chosen


def intention(job: Job) -> str:
    """Say what a sweep is about to do."""
    keys = set(wanted(job.sweep))
    done = {r["trial_key"] for r in rows_in(job.folder.path)}
    missing, present = len(keys - done), len(keys & done)
    if not present:
        return f"{job.sweep.name}: {missing} trials to run"
    if not missing:
        return f"{job.sweep.name}: all {present} trials are recorded"
    return f"{job.sweep.name}: {present} of {len(keys)} trials are recorded; adds {missing} trials"
