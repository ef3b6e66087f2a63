"""The reports of a pack in training, and what else of its progress is not in its tensors."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class Report(NamedTuple):
    """A pack's losses after `step` steps, of every trial that it began with.

    A loss is NaN once its trial has diverged or was stopped.
    """

    step: int
    train_losses: tuple[float, ...]  # mean training losses since the last report
    held_out_losses: tuple[float, ...] | None = None  # of the weights now, where asked for


@dataclass
class PackProgress:
    """The progress of a pack until now, of every trial that it began with."""

    losses_at_init: Tensor  # (T,) float64 on the CPU
    reports: list[Report] = field(default_factory=list)
    began: float = 0.0  # `time.perf_counter()` at the start, less the seconds of earlier processes

    @property
    def step(self) -> int:
        """The steps taken at the last report."""
        return self.reports[-1].step if self.reports else 0

    @property
    def seconds(self) -> float:
        """The wall time spent on the pack, by earlier processes too."""
        return time.perf_counter() - self.began

    def curve(self, member: int) -> list[float]:
        """Return the mean training losses of the trial at place `member` of the start."""
        return [report.train_losses[member] for report in self.reports]
