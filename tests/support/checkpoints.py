"""Packs that are cut off between two checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch

from hptransfer.config import CheckpointConfig, RuntimeConfig, TrialConfig
from hptransfer.results.trial_result import TrialResult
from hptransfer.training.packs.run import run_pack
from hptransfer.training.packs.state import Report, TrainingState

RUNTIME = RuntimeConfig()


class CutOff(BaseException):
    """What ends a process at a report."""


def cut_off_at(report: int) -> Callable[[Report], None]:
    """Return a callback that lets some reports pass and raises at the next."""
    left = iter(range(report))

    def heard(_: Report) -> None:
        if next(left, None) is None:
            raise CutOff

    return heard


def told(results: Sequence[TrialResult]) -> list[str]:
    """Return all of the results that must be the same to the bit; as text, since NaN is not NaN."""
    timeless = (dataclasses.replace(r, seconds=0.0, notes=()) for r in results)
    return [repr(dataclasses.astuple(result)) for result in timeless]


def cut_off(
    configs: Sequence[TrialConfig],
    checkpoints: CheckpointConfig,
    report: int,
    runtime: RuntimeConfig = RUNTIME,
) -> None:
    with pytest.raises(CutOff):
        run_pack(configs, runtime, cut_off_at(report), checkpoints)


def with_death(member: int, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a member's loss NaN at a step, whoever else still takes part."""
    train_step = TrainingState.train_step

    def poisoned(state: TrainingState, at: int) -> None:
        if member in state.members and at == step:
            with torch.no_grad():
                state.pack.flat[state.members.index(member)] = torch.nan
        train_step(state, at)

    monkeypatch.setattr(TrainingState, "train_step", poisoned)
