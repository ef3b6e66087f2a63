"""The noise of one run's loss, estimated from the rows, and mean losses without outliers.

The noise comes from the first of these that the rows have, pooled over widths: seeds that share
points (the residual after seed and HP effects); standard deviations that imported rows give; the
third differences of neighbouring points, which are zero for a parabola.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.grid import Grid
from hptransfer.analysis.basins.shapes import WindowPoints

# Residual, in robust sds, beyond which a loss is an outlier: one in 16,000 normal losses.
OUTLIER = 4.0
FEW = 8.0  # degrees of freedom at which the limit for outliers is twice OUTLIER; it falls with more
MOST_OUTLIERS = 0.2  # share of a width's losses; with more outliers than this, none is left out
# Outliers leave in rounds: each takes the residuals of at least this share of the largest.
SAME_SIZE = 0.75
ALTERNATIONS = 30  # rounds of seed means and point means, where a table lacks losses
NORMAL_MAD = 0.6745  # median of the absolute value of a standard normal
DIFFERENCE_POINTS = 4  # points of a third difference
# Points enter third differences if their rise above the best loss is at most this multiple of the
# ceiling's rise (`Grid.ceiling`): higher ones lie on walls.
LOW_RISES = 4.0
NEAR_CLIFF = 3.0  # octaves between the lowest point and a failed one that make a wall likely
OVERLAP = 3.0  # third differences per degree of freedom: they share points, and give a median


class NoiseSource(Enum):
    """The rows' content that a noise was estimated from."""

    seeds = "seeds"
    given = "given"  # standard deviations of imported rows
    residuals = "residuals"  # one run everywhere: from neighbouring points


@dataclass(frozen=True)
class Noise:
    """The sd of one run's loss after seed and HP effects, and draws of its square."""

    sd: float
    degrees: int
    variances: Floats  # (draw,): ss/χ² with `degrees` degrees of freedom
    source: NoiseSource = NoiseSource.seeds


def pool_noise(
    grids: Iterable[Grid], *, rng: np.random.Generator, draws: int = 2000
) -> Noise | None:
    """Return the noise of one run, pooled over the grids; None if the rows do not show it."""
    grids = list(grids)
    for source, estimate in (
        (NoiseSource.seeds, _from_seeds),
        (NoiseSource.given, _from_given),
        (NoiseSource.residuals, _from_neighbours),
    ):
        squares, degrees = estimate(grids)
        if degrees:
            variances = squares / rng.chisquare(degrees, draws)
            return Noise(float(np.sqrt(squares / degrees)), degrees, variances, source)
    return None


def mean_points(grid: Grid, index: NDArray[np.intp], noise: Noise | None) -> WindowPoints:
    """Return the points' mean losses, seeds as blocks, and how many runs each mean is worth."""
    losses = grid.losses[:, index]
    runs = np.ones_like(losses) if grid.runs is None else grid.runs[:, index]
    theta = grid.theta[index]
    near = grid.cliff is not None and grid.cliff - grid.theta[grid.minimum] <= NEAR_CLIFF
    if noise is None or len(losses) == 1 or len(index) == 1:
        return WindowPoints(theta, losses.mean(axis=0), _runs_of_mean(runs), near)
    scaled = noise.sd / np.sqrt(runs.mean()) * _limit(noise.degrees) / OUTLIER
    keep = _inliers(losses, scaled)
    fitted = _two_way(losses, keep)
    means = (fitted - fitted.mean(axis=1, keepdims=True)).mean(axis=0) + fitted.mean()
    worth = np.where(keep, runs, 0.0).sum(axis=0)
    if len(losses) == 2:
        worth *= _agreement(losses, scaled)
    return WindowPoints(theta, means, worth, near)


def _runs_of_mean(runs: Floats) -> Floats:
    """Return the runs that an unweighted mean over seeds is worth: its variance is σ²/this."""
    return len(runs) ** 2 / (1.0 / runs).sum(axis=0)


def _from_seeds(grids: list[Grid]) -> tuple[float, int]:
    """Return the residuals' sum of squares and its degrees, without outliers."""
    blocks = [_scaled_core(grid) for grid in grids if len(grid.losses) > 1 and len(grid.core) > 1]
    if not blocks:
        return 0.0, 0
    residuals = [_studentised(block, np.ones_like(block, dtype=np.bool_)) for block in blocks]
    flat = np.abs(np.concatenate([residual.reshape(-1) for residual in residuals]))
    limit = _limit(sum((len(b) - 1) * (b.shape[1] - 1) for b in blocks))
    scale = float(np.median(flat)) / NORMAL_MAD * limit / OUTLIER
    squares, degrees = 0.0, 0
    for block in blocks:
        keep = _inliers(block, scale)
        if len(block) == 2:
            keep = keep & (_agreement(block, scale) == 1.0)[None, :]
        points = int(keep.any(axis=0).sum())
        if points < 2:
            continue
        residual = np.where(keep, block - _two_way(block, keep), 0.0)
        squares += float((residual**2).sum())
        degrees += int(keep.sum()) - points - len(block) + 1
    return max(squares, degrees * _resolution(blocks) ** 2 / 12.0), max(degrees, 0)


