"""The local executor: packs run one after another in this process.

Tests hold the other executor to what this one reports.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from hptransfer.config import ExecutorConfig
from hptransfer.execution.pack_sizes import Trials
from hptransfer.execution.work import OnError, OnResults, PackError, PackTasks


def run_packs(
    packs: Sequence[Trials],
    tasks: PackTasks,
    executor: ExecutorConfig,
    *,
    on_results: OnResults,
    on_start: Callable[[int], None],
    on_error: OnError,
) -> None:
    """Run the packs in order; see `hptransfer.execution.run_packs`."""
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
