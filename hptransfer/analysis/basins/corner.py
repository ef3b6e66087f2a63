"""Whether basins have a corner at their minimum, and how steep the sides of that corner are.

A smooth basin says that a small error of the hyperparameter costs next to nothing: the cost grows
with the square of the error. In a basin of two straight sides that meet in a corner (a V) it grows
with the error itself, and values between two points of an octave grid cost much more. The minimum
is sought with smooth curves all the same, since curves with a corner misplace it; the corner
matters only for what a value costs (`answer/fitted_arm.py`).

Both kinds are fitted to every setting, each with four parameters (level, minimum, and skew and
curvature or two slopes), and the odds of a corner are pooled over all settings: one setting's
points rarely tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.basins.basin import SKEWS, point_weights
from hptransfer.analysis.basins.curve import Floats, rise
from hptransfer.analysis.basins.grid import Grid
from hptransfer.analysis.basins.noise import Noise

LOG_PRIOR_ODDS = -8.0  # no recorded arm has a corner: the log odds of the likeliest are 4
FEWEST = 5  # points that can tell four parameters of one kind from four of the other
PLACES = 161  # candidate minima over a grid
RIDGE = 1e-12  # of a normal equation's trace: keeps it solvable where a side has no point


@dataclass(frozen=True)
class Corners:
    """How likely an arm's basins have a corner, and the slopes of its sides."""

    probability: float
    log_sides: Floats  # (setting, 2): log of the rise of y per unit below and above the minimum


def find_corners(grids: Sequence[Grid], noise: Noise | None) -> Corners | None:
    """Return whether the basins have a corner; None where the points cannot tell."""
    if noise is None:
        return None
    odds, sides = LOG_PRIOR_ODDS, []
    for grid in grids:
        found = _compare(grid, noise)
        if found is not None:
            odds += found[0]
            sides.append(np.log(found[1]))
    if not sides:
        return None
    return Corners(float(1.0 / (1.0 + np.exp(-np.clip(odds, -500.0, 500.0)))), np.array(sides))


def _compare(grid: Grid, noise: Noise) -> tuple[float, Floats] | None:
    """Return the log odds of a corner by one setting's points, and the slopes of its sides (2,)."""
    theta, means = grid.theta[grid.sound], grid.means[grid.sound]
    if len(theta) < FEWEST:
        return None
    sd = max(noise.sd, 1e-9)
    weights = point_weights(grid, sd) / sd**2
    offset = theta - np.linspace(theta[0], theta[-1], PLACES)[:, None]
    below, above = np.maximum(-offset, 0.0), np.maximum(offset, 0.0)
    corner, slopes = _misfits(np.stack([below, above], axis=-1), means, weights)
    smooth, _ = _misfits(rise(offset, SKEWS[:, None, None])[..., None], means, weights)
    if not np.isfinite(corner.min()) or not np.isfinite(smooth.min()):
        return None
    freedom = noise.degrees + len(theta)
    odds = 0.5 * freedom * np.log1p(smooth.min() / noise.degrees)
    odds -= 0.5 * freedom * np.log1p(corner.min() / noise.degrees)
    return float(odds), slopes[int(corner.argmin())]


def _misfits(shapes: Floats, y: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Fit y = level + shapes·slopes at every candidate minimum.

    Args:
        shapes: (..., theta, slope).
        y: (theta,).
        weights: one over the variance of y, (theta,).

    Returns:
        The weighted sum of squares, (...,), infinite where a slope is not positive; and the slopes,
        (..., slope).
    """
    design = np.concatenate([np.ones_like(shapes[..., :1]), shapes], axis=-1)
    weighted = np.swapaxes(design, -1, -2) * weights
    normal = weighted @ design
    scale = np.trace(normal, axis1=-2, axis2=-1)[..., None, None]
    normal = normal + RIDGE * scale * np.eye(design.shape[-1])
    found = np.linalg.solve(normal, (weighted @ y)[..., None])
    squares = ((y - (design @ found)[..., 0]) ** 2 * weights).sum(axis=-1)
    slopes = found[..., 1:, 0]
    return np.where((slopes > 0.0).all(axis=-1), squares, np.inf), slopes
