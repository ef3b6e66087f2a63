"""Several HPs at once: planted optima, censoring, flat directions, windows, and slices."""

from __future__ import annotations

import numpy as np
import pytest

from hptransfer.analysis.basins.basin import Censoring
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.surfaces.points import build_points, seed_noise
from hptransfer.analysis.surfaces.quadratic import Quadratics, build_basis
from hptransfer.analysis.surfaces.record import correlation, flat_directions
from hptransfer.analysis.surfaces.surface import Surface, arm_surfaces, fit_surface
from hptransfer.errors import UserError
from tests.support.surface_truth import LEVEL, NAMES, Cell, Planted, losses_at, plant, rows_of

DRAWS = 300


def fitted(positions: Floats, losses: Floats, *, init: float = 1.0, seed: int = 0) -> Surface:
    """Fit one width's planted losses."""
    rng = np.random.default_rng(seed)
    hps = NAMES[: positions.shape[1]]
    points = build_points(hps, positions, losses, loss_at_init=init)
    assert points is not None
    noise = seed_noise([points], rng=rng, draws=DRAWS)
    return fit_surface(points, noise, rng=rng, draws=DRAWS)


@pytest.mark.parametrize(
    "cell",
    [
        Cell(2, 36, "grid"),
        Cell(2, 36, "sobol"),
        Cell(2, 36, "clustered"),
        Cell(2, 36, "sobol", "skewed"),
        Cell(3, 64, "sobol"),
        Cell(3, 64, "clustered", "skewed"),
        Cell(4, 81, "clustered"),
        Cell(2, 36, "sobol", seeds=1),
    ],
    ids=lambda cell: f"{cell.hps}-{cell.design}-{cell.shape}-{cell.seeds}",
)
def test_planted_optima_are_found_and_intervals_cover(cell: Cell) -> None:
    errors: list[float] = []
    covered: list[bool] = []
    widths: list[float] = []
    for repeat in range(25):
        planted = plant(cell, np.random.default_rng(repeat))
        surface = fitted(planted.positions, planted.losses, seed=repeat)
        for basin, truth in zip(surface.basins, planted.optimum, strict=True):
            if basin.low is not None and basin.high is not None:
                errors.append(abs(basin.optimum - float(truth)))
                covered.append(basin.low <= truth <= basin.high)
                widths.append(basin.high - basin.low)
    assert len(errors) >= 0.95 * 25 * cell.hps
    assert np.median(errors) < 0.08
    assert np.mean(covered) >= 0.78
    assert np.median(widths) < 8 * np.median(errors)  # 4.9 for a normal 90 % interval


def test_interactions_are_recovered() -> None:
    cell = Cell(2, 49, "grid", noise=0.0005)
    bends = np.array([[0.016, 0.007], [0.007, 0.012]])
    optimum = np.array([0.4, -0.6])
    planted = plant(cell, np.random.default_rng(3))
    rng = np.random.default_rng(4)
    losses = losses_at(planted.positions, optimum, bends, cell, rng)
    surface = fitted(planted.positions, losses)
    assert surface.fit is not None
    np.testing.assert_allclose(surface.fit.hessian, LEVEL * bends, rtol=0.15)
    # An interaction makes the optima trade against each other.
    assert correlation(surface.fit.theta_draws)[0][1] < -0.2  # type: ignore[operator]


def test_a_cliff_bounds_the_slice_and_its_points_are_never_fitted() -> None:
    planted = plant(Cell(2, 64, "grid"), np.random.default_rng(5))
    failing = planted.positions[:, 0] > 1.6
    losses = np.where(failing[None, :], np.inf, planted.losses)
    surface = fitted(planted.positions, losses)
    lr, decay = surface.basins
    assert surface.fit is not None
    assert surface.points.positions[surface.fit.window.index, 0].max() <= 1.6
    assert lr.grid.cliff == pytest.approx(planted.positions[failing, 0].min())
    assert decay.grid.cliff is None
    assert abs(lr.optimum - planted.optimum[0]) < 0.3
    assert abs(decay.optimum - planted.optimum[1]) < 0.2


def test_one_failed_seed_fails_the_point() -> None:
    planted = plant(Cell(2, 36, "grid"), np.random.default_rng(6))
    best = int(planted.losses.mean(axis=0).argmin())
    losses = planted.losses.copy()
    losses[1, best] = np.inf
    surface = fitted(planted.positions, losses)
    assert surface.points.failed.sum() == 1 and surface.fit is not None
    window = surface.points.positions[surface.fit.window.index]
    assert not (window == planted.positions[best]).all(axis=1).any()


def test_an_optimum_against_a_cliff_is_bracketed() -> None:
    positions = plant(Cell(2, 49, "grid"), np.random.default_rng(0)).positions
    bends = np.diag([0.01, 0.012])
    optimum = np.array([1.4, 0.2])
    rng = np.random.default_rng(1)
    losses = losses_at(positions, optimum, bends, Cell(2, 49, "grid"), rng)
    losses[:, positions[:, 0] > 1.1] = np.inf
    lr, decay = fitted(positions, losses).basins
    assert lr.censored is Censoring.divergence
    assert lr.usable and lr.low is not None and lr.high is not None
    assert lr.low >= 0.0 and lr.high <= (lr.grid.cliff or np.inf)
    assert lr.edge_high == 0.0
    assert decay.censored is None


