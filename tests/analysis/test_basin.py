"""A basin's optimum on planted truth, its interval, and what keeps it from being resolved."""

from __future__ import annotations

import numpy as np
import pytest

from hptransfer.analysis.basins.basin import (
    Censoring,
    Noise,
    build_grid,
    fit_basin,
    pool_noise,
)
from hptransfer.analysis.basins.curve import Curves, Floats, fit_curves
from hptransfer.analysis.basins.shapes import WindowPoints, locate
from tests.support.basins import fitted

THETA: Floats = np.arange(-10.0, -2.0)
K = 0.01


def planted(
    optimum: float, *, k_high: float = 1.0, noise: float = 0.0015, seeds: int = 3, rng: int = 0
) -> Floats:
    """Return losses (seed, theta) around two parabolas with k = 0.01 below the optimum."""
    generator = np.random.default_rng(rng)
    offset = THETA - optimum
    curve = 0.5 + K * np.where(offset < 0, 1.0, k_high) * offset**2
    seed_effect = generator.normal(0.0, 0.005, (seeds, 1))
    return curve + seed_effect + noise * generator.standard_normal((seeds, len(THETA)))


@pytest.mark.parametrize("optimum", [-6.4, -6.0, -5.7, -5.2])
def test_planted_optimum_is_recovered_within_its_interval(optimum: float) -> None:
    basin = fitted(THETA, planted(optimum))
    assert basin.censored is None
    assert basin.low is not None and basin.high is not None
    assert basin.low < optimum < basin.high
    assert abs(basin.optimum - optimum) < 0.15
    assert basin.high - basin.low < 1.0
    assert basin.loss == pytest.approx(0.5, abs=0.01)


def test_intervals_cover_and_their_noise_part_alone_nearly_does() -> None:
    generator = np.random.default_rng(11)
    covered, noise_covered = [], []
    for repeat in range(200):
        optimum = generator.uniform(-6.5, -5.5)
        basin = fitted(THETA, planted(optimum, k_high=2.5, noise=0.004, rng=repeat), rng=repeat)
        assert basin.low is not None and basin.high is not None and basin.curve_draws is not None
        covered.append(basin.low <= optimum <= basin.high)
        symmetric = fitted(THETA, planted(optimum, noise=0.004, rng=repeat), rng=repeat)
        assert symmetric.curve_draws is not None
        low, high = np.quantile(symmetric.curve_draws.optimum, (0.05, 0.95))
        noise_covered.append(low <= optimum <= high)
    assert 0.80 <= np.mean(covered) <= 0.98
    assert 0.70 <= np.mean(noise_covered) <= 0.98


def test_a_steep_high_side_does_not_pull_the_optimum() -> None:
    def exact(optimum: float) -> Floats:
        offset = THETA - optimum
        slow = (2 ** (-0.4 * offset) - 1 + 0.4 * np.log(2) * offset) / 0.4**2
        fast = (2 ** (1.5 * offset) - 1 - 1.5 * np.log(2) * offset) / 1.5**2
        return np.tile(0.5 + 0.01 * slow + 0.02 * fast, (2, 1))

    errors = [fitted(THETA, exact(optimum)).optimum - optimum for optimum in (-6.3, -6.0, -5.6)]
    assert np.max(np.abs(errors)) < 0.1  # a parabola: 0.15


@pytest.mark.parametrize("optimum", [-0.413, 0.007, 0.389])
def test_a_curve_of_its_own_shape_is_found_between_the_candidates(optimum: float) -> None:
    one = np.ones(1)
    truth = Curves(optimum * one, 0.5 * one, 0.01 * one, 0.02 * one)
    theta: Floats = np.arange(-2.0, 3.0)
    found = fit_curves(theta, truth.loss(theta))
    assert found.optimum[0] == pytest.approx(optimum, abs=2e-3)
    assert found.slow[0] == pytest.approx(0.01, rel=0.05)
    assert found.fast[0] == pytest.approx(0.02, rel=0.05)


