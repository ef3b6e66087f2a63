"""Several HPs at once: planted optima, censoring, ridges, windows, and slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from hptransfer.analysis.answer.settings import Setting
from hptransfer.analysis.basins.basin import Basin, Censoring
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.noise import Noise
from hptransfer.analysis.surfaces.points import build_points
from hptransfer.analysis.surfaces.quadratic import Quadratics, build_basis
from hptransfer.analysis.surfaces.record import correlation, principal_axes
from hptransfer.analysis.surfaces.surface import (
    ArmSurfaces,
    Surface,
    arm_surfaces,
    fit_surface,
    points_noise,
)
from hptransfer.errors import UserError
from tests.support.surface_truth import (
    LEVEL,
    NAMES,
    Cell,
    Planted,
    by_setting,
    losses_at,
    plant,
    rows_of,
)

DRAWS = 300


@dataclass(frozen=True)
class Fitted:
    """One width's surface and the HPs' basins."""

    surface: Surface
    basins: list[Basin]
    noise: Noise | None


def fitted(positions: Floats, losses: Floats, *, init: float = 1.0, seed: int = 0) -> Fitted:
    """Fit one width's planted losses."""
    hps = NAMES[: positions.shape[1]]
    points = build_points(hps, positions, losses, loss_at_init=init)
    assert points is not None
    noise = points_noise([points])
    surface = fit_surface(points, noise, rng=np.random.default_rng(seed), draws=DRAWS)
    there = Setting(64)
    arm = ArmSurfaces(hps, {there: surface}, noise)
    return Fitted(surface, [arm.basins(hp)[there] for hp in hps], noise)


def is_resolved(basin: Basin) -> bool:
    """Say whether the points fix the optimum between finite ends."""
    return basin.censored in (None, Censoring.divergence) and None not in basin.interval


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
        found = fitted(planted.positions, planted.losses, seed=repeat)
        for basin, truth in zip(found.basins, planted.optimum, strict=True):
            low, high = basin.interval
            if low is not None and high is not None:
                errors.append(abs(basin.optimum - float(truth)))
                covered.append(low <= truth <= high)
                widths.append(high - low)
    assert len(errors) >= 0.95 * 25 * cell.hps
    assert np.median(errors) < 0.08
    assert np.mean(covered) >= 0.78
    # 4.9 median errors for a normal 90 % interval, the rest for candidates and unlisted shapes
    assert np.median(widths) < 0.3 + 8 * np.median(errors)


def test_interactions_are_recovered() -> None:
    cell = Cell(2, 49, "grid", noise=0.0005)
    bends = np.array([[0.016, 0.007], [0.007, 0.012]])
    optimum = np.array([0.4, -0.6])
    planted = plant(cell, np.random.default_rng(3))
    rng = np.random.default_rng(4)
    losses = losses_at(planted.positions, optimum, bends, cell, rng)
    surface = fitted(planted.positions, losses).surface
    assert surface.fit is not None
    np.testing.assert_allclose(surface.fit.hessian, LEVEL * bends, rtol=0.15)
    # An interaction makes the optima trade against each other.
    assert correlation(surface.fit.theta_draws)[0][1] < -0.2  # type: ignore[operator]


def test_a_cliff_bounds_the_slice_and_its_points_are_never_fitted() -> None:
    planted = plant(Cell(2, 64, "grid"), np.random.default_rng(5))
    failing = planted.positions[:, 0] > 1.6
    losses = np.where(failing[None, :], np.inf, planted.losses)
    found = fitted(planted.positions, losses)
    surface, (lr, decay) = found.surface, found.basins
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
    surface = fitted(planted.positions, losses).surface
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
    low, high = lr.interval
    assert low is not None and high is not None and lr.grid.cliff is not None
    assert low >= 0.0 and high <= lr.grid.cliff
    assert lr.beyond[1] == 0.0
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
    assert lr.censored is Censoring(expected)
    assert lr.beyond[0 if side < 0 else 1] > 0.9
    assert decay.censored is None and abs(decay.optimum - 0.2) < 0.2


def test_an_hp_that_does_nothing_is_flat_and_leaves_the_other_resolved() -> None:
    planted = plant(Cell(2, 49, "sobol"), np.random.default_rng(7))
    rng = np.random.default_rng(9)
    bends = np.diag([0.015, 0.0])
    losses = losses_at(planted.positions, np.array([0.5, 0.0]), bends, Cell(2, 49, "sobol"), rng)
    found = fitted(planted.positions, losses)
    lr, decay = found.basins
    assert lr.censored is None and abs(lr.optimum - 0.5) < 0.15
    assert decay.censored is Censoring.flat
    flat, steep = principal_axes(found.surface, found.noise, np.ones(2))
    assert flat["sentence"].startswith("weight decay hardly matters: any value from 0.128 to 7.2 ")
    assert steep["sentence"] is None


