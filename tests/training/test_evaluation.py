"""The deciding loss's triples: held out, stratified in time, and the same for every trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hptransfer.config import (
    BudgetConfig,
    DDPMConfig,
    ObjectiveConfig,
    RectifiedFlowConfig,
    RuntimeConfig,
    TrialConfig,
    VPConfig,
)
from hptransfer.config.choices import TimestepSampling, Weights
from hptransfer.data import load_data
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.training.batches import evaluation_batches, sums_by_noise
from hptransfer.training.objectives import noised
from hptransfer.training.packs import run
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.run import Report, held_out_losses, train_trial, validation_loss

DIGITS = load_data(TrialConfig().data, None)
DRAWS = 6


def batches(**changes: Any) -> list:
    return list(
        evaluation_batches(dataclasses.replace(TrialConfig(), **changes), DIGITS.validation)
    )


def test_every_draw_and_every_sample_covers_the_whole_time_axis() -> None:
    strata = torch.stack([(batch.u * DRAWS).long() for batch in batches()])
    assert strata.shape == (DRAWS, 360)
    for sample in strata.T:
        assert sorted(sample.tolist()) == list(range(DRAWS))
    for draw in strata:
        assert torch.bincount(draw).tolist() == [60] * DRAWS
    within = torch.stack([batch.u * DRAWS % 1 for batch in batches()])
    assert float(within.std()) == pytest.approx(12**-0.5, rel=0.05)  # uniform in its stratum


def test_triples_differ_from_draw_to_draw_and_not_from_seed_to_seed() -> None:
    first, second, *_ = batches()
    assert not torch.equal(first.noise, second.noise)
    assert torch.equal(first.images, second.images)
    for ours, others in zip(batches(), batches(seed=1), strict=True):
        assert torch.equal(ours.noise, others.noise) and torch.equal(ours.u, others.u)


def test_more_samples_than_are_held_out_are_all_of_them() -> None:
    assert {len(batch.u) for batch in batches(budget=BudgetConfig(eval_samples=1000))} == {360}
    assert {len(batch.u) for batch in batches(budget=BudgetConfig(eval_samples=7))} == {7}


def test_the_loss_is_the_mean_over_the_draws_asked_for(
    tiny_trial: Callable[..., TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = Pack([tiny_trial()], torch.device("cpu"))
    batch = next(iter(evaluation_batches(tiny_trial(), DIGITS.validation)))
    monkeypatch.setattr(run, "evaluation_batches", lambda *_: iter([batch] * 3))
    one, three = (
        validation_loss(pack, DIGITS.validation, flat=pack.flat, draws=draws) for draws in (1, 3)
    )
    torch.testing.assert_close(three, one)


@pytest.mark.parametrize("weights", list(Weights))
def test_a_trained_trials_weights_are_the_deciding_ones(
    tiny_trial: Callable[..., TrialConfig], runtime: RuntimeConfig, weights: Weights
) -> None:
    budget = dataclasses.replace(tiny_trial().budget, weights=weights, ema_fraction=0.5)
    config = dataclasses.replace(tiny_trial(), budget=budget)
    reports: list[Report] = []
    result, trained = train_trial(config, runtime, reports.append)
    pack = Pack([config], torch.device("cpu"))
    flat = torch.cat([trained[rule.name].flatten() for rule in pack.rules])[None]
    loss = validation_loss(pack, DIGITS.validation, flat=flat, draws=budget.eval_draws)
    assert float(loss[0]) == pytest.approx(result.loss, rel=1e-6)
    assert reports and reports[-1].step == budget.steps


OBJECTIVES = [
    RectifiedFlowConfig(),
    RectifiedFlowConfig(timesteps=TimestepSampling.logit_normal, timestep_shift=3.0),
    DDPMConfig(),
    VPConfig(),
]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_deciding_loss_is_the_mean_of_its_parts_by_noise(
    tiny_trial: Callable[..., TrialConfig], runtime: RuntimeConfig, objective: ObjectiveConfig
) -> None:
    config = dataclasses.replace(tiny_trial(), objective=objective)
    u = torch.cat([batch.u for batch in evaluation_batches(config, DIGITS.validation)])
    shares = torch.histc(u, bins=4, min=0.0, max=1.0) / len(u)
    result, _ = train_trial(config, runtime)
    parts = [result.metrics[f"loss_noise_{part}_of_4"] for part in (1, 2, 3, 4)]
    mean = sum(share * part for share, part in zip(shares.tolist(), parts, strict=True))
    assert mean == pytest.approx(result.loss, rel=1e-6)
    assert len(set(parts)) == 4
    assert ledger_row(result, {}, {})["metrics"].keys() > {"loss_noise_1_of_4", "train_loss"}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("part", range(4))
def test_the_first_part_has_the_least_noise(
    tiny_trial: Callable[..., TrialConfig],
    monkeypatch: pytest.MonkeyPatch,
    objective: ObjectiveConfig,
    part: int,
) -> None:
    config = dataclasses.replace(tiny_trial(), objective=objective)
    (batch, *_) = evaluation_batches(config, DIGITS.validation)
    within = batch._replace(u=(part + batch.u) / 4)
    monkeypatch.setattr(run, "evaluation_batches", lambda *_: iter([within]))
    pack = Pack([config], torch.device("cpu"))
    found = held_out_losses(pack, DIGITS.validation, flat=pack.flat, draws=1)
    known = ~found.by_noise[0].isnan()
    assert known.tolist() == [each == part for each in range(4)]
    assert float(found.by_noise[0, part]) == pytest.approx(float(found.loss[0]), rel=1e-12)
    at = [noised(objective, batch.images, batch.noise, u) for u in (within.u, within.u * 0 + 1)]
    clean = [float((each.x - each.clean).square().mean()) for each in at]
    assert clean[0] < clean[1] * (0.6 if part == 0 else 1.0)


def test_a_quantile_that_rounding_made_one_lies_in_the_last_part() -> None:
    sums = sums_by_noise(torch.tensor([[1.0, 2.0, torch.nan]]), torch.tensor([0.0, 1.0, 0.5]))
    assert sums[0, [0, 1, 3]].tolist() == [1.0, 0.0, 2.0] and bool(sums[0, 2].isnan())
