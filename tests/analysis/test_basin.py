"""One setting's basin: what its posterior says on grids that go wrong in the usual ways."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hptransfer.analysis.basins.basin import Basin, Censoring, fit_basins
from hptransfer.analysis.basins.corner import find_corners
from hptransfer.analysis.basins.curve import Curves, rise
from hptransfer.analysis.basins.grid import build_grid, seed_effects
from hptransfer.analysis.basins.noise import NoiseSource, pool_noise
from hptransfer.analysis.basins.rows import read_rows
from hptransfer.analysis.basins.scale import scaled_rows
from tests.support.planted_tables import GRID, Floats, basin, parabola, quartic, smooth_wall


def losses(
    optimum: float, *, seeds: int = 3, noise: float = 0.002, seed_sd: float = 0.01, rng: int = 0
) -> Floats:
    generator = np.random.default_rng(rng)
    shifts = generator.normal(0.0, seed_sd, (seeds, 1))
    return 0.02 * parabola(GRID - optimum) + shifts + generator.normal(0.0, noise, (seeds, 8))


def fitted(table: Floats, theta: Floats = GRID, loss_at_init: float = np.nan) -> Basin:
    grid = build_grid(theta, table, loss_at_init=loss_at_init)
    assert grid is not None
    return fit_basins({0: grid}, pool_noise([grid]))[0]


def test_a_clear_minimum_is_found_within_its_interval() -> None:
    found = fitted(losses(-6.4))
    low, high = found.interval
    assert low is not None and high is not None
    assert low < -6.4 < high and high - low < 0.5
    assert found.optimum == pytest.approx(-6.4, abs=0.15)
    assert found.censored is None


def test_a_seeds_own_shift_changes_nothing() -> None:
    table = losses(-6.4)
    shifted = table + np.array([[0.0], [0.5], [-0.3]])
    assert fitted(shifted).optimum == pytest.approx(fitted(table).optimum, abs=1e-6)
    assert fitted(shifted).interval == pytest.approx(fitted(table).interval, abs=1e-6)


def test_missing_cells_are_missing_and_no_failures() -> None:
    table = losses(-5.6, seed_sd=0.05)
    table[2, 4:] = np.nan  # the third seed only on the lower four rates
    found = fitted(table)
    assert found.grid.missing == 4
    assert found.optimum == pytest.approx(-5.6, abs=0.2)
    assert found.censored is None


def test_seed_effects_of_a_table_with_holes_are_those_of_the_whole_table() -> None:
    table = losses(-6.0, noise=0.0)
    whole, _ = seed_effects(table)
    table[0, 2] = table[1, 5] = np.nan
    means, residuals = seed_effects(table)
    assert means - means.min() == pytest.approx(whole - whole.min(), abs=1e-6)
    assert np.nanmax(np.abs(residuals)) < 1e-6


def test_exact_copies_of_a_seed_count_once() -> None:
    table = losses(-6.4, seeds=2)
    copied = np.vstack([table, table[:1], table[:1]])
    found = fitted(copied)
    assert found.grid.copied_seeds == 2
    assert found.interval == pytest.approx(fitted(table).interval)


def test_a_minimum_beside_a_cliff_stays_below_it() -> None:
    table = losses(-5.0)
    table[1, 6:] = np.inf  # -4 and -3 fail with one seed
    found = fitted(table)
    assert found.grid.cliff == -4.0
    assert found.quantiles(0.999)[0] < -4.0
    assert found.cliff_distance == pytest.approx(-4.0 - found.optimum)


def test_only_a_cliff_below_the_minimum_brackets_it() -> None:
    table = losses(-4.0)
    table[:, 5:] = np.inf  # the highest sound point is -6
    found = fitted(table)
    assert found.censored in (Censoring.divergence, None)
    assert found.quantiles(0.05)[0] > -7.0
    assert found.quantiles(0.999)[0] < -5.0


def test_a_flat_basin_keeps_a_broad_posterior() -> None:
    table = np.random.default_rng(3).normal(0.0, 0.002, (3, 8))
    found = fitted(table)
    assert found.censored is Censoring.flat
    low, high = found.quantiles(0.05, 0.95)
    assert high - low > 4.0
    assert found.density.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("optimum", "why"), [(-12.0, Censoring.grid_low), (-1.0, Censoring.grid_high)]
)
def test_a_minimum_beyond_the_grid_is_one_sided(optimum: float, why: Censoring) -> None:
    found = fitted(losses(optimum))
    low, high = found.interval
    assert found.censored is why
    assert found.optimum == (-10.0 if why is Censoring.grid_low else -3.0)
    assert (low is None) is (why is Censoring.grid_low)
    assert (high is None) is (why is Censoring.grid_high)
    assert low is None or low <= found.optimum
    assert high is None or high >= found.optimum


def test_isolated_failures_are_counted_and_left_out() -> None:
    table = losses(-6.4)
    table[0, 1] = np.inf
    found = fitted(table)
    assert found.grid.isolated_failures == 1
    assert found.grid.cliff is None
    assert found.optimum == pytest.approx(-6.4, abs=0.2)


def test_a_loss_near_the_start_above_the_minimum_has_failed() -> None:
    table = losses(-6.0)
    table[:, 7] = 2.0
    assert fitted(table, loss_at_init=2.5).grid.cliff == -3.0
    assert fitted(table, loss_at_init=9.0).grid.cliff is None


@pytest.mark.parametrize("height", [0.7, 3.0])
def test_a_sudden_plateau_above_the_minimum_has_failed_where_the_start_is_unknown(
    height: float,
) -> None:
    table = losses(-6.0)
    table[:, 6:] = height
    found = fitted(table)
    assert found.grid.cliff == -4.0
    assert found.quantiles(0.999)[0] < -4.0
    assert found.optimum == pytest.approx(-6.0, abs=0.25)


def test_a_wall_without_a_known_start_does_not_pull_the_optimum() -> None:
    table = losses(-6.0)
    table[:, 6:] += 3.0
    assert fitted(table).optimum == pytest.approx(-6.0, abs=0.25)


def test_no_sound_point_is_no_grid() -> None:
    assert build_grid(GRID, np.full((2, 8), np.inf), loss_at_init=np.nan) is None


@pytest.mark.parametrize("shape", [parabola, quartic])
@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_hold_optima_of_shapes_that_are_not_fitted(shape, seeds: int) -> None:  # type: ignore[no-untyped-def]
    held, count = 0, 60
    for repeat in range(count):
        rng = np.random.default_rng(repeat)
        optimum = rng.uniform(-7.0, -6.0)
        generator = rng.normal(0.0, 0.01, (seeds, 1)) + rng.normal(0.0, 0.002, (seeds, 8))
        low, high = fitted(0.02 * shape(GRID - optimum) + generator).quantiles(0.05, 0.95)
        held += low <= optimum <= high
    assert held / count >= 0.8


def test_a_steep_wall_within_a_grid_step_moves_the_optimum_little_and_costs_little() -> None:
    for repeat in range(20):
        rng = np.random.default_rng(repeat)
        optimum = rng.uniform(-7.0, -6.0)
        noise = rng.normal(0.0, 0.01, (3, 1)) + rng.normal(0.0, 0.002, (3, 8))
        found = fitted(0.02 * smooth_wall(GRID - optimum) + noise).optimum
        assert abs(found - optimum) < 0.4
        assert 0.02 * smooth_wall(np.array([found - optimum]))[0] < 0.003  # of the log loss


def test_noise_is_that_of_seeds_else_given_else_of_neighbours() -> None:
    three = build_grid(GRID, losses(-6.0, noise=0.004), loss_at_init=np.nan)
    one = build_grid(GRID, losses(-6.0, seeds=1, noise=0.004), loss_at_init=np.nan)
    table = losses(-6.0, seeds=1)
    given = build_grid(GRID, table, loss_at_init=np.nan, run_sds=np.full_like(table, 0.01))
    assert three is not None and one is not None and given is not None
    found = [pool_noise([grid]) for grid in (three, given, one)]
    assert [noise and noise.source for noise in found] == list(NoiseSource)
    assert found[0] is not None and found[0].sd == pytest.approx(0.004, rel=0.5)
    assert found[1] is not None and found[1].sd == pytest.approx(0.01)
    assert found[2] is not None and 0.001 < found[2].sd < 0.012


def test_three_points_of_one_seed_tell_no_noise() -> None:
    grid = build_grid(GRID[:3], losses(-9.0, seeds=1)[:, :3], loss_at_init=np.nan)
    assert grid is not None and pool_noise([grid]) is None
    found = fit_basins({0: grid}, None)[0]
    assert found.interval == (None, None)


def test_noise_is_never_below_the_rounding_of_the_losses() -> None:
    rows = basin(-6.0, level=-0.5, rng=np.random.default_rng(0), seeds=1, noise=0.0, width=64)
    rows["loss"] = rows["loss"].round(2)
    scale, _ = scaled_rows(read_rows(rows, ["log2_lr"]))
    assert scale.rounding == pytest.approx(0.0029 / rows["loss"].median(), rel=0.05)


def test_losses_that_are_not_all_positive_are_compared_as_they_are() -> None:
    rows = basin(-6.0, level=-0.5, rng=np.random.default_rng(0), width=64)
    positive, scaled = scaled_rows(read_rows(rows, ["log2_lr"]))
    assert positive.is_log and scaled.loss[0] == pytest.approx(np.log(rows["loss"][0]))
    rows["loss"] -= 1.0
    negative, raw = scaled_rows(read_rows(rows, ["log2_lr"]))
    assert not negative.is_log and raw.loss[0] == rows["loss"][0]
    assert negative.percent(0.1) is None


def test_the_curve_rises_by_its_formula() -> None:
    offset = np.linspace(-3.0, 3.0, 13)
    assert rise(offset, 0.0) == pytest.approx(offset**2)
    assert rise(offset, 0.7) == pytest.approx(2 * (np.exp(0.7 * offset) - 1 - 0.7 * offset) / 0.49)
    assert rise(offset, 1e-5) == pytest.approx(offset**2, rel=1e-4)
    one = np.ones(1)
    curves = Curves(-6.0 * one, 0.3 * one, 0.02 * one, 0.5 * one)
    assert curves.loss(np.array([-6.0]))[0, 0] == pytest.approx(0.3)
    assert curves.cost(-5.0)[0] == pytest.approx(0.02 * rise(np.array(1.0), 0.5))


def corner(offset: Floats) -> Floats:
    return np.where(offset < 0.0, -0.8, 1.2) * offset


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("shape", "is_corner"),
    [(parabola, False), (quartic, False), (smooth_wall, False), (corner, True)],
)
def test_a_corner_is_told_from_every_smooth_basin(
    seeds: int, shape: Callable[[Floats], Floats], is_corner: bool
) -> None:
    rng = np.random.default_rng(3)
    grids = []
    for optimum in (-6.3, -6.0, -5.6):
        y = 0.02 * shape(GRID - optimum) + rng.normal(0.0, 0.002, (seeds, len(GRID)))
        grid = build_grid(GRID, y, loss_at_init=np.nan)
        assert grid is not None
        grids.append(grid)
    corners = find_corners(grids, pool_noise(grids))
    assert corners is not None
    if is_corner:
        assert corners.probability > 0.9
        assert np.exp(corners.log_sides.mean(axis=0)) == pytest.approx([0.016, 0.024], rel=0.25)
    else:
        assert corners.probability < 0.1
