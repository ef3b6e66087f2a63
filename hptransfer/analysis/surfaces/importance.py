"""How much each HP matters: its share of the surface's variance over the fitted box.

Sobol indices in closed form. With every HP uniform on [-1, 1] the terms of a cubic without mixed
squares are uncorrelated but for slope and skew of one HP, so the variance is a sum over HPs and
pairs. Shares say what matters inside this box: a wider box makes every HP matter more.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.surfaces.quadratic import Quadratics


@dataclass(frozen=True)
class Importance:
    """Shares that sum to one: `alone` (hp,) and `pairs` in the order of combinations."""

    alone: Floats
    pairs: Floats

    @property
    def total(self) -> Floats:
        """Each HP's share with every interaction it takes part in, (hp,); sums to one or more."""
        count = len(self.alone)
        total = self.alone.copy()
        for share, (a, b) in zip(self.pairs, combinations(range(count), 2), strict=True):
            total[a] += share
            total[b] += share
        return total


def importance(surface: Quadratics) -> Importance | None:
    """Return the shares of a surface (a bundle of one); None where it is constant."""
    slope, skew, hessian = surface.slope[0], surface.skew[0], surface.hessian[0]
    bend = np.diagonal(hessian)
    # E[z²] = 1/3, E[z⁴] = 1/5, E[z⁶] = 1/7
    alone = slope**2 / 3.0 + slope * skew / 15.0 + skew**2 / 252.0 + bend**2 / 45.0
    pairs = np.array([hessian[a, b] ** 2 / 9.0 for a, b in combinations(range(len(slope)), 2)])
    whole = float(alone.sum() + pairs.sum())
    return Importance(alone / whole, pairs / whole) if whole > 0 else None
