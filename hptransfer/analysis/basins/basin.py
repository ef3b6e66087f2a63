"""One setting's basin: the posterior of its minimum, which is never thrown away.

For every skew and every candidate minimum θ* the curve y = level + k·rise(θ - θ*) is fitted to the
points' means; level, k and the noise's variance are integrated out (flat; log-normal about the
other settings' k; scaled inverse χ²). A basin that is flat, or whose minimum lies beyond the grid,
keeps a broad or one-sided posterior. Three errors keep basins of unlisted shapes honest:

- the shape's own error, DISCREPANCY of a point's rise, and a growing share beyond FAR: points high
  on a wall say little, and a basin that is steeper there than the curve does not pull the minimum;
- NUDGE octaves and NUDGE_STEPS grid steps on the minimum: a smooth curve through points an octave
  apart does not tell where between them a kink lies;
- a share UNSEEN of the posterior that is flat: the setting may be no basin of this kind at all.

These constants were chosen by leaving out the widest setting of recorded sweeps and by planted
basins of other shapes (docs/evidence).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TypeVar

import numpy as np

from hptransfer.analysis.basins.curve import Curves, Floats, rise
from hptransfer.analysis.basins.grid import Grid, build_grid
from hptransfer.analysis.basins.noise import Noise, pool_noise

__all__ = ["Basin", "Censoring", "Grid", "Noise", "build_grid", "fit_basins", "pool_noise"]

SKEWS = np.array([-0.8, -0.4, 0.0, 0.4, 0.8, 1.3, 2.0])  # c, per octave
LOG_PRIOR = -0.5 * ((SKEWS - 0.3) / 0.8) ** 2
DISCREPANCY = 0.09  # sd of a shape's error, as a share of a point's rise above the lowest
FAR = 5.0  # times the rise of the fourth lowest point, from which that share itself grows
NUDGE = 0.03  # octaves
NUDGE_STEPS = 0.08  # grid steps
UNSEEN = 1e-4
BEYOND = 2.0  # octaves beyond the outermost points in which a minimum is sought
FINENESS = 0.05  # octaves between candidate minima, at most a quarter of a grid step
FEWEST, MOST = 121, 401  # candidate minima
K_RANGE = (-7.0, 4.0)  # of log k about the one that the points' spread suggests
K_PLACES = 24  # values of k that are summed over where the data do not fix it
K_FIXED = 3.0  # standard errors of k above zero from which it counts as fixed
K_SD = 2.0  # sd of log k between settings
K_SPREAD = 0.05  # variance of log k that the summed shapes leave out
PASSES = 2  # first without, then with the other settings' k
NOMINAL = 0.05  # of the lowest points' range: the noise where nothing tells it
NOMINAL_DEGREES = 50.0
FLAT_SHARE = 0.5  # a 90 % interval wider than this share of the grid resolves no minimum
INTERVAL = (0.05, 0.95)

Key = TypeVar("Key", bound=Hashable)


class Censoring(Enum):
    """Why an optimum is not simply the minimum of a fitted curve."""

    grid_low = "grid_low"  # the minimum lies below the grid, more likely than not
    grid_high = "grid_high"
    divergence = "divergence"  # it lies between the highest sound point and a failed one
    flat = "flat"  # the points do not fix a minimum
    too_few = "too_few"  # fewer than three sound points


@dataclass(frozen=True)
class Basin:
    """One setting's posterior, over skews (first axis) and candidate minima (second axis)."""

    grid: Grid
    noise: Noise | None  # None: nothing tells it, and a nominal one was taken
    candidates: Floats  # (candidate,)
    skews: Floats  # (skew,)
    log_prior: Floats  # of the skews, (skew,)
    density: Floats  # (skew, candidate), sums to one; the shapes' prior is not in it
    log_k: Floats  # (skew, candidate) mean of log k
    log_k_sd: Floats
    shape_mean: Floats  # (skew, candidate) mean rise of the points for k = 1
    mean: float  # of the points' y, weighted
    level_sd: float

    @cached_property
    def posterior(self) -> Floats:
        """The density with the prior on the skew, (skew, candidate)."""
        weighted = self.density * np.exp(self.log_prior)[:, None]
        return weighted / weighted.sum()

    @cached_property
    def mass(self) -> Floats:
        """The posterior of the minimum alone, (candidate,)."""
        return self.posterior.sum(axis=0)

    def quantiles(self, *shares: float) -> list[float]:
        """Return quantiles of the minimum."""
        below = np.cumsum(self.mass) - self.mass / 2.0  # half a candidate's share on either side
        return [float(np.interp(share, below, self.candidates)) for share in shares]

    @cached_property
    def moments(self) -> tuple[float, float]:
        """Mean and variance of the minimum."""
        mean = float(self.mass @ self.candidates)
        return mean, float(self.mass @ (self.candidates - mean) ** 2)

    @cached_property
    def censored(self) -> Censoring | None:
        """What keeps the minimum from being resolved, or None."""
        grid, mass = self.grid, self.mass
        lowest, highest = grid.theta[grid.sound[[0, -1]]]
        if len(grid.sound) < 3:
            return Censoring.too_few
        if mass[self.candidates < lowest].sum() > 0.5:
            return Censoring.grid_low
        if mass[self.candidates > highest].sum() > 0.5:
            return Censoring.grid_high if grid.cliff is None else Censoring.divergence
        low, high = self.quantiles(*INTERVAL)
        return Censoring.flat if high - low > FLAT_SHARE * (highest - lowest) else None

    @property
    def optimum(self) -> float:
        """The posterior's median; where that is not resolved, the best point."""
        if self.censored in (None, Censoring.divergence):
            return self.quantiles(0.5)[0]
        return float(self.grid.theta[self.grid.minimum])

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The 90 % interval; an end that lies beyond the grid is not known."""
        if self.noise is None:
            return None, None
        low, high = self.quantiles(*INTERVAL)
        low, high = min(low, self.optimum), max(high, self.optimum)  # a censored one is a point's
        cliff = self.grid.cliff
        return (
            low if low >= self.grid.theta[0] else None,
            high if high <= self.grid.theta[-1] or cliff is not None else None,
        )

    @property
    def beyond(self) -> tuple[float, float]:
        """The posterior's share below the grid, and above it where no cliff bounds it."""
        low = float(self.mass[self.candidates < self.grid.theta[0]].sum())
        high = float(self.mass[self.candidates > self.grid.theta[-1]].sum())
        return low, 0.0 if self.grid.cliff is not None else high

    @property
    def cliff_distance(self) -> float | None:
        """Octaves from the optimum to the first failed point above it."""
        return None if self.grid.cliff is None else self.grid.cliff - self.optimum

    @property
    def run_sd(self) -> float:
        """The sd of y between seeds low in the basin, seed effects included; 0 for one seed."""
        losses = self.grid.losses[:, self.grid.sound][:, self.grid.low]
        counts = (~np.isnan(losses)).sum(axis=0)
        if counts.max(initial=0) < 2:
            return 0.0
        return float(np.sqrt(np.nanvar(losses[:, counts > 1], axis=0, ddof=1).mean()))

    def draws(self, rng: np.random.Generator, count: int) -> Curves:
        """Return curves drawn from the posterior; a level's error includes that of the seeds."""
        flat = self.posterior.ravel()
        chosen = np.searchsorted(np.cumsum(flat), rng.uniform(size=count))
        at = np.unravel_index(np.minimum(chosen, flat.size - 1), self.posterior.shape)
        spacing = self.candidates[1] - self.candidates[0]
        optimum = self.candidates[at[1]] + spacing * rng.uniform(-0.5, 0.5, count)
        k = np.exp(self.log_k[at] + self.log_k_sd[at] * rng.standard_normal(count))
        level = self.mean - k * self.shape_mean[at]
        level_sd = np.hypot(self.level_sd, self.run_sd / np.sqrt(len(self.grid.losses)))
        level = level + level_sd * rng.standard_normal(count)
        return Curves(optimum, level, k, self.skews[at[0]])

    @cached_property
    def curve(self) -> Curves:
        """The likeliest skew's curve with its minimum at `optimum`: a bundle of one."""
        likeliest = int(self.posterior.sum(axis=1).argmax())
        at = likeliest, int(np.abs(self.candidates - self.optimum).argmin())
        k = np.exp(self.log_k[[at[0]], [at[1]]])
        level = self.mean - k * self.shape_mean[at]
        return Curves(np.array([self.optimum]), level, k, self.skews[[likeliest]])


