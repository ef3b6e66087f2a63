"""The law of the loss: what it predicts, and the compute that a rise of the loss is worth."""

from __future__ import annotations

import numpy as np
import pytest

from hptransfer.analysis.laws.loss_law import fit_loss_law
from tests.support.planted_tables import Floats

X = np.log2(np.array([32.0, 64.0, 128.0, 256.0, 512.0]))


def drawn(losses: Floats, sd: float = 3e-4, draws: int = 2000) -> Floats:
    return losses + sd * np.random.default_rng(0).standard_normal((draws, len(losses)))


def test_a_power_law_is_carried_on_within_its_interval() -> None:
    truth = 0.3 + 0.2 * np.exp2(-0.5 * (np.append(X, 11.0) - 5.0))
    law = fit_loss_law(X, drawn(truth[:-1]), np.random.default_rng(1))
    assert law is not None and law.prices
    low, high = np.quantile(law.loss(11.0), (0.05, 0.95))
    assert low < truth[-1] < high and high - low < 0.02


def test_where_no_such_law_holds_narrow_settings_go_and_errors_widen() -> None:
    truth = 0.3 + 0.2 * np.exp2(-0.5 * (X - 5.0))
    bent = truth + np.array([0.05, 0.0, 0.0, 0.0, 0.0])
    law = fit_loss_law(X, drawn(bent), np.random.default_rng(1))
    straight = fit_loss_law(X, drawn(truth), np.random.default_rng(1))
    assert law is not None and straight is not None
    assert law.left_out >= 1 and straight.left_out == 0
    assert np.std(law.loss(11.0)) > np.std(straight.loss(11.0))


def test_a_rise_costs_the_compute_that_brings_the_loss_back() -> None:
    # log2 of the loss falls by 0.1 per doubling of width, so by 0.05 per doubling of compute.
    losses = np.exp2(-0.1 * (X - 5.0))
    law = fit_loss_law(X, drawn(losses, 1e-6), np.random.default_rng(1))
    assert law is not None
    rise = losses[-1] * (1.0 - np.exp2(-0.05 * 0.01))  # what a hundredth of a doubling gives
    percent = law.compute_percent(np.array([rise]), 2.0)[0]
    assert percent == pytest.approx(100.0 * (2.0**0.01 - 1.0), rel=0.1)
    assert law.compute_percent(np.array([np.inf]), 2.0)[0] > 1e6


@pytest.mark.parametrize("slope", [0.01, 0.0])
def test_a_loss_that_does_not_fall_prices_nothing(slope: float) -> None:
    law = fit_loss_law(X, drawn(0.5 + slope * (X - 5.0), 1e-3), np.random.default_rng(1))
    assert law is not None and not law.prices


def test_one_setting_has_no_law() -> None:
    assert fit_loss_law(X[:1], drawn(np.array([0.5])), np.random.default_rng(0)) is None
