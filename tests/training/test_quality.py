"""Useful transfer, robustness, and the laws of loss and curvature, on planted basins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from hptransfer.analysis.basins.basin import Basin, Grid, build_grid, fit_basin, pool_noise
from hptransfer.analysis.laws.law import fit_laws, mix_laws
from hptransfer.analysis.laws.loss_law import curvature_law, loss_law, loss_levels, mended
from hptransfer.analysis.laws.regret import arm_optima_of
from hptransfer.analysis.laws.usefulness import transfer_quality

WIDTHS = (32, 64, 128, 256, 512)
THETA = np.arange(-11.0, -1.0)
OfWidth = Callable[[float], float]


def steady(width: float) -> float:
    return -6.0


def falling(width: float) -> float:
    return 0.3 + 0.2 * (32 / width) ** 0.5


def planted(
    *,
    optimum: OfWidth = steady,
    loss: OfWidth = falling,
    k: OfWidth = lambda width: 0.01,
    widths: tuple[int, ...] = WIDTHS,
    seeds: int = 3,
    noise: float = 1e-4,
) -> dict[int, Basin]:
    rng = np.random.default_rng(3)
    grids = {}
    for width in widths:
        rise = k(width) * (THETA - optimum(width)) ** 2
        losses = loss(width) + rise + noise * rng.standard_normal((seeds, len(THETA)))
        grid = build_grid(THETA, losses, loss_at_init=10.0)
        assert grid is not None
        grids[width] = grid
    shared = pool_noise(grids.values(), rng=rng, draws=400)
    return {w: fit_basin(grid, shared, rng=rng, draws=400) for w, grid in grids.items()}


def quality_of(basins: dict[int, Basin]) -> dict:
    return transfer_quality(basins, arm_optima_of(basins), rng=np.random.default_rng(0))


def test_an_optimum_that_settles_at_once_is_useful_transfer() -> None:
    useful = quality_of(planted(optimum=lambda width: -6.0 + 2.0 * (32 / width) ** 2))
    assert useful["useful_transfer"]["answer"] is True
    exponent = useful["useful_transfer"]["loss_gap_exponent"]
    assert exponent["low"] <= 0.5 <= exponent["high"]
    exponent = useful["useful_transfer"]["regret_exponent"]
    assert exponent["low"] <= 4.0 <= exponent["high"]


def test_an_optimum_that_runs_away_is_not_useful_transfer() -> None:
    steep = planted(
        optimum=lambda width: -4.0 - 0.9 * np.log2(width / 32),
        loss=lambda width: 0.3 + 0.2 * (32 / width) ** 2,
    )
    assert quality_of(steep)["useful_transfer"]["answer"] is False


def test_what_does_not_move_or_fall_has_no_exponent_to_compare() -> None:
    still = quality_of(planted())["useful_transfer"]
    assert still["answer"] is None and "does not move measurably" in still["sentence"]
    level = quality_of(planted(loss=lambda width: 0.4))["useful_transfer"]
    assert level["answer"] is None and "does not fall measurably" in level["sentence"]


@pytest.mark.parametrize("exponent", [-0.5, 0.5])
def test_robustness_is_the_exponent_of_the_curvature(exponent: float) -> None:
    basins = planted(k=lambda width: 0.01 * (width / 128) ** exponent)
    found = quality_of(basins)["robustness"]
    assert found["exponent"]["estimate"] == pytest.approx(exponent, abs=0.05)
    assert ("forgive less" in found["sentence"]) == (exponent > 0)
    slope = curvature_law(basins, arm_optima_of(basins), rng=np.random.default_rng(0))
    assert slope["low"]["log2_per_doubling"]["estimate"] == pytest.approx(exponent, abs=0.1)
    assert slope["high"]["name"] in {"linear", "power"}


def test_below_five_widths_quality_is_not_assessable() -> None:
    four = quality_of(planted(widths=WIDTHS[:4]))
    for part in four.values():
        assert "below five widths; here 4" in part["sentence"]
    assert four["useful_transfer"]["answer"] is None
    assert four["robustness"]["exponent"] == {"estimate": None, "low": None, "high": None}
    none = transfer_quality({}, None, rng=np.random.default_rng(0))
    assert "here 0" in none["robustness"]["sentence"]


def test_without_noise_there_are_reasons_and_no_exponents() -> None:
    basins = planted()
    rng = np.random.default_rng(0)
    silent = {width: fit_basin(_first_seed(b.grid), None, rng=rng) for width, b in basins.items()}
    answer = loss_law(silent, 1024, rng=np.random.default_rng(0))
    assert (answer["name"], answer["wider_is_better"]) == ("none", None)
    assert "add seeds" in answer["reason"]
    for part in quality_of(silent).values():
        assert "add seeds" in part["sentence"]
    curvature = curvature_law(silent, arm_optima_of(silent), rng=np.random.default_rng(0))
    assert curvature["low"]["name"] == "none"
    assert curvature["high"]["log2_per_doubling"]["estimate"] is None


def _first_seed(grid: Grid) -> Grid:
    return dataclasses.replace(grid, losses=grid.losses[:1])


@pytest.mark.parametrize(
    ("loss", "better", "said"),
    [
        (falling, True, "fell by"),
        (lambda width: 0.8 - falling(width), False, "rose by"),
        (lambda width: 0.4, None, "within noise"),
    ],
)
def test_wider_is_better_needs_a_gain_beyond_noise(
    loss: OfWidth, better: bool | None, said: str
) -> None:
    answer = loss_law(planted(loss=loss), 1024, rng=np.random.default_rng(0))
    assert answer["wider_is_better"] is better
    assert said in answer["reason"]


def test_the_loss_at_the_target_follows_its_law() -> None:
    assert loss_law(planted(), 1024, rng=np.random.default_rng(0))["name"] == "power"
    answer = loss_law(planted(noise=1e-3), 1024, rng=np.random.default_rng(0))
    assert answer["at_target"]["low"] <= falling(1024) <= answer["at_target"]["high"]
    assert answer["band"]["width"][-1] == 1024
    two = loss_law(planted(widths=WIDTHS[:2]), 1024, rng=np.random.default_rng(0))
    assert (two["name"], two["at_target"], two["band"]) == ("none", None, None)
    assert two["wider_is_better"] is True
    one = loss_law(planted(widths=WIDTHS[:1]), 1024, rng=np.random.default_rng(0))
    assert one["wider_is_better"] is None and "there are 1" in one["reason"]


def test_where_no_law_is_exact_the_loss_at_the_target_is_less_certain() -> None:
    """A loss of two terms: every law of one misses it by many times its noise."""

    def two_terms(width: float) -> float:
        return 0.4 + 0.1 * (WIDTHS[0] / width) ** 0.7 + 0.2 * (WIDTHS[0] / width) ** 4

    basins = planted(loss=two_terms, noise=4e-3)
    levels = loss_levels(basins, rng=np.random.default_rng(0))
    assert levels is not None
    mixture = mix_laws(levels, rng=np.random.default_rng(0))
    assert mixture is not None
    low, high = np.quantile(mixture.draws_at(np.array([1024])), [0.05, 0.95])
    assert not low <= two_terms(1024) <= high
    kept = mended(levels)
    assert np.array_equal(kept.widths, WIDTHS[-len(kept.widths) :])
    assert 3 <= len(kept.widths) < len(WIDTHS)
    answer = loss_law(basins, 1024, rng=np.random.default_rng(0))
    assert answer["at_target"]["low"] <= two_terms(1024) <= answer["at_target"]["high"]
    assert answer["band"]["width"][0] == answer["from_width"] == kept.widths[0]


def test_at_three_widths_a_misfit_widens_the_errors() -> None:
    levels = loss_levels(planted(), rng=np.random.default_rng(0))
    assert levels is not None
    three = levels.at(levels.widths <= WIDTHS[2])
    bent = dataclasses.replace(three, optima=three.optima + np.array([0.0, 0.02, 0.0]))
    chi2 = min(law.chi2 for law in fit_laws(bent) if law.coefficients.size == 2)
    widened = mended(bent)
    assert np.allclose(widened.variances, chi2 * bent.variances)
    assert np.array_equal(widened.optima, bent.optima)
    assert np.allclose(
        widened.theta_draws.std(axis=0), np.sqrt(chi2) * bent.theta_draws.std(axis=0)
    )


def test_errors_and_widths_stay_where_a_law_fits() -> None:
    levels = loss_levels(planted(noise=1e-3), rng=np.random.default_rng(0))
    assert levels is not None
    kept = mended(levels)
    assert np.array_equal(kept.widths, levels.widths)
    assert np.allclose(kept.theta_draws, levels.theta_draws, rtol=0, atol=1e-12)
    assert np.array_equal(kept.variances, levels.variances)


def test_seeds_widen_the_interval_of_the_gain() -> None:
    basins = planted()
    calm = loss_law(basins, None, rng=np.random.default_rng(0))["last_doubling_gain"]
    moved = {
        width: dataclasses.replace(basin, grid=_shifted(basin.grid))
        for width, basin in basins.items()
    }
    shifted = loss_law(moved, None, rng=np.random.default_rng(0))["last_doubling_gain"]
    assert shifted["high"] - shifted["low"] > 5 * (calm["high"] - calm["low"])


def _shifted(grid: Grid) -> Grid:
    """Shift each seed's whole curve."""
    return dataclasses.replace(grid, losses=grid.losses + 0.01 * np.arange(3)[:, None])
