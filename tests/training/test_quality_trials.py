"""Trials whose samples are judged: rows that hold it, packs that fail, settings refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hptransfer.config import (
    CheckpointConfig,
    DDPMConfig,
    DigitsConfig,
    FeaturesConfig,
    QualityConfig,
    TrialConfig,
)
from hptransfer.config.choices import Status
from hptransfer.config.compose.compose import compose_file
from hptransfer.data import load_data
from hptransfer.errors import UserError
from hptransfer.results.ledger_rows import encode_row, ledger_row
from hptransfer.results.trial_result import TrialResult
from hptransfer.training.packs import run as trial_module
from hptransfer.training.packs.run import judge_members, run_pack, train_pack
from hptransfer.training.sampling.reference import load_real_samples


@pytest.fixture
def trials(tiny_trial: Callable[..., TrialConfig]) -> Callable[..., list[TrialConfig]]:
    def make(*rates: float, steps: int = 6, **budget: Any) -> list[TrialConfig]:
        quality = QualityConfig(samples=100, steps=2)
        configs = [dataclasses.replace(tiny_trial(rate), quality=quality) for rate in rates]
        changed = dataclasses.replace(configs[0].budget, steps=steps, **budget)
        return [dataclasses.replace(config, budget=changed) for config in configs]

    return make


def told(results: list[TrialResult]) -> list[Any]:
    return [(r.status, r.loss, r.quality) for r in results]


def test_measuring_changes_no_loss_and_rows_say_what_was_measured(trials, runtime) -> None:
    configs = trials(-7.0, -6.0, 200.0)
    measured = run_pack(configs, runtime)
    plain = run_pack([dataclasses.replace(c, quality=QualityConfig()) for c in configs], runtime)
    assert [r.loss for r in measured] == [r.loss for r in plain]
    assert [r.status for r in measured] == [Status.completed, Status.completed, Status.diverged]
    rows, without = ([ledger_row(r, {}, {}) for r in results] for results in (measured, plain))
    added = [r["metrics"].keys() - w["metrics"].keys() for r, w in zip(rows, without, strict=True)]
    assert added == [{"frechet_distance", "precision", "recall"}] * 2 + [set()]
    assert rows[0]["metrics"]["frechet_distance"] != rows[1]["metrics"]["frechet_distance"]
    assert len(encode_row(rows[0])) - len(encode_row(without[0])) < 140


def test_a_stopped_member_has_no_quality_and_the_others_keep_theirs(trials, runtime) -> None:
    configs = trials(-8.0, 0.0, 1.0, steps=60, stop_after=0.1)
    results = run_pack(configs, runtime)
    assert results[0].quality is not None
    assert Status.stopped in {r.status for r in results}
    assert all((r.quality is None) == (r.status is not Status.completed) for r in results)


def test_members_that_failed_and_were_not_left_out_are_not_judged(trials, runtime) -> None:
    configs, dataset = trials(-7.0, -6.5, -6.0), load_data(DigitsConfig(), None)
    outcome = train_pack(configs, dataset, torch.device("cpu"), runtime, lambda _: None)
    failed = outcome._replace(
        stopped_at=torch.tensor([-1, 3, -1]), diverged_at=torch.tensor([-1, -1, 5])
    )
    known = load_real_samples(configs[0], None)
    assert outcome.sound == [0, 1, 2] and failed.sound == [0]
    (quality,) = judge_members(failed.pack, failed.weights, failed.sound, known)
    assert quality is not None


def test_a_pack_that_was_halved_measures_what_its_halves_do(trials, runtime, monkeypatch) -> None:
    configs = trials(-7.0, -6.5, -6.0)
    halves = [*run_pack(configs[:2], runtime), *run_pack(configs[2:], runtime)]
    whole = trial_module.train_pack

    def too_small(configs: Any, *rest: Any) -> Any:
        if len(configs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(configs, *rest)

    monkeypatch.setattr(trial_module, "train_pack", too_small)
    halved = run_pack(configs, runtime)
    assert [r.pack_size for r in halved] == [2, 2, 1]
    assert told(halved) == told(halves) and all(r.quality for r in halved)


def test_a_pack_that_was_cut_off_measures_what_an_undisturbed_one_does(
    trials, runtime, tmp_path: Path
) -> None:
    configs = trials(-7.0, 200.0, -6.0, steps=60)
    expected = told(run_pack(configs, runtime))
    checkpoints = CheckpointConfig(str(tmp_path), every_s=0.0)

    def cut(report: Any) -> None:
        if report.step >= 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pack(configs, runtime, cut, checkpoints)
    results = run_pack(configs, runtime, checkpoints=checkpoints)
    assert "go on at step" in results[0].notes[0]
    assert told(results) == expected and results[0].quality and results[2].quality


def test_the_group_is_composed() -> None:
    assert compose_file(None, ["quality=frechet"]).trial.quality == QualityConfig(samples=1000)
    changed = compose_file(None, ["quality.samples=500", "quality.guidance=2"]).trial.quality
    assert changed == QualityConfig(samples=500, guidance=2.0)
    assert compose_file(None, []).trial.quality == QualityConfig()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": FeaturesConfig()}, "needs a classifier of the data, and there is one for digits"),
        (
            {"objective": DDPMConfig(timesteps=10)},
            "`quality.steps` must not exceed the schedule's steps, but got 20",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrialConfig(quality=QualityConfig(samples=100), **changes)
    TrialConfig(**changes)


@pytest.mark.parametrize(
    "fields", [{"samples": 99}, {"samples": -1}, {"steps": 0}, {"guidance": -1.0}]
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"`quality.{next(iter(fields))}`"):
        QualityConfig(**fields)
