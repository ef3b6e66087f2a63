"""Running what is missing of a sweep: rounds of trials, cut into packs, recorded as they finish."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hptransfer.config import CheckpointConfig, ExecutorConfig, TrialConfig
from hptransfer.config.choices import Method
from hptransfer.config.hyperparameters import hps
from hptransfer.config.identity import trial_key
from hptransfer.errors import MachineError
from hptransfer.execution import measure_packs, run_packs
from hptransfer.execution.pack_cost import even_parts
from hptransfer.execution.pack_sizes import (
    PackSize,
    TimedPack,
    Trials,
    by_shape,
    choose_sizes,
    halved_text,
    longest_first,
    sizes_text,
    timed_packs,
)
from hptransfer.execution.pack_sizes_file import read_packs, write_packs
from hptransfer.results.asked_points import write_asked_points
from hptransfer.results.curves import write_curve
from hptransfer.results.ledger_rows import ledger_row, read_ledger_rows
from hptransfer.results.ledger_writer import LedgerWriter
from hptransfer.results.provenance import provenance
from hptransfer.results.trial_result import TrialResult
from hptransfer.sweeping.design.trials import pending, stand_ins, wanted
from hptransfer.sweeping.run.job import Job
from hptransfer.sweeping.run.progress import Progress
from hptransfer.sweeping.trackers import Watch, watchers
from hptransfer.system.console import say
from hptransfer.system.signals import end_if_asked
from hptransfer.training.packs.checkpoint import discard_pack

Rounds = Sequence[Sequence[TrialConfig]]  # trials asked together, the newest round last


def sweep(job: Job) -> int:
    """Run what is missing of a sweep; return how many trials ran."""
    folder = job.folder.path
    if not job.sweep.is_adaptive:
        trials = list(wanted(job.sweep).values())
        if job.sweep.design.method is not Method.grid:
            write_asked_points(job.folder, job.sweep, [trials])
        return run_trials(job, folder, trials)
    from hptransfer.sweeping.design.rounds import asked, write_study

    _measure_ahead(job)

    def next_rounds() -> Rounds:
        rows = {row["trial_key"]: row for row in read_ledger_rows(folder)}
        rounds = asked(job.sweep, rows)
        write_asked_points(job.folder, job.sweep, rounds)
        write_study(job.folder, job.sweep, rounds, rows)
        return rounds

    return _run(job, folder, next_rounds)


def _measure_ahead(job: Job) -> None:
    """Measure every shape that an adaptive design may ask for: once packs run, no place is free."""
    recorded, batch = read_packs(job.folder.path), job.sweep.design.batch
    groups = by_shape(stand_ins(job.sweep, batch))
    unknown = {key: group for key, group in groups.items() if key not in recorded}
    if unknown and job.composed.runtime.pack_size is None:
        measured_sizes(job, job.folder.path, unknown, [])


def run_trials(job: Job, folder: Path, trials: Sequence[TrialConfig]) -> int:
    """Run the packs of which a row is missing; append the missing rows to a folder's ledger."""
    return _run(job, folder, lambda: [trials])


def _run(job: Job, folder: Path, asked: Callable[[], Rounds]) -> int:
    with LedgerWriter(folder, job.lock if folder == job.folder.path else None) as writer:
        work = _Work(job, folder, asked, writer)
        if writer.notice:
            say(writer.notice, quiet=False)
        if work.ask():
            _finish(work, _told(job, folder))
    return work.ran


def _finish(work: _Work, executor: ExecutorConfig) -> None:
    """Run what is missing, while whoever wants to know is told."""
    job = work.job
    with watchers(work.folder, job.sweep.name, executor) as work.watch:
        packs = work.cut()
        work.watch.started({"trials": work.asked, "recorded": work.recorded, "packs": len(packs)})
        with Progress(work.asked, work.recorded, quiet=job.quiet, packs=packs) as work.progress:
            run_packs(
                packs,
                job.composed.runtime,
                executor,
                on_results=work.on_results,
                on_start=work.on_start,
                checkpoints=work.checkpoints,
            )


def _told(job: Job, folder: Path) -> ExecutorConfig:
    """Return the executor; the end of the target's own trials is not told, the sweep's is."""
    executor = job.composed.executor
    return executor if folder == job.folder.path else replace(executor, on_finish=None)


