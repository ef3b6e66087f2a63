"""One width's basin: the optimum with its interval, or what keeps it from being resolved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.curve import Curves, Floats
from hptransfer.analysis.basins.grid import BASIN_RISE, Grid, build_grid
from hptransfer.analysis.basins.noise import Noise, mean_points, pool_noise
from hptransfer.analysis.basins.shapes import locate

__all__ = [
    "BASIN_RISE",
    "Basin",
    "Censoring",
    "Grid",
    "Noise",
    "build_grid",
    "fit_basin",
    "pool_noise",
]

MODEL_ERROR_STEPS = 0.15  # what shapes cost where no basin is at hand, in steps: docs/coverage.md
OTHER_SHAPES = 0.01  # sd of what shapes that are not tried cost, in grid steps
FLAT_RANGE = 4.0  # the range of five pure-noise means stays below 3.9 sd in 95 % of cases
FLAT_SPAN = 0.5  # a fit whose 90 % interval spans more of its window has found no minimum
INTERVAL = (0.05, 0.95)


class Censoring(Enum):
    """Why an optimum is not simply the minimum of a fitted curve."""

    grid_low = "grid_low"  # the minimum is the lowest point of the grid
    grid_high = "grid_high"
    divergence = "divergence"  # the point above the minimum failed: the optimum is only bracketed
    flat = "flat"  # the window's points differ by no more than noise, or do not fix a minimum
    too_few = "too_few"  # fewer than three sound points


@dataclass(frozen=True)
class Basin:
    """One width's answer. `theta_draws` are the optimum's, model error included, shape (draw,)."""

    grid: Grid
    window: NDArray[np.intp]  # the points that were fitted
    optimum: float
    loss: float
    censored: Censoring | None
    model_sd: float
    edge_low: float  # share of draws whose best point is the lowest of the grid
    edge_high: float
    curve: Curves | None = None  # a bundle of one; None where no curve was fitted
    curve_draws: Curves | None = None  # without what shapes that are not tried cost
    theta_draws: Floats | None = None
    low: float | None = None  # 5 % and 95 % quantiles; on `divergence` the bracket
    high: float | None = None
    fit_sd: float | None = None

    @property
    def usable(self) -> bool:
        """Whether the optimum may feed a law."""
        return self.theta_draws is not None

    @property
    def cliff_distance(self) -> float | None:
        """Octaves from the optimum to the first failed point above it."""
        return None if self.grid.cliff is None else self.grid.cliff - self.optimum

    @property
    def run_sd(self) -> float | None:
        """The sd of the loss between seeds inside the basin, seed effects included."""
        losses = self.grid.losses[:, self.grid.core]
        if losses.shape[0] < 2:
            return None
        return float(np.sqrt(losses.var(axis=0, ddof=1).mean()))


def fit_basin(
    grid: Grid, noise: Noise | None, *, rng: np.random.Generator, draws: int = 2000
) -> Basin:
    """Locate the optimum; without noise there is an optimum and no interval."""
    window = fitted_window(grid, noise)
    censored = censoring(grid, window, noise)
    if censored is Censoring.divergence:
        return _bracketed(grid, rng=rng, draws=draws)
    if censored is not None:
        return _unresolved(grid, censored)
    points = mean_points(grid, window, noise)
    variance, degrees = (None, 0) if noise is None else (noise.sd**2, noise.degrees)
    found = locate(points, variance, degrees, rng=rng, draws=draws)
    if found is None:
        return _unresolved(grid, Censoring.flat)
    low, high = np.quantile(found.draws.optimum, INTERVAL)
    if noise is not None and high - low > FLAT_SPAN * (points.theta[-1] - points.theta[0]):
        return _unresolved(grid, Censoring.flat)
    other = OTHER_SHAPES * grid.step
    theta_draws = found.draws.optimum + other * rng.standard_normal(draws)
    edges = _edge_shares(grid, window, noise, found.draws, rng=rng)
    basin = Basin(
        grid=grid,
        window=window,
        optimum=float(found.curve.optimum[0]),
        loss=float(found.curve.level[0]),
        censored=None,
        curve=found.curve,
        curve_draws=found.draws,
        theta_draws=theta_draws,
        model_sd=float(np.hypot(found.shape_sd, other)),
        edge_low=edges[0],
        edge_high=edges[1],
    )
    if noise is None:
        return basin
    low, high = np.quantile(theta_draws, INTERVAL)
    return replace(basin, low=float(low), high=float(high), fit_sd=found.fit_sd)


def _edge_shares(
    grid: Grid,
    window: NDArray[np.intp],
    noise: Noise | None,
    curves: Curves,
    *,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return the shares of draws whose best point, observed anew, is the lowest and the highest.

    Below a cliff the highest point is no edge: there is nothing to extend to.
    """
    theta = grid.theta[window]
    losses = curves.loss(theta)
    if noise is not None:
        losses += noise.sd / np.sqrt(len(grid.losses)) * rng.standard_normal(losses.shape)
    best = window[losses.argmin(axis=1)]
    high = 0.0 if grid.cliff is not None else float((best == grid.sound[-1]).mean())
    return float((best == grid.sound[0]).mean()), high


