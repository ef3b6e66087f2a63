"""Fixtures for all tests, and the smallest trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from hptransfer.config import CheckpointConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Scaling
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.config.identity import with_scaling
from tests.support.executors import running_ray, started_ray
from tests.support.tiny import TINY, TINY_SWEEP

__all__ = ["running_ray", "started_ray"]


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


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointConfig:
    """Return where packs leave checkpoints, at every report."""
    return CheckpointConfig(str(tmp_path / "checkpoints"), every_s=0.0)


@pytest.fixture
def tiny_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a sweep that runs in seconds into an empty folder, and go there."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_SWEEP)
    return path