def test_a_cliff_above_the_window_leaves_the_optimum_alone() -> None:
    losses = planted(-5.7)
    broken = losses.copy()
    broken[:, THETA >= -3] = np.inf
    assert fitted(THETA, broken).optimum == pytest.approx(fitted(THETA, losses).optimum, abs=0.03)
    assert fitted(THETA, broken).cliff_distance == pytest.approx(-3 - fitted(THETA, broken).optimum)


def test_curvatures_are_the_rise_one_octave_away() -> None:
    curve = fitted(THETA, planted(-6.0, noise=0.0)).curve
    assert curve is not None
    low, high = curve.rise(np.array([-1.0, 1.0]))[0]
    assert low == pytest.approx(K, rel=0.15)
    assert high == pytest.approx(K, rel=0.15)


@pytest.mark.parametrize("points", [3, 4, 5])
def test_every_window_size_finds_a_symmetric_minimum(points: int) -> None:
    theta = np.arange(-1.0, points - 1.0)
    curve = fit_curves(theta, (0.3 + 0.02 * (theta - 0.1) ** 2)[None, :])
    assert curve.optimum[0] == pytest.approx(0.1, abs=0.06)


def test_minimum_on_the_edges_is_censored() -> None:
    low, high = fitted(THETA, planted(-11.0)), fitted(THETA, planted(-2.0))
    assert (low.censored, high.censored) == (Censoring.grid_low, Censoring.grid_high)
    assert (low.optimum, high.optimum) == (-10.0, -3.0)
    assert (low.edge_low, high.edge_high) == (1.0, 1.0)
    assert not low.usable and low.low is None


def test_failed_neighbour_above_the_minimum_brackets_the_optimum() -> None:
    losses = planted(-5.0)
    losses[1, THETA >= -4] = np.inf
    basin = fitted(THETA, losses)
    assert basin.censored is Censoring.divergence
    assert (basin.low, basin.optimum, basin.high) == (-6.0, -5.0, -4.0)
    assert basin.usable and basin.theta_draws is not None
    assert -6.0 <= basin.theta_draws.min() < -5.9 and -4.1 < basin.theta_draws.max() <= -4.0


def test_noise_without_a_curve_is_flat() -> None:
    found = []
    for repeat in range(60):
        noise = np.random.default_rng(repeat).standard_normal((3, len(THETA)))
        found.append(fitted(THETA, 0.5 + 0.01 * noise, rng=repeat, init=1e3).censored)
    inside = [kind for kind in found if kind not in (Censoring.grid_low, Censoring.grid_high)]
    assert len(inside) > 30
    assert np.mean([kind is Censoring.flat for kind in inside]) > 0.85


def test_a_steep_minimum_between_two_equal_points_is_no_flat_one() -> None:
    # Recorded (digits, standard, width 64): three points differ by little, the next one does not.
    theta = np.arange(-9.0, -4.0)
    losses = np.array(
        [
            [0.5896, 0.5496, 0.5347, 0.5315, 0.5588],
            [0.5998, 0.5548, 0.5359, 0.5354, 0.593],
            [0.5932, 0.5546, 0.5367, 0.5425, 0.6771],
        ]
    )
    grid = build_grid(theta, losses, loss_at_init=1.7)
    noise = Noise(0.0081, 30, np.full(2000, 0.0081**2))
    assert grid is not None
    basin = fit_basin(grid, noise, rng=np.random.default_rng(0))
    assert basin.censored is None
    assert -7.0 < basin.optimum < -6.0
    assert basin.low is not None and basin.high is not None and basin.high - basin.low < 1.0
    assert len(basin.window) == 5


def test_two_points_are_too_few() -> None:
    assert fitted(THETA[:2], planted(-9.8)[:, :2]).censored is Censoring.too_few


