"""The law over settings: against a Gaussian process in closed form, and on laws it does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from hptransfer.analysis.basins.basin import fit_basins
from hptransfer.analysis.basins.grid import build_grid
from hptransfer.analysis.basins.noise import pool_noise
from hptransfer.analysis.laws import hierarchy
from hptransfer.analysis.laws.hierarchy import Law, fit_densities, fit_law
from tests.support.planted_tables import GRID, Floats, parabola

CANDIDATES = np.linspace(-12.0, 0.0, 601)


def normal(mean: float, sd: float) -> Floats:
    density = np.exp(-0.5 * ((CANDIDATES - mean) / sd) ** 2)
    return density / density.sum()


def law_of(axes: Floats, means: list[float], sds: list[float]) -> Law:
    density = np.stack([normal(mean, sd) for mean, sd in zip(means, sds, strict=True)])
    return fit_densities(axes, density[None], CANDIDATES, np.zeros(1))


def at(law: Law, place: list[float], draws: int = 4000) -> Floats:
    return law.draws(np.array([place]), np.random.default_rng(0), draws)[0][:, -1]


def widths(*values: float) -> Floats:
    return np.log2(np.array(values))[:, None]


def test_of_one_explanation_the_answer_is_the_gaussian_process_in_closed_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hierarchy, "WALKS", ((0.2, 1.0),))
    monkeypatch.setattr(hierarchy, "SCATTERS", ((0.05, 1.0),))
    monkeypatch.setattr(hierarchy, "SPIKE", 1e-12)
    x, means, sds = widths(32, 64, 128), [-6.0, -6.3, -6.5], [0.2, 0.1, 0.3]
    found = at(law_of(x, means, sds), [8.0], draws=40_000)

    place = np.append(x[:, 0], 8.0)
    centred = place - x[:, 0].mean()
    way = place - x[:, 0].min()
    prior = hierarchy.LEVEL_SD**2 + hierarchy.SLAB**2 * np.outer(centred, centred)
    prior = prior + 0.2**2 * np.minimum(way[:, None], way[None, :]) + 0.05**2 * np.eye(4)
    gain = prior[3, :3] @ np.linalg.inv(prior[:3, :3] + np.diag(np.square(sds)))
    centre = CANDIDATES.mean()
    expected = centre + gain @ (np.array(means) - centre)
    variance = prior[3, 3] - gain @ prior[:3, 3]
    assert found.mean() == pytest.approx(expected, abs=0.01)
    assert found.std() == pytest.approx(np.sqrt(variance), rel=0.02)


def test_a_one_sided_setting_pulls_as_importance_sampling_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hierarchy, "WALKS", ((0.3, 1.0),))
    monkeypatch.setattr(hierarchy, "SCATTERS", ((0.05, 1.0),))
    monkeypatch.setattr(hierarchy, "SPIKE", 1e-12)
    x = widths(32, 64, 128)
    below = (CANDIDATES < -6.5).astype(float)
    density = np.stack([normal(-6.0, 0.2), normal(-6.2, 0.2), below / below.sum()])[None]
    found = at(fit_densities(x, density, CANDIDATES, np.zeros(1)), [8.0], draws=40_000)

    known = law_of(x[:2], [-6.0, -6.2], [0.2, 0.2])
    drawn, _ = known.draws(np.array([[7.0], [8.0]]), np.random.default_rng(1), 400_000)
    kept = drawn[drawn[:, 2] < -6.5, 3]  # the prior's walk starts at the same width
    assert found.mean() == pytest.approx(kept.mean(), abs=0.08)
    assert found.std() == pytest.approx(kept.std(), rel=0.15)


def test_a_drift_is_carried_on_and_a_constant_stays() -> None:
    x = widths(32, 64, 128, 256)
    drifting = at(law_of(x, [-5.0, -5.7, -6.4, -7.1], [0.05] * 4), [9.0])
    constant = at(law_of(x, [-6.0, -6.02, -5.99, -6.01], [0.05] * 4), [9.0])
    assert np.median(drifting) == pytest.approx(-7.8, abs=0.1)
    assert np.median(constant) == pytest.approx(-6.0, abs=0.05)
    assert np.ptp(np.quantile(constant, (0.05, 0.95))) < 0.5


def test_a_bend_costs_width_of_the_interval() -> None:
    x = widths(32, 64, 128, 256, 512)
    straight = at(law_of(x, [-5.0, -5.3, -5.6, -5.9, -6.2], [0.05] * 5), [10.0])
    bent = at(law_of(x, [-5.0, -5.0, -5.0, -5.5, -6.0], [0.05] * 5), [10.0])
    low, high = np.quantile(bent, (0.05, 0.95))
    assert np.ptp(np.quantile(straight, (0.05, 0.95))) < high - low
    assert low < -6.5 < high


def test_a_flat_setting_neither_decides_nor_hinders() -> None:
    x = widths(32, 64, 128, 256)
    flat = np.full_like(CANDIDATES, 1.0 / len(CANDIDATES))
    density = np.stack([normal(-6.0, 0.1), flat, normal(-6.1, 0.1), normal(-6.0, 0.1)])
    with_flat = at(fit_densities(x, density[None], CANDIDATES, np.zeros(1)), [9.0])
    without = at(law_of(x[[0, 2, 3]], [-6.0, -6.1, -6.0], [0.1] * 3), [9.0])
    assert np.median(with_flat) == pytest.approx(np.median(without), abs=0.05)


def test_one_setting_alone_has_an_answer() -> None:
    found = at(law_of(widths(64), [-6.0], [0.1]), [7.0])
    assert np.median(found) == pytest.approx(-6.0, abs=0.15)
    assert np.ptp(np.quantile(found, (0.05, 0.95))) > 1.0


@pytest.mark.parametrize("full", [True, False])
def test_two_axes_are_told_apart_in_a_star_and_in_a_full_design(full: bool) -> None:
    places = [(w, b) for w in (32, 64, 128, 256) for b in (64, 128, 256)]
    if not full:
        places = [place for place in places if place[0] == 32 or place[1] == 64]
    axes = np.log2(np.array(places, dtype=float))
    means = [-6.0 - 0.1 * (w - 5) + 0.5 * (b - 6) for w, b in axes]
    law = law_of(axes, means, [0.08] * len(places))
    assert np.median(at(law, [9.0, 8.0])) == pytest.approx(-6.0 - 0.4 + 1.0, abs=0.25)


@pytest.mark.parametrize(
    ("law", "least"),
    [("late bend", 0.8), ("turn", 0.75), ("jitter", 0.75), ("constant", 0.85)],
)
def test_targets_of_laws_that_are_not_fitted_are_mostly_held(law: str, least: float) -> None:
    x = np.arange(6.0)
    held, count = 0, 40
    for repeat in range(count):
        rng = np.random.default_rng(repeat)
        optima = (
            rng.uniform(-6.5, -5.5)
            + {
                "late bend": -0.5 * np.maximum(x - 2.0, 0.0),
                "turn": 0.35 * np.abs(x - 1.5),
                "jitter": rng.uniform(-0.25, 0.25, 6),
                "constant": 0.0 * x,
            }[law]
        )
        grids = {}
        for width, optimum in zip(2.0 ** (5.0 + x[:5]), optima, strict=False):
            y = 0.02 * parabola(GRID - optimum) + rng.normal(0.0, 0.002, (3, 8))
            grid = build_grid(GRID, y, loss_at_init=np.nan)
            assert grid is not None
            grids[width] = grid
        basins = fit_basins(grids, pool_noise(grids.values()))
        axes = np.log2(np.array(list(basins)))[:, None]
        low, high = np.quantile(
            at(fit_law(axes, list(basins.values())), [10.0], 1000), (0.05, 0.95)
        )
        held += low <= optima[-1] <= high
    assert held / count >= least


def test_quantiles_are_those_of_draws() -> None:
    law = law_of(widths(32, 64, 128), [-6.0, -6.4, -6.5], [0.2, 0.1, 0.3])
    found = law.quantiles(np.array([[7.5], [8.0]]), (0.05, 0.5, 0.95))
    drawn = law.draws(np.array([[7.5], [8.0]]), np.random.default_rng(0), 40_000)[0][:, 3:]
    assert found == pytest.approx(np.quantile(drawn, (0.05, 0.5, 0.95), axis=0), abs=0.02)
