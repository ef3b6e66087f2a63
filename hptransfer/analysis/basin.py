"""One width's basin: which points count, the window, the noise, the optimum with its interval.

Arrays have the axes (seed, theta). A loss is finite (completed), +inf (diverged or stopped) or
NaN (no row). Seeds are blocks: a point of which any seed failed has failed, and a point that
lacks a seed is left out; survivors are never averaged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.curve import Curves, Floats, fit_curves

WINDOW_STEPS = 2.25  # two grid steps each side, and room for grids that are not quite even
# Points that rise by more than this share of loss_at_init - best lie outside the basin: on the wall
# above it training is unstable, seeds scatter ten times as far, and such points pull the fit down
# the rates. On 16 one-octave subsamples of four quarter-octave digits basins (three seeds each)
# the 90 % error fell from 0.24 to 0.16 octaves and the bias from -0.11 to -0.05; 0.03 to 0.12 do
# as well.
BASIN_RISE = 0.05
MODEL_ERROR_STEPS = 0.15  # sd of what the shape costs; ±1.645 of it held 88 % of curve's basins
FLAT_RANGE = 4.0  # the range of five pure-noise means stays below 3.9 sd in 95 % of cases
FLAT_SPAN = 0.5  # a fit whose 90 % interval spans more of its window has found no minimum
INTERVAL = (0.05, 0.95)
EVEN = 1e-6  # octaves by which the distances of an even grid may differ


class Censoring(Enum):
    """Why an optimum is not simply the minimum of a fitted curve."""

    grid_low = "grid_low"  # the minimum is the lowest point of the grid
    grid_high = "grid_high"
    divergence = "divergence"  # the point above the minimum failed: the optimum is only bracketed
    flat = "flat"  # the window's points differ by no more than noise, or do not fix a minimum
    too_few = "too_few"  # fewer than three sound points


@dataclass(frozen=True)
class Grid:
    """One width's points, ascending in theta."""

    theta: Floats  # (theta,)
    losses: Floats  # (seed, theta); +inf where failed
    failed: NDArray[np.bool_]  # (theta,)
    cliff: float | None  # the first failed point above all sound ones
    ceiling: float  # mean losses above it lie outside the basin
    isolated_failures: int  # failed points with a sound one above them
    incomplete_points: int  # left out because a seed has no row there
    seeds_left_out: int  # seeds with rows at less than half of the points

    @property
    def sound(self) -> NDArray[np.intp]:
        """Indices of the points whose every seed counts."""
        return np.flatnonzero(~self.failed)

    @property
    def step(self) -> float:
        """The grid step in octaves: the median distance between neighbours.

        On points that are not evenly spaced, such as refined ones, of the four distances nearest
        to the minimum, two on each side: far from it points are farther apart.
        """
        if len(self.theta) < 2:
            return 1.0
        gaps = np.diff(self.theta)
        if np.ptp(gaps) > EVEN:
            first = min(max(self.minimum - 2, 0), max(len(gaps) - 4, 0))
            gaps = gaps[first : first + 4]
        return float(np.median(gaps))

    @property
    def minimum(self) -> int:
        """Index of the sound point of lowest seed-mean loss."""
        return int(self.sound[np.argmin(self.losses[:, self.sound].mean(axis=0))])

    @property
    def core(self) -> NDArray[np.intp]:
        """Indices of the sound points within two steps of the minimum and below the ceiling."""
        near = np.abs(self.theta[self.sound] - self.theta[self.minimum])
        low = self.losses[:, self.sound].mean(axis=0) <= self.ceiling
        return self.sound[(near <= WINDOW_STEPS * self.step) & low]

    @property
    def window(self) -> NDArray[np.intp]:
        """Indices of the points that are fitted: the core and the minimum's two neighbours."""
        at = int(np.searchsorted(self.sound, self.minimum))
        return np.union1d(self.core, self.sound[max(0, at - 1) : at + 2])


def build_grid(theta: Floats, losses: Floats, *, loss_at_init: float) -> Grid | None:
    """Decide which points are sound; None if none is.

    A finite loss above best + (loss_at_init - best)/2 has failed too, but only above the minimum:
    below it such a loss is slow training and no cliff. A NaN `loss_at_init` waives that rule.
    """
    order = np.argsort(theta)
    theta, losses = theta[order], losses[:, order]
    regular = 2 * (~np.isnan(losses)).sum(axis=1) >= len(theta)
    losses = losses[regular]
    complete = ~np.isnan(losses).any(axis=0) & bool(len(losses))
    theta, losses = theta[complete], losses[:, complete]
    failed = np.asarray(np.isinf(losses).any(axis=0))
    if failed.all():
        return None
    failed = failed | _is_ruined(losses, failed, loss_at_init)
    best = float(losses[:, ~failed].mean(axis=0).min())
    rise = BASIN_RISE * (loss_at_init - best)
    last_sound = int(np.flatnonzero(~failed)[-1])
    return Grid(
        theta=theta,
        losses=np.where(failed[None, :], np.inf, losses),
        failed=failed,
        cliff=float(theta[last_sound + 1]) if last_sound + 1 < len(theta) else None,
        ceiling=best + rise if rise > 0 else np.inf,
        isolated_failures=int(failed[:last_sound].sum()),
        incomplete_points=int((~complete).sum()),
        seeds_left_out=int((~regular).sum()),
    )


