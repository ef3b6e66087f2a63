"""The progress of a target's run beside its tensors; checkpoints hold it as JSON, exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hptransfer.config import BudgetConfig
from hptransfer.config.choices import Status
from hptransfer.results.ledger_rows import finite_or_none
from hptransfer.training.reports import has_point
from hptransfer.training.stopping import gives_up

CurvePoint = tuple[int, float]  # steps taken, loss
CURVES = ("curve", "held_out")  # fields that are lists of points


@dataclass
class RunProgress:
    """The steps taken and losses seen by a run. Its curve has points at the steps of a pack's."""

    loss_at_init: float  # held-out, of the first evaluation draw
    step: int = 0  # steps taken
    seconds: float = 0.0  # wall time until the last checkpoint, of earlier processes too
    clipped: int = 0  # steps whose gradient was clipped
    curve: list[CurvePoint] = field(default_factory=list)
    held_out: list[CurvePoint] = field(default_factory=list)
    since_report: float = 0.0  # sum of training losses since the curve's last point
    since_log: float = 0.0  # sum of training losses since the last line of the log
    logged_at: int = 0  # steps taken at the last line of the log
    diverged_at: int | None = None  # the step, from 0, whose loss or gradient was not finite
    stopped_at: int | None = None  # steps taken until the run was given up

    @staticmethod
    def of(facts: Mapping[str, Any]) -> RunProgress:
        """Return the progress whose `facts` these are."""
        curves = {name: [(step, loss) for step, loss in facts[name]] for name in CURVES}
        at_init = math.nan if facts["loss_at_init"] is None else facts["loss_at_init"]
        return RunProgress(**{**facts, **curves, "loss_at_init": at_init})

    def facts(self, seconds: float) -> dict[str, Any]:
        """Return the progress as plain JSON, `seconds` after the start."""
        return {
            **asdict(self),
            "seconds": seconds,
            "loss_at_init": finite_or_none(self.loss_at_init),
        }

    def took(self, loss: float, *, clipped: bool, sound: bool) -> None:
        """Record a step: its loss, and whether it was clipped and finite."""
        if not sound:
            self.diverged_at = self.step
        self.step += 1
        self.clipped += clipped
        self.since_report += loss
        self.since_log += loss

    def measured(self, loss: float, budget: BudgetConfig) -> None:
        """Record a held-out loss; after the last step, one that is not finite is a divergence."""
        if math.isfinite(loss):
            self.held_out.append((self.step, loss))
        elif self.step == budget.steps:
            self.diverged_at = self.step

    def report(self, budget: BudgetConfig) -> None:
        """Add a point to the curve if one is due, and give the run up if it is hopeless."""
        if self.diverged_at is not None or not has_point(self.step, budget.steps):
            return
        before = self.curve[-1][0] if self.curve else 0
        self.curve.append((self.step, self.since_report / (self.step - before)))
        self.since_report = 0.0
        losses = [loss for _, loss in self.curve]
        if gives_up(budget, self.step, losses, self.loss_at_init):
            self.stopped_at = self.step

    def logged(self) -> float:
        """Return the mean training loss since the last line of the log, and begin the next mean."""
        mean = self.since_log / (self.step - self.logged_at)
        self.since_log, self.logged_at = 0.0, self.step
        return mean

    def deciding_loss(self, budget: BudgetConfig) -> float | None:
        """Return the deciding loss of a run that completed, else None."""
        return self.held_out[-1][1] if self.status(budget) is Status.completed else None

    def status(self, budget: BudgetConfig) -> Status | None:
        """Return how the run ended; None if it has not."""
        if self.diverged_at is not None:
            return Status.diverged
        if self.stopped_at is not None:
            return Status.stopped
        measured = bool(self.held_out) and self.held_out[-1][0] == budget.steps
        return Status.completed if measured else None
