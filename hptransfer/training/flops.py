"""Operator-level FLOPs of a trial, counted by torch on meta tensors."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from hptransfer.config import Layout, ModelConfig, TrialConfig
from hptransfer.models.families import build_architecture, empty_batch


@lru_cache(maxsize=256)
def step_flops(model: ModelConfig, layout: Layout, batch_size: int) -> tuple[float, float]:
    """Return the FLOPs of one forward, and of one forward and backward, at a batch size."""
    with torch.device("meta"):
        network = build_architecture(model, layout)
        arguments = empty_batch(model, layout, batch_size)
    with FlopCounterMode(display=False) as forward:
        output = network(*arguments)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    return float(forward.get_total_flops()), float(
        forward.get_total_flops() + backward.get_total_flops()
    )


def trial_flops(config: TrialConfig) -> float:
    """Return the FLOPs of a whole trial: its steps, and its evaluation before and after."""
    budget = config.budget
    forward, both = step_flops(config.model, config.data.layout, budget.batch_size)
    evaluated = budget.eval_samples * (budget.eval_draws + 1) / budget.batch_size
    return budget.steps * both + evaluated * forward