def walled_grid(noise: float) -> tuple[Floats, Floats]:
    """Return one seed on a wide grid of rates and decays: losses of 2.7 to 3.6 on the log scale.

    A rate one octave off costs 2 to 4 % of the loss, the decay up to 1 %.
    """
    rates, decays = np.arange(-14.0, -3.0), np.arange(-8.0, 1.0, 2.0)
    positions = np.stack(np.meshgrid(rates, decays), axis=-1).reshape(-1, 2)
    off, decay = positions[:, 0] + 8.3, positions[:, 1] + 4.0
    low = 0.05 * np.log1p(off**2)
    high = np.where(off > 0.0, 0.008 * np.expm1(0.7 * off), 0.0)
    losses = 2.7 * (1.0 + low + high + 0.0006 * decay**2)
    losses *= 1.0 + noise * np.random.default_rng(0).standard_normal(len(losses))
    return positions, np.log(losses)[None, :]


@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.003])
def test_misfit_on_walls_is_not_taken_for_noise(noise: float) -> None:
    positions, losses = walled_grid(noise)
    assert 2.68 < np.exp(losses.min()) < 2.73 and 3.4 < np.exp(losses.max()) < 3.8
    found = fitted(positions, losses, init=np.nan)
    lr, decay = found.basins
    assert found.noise is not None and found.noise.sd < noise + 0.002
    assert lr.censored is None and abs(lr.optimum + 8.3) < 0.6
    assert decay.censored is Censoring.flat or abs(decay.optimum + 4.0) < 1.5
    for axis in principal_axes(found.surface, found.noise, np.ones(2)):
        assert "learning rate" not in (axis["sentence"] or "")


def test_an_hp_is_not_called_flat_where_losses_differ_by_more_than_noise() -> None:
    """Between walls a rate may be unresolved, and still a sentence must not call it unimportant."""
    named = 0
    for repeat in range(12):
        rng = np.random.default_rng(repeat)
        rates, decays = np.arange(8) / 2.0, np.arange(5.0)
        positions = np.stack(np.meshgrid(rates, decays), axis=-1).reshape(-1, 2)
        off = positions[:, 0] - rng.uniform(1.0, 2.5)
        rise = 0.004 * np.minimum(off, 0.0) ** 2 + np.where(off > 1.0, 0.3, 0.0)
        losses = 1.0 + rise + 0.0003 * rng.standard_normal(len(rise))
        found = fitted(positions, losses[None, :], init=np.nan)
        said = [
            each["sentence"] or ""
            for each in principal_axes(found.surface, found.noise, np.ones(2))
        ]
        assert not any("learning rate hardly" in sentence for sentence in said)
        named += any(sentence.startswith("weight decay hardly matters") for sentence in said)
    assert named >= 9


