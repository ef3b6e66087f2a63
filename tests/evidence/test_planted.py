"""Coverage of an optimum's 90 % interval on planted truth, and what a basin owes to its noise.

The table of all cells with 2,000 repeats is docs/coverage.md's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator

from benchmarks.coverage import cells, measure, passes
from hptransfer.analysis.answer.estimates import estimate
from hptransfer.analysis.answer.optimum_record import optimum_entry
from hptransfer.analysis.basins.basin import build_grid, fit_basin, pool_noise
from hptransfer.analysis.basins.cross_checks import FINE, akima, local_cubic
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.noise import NoiseSource
from tests.support import planted

REPEATS = 30  # of five widths; a cell that covers 95 % stays above the bound in 999 of 1000 cases
FEW_LOW, FEW_HIGH = 0.80, 0.995
PRECISE = ("kinked_below", "quartic")  # data so precise that the nearest listed shape must be near
CI_CELLS = [
    *(planted.Cell(3, 1.0, shape) for shape in planted.SHAPES),
    *(planted.Cell(10, 0.5, shape) for shape in PRECISE),
]


@pytest.mark.parametrize("cell", CI_CELLS, ids=lambda cell: cell.shape)
def test_intervals_cover_the_planted_optimum(cell: planted.Cell) -> None:
    found = measure(cell, REPEATS)
    assert found["censored"] < 0.1
    assert FEW_LOW <= found["coverage"] <= FEW_HIGH
    assert found["width"] < 1.0  # octaves


@pytest.mark.slow
@pytest.mark.parametrize("cell", cells(), ids=lambda c: f"{c.shape}-{c.step:g}-{c.seeds}")
def test_every_cell_covers_its_share(cell: planted.Cell) -> None:
    assert passes(measure(cell, 2000))


@pytest.mark.parametrize("shape", (*planted.SHAPES, *planted.ONCE_HELD_OUT, *planted.HELD_OUT))
def test_a_shape_rises_from_its_planted_optimum(shape: str) -> None:
    offset: Floats = np.arange(-16.0, 13.0) / 8.0  # below every cliff
    rise = planted.rise(shape, offset)
    assert rise[offset == 0.0] == 0.0
    assert (np.diff(rise) * (offset[1:] - 0.0625) > 0).all()


def basins_of(cell: planted.Cell, *, rng: int = 0) -> tuple[planted.Drawn, dict]:
    generator = np.random.default_rng(rng)
    drawn = planted.draw(cell, dict.fromkeys(cell.widths, -6.1), generator)
    record = estimate(
        planted.table(drawn), sweep_name="planted", axes=["log2_lr"], target_width=2048, draws=400
    )
    return drawn, record["arms"][0]


def test_one_seed_borrows_its_noise_and_says_so() -> None:
    _, arm = basins_of(planted.Cell(1, 0.5, "quadratic"))
    assert [entry["noise"]["source"] for entry in arm["optima"]] == ["residuals"] * 5
    assert all(entry["low"] < entry["optimum"] < entry["high"] for entry in arm["optima"])
    assert arm["optima"][0]["noise"]["loss_sd"] == pytest.approx(0.002 * 0.4, rel=0.5)
    assert any("borrowed" in warning for warning in arm["warnings"])


def given_rows(sd: float) -> Floats:
    theta: Floats = np.arange(-10.0, -2.0)
    return np.stack([theta, 0.5 + 0.005 * (theta + 6.1) ** 2, np.full(len(theta), sd)])


@pytest.mark.parametrize("runs", [2.0, 20.0])
def test_given_deviations_and_seed_counts_set_the_interval(runs: float) -> None:
    theta, losses, sds = given_rows(0.002)
    grid = build_grid(
        theta,
        losses[None, :],
        loss_at_init=1.0,
        runs=np.full((1, len(theta)), runs),
        run_sds=sds[None, :],
    )
    assert grid is not None
    noise = pool_noise([grid], rng=np.random.default_rng(0))
    assert noise is not None and noise.source is NoiseSource.given
    assert noise.sd == pytest.approx(0.002)
    assert noise.degrees == (runs - 1) * len(grid.core)
    basin = fit_basin(grid, noise, rng=np.random.default_rng(0))
    assert basin.low is not None and basin.high is not None
    wide = basin.high - basin.low
    assert (wide > 0.5) if runs == 2.0 else (wide < 0.5)


def test_one_outlier_does_not_move_the_optimum() -> None:
    cell = planted.Cell(3, 1.0, "quadratic")
    optima = dict.fromkeys(cell.widths, -6.1)
    drawn = planted.draw(cell, optima, np.random.default_rng(3))
    theta, losses = drawn[32]
    spoilt = losses.copy()
    spoilt[1, int(np.argmin(np.abs(theta + 5.1)))] += 0.02

    def optimum(values: Floats) -> float:
        grids = [
            build_grid(theta, values, loss_at_init=1.0),
            *(build_grid(*drawn[width], loss_at_init=1.0) for width in cell.widths[1:]),
        ]
        sound = [grid for grid in grids if grid is not None]
        noise = pool_noise(sound, rng=np.random.default_rng(0))
        assert noise is not None
        assert noise.sd == pytest.approx(0.001, rel=0.4)
        return fit_basin(sound[0], noise, rng=np.random.default_rng(0)).optimum

    assert optimum(spoilt) == pytest.approx(optimum(losses), abs=0.15)


def test_the_record_names_every_part() -> None:
    _, arm = basins_of(planted.Cell(3, 1.0, "cliff"))
    for entry in arm["optima"]:
        assert entry["noise"]["source"] == "seeds"
        assert entry["noise"]["fit_sd"] > 0 and entry["noise"]["model_sd"] > 0
        loss, bend = entry["loss_at_optimum"], entry["curvature_interval"]
        assert loss["low"] < loss["estimate"] < loss["high"]
        assert set(bend) == {"low", "high"}
        assert all(side["low"] <= side["estimate"] for side in bend.values())
        assert set(entry["edge"]) == {"low", "high"} and entry["isolated_failures"] == 0
        assert set(entry["cross_checks"]) == {"cubic", "akima"}


def test_cross_checks_find_a_cubic_and_a_parabola() -> None:
    theta: Floats = np.arange(-2.0, 3.0)
    offset = theta - 0.2
    assert local_cubic(theta, offset**2 + 0.1 * offset**3) == pytest.approx(0.2, abs=0.02)
    assert akima(theta, offset**2) == pytest.approx(0.2, abs=0.1)
    assert akima(theta, theta) is None
    assert local_cubic(theta[:3], offset[:3]) is None


def test_our_akima_spline_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for count in (3, 4, 7):
        theta = np.sort(rng.uniform(-8.0, -3.0, count))
        losses = (theta + 5.5) ** 2 + rng.normal(0.0, 0.3, count)
        fine = np.linspace(theta[0], theta[-1], FINE)
        lowest = int(Akima1DInterpolator(theta, losses)(fine).argmin())
        inside = 0 < lowest < FINE - 1
        assert akima(theta, losses) == (fine[lowest] if inside else None)


def test_without_any_noise_there_is_no_interval() -> None:
    theta: Floats = np.array([-7.0, -6.0, -5.0])
    grid = build_grid(theta, 0.5 + 0.01 * (theta[None, :] + 6.2) ** 2, loss_at_init=1.0)
    assert grid is not None
    noise = pool_noise([grid], rng=np.random.default_rng(0))
    assert noise is None
    basin = fit_basin(grid, noise, rng=np.random.default_rng(0))
    assert (basin.low, basin.high, basin.fit_sd) == (None, None, None)
    assert basin.usable
    entry = optimum_entry(32, basin, None)
    assert entry["noise"]["source"] is None and entry["loss_at_optimum"]["low"] is None


def test_wider_noise_gives_wider_intervals() -> None:
    quiet = planted.Cell(3, 1.0, "quadratic", noise=0.0005)
    loud = replace(quiet, noise=0.003)
    assert measure(quiet, 5)["width"] < 0.5 * measure(loud, 5)["width"]
