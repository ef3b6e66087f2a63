"""Who runs the packs of a sweep: one after another in this process, or Ray Tune."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from hptransfer.config import ExecutorConfig, RuntimeConfig
from hptransfer.errors import UserError
from hptransfer.executors.pack import Pack, PackError, RunPack, ignore_start
from hptransfer.outcome import TrialResult

__all__ = ["EXECUTORS", "Pack", "PackError", "RunPack", "run_packs"]

EXECUTORS = ("local", "ray")


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
        UserError: an unknown executor, or resources that no node has.
        MachineError: packs lost beyond their retries.
    """
    if executor.name not in EXECUTORS:
        nearest = difflib.get_close_matches(executor.name, EXECUTORS, n=1, cutoff=0)[0]
        raise UserError(
            f"`executor.name` must be one of {', '.join(EXECUTORS)}, but got "
            f"{executor.name!r}. Did you mean {nearest}?"
        )
    if not packs:
        return
    if executor.name == "local":
        from hptransfer.executors import local as chosen
    else:
        from hptransfer.executors import ray_tune as chosen
    chosen.run_packs(
        packs, runtime, executor, on_results=on_results, on_start=on_start, run_pack=run_pack
    )
