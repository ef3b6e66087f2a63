"""Telling one watcher in a thread of its own, so that a slow service never holds up a pack."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Task = Callable[[], Any]


class Delivery:
    """Calls tasks one after another, in order; the first that raises is the last.

    Args:
        on_failure: called in the delivering thread with what was raised.
    """

    def __init__(self, name: str, on_failure: Callable[[Exception], None]) -> None:
        self._on_failure = on_failure
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        # A daemon: a service that hangs must not keep the command from ending.
        self._thread = threading.Thread(target=self._deliver, name=name, daemon=True)
        self._thread.start()

    def put(self, task: Task) -> None:
        """Have a task called, unless an earlier one failed."""
        if self._thread.is_alive():
            self._tasks.put(task)

    def end(self, seconds: float) -> bool:
        """Wait until all tasks were called, or for so long; say whether they were."""
        self._tasks.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _deliver(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception as error:  # whatever a service raises must not end a sweep
                self._on_failure(error)
                return
