"""The loss around an optimum: a smooth basin with one skew.

    y(θ) = level + k·rise(θ - θ*),    rise(u) = 2·(exp(c·u) - 1 - c·u) / c²  (u² where c = 0)

y is the log of the loss where all losses are positive, else the loss (`scale.py`); θ is log2 of the
hyperparameter, or the hyperparameter itself where it is searched linearly. k is the rise one unit
(an octave) from the optimum without skew. A positive skew c makes values that are too high cost
more than values that are too low, as learning rates do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STRAIGHT = 1e-3  # |c·u| below which the series of `rise` is exact to rounding
STEEPEST = 30.0  # |c·u| at which exp is cut off, so that it never overflows


def rise(offset: Floats, skew: Floats | float) -> Floats:
    """Return the rise per unit of k at `offset` from the optimum; the arguments broadcast."""
    bent = np.clip(np.asarray(skew) * offset, -STEEPEST, STEEPEST)
    near = np.abs(bent) < STRAIGHT
    safe = np.where(near, 1.0, bent)
    shape = np.where(near, 1.0 + bent / 3.0, 2.0 * (np.expm1(safe) - safe) / safe**2)
    return offset**2 * shape


@dataclass(frozen=True)
class Curves:
    """A bundle of basins, one per draw; every field has shape (draw,)."""

    optimum: Floats
    level: Floats  # y at the optimum
    curvature: Floats  # k
    skew: Floats  # c
    below: Floats | float = 0.0  # rise of y per unit below the optimum, along a straight side
    above: Floats | float = 0.0

    def rise(self, offset: Floats) -> Floats:
        """Return y above the optimum at offsets (offset,) or (draw, offset); (draw, offset)."""
        smooth = self.curvature[:, None] * rise(offset, self.skew[:, None])
        sides = np.asarray(self.below)[..., None], np.asarray(self.above)[..., None]
        return smooth + _straight(offset, *sides)

    def loss(self, theta: Floats) -> Floats:
        """Return y at values (theta,), shape (draw, theta)."""
        return self.level[:, None] + self.rise(theta[None, :] - self.optimum[:, None])

    def cost(self, theta: Floats | float) -> Floats:
        """Return y above the optimum at one value, or at a value per draw, shape (draw,)."""
        offset = theta - self.optimum
        return self.curvature * rise(offset, self.skew) + _straight(offset, self.below, self.above)


def _straight(offset: Floats, below: Floats | float, above: Floats | float) -> Floats:
    return below * np.maximum(-offset, 0.0) + above * np.maximum(offset, 0.0)