def fit_basins(
    grids: Mapping[Key, Grid], noise: Noise | None, candidates: Floats | None = None
) -> dict[Key, Basin]:
    """Return the basin of every setting; all have the same candidate minima.

    Settings are fitted together because their k are alike, which helps the flat ones.
    """
    if not grids:
        return {}
    every = list(grids.values())
    candidates = candidate_minima(every) if candidates is None else candidates
    about = _usual_log_k(every)
    prior: tuple[float, float] | None = None
    fits: list[_Fit] = []
    for _ in range(PASSES):
        fits = [_fit(grid, noise, candidates, about=about, prior=prior) for grid in every]
        moments = np.array([fit.log_k_moments for fit in fits])
        weights = 1.0 / (moments[:, 1] + K_SD**2)
        prior = float(weights @ moments[:, 0] / weights.sum()), K_SD**2 + 1.0 / weights.sum()
    return {
        key: Basin(
            grid=grid,
            noise=noise,
            candidates=candidates,
            skews=SKEWS,
            log_prior=LOG_PRIOR,
            density=_widened(fit.log_density, candidates, grid),
            log_k=fit.log_k,
            log_k_sd=fit.log_k_sd,
            shape_mean=fit.shape_mean,
            mean=fit.mean,
            level_sd=fit.level_sd,
        )
        for (key, grid), fit in zip(grids.items(), fits, strict=True)
    }


