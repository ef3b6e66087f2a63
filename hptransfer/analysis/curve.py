"""The shape of a basin near its optimum, and its least-squares fit for many noise draws at once.

    loss(θ) = level + slow·e(-1/4, θ - θ*) + fast·e(5/4, θ - θ*),    slow, fast >= 0,
    e(r, u) = 2·(2^(r·u) - 1 - r·u·ln 2) / (r·ln 2)²,                 so that e(r, u) ≈ u²

A learning rate that is too low costs a slow power of the rate, one that is too high a fast one.
The curve is convex, smooth, and has its minimum at θ* whatever the two amplitudes are.

Why not two parabolas that meet at the optimum: on 230 one-octave subsamples of half-octave
learning-rate basins (dense and mixture-of-experts language models of the Step Law study, arXiv
2503.04715; reference optimum from the half-octave grid) the error in octaves was, as median, 90 %
quantile, bias: two parabolas 0.17, 0.96, +0.22; local cubic 0.10, 0.49, +0.04; symmetric parabola
0.25, 0.48, -0.22; this curve 0.10, 0.25, -0.03. With 0.15 % noise added: 0.13, 0.33, -0.03.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SLOW_RATE = -0.25
FAST_RATE = 1.25
CANDIDATES = 161  # candidate optima across a window: 1/40 of a step when it spans four steps
FREE_SHAPE_POINTS = 4  # with fewer points the two amplitudes are one parameter


@dataclass(frozen=True)
class Curves:
    """A bundle of fitted curves, one per draw; every field has shape (draw,)."""

    optimum: Floats
    level: Floats
    slow: Floats
    fast: Floats

    def loss(self, theta: Floats) -> Floats:
        """Return the loss, shape (draw, theta)."""
        return self.level[:, None] + self.rise(theta[None, :] - self.optimum[:, None])

    def rise(self, offset: Floats) -> Floats:
        """Return the loss above the optimum at `offset` octaves from it, shape (draw, offset)."""
        slow, fast = _exponentials(offset)
        return self.slow[:, None] * slow + self.fast[:, None] * fast

    def repeat(self, draws: int) -> Curves:
        """Return `draws` copies of a bundle of one."""
        fields = (self.optimum, self.level, self.slow, self.fast)
        return Curves(*(np.repeat(field, draws) for field in fields))


def fit_curves(theta: Floats, losses: Floats) -> Curves:
    """Fit one curve to every row of `losses` (draw, theta), all points with equal weight.

    The optimum is profiled: for each candidate between the outermost points the two amplitudes
    are a non-negative least-squares problem in closed form, whose projections all rows share.
    """
    candidates = np.linspace(theta[0], theta[-1], CANDIDATES)
    slow, fast = _bases(theta[None, :] - candidates[:, None])
    centred = losses - losses.mean(axis=1, keepdims=True)
    overlaps = _Overlaps.of(slow, fast)
    gain = overlaps.gain(slow @ centred.T, fast @ centred.T)
    optimum = _vertex(candidates, gain)
    return _curves_at(optimum, theta, losses)


def _exponentials(offset: Floats) -> tuple[Floats, Floats]:
    def exponential(rate: float) -> Floats:
        slope = rate * np.log(2.0)
        return 2.0 * (np.exp2(rate * offset) - 1.0 - slope * offset) / slope**2

    return exponential(SLOW_RATE), exponential(FAST_RATE)


def _bases(offset: Floats) -> tuple[Floats, Floats]:
    """Return both shapes centred over the points (last axis); equal ones for few points."""
    slow, fast = _exponentials(offset)
    if offset.shape[-1] < FREE_SHAPE_POINTS:
        slow = fast = (slow + fast) / 2.0
    return (
        slow - slow.mean(axis=-1, keepdims=True),
        fast - fast.mean(axis=-1, keepdims=True),
    )


@dataclass(frozen=True)
class _Overlaps:
    """Inner products of the two shapes at each candidate, shape (candidate, 1)."""

    slow: Floats
    fast: Floats
    cross: Floats
    determinant: Floats  # infinite where the shapes are parallel: then one of them is enough

    @classmethod
    def of(cls, slow: Floats, fast: Floats) -> _Overlaps:
        ss = (slow * slow).sum(axis=-1)[:, None]
        ff = (fast * fast).sum(axis=-1)[:, None]
        sf = (slow * fast).sum(axis=-1)[:, None]
        determinant = ss * ff - sf**2
        parallel = determinant <= 1e-12 * ss * ff
        return cls(ss, ff, sf, np.where(parallel, np.inf, determinant))

    def amplitudes(self, slow: Floats, fast: Floats) -> tuple[Floats, Floats]:
        """Solve for both amplitudes >= 0, given the data's inner products with the shapes."""
        a = (slow * self.fast - fast * self.cross) / self.determinant
        b = (fast * self.slow - slow * self.cross) / self.determinant
        both = (a > 0) & (b > 0)
        a_alone, b_alone = np.maximum(slow, 0) / self.slow, np.maximum(fast, 0) / self.fast
        slow_wins = a_alone * slow >= b_alone * fast
        a = np.where(both, a, np.where(slow_wins, a_alone, 0.0))
        b = np.where(both, b, np.where(slow_wins, 0.0, b_alone))
        return a, b

    def gain(self, slow: Floats, fast: Floats) -> Floats:
        """Return by how much the best amplitudes lower the sum of squares."""
        a, b = self.amplitudes(slow, fast)
        return a * slow + b * fast


def _vertex(candidates: Floats, gain: Floats) -> Floats:
    """Return the candidate of largest gain (candidate, draw), refined by a parabola through it."""
    best = gain.argmax(axis=0)
    inner = np.clip(best, 1, len(candidates) - 2)
    columns = np.arange(gain.shape[1])
    below, at, above = (gain[inner + shift, columns] for shift in (-1, 0, 1))
    bend = 2.0 * at - below - above
    safe = (bend > 0) & (best == inner)
    shift = np.where(safe, 0.5 * (above - below) / np.where(safe, bend, 1.0), 0.0)
    spacing = candidates[1] - candidates[0]
    return candidates[best] + np.clip(shift, -0.5, 0.5) * spacing


def _curves_at(optimum: Floats, theta: Floats, losses: Floats) -> Curves:
    offset = theta[None, :] - optimum[:, None]
    slow_basis, fast_basis = _bases(offset)
    slow, fast = _Overlaps.of(slow_basis, fast_basis).amplitudes(
        (slow_basis * losses).sum(axis=1, keepdims=True),
        (fast_basis * losses).sum(axis=1, keepdims=True),
    )
    if len(theta) < FREE_SHAPE_POINTS:
        slow = fast = (slow + fast) / 2.0
    unshifted = Curves(optimum, np.zeros_like(optimum), slow[:, 0], fast[:, 0])
    level = losses.mean(axis=1) - unshifted.loss(theta).mean(axis=1)
    return Curves(optimum, level, slow[:, 0], fast[:, 0])
