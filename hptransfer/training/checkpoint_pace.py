"""When the next checkpoint is due, so that writing them takes a small share of the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

# Seconds between two checkpoints for each second that the last one took, at least: so they take at
# most a twentieth of the time, whatever they weigh and wherever they are written.
PAUSE = 20.0


class CheckpointPace:
    """Times checkpoints; none is due before `every_s` seconds, nor before the last one's pause.

    With `every_s` 0 one is due whenever it is asked.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._ended, self._took = time.monotonic(), 0.0

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint should be written now."""
        wait = max(self._every_s, PAUSE * self._took) if self._every_s else 0.0
        return time.monotonic() - self._ended >= wait

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Time a checkpoint that is written in a `with` block, even if it fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._ended = time.monotonic()
            self._took = self._ended - began
