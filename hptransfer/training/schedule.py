"""What follows from a step's number: the rate's multiplier, reports, and giving up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hptransfer.config import BudgetConfig
from hptransfer.config.choices import Schedule
from hptransfer.training.stopping import is_hopeless


def lr_multiplier(budget: BudgetConfig, step: int, warmup_fraction: Tensor) -> Tensor:
    """Return the multiplier of step `step` (from 0) for each trial: (T,).

    `warmup_fraction` (T,) is each trial's share of the steps that warm up. The warm-up rises
    linearly and reaches 1 at its last step. The decay reaches zero just after the run's last step.
    """
    warmup_steps = (warmup_fraction * budget.steps).clamp_min(1.0)
    warmup = ((step + 1) / warmup_steps).clamp_max(1.0)
    match budget.schedule:
        case Schedule.constant:
            return warmup
        case Schedule.cosine:
            share = (step - warmup_steps) / (budget.steps - warmup_steps).clamp_min(1.0)
            return warmup * 0.5 * (1.0 + torch.cos(math.pi * share.clamp(0.0, 1.0)))
        case Schedule.linear_decay:
            left = (budget.steps - step) / max(budget.decay_fraction * budget.steps, 1.0)
            return warmup * min(left, 1.0)


CURVE_POINTS = 30  # points of a training curve, at most


def has_point(taken: int, steps: int) -> bool:
    """Whether the training curve of a run of `steps` steps has a point after `taken` of them."""
    return taken % math.ceil(steps / CURVE_POINTS) == 0 or taken >= steps


def gives_up(budget: BudgetConfig, step: int, losses: Sequence[float], loss_at_init: float) -> bool:
    """Whether a trial is given up after `step` steps, at a report that is not the last.

    `losses` are its mean training losses at all reports so far. Nothing is given up before
    `budget.stop_after` of the steps, or where that is None.
    """
    if budget.stop_after is None or not budget.stop_after * budget.steps <= step < budget.steps:
        return False
    return is_hopeless(losses, loss_at_init)
