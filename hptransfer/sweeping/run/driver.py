"""The driver of a sweep: it cuts rounds of trials into packs, runs them and records their rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from hptransfer.config import CheckpointConfig, TrialConfig
from hptransfer.config.choices import Method
from hptransfer.config.hyperparameters import hps
from hptransfer.config.identity import arm_of, trial_key
from hptransfer.config.sweep import ExternalSweep
from hptransfer.errors import MachineError, TrialsFailed
from hptransfer.execution import PackError, measure_packs, run_packs
from hptransfer.execution.pack_sizes import (
    PackSize,
    TimedPack,
    Trials,
    by_shape,
    choose_sizes,
    even_parts,
    halved_text,
    longest_first,
    read_packs,
    sizes_text,
    timed_packs,
    write_packs,
)
from hptransfer.results.curves import write_curve
from hptransfer.results.failed_trials import FailedTrial, add_failed, remove_failed
from hptransfer.results.ledger_rows import ledger_row, read_ledger_rows
from hptransfer.results.ledger_writer import LedgerWriter
from hptransfer.results.provenance import provenance
from hptransfer.results.sweep_file import write_asked_points
from hptransfer.results.trial_result import TrialResult
from hptransfer.sweeping.design.trials import pending, placeholder_trials, wanted
from hptransfer.sweeping.run.job import Job
from hptransfer.sweeping.run.progress import SweepProgress
from hptransfer.sweeping.trackers.watch import Watch, watchers
from hptransfer.system.signals import end_if_asked
from hptransfer.system.text import say


def pending_packs(
    job: Job, folder: Path, trials: Sequence[TrialConfig], done: Collection[str]
) -> list[Trials]:
    """Cut the trials into packs and return those of which a row is missing, longest first.

    Packs have the size `runtime.pack_size` where it is set, else the sizes that the folder
    records; sizes of shapes that the folder does not know are measured and recorded. Trials of a
    shape that raised in the measurement come first and alone, so that their failure is recorded.
    """
    if isinstance(job.sweep, ExternalSweep):
        alone = [(config,) for config in sorted(trials, key=lambda trial: -trial.model.width)]
        return pending(alone, done)
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
    single: list[Trials] = []  # of shapes that raised while they were measured
    unknown = {key: group for key, group in groups.items() if key not in recorded}
    if unknown:
        chosen = measured_sizes(job, folder, unknown, [pack.seconds for pack in packs])
        packs += _pending_timed(groups, chosen, done)
        single = [(c,) for key, group in unknown.items() if key not in chosen for c in group]
    return [*pending(single, done), *(pack.trials for pack in longest_first(packs))]


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
    job: Job,
    folder: Path,
    groups: Mapping[str, Trials],
    others: Sequence[float],
    *,
    all_needed: bool = False,
) -> dict[str, PackSize]:
    """Measure what packs of these shapes cost; return their sizes, recorded in the folder.

    A shape whose trials raised an exception has no size.

    Args:
        others: seconds of the packs of all other shapes, which run beside these.
        all_needed: whether every shape must get a size.

    Raises:
        TrialsFailed: trials raised an exception, and all sizes are needed.
    """
    say("measuring how many trials train best together ...", quiet=job.quiet)
    found = measure_packs(
        list(groups.values()),
        job.composed.runtime,
        job.composed.executor,
        say=lambda text: say(text, quiet=job.quiet),
    )
    assert found.workers is not None, "a measurement counts the places"
    for note in found.notes:
        say(note, quiet=job.quiet)
    costs = found.by_key(groups)
    measured = {key: group for key, group in groups.items() if key in costs}
    if all_needed and len(measured) < len(groups):
        raise TrialsFailed(
            f"Trials must train without a Python error, but not all do: {' '.join(found.notes)} "
            "Mend the cause and run the same command again. With runtime.pack_size=1 nothing is "
            "measured, and the whole traceback of each trial that fails is kept in the folder."
        )
    if not measured:
        return {}
    chosen = choose_sizes(measured, costs, found.workers, others)
    write_packs(folder, {**read_packs(folder), **chosen})
    say(sizes_text(chosen.values()), quiet=job.quiet)
    return chosen


Rounds = Sequence[Sequence[TrialConfig]]  # the trials of each round, the newest round last

# Trials that fail one after another, with none that succeeds between them, before a sweep stops.
MOST_FAILURES_IN_A_ROW = 3


def sweep(job: Job) -> int:
    """Run the trials of a sweep that have no row; return how many trials ran.

    Raises:
        TrialsFailed: trials raised; all others ran, unless too many failed one after another.
        MachineError: packs were lost beyond their retries, or the disk failed.
    """
    folder = job.folder.path
    if not job.sweep.is_adaptive:
        trials = list(wanted(job.sweep).values())
        if job.sweep.design.method is not Method.grid:
            write_asked_points(job.folder, job.sweep, [trials])
        return run_trials(job, folder, trials)
    from hptransfer.sweeping.design.rounds import asked

    _measure_ahead(job)

    def next_rounds() -> Rounds:
        rows = {row["trial_key"]: row for row in read_ledger_rows(folder)}
        rounds = asked(job.sweep, rows)
        write_asked_points(job.folder, job.sweep, rounds)
        if job.sweep.design.method is not Method.refine:
            from hptransfer.sweeping.design.optuna_samplers import write_study

            write_study(folder / "optuna.db", job.sweep, rounds, rows)
        return rounds

    return _run(job, folder, next_rounds)


def _measure_ahead(job: Job) -> None:
    """Measure every shape that an adaptive design may ask for.

    Later is too late: workers that wait for their next pack hold the places for a measurement.
    Trials of a trainer that is not ours run alone.
    """
    if isinstance(job.sweep, ExternalSweep):
        return
    recorded, batch = read_packs(job.folder.path), job.sweep.design.batch
    groups = by_shape(placeholder_trials(job.sweep, batch))
    unknown = {key: group for key, group in groups.items() if key not in recorded}
    if unknown and job.composed.runtime.pack_size is None:
        measured_sizes(job, job.folder.path, unknown, [], all_needed=True)


def run_trials(job: Job, folder: Path, trials: Sequence[TrialConfig]) -> int:
    """Run the packs of which a row is missing, and append the missing rows to a folder's ledger.

    Returns how many trials ran; raises as `sweep` does.
    """
    return _run(job, folder, lambda: [trials])


def _run(job: Job, folder: Path, asked: Callable[[], Rounds]) -> int:
    with LedgerWriter(folder, job.lock if folder == job.folder.path else None) as writer:
        running = _RunningSweep(job, folder, asked, writer)
        if writer.notice:
            say(writer.notice, quiet=False)
        remove_failed(folder, writer.keys)
        if running.ask():
            _run_missing(running)
    return running.ran


def _run_missing(running: _RunningSweep) -> None:
    """Run the packs of which a row is missing, with progress and trackers."""
    job, executor = running.job, running.job.composed.executor
    with watchers(running.folder, job.sweep.name, executor) as running.watch:
        packs = running.cut_into_packs()
        facts = {"trials": running.asked, "recorded": running.recorded, "packs": len(packs)}
        running.watch.started(facts)
        say(_starting(running, len(packs)), quiet=job.quiet)
        with SweepProgress(
            running.asked,
            running.recorded,
            axes=job.sweep.axes,
            quiet=job.quiet,
            packs=packs,
        ) as running.progress:
            run_packs(
                packs,
                job.composed.runtime,
                executor,
                on_results=running.on_results,
                on_start=running.on_start,
                on_error=running.on_error,
                run_pack=job.runner(running.folder),
                checkpoints=running.checkpoints,
                folder=running.folder.absolute(),
                on_note=running.tell,
                resources=job.composed.resources,
            )
        running.raise_failures()


def _starting(running: _RunningSweep, packs: int) -> str:
    """Return a line on what happens until the first trials are finished."""
    executor, missing = running.job.composed.executor, running.asked - running.recorded
    trials = "1 trial" if missing == 1 else f"{missing} trials"
    groups = "1 group" if packs == 1 else f"{packs} groups"
    on_ray = "with Ray on this machine" if executor.address == "local" else "on a Ray cluster"
    how = {
        "local": "one group after another in this process",
        "slurm": "each as a job of SLURM",
        "ray": on_ray,
    }[executor.name]
    return f"training {trials} in {groups}, {how} ..."


class _RunningSweep:
    """A sweep while its packs run: rounds asked for, packs handed out, rows recorded.

    All methods are called in the driver's thread.
    """

    watch: Watch
    progress: SweepProgress

    def __init__(
        self, job: Job, folder: Path, asked: Callable[[], Rounds], writer: LedgerWriter
    ) -> None:
        self.job, self.folder, self._asked, self._writer = job, folder, asked, writer
        self._rounds = 0  # rounds asked for so far
        self._fresh: Rounds = []  # rounds not yet cut into packs
        self._packs: list[Trials] = []  # by their index
        self._missing: set[str] = set()  # trials asked for and not yet recorded
        self._failed: list[FailedTrial] = []
        self._failed_in_a_row = 0
        self._provenance = provenance()
        self.checkpoints = checkpoints(job, folder)
        self.asked = self.recorded = self.ran = 0  # trials

    def ask(self) -> bool:
        """Ask for new rounds; return whether one of their trials has no row."""
        rounds = self._asked()
        self._fresh, self._rounds = rounds[self._rounds :], len(rounds)
        keys = [trial_key(config) for trials in self._fresh for config in trials]
        self._missing = {key for key in keys if key not in self._writer.keys}
        self.asked += len(keys)
        self.recorded += len(keys) - len(self._missing)
        return bool(self._missing)

    def cut_into_packs(self) -> list[Trials]:
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
        """Print a sentence, and write it into the log."""
        self.progress.note(text)
        self.watch.note(text)

    def tell(self, text: str) -> None:
        """Write a sentence into the log, and print it unless quiet."""
        if not self.job.quiet:
            self.progress.note(text)
        self.watch.note(text)

    def on_start(self, index: int) -> None:
        """Count a pack as started."""
        self.progress.started(index, self._packs[index])
        self.watch.pack_started(index, len(self._packs[index]))

    def on_results(self, index: int, finished: list[TrialResult]) -> list[Trials]:
        """Record a pack; return the packs of the next rounds once all rows are recorded."""
        fresh = [r for r in finished if trial_key(r.config) not in self._writer.keys]
        rows = [ledger_row(r, hps(r.config, self.job.sweep.axes), self._provenance) for r in fresh]
        for result in fresh:
            write_curve(self.folder, trial_key(result.config), result.curve, result.held_out)
        self._writer.append(rows)
        keys = [r["trial_key"] for r in rows]
        remove_failed(self.folder, keys)
        self._missing.difference_update(keys)
        self._failed_in_a_row = 0
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
        return [] if self._missing else self._next_packs()

    def on_error(self, index: int, error: PackError) -> Sequence[Trials]:
        """Return the halves of a pack that raised; record the failure of a single trial.

        Raises:
            TrialsFailed: too many trials failed one after another.
        """
        pack = self._packs[index]
        self._discard(index)
        if len(pack) == 1:
            self._record_failure(index, self._failure(pack[0], error), error.traceback_text)
            return []
        halves = [tuple(half) for half in even_parts(pack, (len(pack) + 1) // 2)]
        halves = pending(halves, self._writer.keys)
        self._packs += halves
        self.progress.split(index)
        self.watch.pack_raised(index, error.reason, [len(half) for half in halves])
        return halves

    def _record_failure(self, index: int, failed: FailedTrial, traceback_text: str) -> None:
        add_failed(self.folder, failed, traceback_text)
        self._failed.append(failed)
        self._failed_in_a_row += 1
        self.progress.failed(index)
        self.watch.trial_failed(index, failed)
        end_if_asked()
        if self._failed_in_a_row == MOST_FAILURES_IN_A_ROW:
            self.raise_failures(stopped=True)

    def _failure(self, config: TrialConfig, error: PackError) -> FailedTrial:
        key = trial_key(config)
        return FailedTrial(
            trial_key=key,
            width=config.model.width,
            parametrization=arm_of(config),
            hps=hps(config, self.job.sweep.axes),
            seed=config.seed,
            reason=error.reason,
            frame=error.frame,
            log=f"failed/{key}.log",
        )

    def raise_failures(self, *, stopped: bool = False) -> None:
        """Raise if trials failed: a sentence for each.

        Args:
            stopped: whether the failures ended the sweep before all other trials ran.
        """
        if not self._failed:
            return
        others = (
            f"{MOST_FAILURES_IN_A_ROW} failed one after another, so the sweep was stopped; the "
            "trials that finished before are kept"
            if stopped
            else "all other trials are finished and kept"
        )
        sentences = "".join(f"\n  {each.sentence(self.folder)}" for each in self._failed)
        raise TrialsFailed(
            f"{len(self._failed)} of {self.asked} trials failed; {others}. "
            "Mend the cause and run the same command again: it trains only the trials that are "
            f"not finished.{sentences}"
        )

    def _discard(self, index: int) -> None:
        """Remove a recorded pack's checkpoints; one that is left behind does no harm."""
        if self.checkpoints is None:
            return
        from hptransfer.training.packs.checkpoint import discard_pack  # torch's, as these packs are

        try:
            discard_pack(self.checkpoints, self._packs[index])
        except MachineError as error:
            self.note(f"A checkpoint that is not needed any more could not be deleted: {error}")

    def _next_packs(self) -> list[Trials]:
        asked, recorded = self.asked, self.recorded
        packs = self.cut_into_packs() if self.ask() else []
        self.progress.add(packs, self.asked - asked, self.recorded - recorded)
        return packs


def checkpoints(job: Job, folder: Path) -> CheckpointConfig | None:
    """Return where packs leave their state: beside the ledger, or in `executor.storage`.

    None on a Ray cluster without `executor.storage`: its nodes are not known to share a folder, so
    a pack that loses its node starts again from its first step.
    """
    executor = job.composed.executor
    if isinstance(job.sweep, ExternalSweep):  # its trainer keeps its own
        return None
    if executor.storage is not None:
        inner = folder.relative_to(job.folder.path.parent).as_posix()
        is_url = "://" in executor.storage
        outer = executor.storage if is_url else str(Path(executor.storage).absolute())
        return CheckpointConfig(f"{outer.rstrip('/')}/{inner}", executor.checkpoint_s)
    if executor.is_here or executor.name == "slurm":
        return CheckpointConfig(str((folder / "checkpoints").absolute()), executor.checkpoint_s)
    return None
