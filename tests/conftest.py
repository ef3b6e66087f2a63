"""Fixtures for all tests, and the smallest trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hptransfer.config import AdamWConfig, BudgetConfig, DiTConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Scaling, Status
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.config.identity import with_scaling
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


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache of pack sizes out of the tests, and theirs out of it."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture
def runtime() -> RuntimeConfig:
    """Return the default runtime: one CPU thread."""
    return RuntimeConfig()


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


@pytest.fixture
def tiny_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a sweep that runs in seconds into an empty folder, and go there."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_SWEEP)
    return path
