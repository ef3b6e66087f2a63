"""Quadratic surfaces over several HPs, with a skew per HP: least squares, convexity, minima.

    loss(z) = level + slope·z + z·hessian·z / 2 + Σ skew·z³ / 6

Coordinates z are scaled so that the box of the fitted points is [-1, 1] on every axis. Arrays have
the axes (draw, hp), (draw, hp, hp) and (point, hp). The skew is there because rates that are too
high cost more than rates that are too low (see curve.py): a plain quadratic puts the optimum where
the steep side pushes it. It is drawn to zero by a prior, since few points tell it from a slope.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from hptransfer.analysis.basins.curve import Floats

SWEEPS = 200  # of coordinate descent
CONVERGED = 1e-7  # of a box's half: a sweep that moves nothing farther has converged
SPARE_POINTS = 2  # fewer say nothing of how well a surface fits
FLAT = 1e-12  # curvature in units of the loss that counts as none


@dataclass(frozen=True)
class Quadratics:
    """A bundle: level (draw,), slope (draw, hp), hessian (draw, hp, hp), skew (draw, hp)."""

    level: Floats
    slope: Floats
    hessian: Floats
    skew: Floats

    def loss(self, z: Floats) -> Floats:
        """Return the losses at points (point, hp), shape (draw, point)."""
        flat = z[:, :, None] * z[:, None, :]
        bent = self.hessian.reshape(len(self.level), -1) @ flat.reshape(len(z), -1).T
        return self.level[:, None] + self.slope @ z.T + bent / 2.0 + self.skew @ (z**3).T / 6.0

    def loss_of_each(self, z: Floats) -> Floats:
        """Return each surface's loss at a point of its own (draw, hp), shape (draw,)."""
        bent = np.einsum("dh,dhg,dg->d", z, self.hessian, z)
        return (
            self.level
            + (self.slope * z).sum(axis=1)
            + bent / 2.0
            + (self.skew * z**3).sum(axis=1) / 6.0
        )

    def bends(self, z: Floats) -> Floats:
        """Return the second derivatives at a point each (draw, hp), shape (draw, hp, hp)."""
        return self.hessian + np.einsum("dh,dh,hg->dhg", self.skew, z, np.eye(z.shape[1]))

    def minima(self) -> Floats:
        """Return each surface's minimum within the box [-1, 1], shape (draw, hp).

        Coordinate descent from the clipped stationary point of the quadratic part.
        """
        inverse = np.linalg.pinv(self.hessian, hermitian=True)
        z = np.clip(-np.einsum("dhg,dg->dh", inverse, self.slope), -1.0, 1.0)
        for _ in range(SWEEPS):
            before = z.copy()
            for hp in range(z.shape[1]):
                bend = self.hessian[:, hp, hp]
                others = np.einsum("dg,dg->d", self.hessian[:, hp], z) - bend * z[:, hp]
                z[:, hp] = _lowest(self.slope[:, hp] + others, bend, self.skew[:, hp])
            if np.abs(z - before).max(initial=0.0) < CONVERGED:
                break
        return z


def _lowest(slope: Floats, bend: Floats, skew: Floats) -> Floats:
    """Return where slope·z + bend·z²/2 + skew·z³/6 is lowest in [-1, 1], shape (draw,)."""
    inside = bend**2 - 2.0 * skew * slope
    below = bend + np.sqrt(np.maximum(inside, 0.0))
    vertex = -2.0 * slope / np.where(below > FLAT, below, np.inf)
    ends = np.ones_like(slope)
    places = np.stack([np.clip(vertex, -1.0, 1.0), -ends, ends])
    heights = slope * places + bend * places**2 / 2.0 + skew * places**3 / 6.0
    return np.take_along_axis(places, heights.argmin(axis=0)[None], axis=0)[0]


def coefficients(count: int) -> int:
    """Return how many coefficients a quadratic surface of `count` HPs has."""
    return (count + 1) * (count + 2) // 2


def quadratic_design(z: Floats) -> Floats:
    """Return what multiplies level, slopes, bends and interactions, shape (point, coefficient)."""
    pairs = [z[:, a] * z[:, b] for a, b in combinations(range(z.shape[1]), 2)]
    return np.column_stack([np.ones(len(z)), z, z**2 / 2.0, *pairs])


def is_determined(positions: Floats) -> bool:
    """Say whether these points (point, hp) determine a quadratic, and points are left over.

    What the skews can follow is not left over: they would explain all that is there.
    """
    reach = np.ptp(positions, axis=0)
    if len(positions) < coefficients(positions.shape[1]) or (reach == 0).any():
        return False
    z = 2.0 * (positions - positions.min(axis=0)) / reach - 1.0
    quadratic = quadratic_design(z)
    ranks = [np.linalg.matrix_rank(d) for d in (quadratic, np.column_stack([quadratic, z**3]))]
    return bool(ranks[0] == quadratic.shape[1] and len(z) >= ranks[1] + SPARE_POINTS)


