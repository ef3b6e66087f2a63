"""Signals that ask for an end, raised as `Interrupted`.

Python drops an exception that a signal handler raises inside a finaliser or a weak reference's
callback ("Exception ignored in"), and libraries have both. So the signal is also remembered, and
raised again later. A target's run is not interrupted within a step: it looks at the remembered
signal between steps.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hptransfer.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_received: list[int] = []  # signals since the `with` block began


@contextmanager
def raised_as_interrupted(
    *, at_once: bool = True, signals: Sequence[int] = SIGNALS
) -> Iterator[None]:
    """Raise `Interrupted` at every one of `signals` in a `with` block, at its end at the latest.

    With `at_once=False` nothing is raised: the caller looks at `requested_signal` where it can end
    in order, and work that reached its own end meanwhile was not interrupted.
    """

    def interrupt(number: int, _frame: Any) -> None:
        _received.append(number)
        if at_once:
            raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
        if at_once:
            end_if_asked()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def requested_signal() -> int | None:
    """Return the last signal that asked for an end; None if there was none."""
    return _received[-1] if _received else None


def end_if_asked() -> None:
    """Raise `Interrupted` if a signal asked for an end, whose own exception may have been lost."""
    if _received:
        raise Interrupted(_received[-1])
