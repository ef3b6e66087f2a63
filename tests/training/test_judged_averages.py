"""Averages of several horizons that a pack keeps beside the weights that decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from hptransfer.config import QualityConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Status, Weights
from hptransfer.errors import UserError
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.results.trial_result import TrialResult
from hptransfer.training.packs.run import run_pack
from tests.support.packs import ABSURD, STABLE, memory, stepped, varied

RUNTIME = RuntimeConfig()
FRACTIONS = (0.2, 0.9)


def with_samples(trials: Sequence[TrialConfig]) -> list[TrialConfig]:
    quality = QualityConfig(samples=100, steps=2)
    return [dataclasses.replace(trial, quality=quality) for trial in trials]


def apart_from_averages(results: Sequence[TrialResult]) -> list[str]:
    """Return all of the results but what averages add, as text, since NaN is not NaN."""
    return [
        repr(
            dataclasses.replace(
                result,
                config=TrialConfig(),
                seconds=0.0,
                flops=0.0,
                metrics={n: value for n, value in result.metrics.items() if "_ema_" not in n},
            )
        )
        for result in results
    ]


@pytest.mark.parametrize("weights", list(Weights))
def test_averages_change_nothing_else_and_are_those_that_would_decide(weights: Weights) -> None:
    """One member diverges and leaves the pack."""
    asked: dict[str, Any] = dict(
        rates=(*STABLE[:2], ABSURD), steps=12, weights=weights, ema_fraction=0.5
    )
    plain = run_pack(with_samples(varied("dit", **asked)), RUNTIME)
    kept = run_pack(with_samples(varied("dit", **asked, judged_ema_fractions=FRACTIONS)), RUNTIME)
    assert apart_from_averages(kept) == apart_from_averages(plain)
    assert [r.status for r in kept] == [Status.completed, Status.completed, Status.diverged]
    assert not any("_ema_" in name for result in plain for name in result.metrics)
    assert kept[2].metrics == {}
    assert plain[0].flops < kept[0].flops < 2 * plain[0].flops  # they are evaluated, too
    for fraction in FRACTIONS:
        decided = run_pack(
            with_samples(
                varied("dit", **{**asked, "weights": Weights.ema, "ema_fraction": fraction})
            ),
            RUNTIME,
        )
        for mine, theirs in zip(kept[:2], decided[:2], strict=True):
            assert theirs.quality is not None
            expected = {"loss": theirs.loss, **theirs.quality._asdict()}
            told = {name: mine.metrics[f"{name}_ema_{fraction}"] for name in expected}
            assert told == expected
    losses = [kept[0].loss, *(kept[0].metrics[f"loss_ema_{f}"] for f in FRACTIONS)]
    assert len(set(losses)) == 3
    metrics = ledger_row(kept[0], {}, {})["metrics"]
    assert metrics["loss_ema_0.2"] == pytest.approx(losses[1], rel=1e-5)
    assert {f"recall_ema_{f}" for f in FRACTIONS} < metrics.keys()


def test_averages_of_the_dead_and_the_stopped_are_zero() -> None:
    trials = varied("dit", rates=(*STABLE[:2], ABSURD), judged_ema_fractions=FRACTIONS)
    state = stepped(trials, 4)
    averages = list(state.judged.values())
    assert len(averages) == 2 and len(memory(state)) == 5
    for average in averages:
        assert bool(average.isfinite().all())
        assert [bool(row.any()) for row in average] == [True, True, False]
    state.give_up([1], 4)
    assert [bool(row.any()) for row in averages[0]] == [True, False, False]
    kept = averages[1][:1].clone()
    state.compact()
    assert torch.equal(state.judged[0.9], kept)


def test_the_average_stays_outside_of_a_compiled_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a trial's last digits could depend on whether it keeps averages."""
    trials = varied("dit", rates=STABLE[:1], judged_ema_fractions=FRACTIONS)
    state = stepped(trials, 0)
    monkeypatch.setattr(state, "_take", lambda *_: None)
    before = [average.clone() for average in state.judged.values()]
    with torch.no_grad():
        state.pack.flat.add_(1.0)
    state.train_step(0)
    state.close()
    for average, then, fraction in zip(state.judged.values(), before, FRACTIONS, strict=True):
        share = 1 - state.budget.decay_over(fraction)
        torch.testing.assert_close(average, then + share)


@pytest.mark.parametrize(
    "fractions", [(0.1, 0.05), (0.1, 0.1), (0.0, 0.1), (-0.1,), (0.5, 1.5), (float("nan"),)]
)
def test_horizons_that_are_no_increasing_shares_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"`budget\.judged_ema_fractions` must be increasing sh"):
        varied("dit", judged_ema_fractions=fractions)