@dataclass(frozen=True)
class Basis:
    """Least squares on fixed points; the priors are rows of their own, observed as zero."""

    z: Floats  # (point, hp)
    design: Floats  # (point + prior, coefficient)
    solve: Floats  # (coefficient, point + prior)

    @property
    def leverage(self) -> Floats:
        """How far each point's loss pulls its own fitted value, shape (point,)."""
        count = len(self.z)
        return np.einsum("pc,cp->p", self.design[:count], self.solve[:, :count])

    @property
    def spare_degrees(self) -> float:
        """The residuals' degrees of freedom."""
        return float(len(self.z) - self.leverage.sum())

    def left_out_error(self, losses: Floats) -> float:
        """Return the mean squared error at points left out one at a time, in closed form."""
        count = len(self.z)
        fitted = self.design[:count] @ (self.solve[:, :count] @ losses)
        remaining = np.maximum(1.0 - self.leverage, 1e-9)
        return float((((losses - fitted) / remaining) ** 2).mean())

    def observed(self, losses: Floats) -> Floats:
        """Return losses (draw, point) followed by the priors' zeros."""
        return np.pad(losses, ((0, 0), (0, len(self.design) - len(self.z))))

    def expected(self, surface: Quadratics) -> Floats:
        """Return what a surface gives at the points and for the priors, (draw, point + prior)."""
        return _packed(surface) @ self.design.T

    def fit_free(self, observed: Floats) -> Quadratics:
        """Fit a surface to every row, convex or not: linear in `observed`."""
        return _unpacked(observed @ self.solve.T, self.z.shape[1])

    def fit(self, observed: Floats) -> Quadratics:
        """Fit a convex surface to every row of `observed` (draw, point + prior).

        Where least squares bends down along a direction, that bend is set to zero and the plane
        under it fitted again.
        """
        free = self.fit_free(observed)
        bends, axes = np.linalg.eigh(free.hessian)
        changed = np.asarray((bends < 0).any(axis=1))
        if not changed.any():
            return free
        convex = np.einsum("dhj,dj,dgj->dhg", axes, np.maximum(bends, 0.0), axes)
        level, slope = np.zeros_like(free.level), np.zeros_like(free.slope)
        curved = Quadratics(level, slope, convex, free.skew).loss(self.z)
        flat = np.linalg.pinv(np.column_stack([np.ones(len(self.z)), self.z]))
        plane = (observed[:, : len(self.z)] - curved) @ flat.T
        return Quadratics(
            np.where(changed, plane[:, 0], free.level),
            np.where(changed[:, None], plane[:, 1:], free.slope),
            np.where(changed[:, None, None], convex, free.hessian),
            free.skew,
        )


def build_basis(z: Floats, *, ridge: float, skewness: Floats) -> Basis:
    """Return the basis with weights of the priors on each interaction and each skew (hp,).

    A weight is the losses' variance over the coefficient's: in units of points.
    """
    points = np.column_stack([quadratic_design(z), z**3 / 6.0])
    count, pairs = z.shape[1], z.shape[1] * (z.shape[1] - 1) // 2
    weight = np.concatenate([np.full(pairs, ridge), skewness])
    prior = np.zeros((len(weight), points.shape[1]))
    prior[:, 1 + 2 * count :] = np.diag(np.sqrt(weight))
    design = np.concatenate([points, prior])
    return Basis(z, design, np.asarray(np.linalg.pinv(design), dtype=np.float64))


def _packed(surface: Quadratics) -> Floats:
    count = surface.slope.shape[1]
    diagonal = surface.hessian[:, np.arange(count), np.arange(count)]
    pairs = [surface.hessian[:, a, b] for a, b in combinations(range(count), 2)]
    return np.column_stack([surface.level, surface.slope, diagonal, *pairs, surface.skew])


def _unpacked(found: Floats, count: int) -> Quadratics:
    hessian = np.zeros((len(found), count, count))
    hessian[:, np.arange(count), np.arange(count)] = found[:, 1 + count : 1 + 2 * count]
    for at, (a, b) in enumerate(combinations(range(count), 2), start=1 + 2 * count):
        hessian[:, a, b] = hessian[:, b, a] = found[:, at]
    return Quadratics(found[:, 0], found[:, 1 : 1 + count], hessian, found[:, -count:])