@pytest.mark.parametrize(("side", "expected"), [(-1.0, "grid_low"), (1.0, "grid_high")])
def test_an_optimum_outside_the_box_is_censored_for_that_hp_alone(
    side: float, expected: str
) -> None:
    positions = plant(Cell(2, 49, "sobol"), np.random.default_rng(0)).positions
    optimum = np.array([4.5 * side, 0.2])
    rng = np.random.default_rng(1)
    losses = losses_at(positions, optimum, np.diag([0.01, 0.012]), Cell(2, 49, "sobol"), rng)
    lr, decay = fitted(positions, losses).basins
    assert lr.censored is Censoring(expected) and not lr.usable
    assert (lr.edge_low if side < 0 else lr.edge_high) > 0.9
    assert decay.censored is None and abs(decay.optimum - 0.2) < 0.2


def test_a_flat_direction_is_found_and_named() -> None:
    planted = plant(Cell(2, 49, "sobol"), np.random.default_rng(7))
    across = np.array([[1.0, 1.0], [1.0, 1.0]]) * 0.012
    rng = np.random.default_rng(8)
    losses = losses_at(planted.positions, np.zeros(2), across, Cell(2, 49, "sobol"), rng)
    surface = fitted(planted.positions, losses)
    (flat,) = flat_directions(surface)
    x, y = flat["direction"]["log2_lr"], flat["direction"]["log2_weight_decay"]
    assert x * y < 0 and abs(abs(x) - abs(y)) < 0.2
    assert "log2_lr and log2_weight_decay can be traded along" in flat["sentence"]
    assert [basin.censored for basin in surface.basins] == [Censoring.flat] * 2


def test_an_hp_that_does_nothing_is_flat_and_leaves_the_other_resolved() -> None:
    planted = plant(Cell(2, 49, "sobol"), np.random.default_rng(7))
    rng = np.random.default_rng(9)
    bends = np.diag([0.015, 0.0])
    losses = losses_at(planted.positions, np.array([0.5, 0.0]), bends, Cell(2, 49, "sobol"), rng)
    surface = fitted(planted.positions, losses)
    lr, decay = surface.basins
    assert lr.censored is None and abs(lr.optimum - 0.5) < 0.15
    assert decay.censored is Censoring.flat and not decay.usable
    (flat,) = flat_directions(surface)
    assert flat["sentence"].startswith("log2_weight_decay hardly matters")


@pytest.mark.parametrize("seeds", [1, 3])
def test_noise_alone_is_flat(seeds: int) -> None:
    flat = 0
    for repeat in range(20):
        rng = np.random.default_rng(repeat)
        losses = 0.5 + 0.001 * rng.standard_normal((seeds, 40))
        surface = fitted(rng.uniform(-3.0, 3.0, (40, 2)), losses)
        flat += all(basin.censored is Censoring.flat for basin in surface.basins)
    assert flat >= 17


def test_noiseless_and_constant_losses_are_no_fault() -> None:
    positions = plant(Cell(2, 30, "sobol"), np.random.default_rng(0)).positions
    exact = 0.5 + 0.01 * ((positions - 0.5) ** 2).sum(axis=1)
    for basin in fitted(positions, np.stack([exact, exact])).basins:
        assert basin.optimum == pytest.approx(0.5, abs=1e-6)
    still = fitted(positions, np.full((2, 30), 0.5))
    assert [basin.censored for basin in still.basins] == [Censoring.flat] * 2


def test_too_few_points_are_cut_at_the_best_one() -> None:
    planted = plant(Cell(2, 49, "grid"), np.random.default_rng(10))
    two_decays = np.isin(planted.positions[:, 1], np.unique(planted.positions[:, 1])[3:5])
    surface = fitted(planted.positions[two_decays], planted.losses[:, two_decays])
    lr, decay = surface.basins
    assert surface.fit is None
    assert lr.censored is None and abs(lr.optimum - planted.optimum[0]) < 0.6
    assert decay.censored is Censoring.too_few
    scattered = plant(Cell(3, 10, "sobol"), np.random.default_rng(10))
    few = fitted(scattered.positions, scattered.losses)
    assert [basin.censored for basin in few.basins] == [Censoring.too_few] * 3


def test_the_order_of_rows_and_points_is_irrelevant() -> None:
    planted = {
        width: plant(Cell(2, 20, "sobol"), np.random.default_rng(width)) for width in (8, 16)
    }
    rows = rows_of(planted)
    order = np.random.default_rng(0).permutation(len(rows.width))
    there = arm_surfaces(rows, "arm", draws=50)
    again = arm_surfaces(rows.where(order), "arm", draws=50)  # type: ignore[arg-type]
    for width in (8, 16):
        for one, other in zip(
            there.surfaces[width].basins, again.surfaces[width].basins, strict=True
        ):
            assert one.optimum == other.optimum and one.low == other.low


