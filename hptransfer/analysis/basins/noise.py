"""The noise of one run, estimated from an arm's rows.

It comes from the first of these that the rows have, pooled over settings: seeds that share points
(what remains after seed and point effects); standard deviations that imported rows give; what
neighbouring points differ by beyond a smooth curve (third differences, zero for a parabola).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.grid import Grid

NORMAL_MAD = 0.6745  # median of the absolute value of a standard normal
ROBUST_SHARE = 0.3  # of the noise that is read from the median residual, which outliers do not move
GIVEN_DEGREES = 4.0  # of freedom that a setting's given standard deviations count for
NEIGHBOURS = 7  # lowest points whose third differences are taken
CURVED = 1.3  # by how much a basin's own bend widens third differences, on grids of an octave
OVERLAP = 3.0  # third differences per degree of freedom: they share points
MOST_DEGREES = 60.0  # of freedom: noise differs between settings, so it is never known exactly


class NoiseSource(Enum):
    """The rows' content that a noise was estimated from."""

    seeds = "seeds"
    given = "given"  # standard deviations of imported rows
    residuals = "residuals"  # one run everywhere: from neighbouring points


@dataclass(frozen=True)
class Noise:
    """The sd of one run's y after seed and point effects, and its degrees of freedom."""

    sd: float
    degrees: float
    source: NoiseSource = NoiseSource.seeds


def pool_noise(grids: Iterable[Grid], *, least: float = 0.0) -> Noise | None:
    """Return the noise of one run, pooled over the grids; None if the rows do not show it.

    Args:
        least: the sd of the rounding of recorded losses, below which no noise can be seen.
    """
    grids = list(grids)
    for source, estimate in (
        (NoiseSource.seeds, _from_seeds),
        (NoiseSource.given, _from_given),
        (NoiseSource.residuals, _from_neighbours),
    ):
        squares, degrees = estimate(grids)
        if degrees:
            sd = float(np.sqrt(squares / degrees))
            return Noise(max(sd, least), min(degrees, MOST_DEGREES), source)
    return None


def _from_seeds(grids: Sequence[Grid]) -> tuple[float, float]:
    squares = degrees = 0.0
    for grid in grids:
        losses = grid.losses[:, grid.sound][:, grid.low]
        residuals = (grid.effects[1] * np.sqrt(grid.runs[:, grid.sound]))[:, grid.low]
        there = np.isfinite(losses)
        freedom = int(there.sum()) - losses.shape[1] - len(losses) + 1
        if len(losses) < 2 or freedom <= 0:
            continue
        found = residuals[there]
        robust = (np.median(np.abs(found)) / NORMAL_MAD) ** 2 * len(found) / freedom
        mean = float((found**2).sum()) / freedom
        squares += freedom * (ROBUST_SHARE * robust + (1.0 - ROBUST_SHARE) * mean)
        degrees += freedom
    return squares, degrees


def _from_given(grids: Sequence[Grid]) -> tuple[float, float]:
    squares = degrees = 0.0
    for grid in grids:
        sds = grid.run_sds[:, grid.sound][:, grid.low]
        if np.isfinite(sds).any():
            squares += GIVEN_DEGREES * float(np.nanmean(sds**2))
            degrees += GIVEN_DEGREES
    return squares, degrees


def _from_neighbours(grids: Sequence[Grid]) -> tuple[float, float]:
    differences: list[float] = []
    for grid in grids:
        theta, means = grid.theta[grid.sound], grid.means[grid.sound]
        lowest = np.sort(np.argsort(means)[:NEIGHBOURS])
        for first in range(len(lowest) - 3):
            four = lowest[first : first + 4]
            differences.append(_third_difference(theta[four], means[four]))
    if len(differences) < 2:
        return 0.0, 0.0
    sd = float(np.median(np.abs(differences))) / NORMAL_MAD / CURVED
    degrees = max(len(differences) / OVERLAP, 1.0)
    return degrees * sd**2, degrees


def _third_difference(theta: Floats, means: Floats) -> float:
    """Return the third divided difference of four points, scaled to the variance of one point."""
    weights = 1.0 / (theta[:, None] - theta[None, :] + np.eye(4)).prod(axis=1)
    return float(weights @ means / np.sqrt((weights**2).sum()))