@pytest.mark.parametrize("share", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_ridge_is_named_by_the_product_that_matters(share: float, seeds: int) -> None:
    """`share` is the curvature along the ridge over the one across it."""
    across, along = np.array([1.0, 1.0]) / 2**0.5, np.array([1.0, -1.0]) / 2**0.5
    bends = 0.024 * (np.outer(across, across) + share * np.outer(along, along))
    cell = Cell(2, 49, "grid", seeds=seeds)
    rng = np.random.default_rng(8)
    positions = plant(cell, rng).positions
    losses = losses_at(positions, np.array([0.3, 0.2]), bends, cell, rng)
    found = fitted(positions, losses)
    flat, steep = principal_axes(found.surface, found.noise, np.ones(2))
    assert flat["direction"]["log2_lr"] * flat["direction"]["log2_weight_decay"] < -0.4
    assert flat["curvature"] < 0.15 * steep["curvature"]
    assert flat["sentence"] == (
        "What matters is learning rate × weight decay: as long as it stays the same, the loss "
        "changes little."
    )
    assert steep["sentence"] is None


def test_an_hp_that_matters_much_less_than_another_is_not_said_to_hardly_matter() -> None:
    cell = Cell(2, 49, "sobol")
    for repeat in range(10):
        rng = np.random.default_rng(repeat)
        positions = plant(cell, rng).positions
        losses = losses_at(positions, np.zeros(2), np.diag([0.03, 0.002]), cell, rng)
        found = fitted(positions, losses)
        weak, steep = principal_axes(found.surface, found.noise, np.ones(2))
        assert weak["curvature"] < 0.1 * steep["curvature"] and weak["sentence"] is None
        assert found.basins[1].censored is None


def test_independent_hps_have_no_product() -> None:
    cell = Cell(2, 49, "sobol")
    for repeat in range(10):
        rng = np.random.default_rng(repeat)
        positions = plant(cell, rng).positions
        losses = losses_at(positions, np.zeros(2), np.diag([0.02, 0.0005]), cell, rng)
        found = fitted(positions, losses)
        for axis in principal_axes(found.surface, found.noise, np.ones(2)):
            assert "What matters" not in (axis["sentence"] or "")


@pytest.mark.parametrize("seeds", [1, 3])
def test_noise_alone_is_flat(seeds: int) -> None:
    flat = 0
    for repeat in range(20):
        rng = np.random.default_rng(repeat)
        losses = 0.5 + 0.001 * rng.standard_normal((seeds, 40))
        found = fitted(rng.uniform(-3.0, 3.0, (40, 2)), losses)
        flat += all(basin.censored is Censoring.flat for basin in found.basins)
        for axis in principal_axes(found.surface, found.noise, np.ones(2)):
            assert "What matters" not in (axis["sentence"] or "")
    assert flat >= 17


def test_noiseless_and_constant_losses_are_no_fault() -> None:
    positions = plant(Cell(2, 30, "sobol"), np.random.default_rng(0)).positions
    exact = 0.5 + 0.01 * ((positions - 0.5) ** 2).sum(axis=1)
    for basin in fitted(positions, np.stack([exact, exact])).basins:
        assert basin.optimum == pytest.approx(0.5, abs=0.005)
    still = fitted(positions, np.full((2, 30), 0.5))
    assert [basin.censored for basin in still.basins] == [Censoring.flat] * 2


def test_too_few_points_are_cut_at_the_best_one() -> None:
    planted = plant(Cell(2, 49, "grid"), np.random.default_rng(10))
    two_decays = np.isin(planted.positions[:, 1], np.unique(planted.positions[:, 1])[3:5])
    found = fitted(planted.positions[two_decays], planted.losses[:, two_decays])
    lr, decay = found.basins
    assert found.surface.fit is None
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
    there = arm_surfaces(by_setting(rows), "arm", draws=50)
    again = arm_surfaces(by_setting(rows.where(order)), "arm", draws=50)  # type: ignore[arg-type]
    for hp in NAMES[:2]:
        one, other = there.basins(hp), again.basins(hp)
        assert [b.optimum for b in one.values()] == [b.optimum for b in other.values()]
        assert [b.interval for b in one.values()] == [b.interval for b in other.values()]


def test_the_order_of_points_is_irrelevant() -> None:
    one = plant(Cell(2, 20, "sobol"), np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(20)
    there = fitted(one.positions, one.losses)
    again = fitted(one.positions[order], one.losses[:, order])
    assert [b.interval for b in there.basins] == [b.interval for b in again.basins]


def test_two_rows_of_one_point_and_seed_are_refused() -> None:
    rows = rows_of({8: plant(Cell(2, 20, "sobol"), np.random.default_rng(0))})
    twice = rows.where(np.array([0, *range(len(rows.width))]))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="61 rows for 60 comb"):
        arm_surfaces(by_setting(twice), "arm", draws=50)


def test_points_that_lack_a_seed_are_left_out_and_counted() -> None:
    planted = plant(Cell(2, 30, "sobol"), np.random.default_rng(0))
    losses = planted.losses.copy()
    losses[0, 3] = np.nan
    points = build_points(NAMES[:2], planted.positions, losses, loss_at_init=1.0)
    assert points is not None and points.incomplete_points == 1 and len(points.positions) == 29


def test_a_slice_keeps_the_scatter_of_single_runs() -> None:
    """The sd between seeds low in the basin is that of runs and not of means."""
    spreads = []
    for repeat in range(20):
        planted = plant(Cell(2, 64, "sobol", seeds=5), np.random.default_rng(repeat))
        spreads.append(fitted(planted.positions, planted.losses).basins[0].run_sd)
    expected = LEVEL * 0.002 * np.sqrt(1.0 + 2.0**2)
    assert np.mean(spreads) == pytest.approx(expected, rel=0.25)


def test_a_slice_has_the_curvature_of_the_surface() -> None:
    planted = plant(Cell(2, 49, "grid"), np.random.default_rng(11))
    found = fitted(planted.positions, planted.losses)
    lr, fit = found.basins[0], found.surface.fit
    assert fit is not None
    small = 0.02
    rises = lr.curve.rise(np.array([-small, small]))[0]
    assert rises.mean() == pytest.approx(fit.hessian[0, 0] * small**2 / 2.0, rel=0.02)


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
