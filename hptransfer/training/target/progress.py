"""What of a run's past does not lie in its tensors; a checkpoint holds it as JSON, to the bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hptransfer.config import BudgetConfig
from hptransfer.config.choices import Status
from hptransfer.results.ledger_rows import finite_or_none
from hptransfer.training.reports import has_point
from hptransfer.training.stopping import first_step, is_hopeless

CurvePoint = tuple[int, float]  # steps taken, loss


@dataclass
class RunProgress:
    """Where a run stands. The training curve has the points that a pack's has."""

    loss_at_init: float
    step: int = 0  # steps taken
    seconds: float = 0.0  # wall time until the last checkpoint, of earlier processes too
    clipped: int = 0  # steps whose gradient was clipped
    curve: list[CurvePoint] = field(default_factory=list)
    held_out: list[CurvePoint] = field(default_factory=list)
    since_report: float = 0.0  # sum of losses since the curve's last point
    since_log: float = 0.0  # and since the last line of the log
    logged_at: int = 0
    diverged_at: int | None = None  # the step, from 0, whose loss or gradient was not finite
    stopped_at: int | None = None  # steps taken until it was given up

    @staticmethod
    def of(facts: Mapping[str, Any]) -> RunProgress:
        """Return what `facts` was made from."""
        curves = {name: [(step, loss) for step, loss in facts[name]] for name in CURVES}
        at_init = math.nan if facts["loss_at_init"] is None else facts["loss_at_init"]
        return RunProgress(**{**facts, **curves, "loss_at_init": at_init})

    def facts(self, seconds: float) -> dict[str, Any]:
        """Return all of it as plain JSON, after so many seconds."""
        return {
            **asdict(self),
            "seconds": seconds,
            "loss_at_init": finite_or_none(self.loss_at_init),
        }

    def took(self, loss: float, *, clipped: bool, sound: bool) -> None:
        """Count one step."""
        if not sound:
            self.diverged_at = self.step
        self.step += 1
        self.clipped += clipped
        self.since_report += loss
        self.since_log += loss

    def measured(self, loss: float, budget: BudgetConfig) -> None:
        """Count a held-out loss: at the end one that is not finite is a divergence."""
        if math.isfinite(loss):
            self.held_out.append((self.step, loss))
        elif self.step == budget.steps:
            self.diverged_at = self.step

    def report(self, budget: BudgetConfig) -> None:
        """Add a point to the curve where one is due, and give the run up where it is hopeless."""
        if self.diverged_at is not None or not has_point(self.step, budget.steps):
            return
        before = self.curve[-1][0] if self.curve else 0
        self.curve.append((self.step, self.since_report / (self.step - before)))
        self.since_report = 0.0
        late = first_step(budget.stop_after, budget.steps) <= self.step < budget.steps
        if late and is_hopeless([loss for _, loss in self.curve], self.loss_at_init):
            self.stopped_at = self.step

    def logged(self) -> float:
        """Return the mean loss since the last line of the log, and begin the next."""
        mean = self.since_log / (self.step - self.logged_at)
        self.since_log, self.logged_at = 0.0, self.step
        return mean

    def deciding_loss(self, budget: BudgetConfig) -> float | None:
        """Return the loss of a run that completed."""
        return self.held_out[-1][1] if self.status(budget) is Status.completed else None

    def status(self, budget: BudgetConfig) -> Status | None:
        """Return how the run ended, None where it goes on."""
        if self.diverged_at is not None:
            return Status.diverged
        if self.stopped_at is not None:
            return Status.stopped
        measured = bool(self.held_out) and self.held_out[-1][0] == budget.steps
        return Status.completed if measured else None


CURVES = ("curve", "held_out")
