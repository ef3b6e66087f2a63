"""The posterior of a basin's minimum: over its position and over the basin's shape.

The shape of a basin is not known, and on a grid of an octave it decides where the minimum is read.
So several shapes are tried, each at every candidate minimum θ*:

    loss(θ) = level + k·shape(θ - θ*),    k >= 0

the parabola, smooth ones (curve.py's exponentials), two parabolas that meet at θ*, parabolas with a
wall that begins above θ*, and parabolas with a fourth power, which steepen on both sides. Level, k
and the noise's variance are integrated out (flat priors; χ² for the variance). Precise data rule
shapes out; shapes that the data cannot tell apart widen the interval. So the steps between listed
ratios must be finer than the data resolve. A point's weight grows with its runs, and falls with its
height above the lowest point, where no shape holds exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.curve import PIECES, WALL_ONSETS, Curves, Floats, basis

CANDIDATE_MINIMA = 121  # candidate minima across a window
# Least variance of a shape over the points that is fitted, as a share of its mean square there.
VISIBLE = 0.02
DISCREPANCY = 0.01  # sd of a shape's error, as a share of a point's rise above the lowest
NOMINAL_NOISE = 0.05  # of the window's range, where nothing tells the noise: no interval then
KNOWN = 1000  # degrees of freedom of a variance that is not in doubt
ROUNDING = 1e-9  # of the loss: the least noise
SMOOTH = (0.0, 0.25, 0.5, 0.75, 1.0)  # share of the fast exponential
KINKS = np.geomspace(1 / 5, 5, 20)  # right curvature over the left one
# Prior odds of three kinds of shape; smooth and walled ones have 1. These and the other constants
# were chosen by the coverage of intervals on planted basins (docs/coverage.md).
PARABOLA, KINKED, STEEPENING = 0.2, 2.0, 0.5
WALL_ODDS = 15.0  # factor on the odds of walled shapes where a trial failed not far above
QUARTICS = np.geomspace(0.02, 0.6, 7)  # of the fourth power over the square, per squared octave
WALLS = (1.0, 2.0, 4.0, 8.0, 16.0)  # curvature that a wall adds, over the parabola's


def _shapes() -> tuple[Floats, Floats]:
    """Return weights of `basis` (shape, basis) and log priors, equal within a kind."""
    slow, fast, quartic, below, above, *walls = range(3 + len(PIECES))

    def shape(weights: dict[int, float]) -> Floats:
        row = np.zeros(3 + len(PIECES))
        row[list(weights)] = list(weights.values())
        return row

    smooth = [shape({slow: 1.0 - share, fast: share}) for share in SMOOTH]
    kinked = [shape({below: 2.0 / (1.0 + k), above: 2.0 * k / (1.0 + k)}) for k in KINKS]
    walled = [
        shape({below: 1.0, above: 1.0, wall: steepness}) for wall in walls for steepness in WALLS
    ]
    steepening = [shape({below: 1.0, above: 1.0, quartic: share}) for share in QUARTICS]
    kinds = (
        (PARABOLA, [shape({below: 1.0, above: 1.0})]),
        (1.0, smooth),
        (KINKED, kinked),
        (1.0, walled),
        (STEEPENING, steepening),
    )
    priors = np.concatenate([np.full(len(kind), odds / len(kind)) for odds, kind in kinds])
    return np.concatenate([kind for _, kind in kinds]), np.log(priors)


SHAPES, LOG_PRIORS = _shapes()
IS_WALLED = SHAPES[:, -len(WALL_ONSETS) :].any(axis=1)
Places = tuple[NDArray[np.intp], ...]  # indices of shapes and of candidates


@dataclass(frozen=True)
class WindowPoints:
    """A window's points: positions, mean losses, and how many runs each mean is worth; (theta,)."""

    theta: Floats
    means: Floats
    runs: Floats
    below_cliff: bool = False  # trials fail not far above


@dataclass(frozen=True)
class Posterior:
    """The posterior of a window's minimum, as its centre and draws."""

    curve: Curves  # a bundle of one: the likeliest shape, its minimum at the posterior's median
    draws: Curves
    fit_sd: float  # spread of the minimum within a shape, octaves
    shape_sd: float  # spread between the shapes


@dataclass(frozen=True)
class _Fits:
    """Weighted least squares of level and k at every shape and candidate, (shape, candidate)."""

    mean: float  # of the losses
    offset: Floats  # mean of the shape
    information: Floats  # of k
    amplitude: Floats  # k
    residual: Floats  # weighted sum of squares
    visible: NDArray[np.bool_]  # False where the points cannot tell the shape from a constant
    freedom: int  # points less level and k

    def level(self, at: Places, amplitude: Floats) -> Floats:
        """Return the loss at the minimum of the fits `at` with these amplitudes."""
        return self.mean - amplitude * self.offset[at]

    def log_density(self, degrees: int, variance: float, *, below_cliff: bool) -> Floats:
        """Return the log posterior up to a constant; -inf where no minimum is fitted."""
        freedom = degrees + self.freedom
        likelihood = -0.5 * freedom * np.log(degrees * variance + self.residual)
        priors = LOG_PRIORS + np.log(WALL_ODDS) * (IS_WALLED & below_cliff)
        density = priors[:, None] + likelihood - 0.5 * np.log(self.information)
        return np.where(self.visible & (self.amplitude > 0), density, -np.inf)