def _is_ruined(losses: Floats, failed: NDArray[np.bool_], loss_at_init: float) -> NDArray[np.bool_]:
    means = np.where(failed, np.inf, losses.mean(axis=0))
    best = int(np.argmin(means))
    limit = means[best] + (loss_at_init - means[best]) / 2.0
    ruined = (losses > limit).any(axis=0)
    ruined[: best + 1] = False
    return ruined


@dataclass(frozen=True)
class Noise:
    """The sd of one loss after seed and HP effects, and draws of its square."""

    sd: float
    degrees: int
    variances: Floats  # (draw,): ss/χ² with `degrees` degrees of freedom


def pool_noise(
    grids: Iterable[Grid], *, rng: np.random.Generator, draws: int = 2000
) -> Noise | None:
    """Pool the cores' residuals around seed plus HP effects; None without a degree of freedom."""
    squares, degrees = 0.0, 0
    for grid in grids:
        losses = grid.losses[:, grid.core]
        seed_effect = losses.mean(axis=1, keepdims=True) - losses.mean()
        residual = losses - losses.mean(axis=0, keepdims=True) - seed_effect
        squares += float((residual**2).sum())
        degrees += (losses.shape[0] - 1) * (losses.shape[1] - 1)
    if not degrees:
        return None
    return Noise(np.sqrt(squares / degrees), degrees, squares / rng.chisquare(degrees, draws))


@dataclass(frozen=True)
class Basin:
    """One width's answer. `theta_draws` are the optimum's, model error included, shape (draw,)."""

    grid: Grid
    optimum: float
    loss: float
    censored: Censoring | None
    model_sd: float
    edge_low: float  # share of draws whose best point is the lowest of the grid
    edge_high: float
    curve: Curves | None = None  # a bundle of one; None where no curve was fitted
    curve_draws: Curves | None = None  # without the model error
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
    """Locate the optimum; intervals come from parametric draws around the fitted curve.

    Without noise (a single seed everywhere) there is an optimum and no interval.
    """
    censored = censoring(grid, noise)
    if censored is Censoring.divergence:
        return _bracketed(grid, rng=rng, draws=draws)
    if censored is not None:
        return _unresolved(grid, censored)
    window = grid.window
    theta, means = grid.theta[window], grid.losses[:, window].mean(axis=0)
    curve = fit_curves(theta, means[None, :])
    simulated = _simulate(curve.loss(theta), noise, len(grid.losses), rng=rng, draws=draws)
    curve_draws = curve.repeat(draws) if noise is None else fit_curves(theta, simulated)
    low, high = np.quantile(curve_draws.optimum, INTERVAL)
    if high - low > FLAT_SPAN * (theta[-1] - theta[0]):
        return _unresolved(grid, Censoring.flat)
    best = window[simulated.argmin(axis=1)]
    basin = Basin(
        grid=grid,
        optimum=float(curve.optimum[0]),
        loss=float(curve.level[0]),
        censored=None,
        curve=curve,
        curve_draws=curve_draws,
        model_sd=MODEL_ERROR_STEPS * grid.step,
        edge_low=float((best == grid.sound[0]).mean()),
        edge_high=float((best == grid.sound[-1]).mean()) if grid.cliff is None else 0.0,
    )
    return _with_interval(basin, noise, rng=rng)


def _with_interval(basin: Basin, noise: Noise | None, *, rng: np.random.Generator) -> Basin:
    """Add the model error to the fit's draws, and the interval where there is noise to judge by."""
    assert basin.curve_draws is not None, "only a fitted curve has draws"
    optima = basin.curve_draws.optimum
    theta_draws = optima + rng.normal(0.0, basin.model_sd, len(optima))
    if noise is None:
        return replace(basin, theta_draws=theta_draws)
    low, high = np.quantile(theta_draws, INTERVAL)
    return replace(
        basin,
        theta_draws=theta_draws,
        low=float(low),
        high=float(high),
        fit_sd=float(optima.std()),
    )


def censoring(grid: Grid, noise: Noise | None) -> Censoring | None:
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
    means = grid.losses[:, grid.window].mean(axis=0)
    standard_error = 0.0 if noise is None else noise.sd / np.sqrt(len(grid.losses))
    flat = means.max() - means.min() <= FLAT_RANGE * standard_error
    return Censoring.flat if flat else None


def _simulate(
    fitted: Floats, noise: Noise | None, seeds: int, *, rng: np.random.Generator, draws: int
) -> Floats:
    """Return seed means around the fitted curve, shape (draw, theta)."""
    variances = np.zeros(draws) if noise is None else noise.variances
    standard_error = np.sqrt(variances / seeds)[:, None]
    return fitted + standard_error * rng.standard_normal((draws, fitted.shape[1]))


def _unresolved(grid: Grid, censored: Censoring) -> Basin:
    """Return the grid's best point without an interval."""
    return Basin(
        grid=grid,
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