def censoring(grid: Grid, window: NDArray[np.intp], noise: Noise | None) -> Censoring | None:
    """Say what keeps the optimum from being resolved, or None."""
    sound, minimum = grid.sound, grid.minimum
    if minimum == sound[-1] and grid.cliff is not None and len(sound) > 1:
        return Censoring.divergence
    if len(sound) < 3:
        return Censoring.too_few
    if minimum == sound[0]:
        return Censoring.grid_low
    if minimum == sound[-1]:
        return Censoring.grid_high
    if noise is not None and is_flat(grid, window, noise):
        return Censoring.flat
    return None


def is_flat(grid: Grid, index: NDArray[np.intp], noise: Noise) -> bool:
    """Whether points differ by no more than noise."""
    points = mean_points(grid, index, noise)
    return bool(np.ptp(points.means) <= FLAT_RANGE * noise.sd / np.sqrt(np.median(points.runs)))


def fitted_window(grid: Grid, noise: Noise | None) -> NDArray[np.intp]:
    """Return the points that are fitted: the window, and where it is flat its neighbours above the
    ceiling.

    A minimum halfway between two points leaves them equal; where the basin rises steeply beyond
    them, those neighbours still say between which points it lies.
    """
    window = grid.window
    if noise is None or not is_flat(grid, window, noise):
        return window
    at = np.searchsorted(grid.sound, window)
    wider = grid.sound[max(0, at[0] - 1) : at[-1] + 2]
    rising = grid.losses[:, wider].mean(axis=0) > grid.ceiling
    return np.union1d(window, wider[rising])


def _unresolved(grid: Grid, censored: Censoring) -> Basin:
    """Return the grid's best point without an interval."""
    return Basin(
        grid=grid,
        window=grid.window,
        optimum=float(grid.theta[grid.minimum]),
        loss=float(grid.losses[:, grid.minimum].mean()),
        censored=censored,
        model_sd=MODEL_ERROR_STEPS * grid.step,
        edge_low=float(censored is Censoring.grid_low),
        edge_high=float(censored is Censoring.grid_high),
    )


def _bracketed(grid: Grid, *, rng: np.random.Generator, draws: int) -> Basin:
    """Return the best point; the optimum lies anywhere from its left neighbour to the cliff."""
    assert grid.cliff is not None, "only a cliff brackets an optimum"
    left = float(grid.theta[grid.sound[-2]])
    return replace(
        _unresolved(grid, Censoring.divergence),
        theta_draws=rng.uniform(left, grid.cliff, draws),
        low=left,
        high=grid.cliff,
    )