def _fit(points: WindowPoints, weights: Floats, candidates: Floats) -> _Fits:
    bases = basis(points.theta[None, :] - candidates[:, None])
    mixtures = np.tensordot(SHAPES, bases, 1)
    share = weights / weights.sum()
    offset, mean = mixtures @ share, float(points.means @ share)
    centred, losses = mixtures - offset[..., None], points.means - mean
    information = (centred * centred) @ weights
    visible = _is_visible(mixtures, points.runs / points.runs.sum())
    information = np.where(visible, information, 1.0)
    amplitude = np.maximum(centred @ (weights * losses), 0.0) / information
    squares = float((weights * losses * losses).sum())
    residual = np.maximum(squares - amplitude * amplitude * information, 0.0)
    freedom = len(points.theta) - 2
    return _Fits(mean, offset, information, amplitude, residual, visible, freedom)


def _is_visible(shapes: Floats, share: Floats) -> NDArray[np.bool_]:
    """Say which shapes (shape, candidate, theta) vary over the points: others could be any k."""
    square = (shapes * shapes) @ share
    return square - (shapes @ share) ** 2 > VISIBLE * square


def locate(
    points: WindowPoints,
    variance: float | None,
    degrees: int,
    *,
    rng: np.random.Generator,
    draws: int,
) -> Posterior | None:
    """Locate a window's minimum; `variance` is one run's, known with `degrees` of freedom.

    None where the points show no minimum of any shape.
    """
    if variance is None:
        variance, degrees = float((NOMINAL_NOISE * np.ptp(points.means)) ** 2), KNOWN
    variance = max(variance, float((ROUNDING * np.abs(points.means).max()) ** 2))
    above = DISCREPANCY * (points.means - points.means.min())
    weights = 1.0 / (1.0 / points.runs + above**2 / variance)
    candidates = np.linspace(points.theta[0], points.theta[-1], CANDIDATE_MINIMA)
    fits = _fit(points, weights, candidates)
    log_density = fits.log_density(degrees, variance, below_cliff=points.below_cliff)
    if not np.isfinite(log_density.max()):
        return None
    density = _normalised(log_density)
    centre = density.sum(axis=0)
    median = np.interp(0.5, np.cumsum(centre) - centre / 2.0, candidates)
    at = np.array([float(median)])
    there = _fit(points, weights, at)
    likeliest = int(there.log_density(degrees, variance, below_cliff=points.below_cliff).argmax())
    best = np.array([likeliest]), np.array([0])
    amplitude = there.amplitude[best]
    fit_sd, shape_sd = _spreads(density, candidates)

    chosen = np.searchsorted(np.cumsum(density), rng.uniform(size=draws))
    drawn = np.unravel_index(np.minimum(chosen, density.size - 1), density.shape)
    freedom = degrees + fits.freedom
    squares = degrees * variance + fits.residual[drawn]
    sd = np.sqrt(squares / rng.chisquare(freedom, draws))
    jitter = (candidates[1] - candidates[0]) * rng.uniform(-0.5, 0.5, draws)
    k_error = sd / np.sqrt(fits.information[drawn]) * rng.standard_normal(draws)
    k = np.abs(fits.amplitude[drawn] + k_error)
    level_error = sd / np.sqrt(weights.sum()) * rng.standard_normal(draws)
    return Posterior(
        curve=_curves(at, there.level(best, amplitude), amplitude[:, None] * SHAPES[best[0]]),
        draws=_curves(
            candidates[drawn[1]] + jitter,
            fits.level(drawn, k) + level_error,
            k[:, None] * SHAPES[drawn[0]],
        ),
        fit_sd=fit_sd,
        shape_sd=shape_sd,
    )


def _normalised(log_density: Floats) -> Floats:
    density = np.exp(log_density - log_density.max())
    return density / density.sum()


def _spreads(density: Floats, candidates: Floats) -> tuple[float, float]:
    """Return the sds of the minimum within and between the shapes; their squares add up."""
    weight = density.sum(axis=1)
    of_shape = np.divide(density, weight[:, None], where=weight[:, None] > 0, out=density * 0.0)
    means = of_shape @ candidates
    within = weight @ (of_shape @ candidates**2 - means**2)
    between = weight @ (means - weight @ means) ** 2
    return float(np.sqrt(max(within, 0.0))), float(np.sqrt(between))


def _curves(optimum: Floats, level: Floats, amplitudes: Floats) -> Curves:
    return Curves(optimum, level, amplitudes[:, 0], amplitudes[:, 1], amplitudes[:, 2:])
