"""A thread that calls a watcher's functions, so that a slow service never holds up a pack."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class Delivery:
    """Calls functions in a thread of its own, one after another, until one of them raises.

    Args:
        on_failure: called in that thread with the exception; no later function is called.
    """

    def __init__(self, name: str, on_failure: Callable[[Exception], None]) -> None:
        self._on_failure = on_failure
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        # A daemon thread, since a service that hangs must not keep the command from ending.
        self._thread = threading.Thread(target=self._deliver, name=name, daemon=True)
        self._thread.start()

    def put(self, call: Callable[[], Any]) -> None:
        """Have a function called after the earlier ones, unless one of them raised."""
        if self._thread.is_alive():
            self._calls.put(call)

    def end(self, seconds: float) -> bool:
        """Wait at most so many seconds; return whether all functions were called."""
        self._calls.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _deliver(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # whatever a service raises must not end a sweep
                self._on_failure(error)
                return
