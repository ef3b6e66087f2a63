"""The local executor: packs one after another in this process. The oracle for all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hptransfer.config import ExecutorConfig, RuntimeConfig
from hptransfer.errors import MachineError, UserError
from hptransfer.executors.pack import Pack, RunPack, ignore_start, pack_error, run_one
from hptransfer.outcome import TrialResult


def run_packs(
    packs: Sequence[Pack],
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    on_results: Callable[[int, list[TrialResult]], None],
    on_start: Callable[[int], None] = ignore_start,
    run_pack: RunPack | None = None,
) -> None:
    """Run the packs in order; see `hptransfer.executors.run_packs`."""
    for index, configs in enumerate(packs):
        on_start(index)
        try:
            results = run_one(configs, runtime, run_pack)
        except (UserError, MachineError):
            raise
        except Exception as error:
            raise pack_error(configs, error) from error
        on_results(index, results)