@dataclass(frozen=True)
class _Fit:
    """Fits at every skew and candidate minimum, arrays (skew, candidate)."""

    log_density: Floats  # -inf past a cliff
    log_k: Floats
    log_k_sd: Floats
    shape_mean: Floats
    mean: float
    level_sd: float

    @property
    def log_k_moments(self) -> tuple[float, float]:
        """Mean and variance of log k over the posterior."""
        density = np.exp(self.log_density - self.log_density.max()) * np.exp(LOG_PRIOR)[:, None]
        density /= density.sum()
        mean = float((density * self.log_k).sum())
        return mean, float((density * (self.log_k - mean) ** 2).sum()) + K_SPREAD


def candidate_minima(grids: Sequence[Grid]) -> Floats:
    """Return evenly spaced candidate minima, from well below the grids to well above them."""
    low = min(grid.theta[0] for grid in grids) - BEYOND
    high = max(grid.theta[-1] for grid in grids) + BEYOND
    spacing = min(FINENESS, min(grid.step for grid in grids) / 4.0)
    return np.linspace(low, high, int(np.clip((high - low) / spacing + 1, FEWEST, MOST)))


def _usual_log_k(grids: Sequence[Grid]) -> float:
    """Return log k of a parabola with the points' usual height over their usual span."""
    heights = [np.quantile(m, 0.75) - m.min() for m in (g.means[g.sound] for g in grids)]
    spans = [np.ptp(grid.theta[grid.sound]) for grid in grids]
    height, span = max(float(np.median(heights)), 1e-9), max(float(np.median(spans)), 1e-3)
    return float(np.log(height / (span / 3.0) ** 2))