def test_the_order_of_points_is_irrelevant() -> None:
    one = plant(Cell(2, 20, "sobol"), np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(20)
    there = fitted(one.positions, one.losses)
    again = fitted(one.positions[order], one.losses[:, order])
    assert [b.low for b in there.basins] == [b.low for b in again.basins]


def test_two_rows_of_one_point_and_seed_are_refused() -> None:
    rows = rows_of({8: plant(Cell(2, 20, "sobol"), np.random.default_rng(0))})
    twice = rows.where(np.array([0, *range(len(rows.width))]))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="61 rows for 60 places"):
        arm_surfaces(twice, "arm", draws=50)


def test_points_that_lack_a_seed_are_left_out_and_counted() -> None:
    planted = plant(Cell(2, 30, "sobol"), np.random.default_rng(0))
    losses = planted.losses.copy()
    losses[0, 3] = np.nan
    points = build_points(NAMES[:2], planted.positions, losses, loss_at_init=1.0)
    assert points is not None and points.incomplete_points == 1 and len(points.positions) == 29


def test_a_slice_keeps_the_scatter_of_single_runs() -> None:
    """The run-to-run sd, which is the verdict's tolerance, is that of runs and not of means."""
    spreads = []
    for repeat in range(20):
        planted = plant(Cell(2, 64, "sobol", seeds=5), np.random.default_rng(repeat))
        spreads.append(fitted(planted.positions, planted.losses).basins[0].run_sd)
    expected = LEVEL * 0.002 * np.sqrt(1.0 + 2.0**2)
    assert np.mean([s for s in spreads if s is not None]) == pytest.approx(expected, rel=0.25)


def test_a_slice_has_the_curvature_of_the_surface() -> None:
    planted = plant(Cell(2, 49, "grid"), np.random.default_rng(11))
    surface = fitted(planted.positions, planted.losses)
    lr = surface.basins[0]
    assert surface.fit is not None and lr.curve is not None
    small = 0.02
    rises = lr.curve.rise(np.array([-small, small]))[0]
    assert rises.mean() == pytest.approx(surface.fit.hessian[0, 0] * small**2 / 2.0, rel=1e-3)


def test_minima_of_a_box_are_exact() -> None:
    inside = Quadratics(
        np.zeros(2),
        np.array([[-0.2, 0.1], [-9.0, 0.0]]),
        np.array([np.diag([1.0, 2.0])] * 2),
        np.zeros((2, 2)),
    )
    np.testing.assert_allclose(inside.minima(), [[0.2, -0.05], [1.0, 0.0]], atol=1e-6)
    skewed = Quadratics(np.zeros(1), np.array([[-0.2]]), np.array([[[1.0]]]), np.array([[0.5]]))
    z = float(skewed.minima()[0, 0])
    assert -0.2 + z + 0.5 * z**2 / 2.0 == pytest.approx(0.0, abs=1e-6)


def test_downward_bends_become_flat() -> None:
    z = np.random.default_rng(0).uniform(-1.0, 1.0, (40, 2))
    losses = z[:, 0] ** 2 - 0.5 * z[:, 1] ** 2 + 0.1 * z[:, 1]
    basis = build_basis(z, ridge=0.0, skewness=np.full(2, 1e12))
    surface = basis.fit(basis.observed(losses[None, :]))
    assert np.linalg.eigvalsh(surface.hessian[0]).min() >= -1e-12
    assert surface.minima()[0, 1] == pytest.approx(-1.0)


def test_leaving_out_in_closed_form_is_leaving_out() -> None:
    rng = np.random.default_rng(0)
    z, losses = rng.uniform(-1.0, 1.0, (15, 2)), rng.standard_normal(15)
    weights = {"ridge": 0.7, "skewness": np.array([2.0, 3.0])}
    whole = build_basis(z, **weights)  # type: ignore[arg-type]
    errors = []
    for left in range(15):
        kept = np.arange(15) != left
        basis = build_basis(z[kept], **weights)  # type: ignore[arg-type]
        predicted = basis.fit_free(basis.observed(losses[None, kept])).loss(z[[left]])
        errors.append(float((losses[left] - predicted[0, 0]) ** 2))
    assert whole.left_out_error(losses) == pytest.approx(np.mean(errors), rel=1e-6)


def test_a_planted_surface_is_what_it_says() -> None:
    """The truth generator itself: no noise, no rise at the optimum."""
    one = plant(Cell(3, 8, "sobol"), np.random.default_rng(0))
    still = Cell(3, 8, "sobol", noise=0.0)
    at = losses_at(one.optimum[None, :], one.optimum, one.bends, still, np.random.default_rng(0))
    np.testing.assert_allclose(at, LEVEL)
    assert isinstance(one, Planted)
