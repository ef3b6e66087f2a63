"""The local executor: packs one after another in this process. The oracle for all others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from hptransfer.config import CheckpointConfig, ExecutorConfig, RuntimeConfig
from hptransfer.errors import MachineError, UserError
from hptransfer.execution.work import (
    OnResults,
    Pack,
    RunPack,
    Work,
    ignore_start,
    pack_error,
    run_one,
)


def run_packs(
    packs: Sequence[Pack],
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    on_results: OnResults,
    on_start: Callable[[int], None] = ignore_start,
    run_pack: RunPack | None = None,
    checkpoints: CheckpointConfig | None = None,
) -> None:
    """Run the packs in order; see `hptransfer.execution.run_packs`."""
    waiting = deque(packs)
    index = 0
    while waiting:
        work = Work(index, tuple(waiting.popleft()), runtime, run_pack, checkpoints)
        on_start(index)
        try:
            results = run_one(work)
        except (UserError, MachineError):
            raise
        except Exception as error:
            raise pack_error(work.configs, error) from error
        waiting.extend(on_results(index, results) or ())
        index += 1