class _Work:
    """What of a sweep is asked, handed out and recorded; all of it in the driver's thread."""

    watch: Watch
    progress: Progress

    def __init__(
        self, job: Job, folder: Path, asked: Callable[[], Rounds], writer: LedgerWriter
    ) -> None:
        self.job, self.folder, self._asked, self._writer = job, folder, asked, writer
        self._rounds = 0  # that were asked
        self._fresh: Rounds = []  # those not yet cut into packs
        self._packs: list[Trials] = []
        self._missing: set[str] = set()  # trials asked and not yet recorded
        self._provenance = provenance()
        self.checkpoints = checkpoints(job, folder)
        self.asked = self.recorded = self.ran = 0  # trials

    def ask(self) -> bool:
        """Ask for rounds; return whether a trial of a new one is missing."""
        rounds = self._asked()
        self._fresh, self._rounds = rounds[self._rounds :], len(rounds)
        keys = [trial_key(config) for trials in self._fresh for config in trials]
        self._missing = {key for key in keys if key not in self._writer.keys}
        self.asked += len(keys)
        self.recorded += len(keys) - len(self._missing)
        return bool(self._missing)

    def cut(self) -> list[Trials]:
        """Cut the new rounds into packs and return those of which a row is missing.

        Packs are cut from all trials of a round, never from the missing ones, so that a continued
        sweep has the same packs as an undisturbed one.
        """
        packs = [
            pack
            for trials in self._fresh
            for pack in pending_packs(self.job, self.folder, trials, self._writer.keys)
        ]
        self._packs += packs
        return packs

    def note(self, text: str) -> None:
        """Tell a sentence to whoever watches."""
        self.progress.note(text)
        self.watch.note(text)

    def on_start(self, index: int) -> None:
        """Count a pack as started."""
        self.progress.started(index, self._packs[index])
        self.watch.pack_started(index, len(self._packs[index]))

    def on_results(self, index: int, finished: list[TrialResult]) -> list[Trials]:
        """Record a pack; return further packs where all that was handed out is recorded."""
        fresh = [r for r in finished if trial_key(r.config) not in self._writer.keys]
        rows = [ledger_row(r, hps(r.config, self.job.sweep.axes), self._provenance) for r in fresh]
        for result in fresh:
            write_curve(self.folder, trial_key(result.config), result.curve, result.held_out)
        self._writer.append(rows)
        self._missing.difference_update(r["trial_key"] for r in rows)
        self.ran += len(rows)
        self._discard(index)
        notes = [halved_text(finished), *(note for result in finished for note in result.notes)]
        for note in dict.fromkeys(filter(None, notes)):
            self.note(note)
        for result, recorded in zip(fresh, rows, strict=True):
            self.watch.row(recorded, result.curve)
        self.watch.pack_finished(index)
        self.progress.finished(index, fresh)
        end_if_asked()
        return [] if self._missing else self._grown()

    def _discard(self, index: int) -> None:
        """Remove a recorded pack's checkpoints; one that is left behind does no harm."""
        if self.checkpoints is None:
            return
        try:
            discard_pack(self.checkpoints, self._packs[index])
        except MachineError as error:
            self.note(f"A checkpoint that is needed no more is left behind: {error}")

    def _grown(self) -> list[Trials]:
        asked, recorded = self.asked, self.recorded
        packs = self.cut() if self.ask() else []
        self.progress.add(packs, self.asked - asked, self.recorded - recorded)
        return packs


def checkpoints(job: Job, folder: Path) -> CheckpointConfig | None:
    """Return where packs leave their state: beside the ledger, or where all nodes see it.

    A cluster whose nodes share nothing that we know of has no checkpoints: a pack that loses its
    node starts anew.
    """
    executor = job.composed.executor
    if executor.storage is not None:
        inner = folder.relative_to(job.folder.path.parent).as_posix()
        is_url = "://" in executor.storage
        outer = executor.storage if is_url else str(Path(executor.storage).absolute())
        return CheckpointConfig(f"{outer.rstrip('/')}/{inner}", executor.checkpoint_s)
    if executor.name == "local" or executor.address == "local":
        return CheckpointConfig(str((folder / "checkpoints").absolute()), executor.checkpoint_s)
    return None


def pending_packs(
    job: Job, folder: Path, trials: Sequence[TrialConfig], done: Collection[str]
) -> list[Trials]:
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
    """Measure what packs of these shapes cost; choose their sizes, record them in the folder, and
    say so unless quiet.
    """
    say("measuring pack sizes ...", quiet=job.quiet)
    found = measure_packs(list(groups.values()), job.composed.runtime, job.composed.executor)
    for note in found.notes:
        say(note, quiet=job.quiet)
    costs = dict(zip(groups, found.costs, strict=True))
    chosen = choose_sizes(groups, costs, found.workers, others)
    write_packs(folder, {**read_packs(folder), **chosen})
    say(sizes_text(chosen.values()), quiet=job.quiet)
    return chosen