def test_failed_points_are_never_averaged_over_survivors() -> None:
    losses = planted(-5.7)
    losses[0, THETA == -6] = np.inf
    grid = build_grid(THETA, losses, loss_at_init=10.0)
    assert grid is not None
    assert grid.isolated_failures == 1 and grid.cliff is None
    assert not np.isfinite(grid.losses[:, THETA == -6]).any()
    assert -6.0 not in grid.theta[grid.window]


def test_a_missing_seed_leaves_the_point_out_and_is_no_cliff() -> None:
    losses = planted(-5.7)
    losses[2, THETA >= -4] = np.nan
    grid = build_grid(THETA, losses, loss_at_init=10.0)
    assert grid is not None
    assert (grid.incomplete_points, grid.cliff, grid.theta[-1]) == (2, None, -5.0)


def test_seed_with_few_rows_does_not_spoil_the_others() -> None:
    extra = np.full((1, len(THETA)), np.nan)
    extra[0, 3] = 0.5
    grid = build_grid(THETA, np.vstack([planted(-5.7), extra]), loss_at_init=10.0)
    assert grid is not None
    assert (grid.seeds_left_out, grid.incomplete_points, grid.losses.shape) == (1, 0, (3, 8))


def test_ruined_losses_fail_above_the_minimum_only() -> None:
    losses = planted(-6.0)
    losses[:, 0] = losses[:, -1] = 0.8
    grid = build_grid(THETA, losses, loss_at_init=1.0)
    assert grid is not None
    assert list(grid.failed) == [False] * 7 + [True]
    assert grid.cliff == -3.0
    unknown = build_grid(THETA, losses, loss_at_init=np.nan)
    assert unknown is not None and not unknown.failed.any()


def test_noise_is_what_remains_after_seed_and_value_effects() -> None:
    grids = [build_grid(THETA, planted(-5.7, rng=r, seeds=20), loss_at_init=10.0) for r in range(3)]
    noise = pool_noise([g for g in grids if g is not None], rng=np.random.default_rng(0))
    assert noise is not None
    assert noise.degrees == 3 * 19 * 4
    assert noise.sd == pytest.approx(0.0015, rel=0.1)
    assert noise.variances.mean() == pytest.approx(0.0015**2, rel=0.2)


def test_uneven_grids_take_every_point_within_two_steps() -> None:
    theta = np.sort(np.append(THETA, -5.7))
    losses = np.tile(0.5 + K * (theta + 5.7) ** 2, (3, 1))
    basin = fitted(theta, losses)
    assert list(basin.grid.theta[basin.grid.window]) == [-7.0, -6.0, -5.7, -5.0, -4.0]
    assert basin.optimum == pytest.approx(-5.7, abs=0.05)


def test_a_single_seed_borrows_its_noise_from_neighbours() -> None:
    basin = fitted(THETA, planted(-5.7, seeds=1))
    three = fitted(THETA, planted(-5.7))
    assert basin.low is not None and basin.high is not None
    assert three.low is not None and three.high is not None
    assert basin.low < -5.7 < basin.high
    assert basin.high - basin.low > three.high - three.low


def test_the_same_generator_repeats_and_another_differs() -> None:
    losses = planted(-5.7)
    first, again, other = (fitted(THETA, losses, rng=rng) for rng in (1, 1, 2))
    assert (first.low, first.high) == (again.low, again.high)
    assert (first.low, first.high) != (other.low, other.high)
    assert first.optimum == other.optimum


def test_the_order_of_points_does_not_matter() -> None:
    losses, order = planted(-5.7), np.random.default_rng(0).permutation(len(THETA))
    straight, shuffled = fitted(THETA, losses), fitted(THETA[order], losses[:, order])
    assert (straight.optimum, straight.low) == (shuffled.optimum, shuffled.low)


