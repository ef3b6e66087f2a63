"""The learning rate's multiplier over a run, for each trial of a pack or for one target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hptransfer.config import BudgetConfig
from hptransfer.config.choices import Schedule


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
