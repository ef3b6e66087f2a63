"""Laws of the optimum over width: fits, weights, mixture."""

from __future__ import annotations

import numpy as np
import pytest

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.laws.law import LawName, Optima, fit_drift, fit_law, law_weights, mix_laws

WIDTHS = np.array([24.0, 48.0, 96.0])


def planted(optima: list[float], *, sd: float = 0.1, draws: int = 4000) -> Optima:
    centre = np.array(optima)
    rng = np.random.default_rng(0)
    return Optima(
        widths=WIDTHS[: len(centre)],
        optima=centre,
        variances=np.full(len(centre), sd**2),
        theta_draws=centre + sd * rng.standard_normal((draws, len(centre))),
    )


def test_each_law_recovers_its_own_truth() -> None:
    constant = fit_law(LawName.constant, planted([-5.6, -5.6, -5.6]))
    assert constant.at(np.array([192.0])) == pytest.approx([-5.6])
    linear = fit_law(LawName.linear, planted([-5.6, -6.4, -7.2]))
    assert linear.coefficients[1] == pytest.approx(-0.8)
    assert linear.at(np.array([192.0])) == pytest.approx([-8.0])
    inverse = fit_law(LawName.inverse, planted([-4.0, -5.0, -5.5]))
    assert inverse.coefficients == pytest.approx([-6.0, 2.0])
    assert inverse.at(np.array([192.0])) == pytest.approx([-5.75])


def test_constant_is_the_mean_weighted_by_variance() -> None:
    optima = planted([-5.0, -6.0, -7.0])
    uneven = Optima(optima.widths, optima.optima, np.array([1.0, 1.0, 0.5]), optima.theta_draws)
    assert fit_law(LawName.constant, uneven).coefficients == pytest.approx([-6.25])


def test_weights_follow_chi2_and_the_number_of_coefficients() -> None:
    weights = law_weights(np.array([3.0, 1.0, 1.0]), np.array([1.0, 2.0, 2.0]))
    assert weights == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    weights = law_weights(np.array([0.0, 0.0]), np.array([1.0, 2.0]))
    assert weights[0] / weights[1] == pytest.approx(np.e)


def test_chi2_counts_deviations_in_sd() -> None:
    assert fit_law(LawName.constant, planted([-5.9, -6.0, -6.1])).chi2 == pytest.approx(2.0)


def test_mixture_spreads_its_draws_by_weight() -> None:
    mixture = mix_laws(planted([-5.7, -5.5, -5.6]), rng=np.random.default_rng(0))
    assert mixture is not None
    assert mixture.favourite.name is LawName.constant
    assert mixture.weights.sum() == pytest.approx(1.0)
    shares = np.bincount(mixture.choice, minlength=3) / len(mixture.choice)
    assert shares == pytest.approx(mixture.weights, abs=0.03)
    draws = mixture.draws_at(np.array([192.0]))
    assert draws.shape == (4000, 1)
    assert draws.mean() == pytest.approx(mixture.at(np.array([192.0]))[0], abs=0.02)


def test_an_error_that_widths_share_widens_the_draws_alike_and_not_the_weights() -> None:
    optima, at = planted([-5.7, -5.5, -5.6]), np.array([24.0, 192.0])
    bare = mix_laws(optima, rng=np.random.default_rng(0))
    wide = mix_laws(optima, rng=np.random.default_rng(0), common_sd=0.2)
    assert bare is not None and wide is not None
    assert wide.weights == pytest.approx(bare.weights)
    moved = wide.draws_at(at) - bare.draws_at(at)
    assert moved.std(axis=0) == pytest.approx(0.2, rel=0.05)
    assert moved[:, 0] == pytest.approx(moved[:, 1])


def test_band_widens_beyond_the_widest_width() -> None:
    mixture = mix_laws(planted([-5.7, -6.4, -7.2]), rng=np.random.default_rng(0))
    assert mixture is not None
    spread = mixture.draws_at(np.array([48.0, 192.0, 768.0])).std(axis=0)
    assert spread[0] < spread[1] < spread[2]


def test_below_three_widths_there_is_no_law_but_a_drift_from_two_on() -> None:
    two, one = planted([-5.7, -6.4]), planted([-5.7])
    assert mix_laws(two, rng=np.random.default_rng(0)) is None
    drift = fit_drift(two)
    assert drift is not None and drift.coefficients[1] == pytest.approx(-0.7)
    assert fit_drift(one) is None


def test_drift_draws_have_the_arithmetic_spread() -> None:
    drift = fit_drift(planted([-5.7, -6.4, -7.2], sd=0.2))
    assert drift is not None
    assert drift.coefficient_draws[:, 1].std() == pytest.approx(0.2 / np.sqrt(2.0), rel=0.05)


FIVE = np.array([32.0, 64.0, 128.0, 256.0, 512.0])


def five(optima: Floats, *, sd: float = 0.02, draws: int = 1000) -> Optima:
    noise = sd * np.random.default_rng(1).standard_normal((draws, len(optima)))
    return Optima(FIVE[: len(optima)], optima, np.full(len(optima), sd**2), optima + noise)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.9])
def test_the_power_law_recovers_its_exponent(exponent: float) -> None:
    law = fit_law(LawName.power, five(-6.0 + 2.0 * (32.0 / FIVE) ** exponent))
    assert law.coefficients == pytest.approx([-6.0, 2.0, exponent], rel=0.15)
    truth = -6.0 + 2.0 * (32.0 / 2048.0) ** exponent
    assert law.at(np.array([2048.0]))[0] == pytest.approx(truth, abs=0.05)
    low, high = np.quantile(law.coefficient_draws[:, 2], (0.05, 0.95))
    assert low <= exponent <= high
    spread = law.draws_at(np.array([512.0, 2048.0])).std(axis=0)
    assert spread[0] < spread[1]


def test_an_exponent_is_fitted_from_five_widths_on() -> None:
    optima = -6.0 + 2.0 * (32.0 / FIVE) ** 3
    found = mix_laws(five(optima), rng=np.random.default_rng(0))
    assert found is not None and found.favourite.name is LawName.power
    fewer = mix_laws(five(optima[:4]), rng=np.random.default_rng(0))
    assert fewer is not None
    assert LawName.power not in {law.name for law in fewer.laws}


def test_between_equal_fits_the_law_of_fewest_coefficients_wins() -> None:
    still = mix_laws(five(np.full(5, -6.0)), rng=np.random.default_rng(0))
    assert still is not None
    weights = {law.name: w for law, w in zip(still.laws, still.weights, strict=True)}
    assert weights[LawName.constant] / weights[LawName.power] == pytest.approx(np.e**2)
