"""Execution of a sweep's packs: one after another in this process, by Ray Tune, or by SLURM."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType

from hptransfer.config import CheckpointConfig, ExecutorConfig, RuntimeConfig
from hptransfer.config.compose.external import TrialResources
from hptransfer.errors import UserError
from hptransfer.execution.pack_sizes import MeasureLimits, Measurement, Trials
from hptransfer.execution.resources import resources_of_pack, usable_cpus
from hptransfer.execution.work import (
    OnError,
    OnResults,
    PackError,
    PackTasks,
    RunPack,
    ignore_note,
    ignore_start,
    raise_error,
)

__all__ = [
    "PackError",
    "RunPack",
    "cached_packs",
    "kept_executor",
    "measure_packs",
    "require_executor",
    "run_packs",
]


def require_executor(executor: ExecutorConfig) -> None:
    """Refuse an executor whose programs or packages are not there, before anything is written.

    Raises:
        UserError: in a sentence.
    """
    if executor.name == "slurm":
        from hptransfer.execution.slurm.cluster import require_slurm

        require_slurm(executor)


def run_packs(
    packs: Sequence[Trials],
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    on_results: OnResults,
    on_start: Callable[[int], None] = ignore_start,
    on_error: OnError = raise_error,
    run_pack: RunPack | None = None,
    checkpoints: CheckpointConfig | None = None,
    folder: Path | None = None,
    on_note: Callable[[str], None] = ignore_note,
    resources: Mapping[int, TrialResources] = MappingProxyType({}),
) -> None:
    """Run every pack once; all callbacks run in this thread and get the pack's index.

    Args:
        on_results: called as packs finish, in any order. Packs that it returns are run after all
            others, with the indices that follow the last.
        on_start: called when a pack is handed to a worker, and again if the pack is retried.
        on_error: called when a pack raised, which is a bug. Packs that it returns are run next,
            with the indices that follow the last. By default the error is raised.
        run_pack: what runs a pack; None: `hptransfer.training.packs.run.run_pack`.
        checkpoints: where packs in training leave their state; None: nowhere.
        folder: the folder with the ledger, in which SLURM's jobs leave their outcomes.
        on_note: is told what became of SLURM's jobs, in sentences.
        resources: of the widths whose packs ask for others than the executor's.

    Raises:
        PackError: a pack raised, and `on_error` is not given.
        UserError: resources that no node has, no cluster, or storage that nodes do not share.
        MachineError: packs lost beyond their retries, or the cluster itself.
    """
    if not packs:
        return
    if executor.name == "local":
        tasks = PackTasks(runtime, run_pack, checkpoints)
        _run_here(packs, tasks, on_results, on_start, on_error)
        return
    request_of = partial(resources_of_pack, runtime, executor, resources)
    tasks = PackTasks(runtime, run_pack, checkpoints, request_of)
    if executor.name == "slurm":
        if folder is None:
            raise UserError(
                "`executor` must be local or ray for runs that no results folder keeps, such as "
                "those of a budget's plan, but got slurm. Add executor=local or executor=ray."
            )
        from hptransfer.execution.slurm.executor import run_as_jobs

        run_as_jobs(packs, tasks, executor, folder, on_results, on_start, on_error, on_note)
        return
    from hptransfer.execution.ray.executor import run_on_workers

    run_on_workers(packs, tasks, executor, on_results, on_start, on_error)


@contextmanager
def kept_executor(executor: ExecutorConfig, *, ahead: bool) -> Iterator[None]:
    """Keep what an executor has started for all packs that run in a `with` block.

    Of use where Ray runs on this machine alone, which takes seconds to start; else nothing is kept.

    Args:
        ahead: whether it starts at once, while this process does something else.
    """
    if executor.name != "ray" or executor.address != "local":
        yield
        return
    from hptransfer.execution.ray.session import shared_ray

    with shared_ray(ahead=ahead):
        yield


def _run_here(
    packs: Sequence[Trials],
    tasks: PackTasks,
    on_results: OnResults,
    on_start: Callable[[int], None],
    on_error: OnError,
) -> None:
    """Run packs one after another in this process; tests hold Ray to what this reports."""
    waiting = tasks.after_all(packs)
    while waiting:
        task = heapq.heappop(waiting)
        on_start(task.index)
        outcome = task.run()
        if isinstance(outcome.error, PackError):
            more = tasks.in_place_of(task, on_error(task.index, outcome.error) or ())
        elif outcome.error is not None:
            raise outcome.error
        else:
            more = tasks.after_all(on_results(task.index, outcome.results) or ())
        for each in more:
            heapq.heappush(waiting, each)


def measure_packs(
    groups: Sequence[Trials],
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    limits: MeasureLimits | None = None,
    say: Callable[[str], None],
) -> Measurement:
    """Measure what packs of each group of equal shapes cost where packs run, and count places.

    The measurement runs in this process where packs run on this machine's CPU, or one after
    another. Elsewhere it runs in workers with a pack's resources: only they see the device.

    Args:
        limits: see `hptransfer.execution.measure.measured_costs`, which says when a cost is None.
        say: is told how far the measurement is.

    Raises:
        UserError: resources that no node has.
        MachineError: a single trial does not fit, or the workers were lost.
    """
    if executor.name == "slurm" and not executor.is_here:
        raise UserError(
            "`runtime.pack_size` must be given with executor=slurm, since packs are measured where "
            "they train and no job is submitted for that. Set runtime.pack_size=1 or more; "
            "`hptransfer plan --measure` finds a good one on a node of the same kind."
        )
    if executor.name == "ray" and (executor.address != "local" or runtime.on_gpu):
        from hptransfer.execution.ray.measure import measure_packs as measure_on_workers

        return measure_on_workers(groups, runtime, executor, limits=limits, say=say)
    from hptransfer.execution.measure import measured_costs

    workers = known_places(runtime, executor)
    assert workers is not None, "a CPU's places are known"
    costs, notes = measured_costs(groups, runtime, share=1.0 / workers, limits=limits, say=say)
    return Measurement(costs, workers, notes)


def cached_packs(
    groups: Sequence[Trials], runtime: RuntimeConfig, executor: ExecutorConfig
) -> Measurement:
    """Return what the cache knows of packs of each group, None where it knows nothing.

    Nothing is measured and no cluster is asked.
    """
    from hptransfer.execution.measure import cached_costs

    workers = known_places(runtime, executor)
    share = 1.0 / (workers or 1)
    costs, notes = cached_costs(groups, runtime, here=executor.is_here, share=share)
    return Measurement(costs, workers, notes)


def known_places(runtime: RuntimeConfig, executor: ExecutorConfig) -> int | None:
    """Return the packs that run at a time as far as this machine tells; None: a cluster's."""
    if executor.name == "local":
        return 1
    if executor.is_here and not runtime.on_gpu:
        places = max(int(usable_cpus() / executor.cpus), 1)
        return min(executor.workers or places, places)
    return executor.workers