def _resolution(blocks: list[Floats]) -> float:
    """Return the least distance of two losses: what rounding hides, and else next to nothing."""
    gaps = np.diff(np.unique(np.concatenate([block.reshape(-1) for block in blocks])))
    return float(gaps.min()) if len(gaps) else 0.0


def _limit(degrees: int) -> float:
    return OUTLIER * (1.0 + FEW / max(degrees, 1))


def _scaled_core(grid: Grid) -> Floats:
    losses = grid.losses[:, grid.core]
    return losses if grid.runs is None else losses * np.sqrt(grid.runs[:, grid.core].mean())


def _from_given(grids: list[Grid]) -> tuple[float, int]:
    """Pool the rows' own sds inside the basins, each with its runs less one degree of freedom."""
    squares, degrees = 0.0, 0
    for grid in grids:
        if grid.run_sds is None:
            continue
        sds = grid.run_sds[:, grid.core]
        runs = np.ones_like(sds) if grid.runs is None else grid.runs[:, grid.core]
        known = np.isfinite(sds)
        freedom = np.where(known, np.maximum(runs - 1.0, 1.0), 0.0)
        squares += float((freedom[known] * sds[known] ** 2).sum())
        degrees += int(freedom.sum())
    return (squares, degrees) if squares > 0 else (0.0, 0)


def _from_neighbours(grids: list[Grid]) -> tuple[float, int]:
    """Judge the noise by third differences; their median, since walls and kinks have large ones."""
    found = [_third_differences(grid) for grid in grids if len(grid.losses) == 1]
    flat = np.concatenate([np.zeros(0), *found])
    if len(flat) < 2:
        return 0.0, 0
    sd = float(np.median(np.abs(flat))) / NORMAL_MAD
    degrees = max(int(len(flat) / OVERLAP), 1)
    return degrees * sd**2, degrees


def _third_differences(grid: Grid) -> Floats:
    """Return the contrasts of four neighbours that are zero for a parabola, of unit noise."""
    losses = grid.losses[0, grid.sound]
    best = float(losses.min())
    low = grid.sound[losses <= best + LOW_RISES * (grid.ceiling - best)]
    theta, losses = grid.theta[low], grid.losses[0, low]
    if len(low) < DIFFERENCE_POINTS:
        return np.zeros(0)
    places = np.arange(len(low) - DIFFERENCE_POINTS + 1)[:, None] + np.arange(DIFFERENCE_POINTS)
    gaps = theta[places][:, :, None] - theta[places][:, None, :] + np.eye(DIFFERENCE_POINTS)
    weights = 1.0 / gaps.prod(axis=2)
    runs = np.ones(len(low)) if grid.runs is None else grid.runs[0, low]
    norm = np.sqrt((weights**2 / runs[places]).sum(axis=1))
    return (weights * losses[places]).sum(axis=1) / norm


def _two_way(losses: Floats, keep: NDArray[np.bool_]) -> Floats:
    """Return the least-squares seed plus point effects of the kept losses, (seed, theta)."""
    if keep.all():
        return losses.mean(axis=0) + losses.mean(axis=1, keepdims=True) - losses.mean()
    weights = keep.astype(np.float64)
    seed, point = np.zeros((len(losses), 1)), np.zeros((1, losses.shape[1]))
    for _ in range(ALTERNATIONS):
        point = _weighted_mean(losses - seed, weights, axis=0)
        seed = _weighted_mean(losses - point, weights, axis=1)
    return seed + point


def _weighted_mean(values: Floats, weights: Floats, *, axis: int) -> Floats:
    total = weights.sum(axis=axis, keepdims=True)
    return (values * weights).sum(axis=axis, keepdims=True) / np.maximum(total, 1.0)


def _studentised(losses: Floats, keep: NDArray[np.bool_]) -> Floats:
    seeds, points = losses.shape
    share = (1.0 - 1.0 / seeds) * (1.0 - 1.0 / points)
    return np.where(keep, losses - _two_way(losses, keep), 0.0) / np.sqrt(share)


def _inliers(losses: Floats, sd: float) -> NDArray[np.bool_]:
    """Return which losses are no outliers, shape (seed, theta); those farthest off leave first.

    An outlier pulls its seed's and its point's effects, so that its neighbours look off too, by at
    most half as much: only outliers of about its own size leave in the same round.
    With two seeds it is unknown which of a pair is off: see `_agreement`.
    """
    keep = np.ones_like(losses, dtype=np.bool_)
    if len(losses) < 3 or sd <= 0:
        return keep
    while True:
        score = np.abs(_studentised(losses, keep))
        score[:, keep.sum(axis=0) < 2] = 0.0
        if score.max() <= OUTLIER * sd:
            return keep
        keep &= score < max(SAME_SIZE * score.max(), OUTLIER * sd)
        if (~keep).mean() > MOST_OUTLIERS or not keep.any(axis=0).all():
            return np.ones_like(keep)


def _agreement(losses: Floats, sd: float) -> Floats:
    """Return the worth of two seeds' means: less where they differ by more than noise, (theta,)."""
    apart = losses[0] - losses[1]
    excess = (apart - np.median(apart)) ** 2 / 2.0
    if sd <= 0:
        return np.ones_like(excess)
    return np.where(excess > (OUTLIER * sd) ** 2, sd**2 / np.maximum(excess, sd**2), 1.0)
