"""The shape of a basin near its optimum, and its least-squares fit for many noise draws at once.

    loss(θ) = level + slow·e(-1/4, θ - θ*) + fast·e(5/4, θ - θ*),    slow, fast >= 0,
    e(r, u) = 2·(2^(r·u) - 1 - r·u·ln 2) / (r·ln 2)²,                 so that e(r, u) ≈ u²

A learning rate that is too low costs a slow power of the rate, one that is too high a fast one.
The curve is convex, smooth, and has its minimum at θ* whatever the two amplitudes are.
docs/coverage.md compares its errors with those of parabolas and cubics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SLOW_RATE = -0.25
FAST_RATE = 1.25
CANDIDATE_OPTIMA = 81  # candidate optima across a window: 1/20 of a step where it spans four steps
PARALLEL = 1e-12  # 1 - cos² below which two shapes count as one
FREE_SHAPE_POINTS = 4  # with fewer points the two amplitudes are one parameter
# Parabolas that begin some octaves from the optimum on one side (-1 below, 1 above): kinks, walls.
WALL_ONSETS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
PIECES = ((-1, 0.0), (1, 0.0), *((1, onset) for onset in WALL_ONSETS))


@dataclass(frozen=True)
class Curves:
    """A bundle of fitted curves, one per draw; every field but the last has shape (draw,)."""

    optimum: Floats
    level: Floats
    slow: Floats
    fast: Floats
    pieces: Floats | None = None  # (draw, piece): amplitudes of `_pieces`, beside the exponentials

    def loss(self, theta: Floats) -> Floats:
        """Return the loss, shape (draw, theta)."""
        return self.level[:, None] + self.rise(theta[None, :] - self.optimum[:, None])

    def rise(self, offset: Floats) -> Floats:
        """Return the loss above the optimum at `offset` octaves from it, shape (draw, offset)."""
        slow, fast = _exponentials(offset)
        smooth = self.slow[:, None] * slow + self.fast[:, None] * fast
        if self.pieces is None:
            return smooth
        parts = zip(self.pieces.T, _pieces(offset), strict=True)
        return smooth + sum(amplitude[:, None] * rise for amplitude, rise in parts)


def basis(offset: Floats) -> Floats:
    """Return both exponentials and the pieces at `offset`, shape (basis, *offset)."""
    return np.concatenate([np.stack(_exponentials(offset)), _pieces(offset)])


def _pieces(offset: Floats) -> Floats:
    """Return the quartic and the parabolas of PIECES at `offset`, shape (piece, *offset)."""
    parabolas = [np.maximum(side * offset - onset, 0.0) ** 2 for side, onset in PIECES]
    return np.stack([offset**4, *parabolas])


def fit_curves(theta: Floats, losses: Floats) -> Curves:
    """Fit one curve to every row of `losses` (draw, theta), all points with equal weight.

    The optimum is profiled: for each candidate between the outermost points the two amplitudes
    are a non-negative least-squares problem in closed form, whose projections all rows share.
    """
    candidates = np.linspace(theta[0], theta[-1], CANDIDATE_OPTIMA)
    slow, fast = (_unit(basis)[0] for basis in _bases(theta[None, :] - candidates[:, None]))
    centred = losses - losses.mean(axis=1, keepdims=True)
    gain = _gain(slow @ centred.T, fast @ centred.T, *_cosine(slow, fast))
    return _curves_at(_vertex(candidates, gain), theta, losses)


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


def _unit(basis: Floats) -> tuple[Floats, Floats]:
    """Return the basis with norm one over the points (last axis), and the norms."""
    norm = np.sqrt((basis * basis).sum(axis=-1, keepdims=True))
    return basis / norm, norm


def _cosine(slow: Floats, fast: Floats) -> tuple[Floats, Floats]:
    """Return r, the inner product of two unit shapes, and 1 - r², infinite if they are parallel."""
    cosine = (slow * fast).sum(axis=-1, keepdims=True)
    sine2 = 1.0 - cosine**2
    return cosine, np.where(sine2 > PARALLEL, sine2, np.inf)


def _gain(slow: Floats, fast: Floats, cosine: Floats, sine2: Floats) -> Floats:
    """Return by how much the best amplitudes >= 0 lower the sum of squares.

    `slow` and `fast` are the data's inner products with the unit shapes.
    """
    slow_leads, fast_leads = slow - cosine * fast, fast - cosine * slow
    both = (slow_leads > 0) & (fast_leads > 0) & np.isfinite(sine2)
    alone = np.maximum(np.maximum(slow, fast), 0.0)
    return np.where(both, (slow * slow_leads + fast * fast_leads) / sine2, alone * alone)


def _amplitudes(slow: Floats, fast: Floats, cosine: Floats, sine2: Floats) -> tuple[Floats, Floats]:
    """Return the amplitudes that reach `_gain`."""
    slow_leads, fast_leads = slow - cosine * fast, fast - cosine * slow
    both = (slow_leads > 0) & (fast_leads > 0) & np.isfinite(sine2)
    slow_alone = np.where(slow >= fast, np.maximum(slow, 0.0), 0.0)
    fast_alone = np.where(slow >= fast, 0.0, np.maximum(fast, 0.0))
    return (
        np.where(both, slow_leads / sine2, slow_alone),
        np.where(both, fast_leads / sine2, fast_alone),
    )


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
    """Fit level and amplitudes of every draw (optimum and losses share the first axis)."""
    bases = _bases(theta[None, :] - optimum[:, None])
    (slow_unit, slow_norm), (fast_unit, fast_norm) = (_unit(basis) for basis in bases)
    slow, fast = _amplitudes(
        (slow_unit * losses).sum(axis=1, keepdims=True),
        (fast_unit * losses).sum(axis=1, keepdims=True),
        *_cosine(slow_unit, fast_unit),
    )
    slow, fast = (slow / slow_norm)[:, 0], (fast / fast_norm)[:, 0]
    if len(theta) < FREE_SHAPE_POINTS:
        slow = fast = (slow + fast) / 2.0
    bare = Curves(optimum, np.zeros_like(optimum), slow, fast)
    return Curves(optimum, losses.mean(axis=1) - bare.loss(theta).mean(axis=1), slow, fast)