def test_points_high_above_the_minimum_lie_outside_the_basin() -> None:
    losses = np.tile(0.5 + K * (THETA + 6.0) ** 2, (2, 1))
    low, high = (build_grid(THETA, losses, loss_at_init=init) for init in (1.0, 10.0))
    assert low is not None and high is not None
    assert list(low.theta[low.core]) == [-7.0, -6.0, -5.0]  # within 5 % of 1.0 - 0.5
    assert list(high.theta[high.core]) == [-8.0, -7.0, -6.0, -5.0, -4.0]


def test_run_to_run_sd_is_the_unbiased_one() -> None:
    losses = 0.5 + K * (THETA + 6.0) ** 2 + np.array([[0.01], [-0.01]])
    assert fitted(THETA, losses).run_sd == pytest.approx(0.01 * 2**0.5)


def test_noise_draws_have_the_spread_of_their_degrees() -> None:
    grid = build_grid(THETA, planted(-5.7, seeds=20), loss_at_init=10.0)
    assert grid is not None
    noise = pool_noise([grid], rng=np.random.default_rng(0))
    assert noise is not None
    spread = noise.variances.std() / noise.variances.mean()
    assert spread == pytest.approx((2 / (noise.degrees - 4)) ** 0.5, rel=0.15)


def test_below_a_cliff_the_grid_needs_no_extension() -> None:
    losses = planted(-4.6, noise=0.004)
    losses[:, THETA == -3] = np.inf
    with_cliff = fitted(THETA, losses)
    without = fitted(THETA[:-1], losses[:, :-1])
    assert without.edge_high > 0.0
    assert with_cliff.edge_high == 0.0


def test_the_level_of_a_curve_is_its_loss_at_the_optimum() -> None:
    one = np.ones(1)
    theta = np.arange(-2.0, 3.0)
    truth = Curves(0.389 * one, 0.5 * one, 0.01 * one, 0.02 * one)
    assert fit_curves(theta, truth.loss(theta)).level[0] == pytest.approx(0.5, abs=2e-4)


def test_uneven_noise_is_no_table_of_outliers() -> None:
    theta = np.arange(-10.0, -5.0)
    losses = np.array(
        [
            [0.962, 0.890, 0.882, 0.866, 0.973],
            [0.960, 0.868, 0.764, 0.724, 0.808],
            [0.963, 0.853, 0.747, 0.676, 0.848],
        ]
    )
    grid = build_grid(theta, losses, loss_at_init=1.75)
    assert grid is not None
    quiet = Noise(0.001, 20, np.full(400, 1e-6))  # learnt where seeds agree
    basin = fit_basin(grid, quiet, rng=np.random.default_rng(0), draws=400)
    assert 0.7 < basin.loss < 0.8
    assert -7.6 < basin.optimum < -6.4


def test_a_shape_that_the_points_do_not_show_is_not_fitted() -> None:
    theta, means = np.array([-8.0, -7.0, -6.0]), np.array([0.5, 0.1, 0.9])
    points = WindowPoints(theta, means, np.array([1.0, 1e-9, 1.0]), below_cliff=True)
    found = locate(points, 1e-6, 20, rng=np.random.default_rng(0), draws=400)
    assert found is not None and 0.0 < found.curve.level[0] <= 0.5
    assert found.draws.level.min() > -1.0


def test_rounded_losses_have_the_noise_of_their_rounding() -> None:
    theta = np.array([-8.0, -6.0, -4.0])
    losses = np.array([[0.430, 0.423, 0.436], [0.431, 0.424, 0.436]])
    grid = build_grid(theta, losses, loss_at_init=1.0)
    assert grid is not None
    same = build_grid(theta, losses[:1].repeat(2, axis=0), loss_at_init=1.0)
    assert same is not None
    noise = pool_noise([same], rng=np.random.default_rng(0), draws=400)
    assert noise is not None and noise.sd >= 0.006 / np.sqrt(12)
    basin = fit_basin(grid, noise, rng=np.random.default_rng(0), draws=400)
    assert np.isfinite(basin.optimum) and np.isfinite(basin.loss)
