"""Who runs the packs of a sweep: one after another in this process, or Ray Tune."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hptransfer.config import ExecutorConfig, RuntimeConfig
from hptransfer.executors.pack import Pack, PackError, RunPack, ignore_start
from hptransfer.outcome import TrialResult

__all__ = ["Pack", "PackError", "RunPack", "run_packs"]


def run_packs(
    packs: Sequence[Pack],
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    on_results: Callable[[int, list[TrialResult]], None],
    on_start: Callable[[int], None] = ignore_start,
    run_pack: RunPack | None = None,
) -> None:
    """Run every pack once; both callbacks run in this thread, with the pack's index.

    Args:
        on_results: called as packs finish, in any order.
        on_start: called when a pack is handed to a worker (again if it is retried).
        run_pack: what runs a pack; None: `hptransfer.trial.run_pack`.

    Raises:
        PackError: a pack raised, which is a bug; what was finished before stays reported.
        UserError: resources that no node has.
        MachineError: packs lost beyond their retries.
    """
    if not packs:
        return
    if executor.name == "local":
        from hptransfer.executors import local as chosen
    else:
        from hptransfer.executors import ray_tune as chosen
    chosen.run_packs(
        packs, runtime, executor, on_results=on_results, on_start=on_start, run_pack=run_pack
    )
