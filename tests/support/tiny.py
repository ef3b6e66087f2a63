"""The smallest trial, its invented result, and the smallest sweep."""

from __future__ import annotations

import dataclasses
from typing import Any

from hptransfer.config import AdamWConfig, BudgetConfig, DiTConfig, TrialConfig
from hptransfer.config.choices import Status
from hptransfer.results.trial_result import TrialResult

TINY = TrialConfig(
    model=DiTConfig(width=16, base_width=8, depth=1, head_dim=4),
    optimizer=AdamWConfig(beta2=0.99),
    budget=BudgetConfig(steps=6, batch_size=8, eval_samples=16, eval_draws=2),
)


def completed(config: TrialConfig, **changes: Any) -> TrialResult:
    """Return what a trial gave, invented."""
    finished = TrialResult(
        config=config,
        status=Status.completed,
        loss=0.5,
        loss_at_init=1.0,
        train_loss=0.5,
        diverged_at_step=None,
        clipped_share=0.0,
        flops=1.0,
        seconds=1.0,
        device="cpu",
    )
    return dataclasses.replace(finished, **changes)


TINY_SWEEP = """\
name: tiny
question: Does it work?
statistic: Drift of the optimum.
model: {width: 8, base_width: 8, depth: 1, head_dim: 4}
budget: {steps: 12, batch_size: 8, eval_samples: 16, eval_draws: 2}
executor: {name: local}
runtime: {pack_size: 4}
sweep:
  widths: [8, 16, 32]
  parametrizations: [mup, standard]
  seeds: [0, 1]
  gate: false
  target: {model: {width: 64}}
  realise: {points: 3, seeds: 2}
search:
  lr: {low: -8, high: -3, step: 1}
"""
