"""Signals that ask for an end: raised at once, and once more where the exception was lost.

A training run is not cut off in the middle of a step: it is only told, and ends in order.

Python drops an exception that a signal handler raises inside a finaliser or a weak reference's
callback ("Exception ignored in"), and libraries have both; so what was asked is also remembered.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hptransfer.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_asked: list[int] = []


@contextmanager
def raised_as_interrupted(*, at_once: bool = True) -> Iterator[None]:
    """Raise `Interrupted` at every one of `SIGNALS` in a `with` block, at its end at the latest.

    With `at_once=False` nothing is raised: the caller looks at `requested_signal` where it can end
    in order, and work that reached its own end meanwhile was not interrupted.
    """

    def interrupt(number: int, _frame: Any) -> None:
        _asked.append(number)
        if at_once:
            raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
        if at_once:
            end_if_asked()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()


def requested_signal() -> int | None:
    """Return the signal that asked for an end, if one did."""
    return _asked[-1] if _asked else None


def end_if_asked() -> None:
    """Raise what a signal asked for, if its own exception was lost; called between packs."""
    if _asked:
        raise Interrupted(_asked[-1])
