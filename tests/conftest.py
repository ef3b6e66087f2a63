"""Fixtures for all tests, and the smallest trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from hptransfer.config import (
    AdamWConfig,
    BudgetConfig,
    DiTConfig,
    RuntimeConfig,
    Scaling,
    TrialConfig,
    with_hyperparameters,
    with_scaling,
)

TINY = TrialConfig(
    model=DiTConfig(width=16, base_width=8, depth=1, head_dim=4),
    optimizer=AdamWConfig(beta2=0.99),
    budget=BudgetConfig(steps=6, batch_size=8, eval_samples=16, eval_draws=2),
)


@pytest.fixture
def tiny_trial() -> Callable[..., TrialConfig]:
    """Return a maker of tiny trials: seconds for a hundred."""

    def make(
        log2_lr: float = -6.0, *, seed: int = 0, scaling: Scaling = Scaling.mup, width: int = 16
    ) -> TrialConfig:
        model = dataclasses.replace(TINY.model, width=width)
        config = dataclasses.replace(TINY, model=model, seed=seed)
        return with_hyperparameters(with_scaling(config, scaling), {"log2_lr": log2_lr})

    return make


@pytest.fixture
def runtime() -> RuntimeConfig:
    """Return the default runtime: one CPU thread."""
    return RuntimeConfig()
