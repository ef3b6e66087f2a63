"""Run one hptransfer command in this process and write down when its packs started and finished.

    python -m benchmarks.timed_sweep LOG.json sweep quickstart ...

The command is the real one; only the two callbacks that it gives to its executor are noted, with
`time.time()`, which another process can compare with its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hptransfer import execution
from hptransfer.cli import main as cli
from hptransfer.config import ExecutorConfig, RuntimeConfig
from hptransfer.execution.pack_sizes import Trials
from hptransfer.execution.work import OnResults
from hptransfer.results.folder import write_json
from hptransfer.results.trial_result import TrialResult
from hptransfer.sweeping.run import driver


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    log, *words = argv
    events: list[dict[str, Any]] = []
    with patch.object(driver, "run_packs", _noting(events)):
        code = cli.main(words)
    write_json(Path(log), events)
    return code


def _noting(events: list[dict[str, Any]]) -> Callable[..., None]:
    """Return `run_packs` with its callbacks noted before they are called."""

    def run_packs(
        packs: Sequence[Trials],
        runtime: RuntimeConfig,
        executor: ExecutorConfig,
        *,
        on_results: OnResults,
        on_start: Callable[[int], None],
        **others: Any,
    ) -> None:
        def started(index: int) -> None:
            events.append({"event": "started", "pack": index, "time": time.time()})
            on_start(index)

        def finished(index: int, outcome: list[TrialResult]) -> Sequence[Trials] | None:
            now = time.time()
            training = sum(result.seconds for result in outcome)
            events.append(
                {
                    "event": "finished",
                    "pack": index,
                    "time": now,
                    "width": outcome[0].config.model.width,
                    "trials": len(outcome),
                    "training_seconds": training,
                }
            )
            return on_results(index, outcome)

        execution.run_packs(
            packs,
            runtime,
            executor,
            on_results=finished,
            on_start=started,
            **others,
        )

    return run_packs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
