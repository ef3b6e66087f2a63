"""What a pack's training has told so far: all of a pack that does not lie in its tensors."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class Report(NamedTuple):
    """Where a pack stands: the step, each trial's mean training loss since the last report, and
    the deciding loss of its weights now where that is asked for; NaN once it takes no part.
    """

    step: int
    train_losses: tuple[float, ...]
    held_out_losses: tuple[float, ...] | None = None


@dataclass
class PackProgress:
    """A pack's past, of every trial that it began with."""

    losses_at_init: Tensor  # (T,) float64 on the CPU
    reports: list[Report] = field(default_factory=list)
    began: float = 0.0  # on this process's clock, less what earlier processes spent

    @property
    def step(self) -> int:
        """Steps taken at the last report."""
        return self.reports[-1].step if self.reports else 0

    @property
    def seconds(self) -> float:
        """Wall time spent on the pack, by earlier processes too."""
        return time.perf_counter() - self.began

    def curve(self, member: int) -> list[float]:
        """Return a trial's mean training losses, NaN once it takes no part."""
        return [report.train_losses[member] for report in self.reports]