def _fit(
    grid: Grid,
    noise: Noise | None,
    candidates: Floats,
    *,
    about: float,
    prior: tuple[float, float] | None,
) -> _Fit:
    """Fit one setting; `prior` is mean and variance of log k, None: any k about `about`."""
    theta, means = grid.theta[grid.sound], grid.means[grid.sound]
    sd, degrees = _noise_of(means, noise)
    weights = point_weights(grid, sd)
    total = weights.sum()
    mean = float(weights @ means / total)
    y = means - mean
    squares, start = float(weights @ y**2), degrees * sd**2
    freedom = degrees + len(theta) - 1

    shapes = rise(theta - candidates[:, None], SKEWS[:, None, None])  # (skew, candidate, theta)
    shape_mean = shapes @ weights / total
    centred = shapes - shape_mean[..., None]
    information = np.maximum(centred**2 @ weights, 1e-300)
    slope = centred @ (weights * y)
    best = slope / information
    left = start + np.maximum(squares - best * slope, 0.0)
    error = np.sqrt(left / (freedom * information))

    places = about + np.linspace(*K_RANGE, K_PLACES)
    k = np.exp(places)
    residual = squares - 2.0 * slope[..., None] * k + information[..., None] * k * k
    each = -0.5 * freedom * np.log1p(np.maximum(residual, 0.0) / start)
    each = each + _log_prior_k(places, prior) + np.log(places[1] - places[0])
    peak = each.max(axis=-1)
    share = np.exp(each - peak[..., None])
    summed = peak + np.log(share.sum(axis=-1))
    log_k = share @ places / share.sum(axis=-1)
    variance = np.maximum(share @ places**2 / share.sum(axis=-1) - log_k**2, 0.0)

    log_best = np.log(np.maximum(best, 1e-300))
    fixed = best > K_FIXED * error
    at_best = -0.5 * freedom * np.log(left / start) + np.log(error * np.sqrt(2.0 * np.pi))
    at_best += _log_prior_k(log_best, prior) - log_best
    log_density = np.where(fixed, at_best, summed)
    if grid.cliff is not None:
        log_density[:, candidates >= grid.cliff] = -np.inf
    return _Fit(
        log_density,
        np.where(fixed, log_best, log_k),
        np.where(fixed, error / np.where(fixed, best, 1.0), np.sqrt(variance)),
        shape_mean,
        mean,
        float(np.sqrt(left.min() / freedom / total)),
    )


def point_weights(grid: Grid, sd: float) -> Floats:
    """Return the weights of the sound points' means, (point,): 1 for a point of one run.

    A mean errs by the noise `sd` of its runs and by what a smooth curve misses of it, which grows
    with its rise.
    """
    runs = np.where(np.isnan(grid.losses), 0.0, grid.runs)[:, grid.sound].sum(axis=0)
    means = grid.means[grid.sound]
    rises = means - means.min()
    far = FAR * max(np.sort(rises)[min(3, len(rises) - 1)], 1e-12)
    missed = DISCREPANCY * rises * np.hypot(1.0, rises / far)
    return 1.0 / (1.0 / runs + (missed / sd) ** 2)


def _noise_of(means: Floats, noise: Noise | None) -> tuple[float, float]:
    if noise is not None:
        return max(noise.sd, 1e-9), noise.degrees
    lowest = np.sort(means)[:5]
    return max(NOMINAL * float(np.ptp(lowest)), 1e-9), NOMINAL_DEGREES


def _log_prior_k(log_k: Floats, prior: tuple[float, float] | None) -> Floats:
    if prior is None:
        return np.full(np.shape(log_k), -np.log(K_RANGE[1] - K_RANGE[0]))
    mean, variance = prior
    return -0.5 * (log_k - mean) ** 2 / variance - 0.5 * np.log(2.0 * np.pi * variance)


def _widened(log_density: Floats, candidates: Floats, grid: Grid) -> Floats:
    """Return the density with what shapes and candidates leave out, (skew, candidate)."""
    spacing = candidates[1] - candidates[0]
    sd = np.sqrt(NUDGE**2 + (NUDGE_STEPS * grid.step) ** 2 + (spacing / 2.0) ** 2)
    reach = np.arange(-np.ceil(4.0 * sd / spacing), np.ceil(4.0 * sd / spacing) + 1.0)
    kernel = np.exp(-0.5 * (reach * spacing / sd) ** 2)
    density = np.exp(log_density - log_density.max())
    wide = np.stack([np.convolve(row, kernel / kernel.sum(), mode="same") for row in density])
    wide = (1.0 - UNSEEN) * wide / wide.sum() + UNSEEN / wide.size
    if grid.cliff is not None:
        wide[:, candidates >= grid.cliff] = 0.0
    return wide / wide.sum()
