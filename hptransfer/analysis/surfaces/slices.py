"""One HP's basin out of a surface of several: the slice through the joint optimum.

The slice holds the others at their optimum: that is the regret of a wrong value of this HP alone.
(With the others optimised anew it would be smaller, but nobody tunes them at the target.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.curve import FAST_RATE, SLOW_RATE, Curves, Floats
from hptransfer.analysis.basins.grid import Grid, build_grid
from hptransfer.analysis.surfaces.fit import Window
from hptransfer.analysis.surfaces.points import SurfacePoints

LN2 = float(np.log(2.0))
BINS = 7  # of a slice through scattered points
ON_FACE = 1e-9  # of a box's half


def slice_curves(optimum: Floats, level: Floats, bend: Floats, skew: Floats) -> Curves:
    """Return curves with these second and third derivatives (octaves) at their optimum, (draw,).

    A skew beyond what curve's two shapes can show becomes the steeper of them alone.
    """
    amplitude = bend / 2.0
    fast = (skew / (2.0 * LN2) - SLOW_RATE * amplitude) / (FAST_RATE - SLOW_RATE)
    fast = np.clip(fast, 0.0, amplitude)
    return Curves(optimum, level, amplitude - fast, fast)


def slice_grid(points: SurfacePoints, window: Window, optimum: Floats, at: int) -> Grid:
    """Return points as partial residuals: the slice plus what each lies off the surface.

    Of the points with one value of the HP (scattered ones: in one of BINS bins) the nearest to the
    slice stands for all. A mean of them would hide how far single runs scatter.
    """
    chosen = _nearest(points, window, optimum, at)
    positions = points.positions[chosen]
    levels = positions[:, at]
    on_slice = np.repeat(optimum[None, :], len(levels), axis=0)
    on_slice[:, at] = levels
    there, here = (window.surface.loss(window.scaled(x))[0] for x in (positions, on_slice))
    losses = points.losses[:, chosen] - there + here
    failures = _failures(points, window, optimum, at)
    cliff = failures[failures > levels[-1]]
    return Grid(
        theta=np.concatenate([levels, cliff]),
        losses=np.concatenate([losses, np.full((len(losses), len(cliff)), np.inf)], axis=1),
        failed=np.arange(len(levels) + len(cliff)) >= len(levels),
        cliff=float(cliff[0]) if len(cliff) else None,
        ceiling=float(losses.mean(axis=0).min() + points.ceiling - points.means.min()),
        isolated_failures=int((failures < levels[-1]).sum()),
        incomplete_points=points.incomplete_points,
        seeds_left_out=points.seeds_left_out,
    )


def _nearest(points: SurfacePoints, window: Window, optimum: Floats, at: int) -> NDArray[np.intp]:
    """Return indices of the points that stand for their bins, ascending along the HP."""
    theta = points.positions[window.index, at]
    offset = window.scaled(points.positions[window.index]) - window.scaled(optimum)
    distance = np.linalg.norm(np.delete(offset, at, axis=1), axis=1)
    levels, bins = np.unique(theta, return_inverse=True)
    if len(levels) > len(theta) / 2.0:
        place = np.floor(BINS * (theta - levels[0]) / (levels[-1] - levels[0]))
        bins = np.minimum(place, BINS - 1)
    order = np.lexsort([theta, distance, bins.reshape(-1)])
    first = np.unique(bins.reshape(-1)[order], return_index=True)[1]
    return window.index[order[first]]


def _failures(points: SurfacePoints, window: Window, optimum: Floats, at: int) -> Floats:
    """Return where along this HP points failed whose other HPs lie in the window's box.

    A finite loss that has all but failed counts above the optimum only, as in a grid.
    """
    ruined = (points.means > points.ruined_above) & (points.positions[:, at] > optimum[at])
    gone = points.positions[points.failed | ruined]
    others = np.arange(len(optimum)) != at
    near = (np.abs(window.scaled(gone)) <= 1.0 + ON_FACE)[:, others].all(axis=1)
    return np.unique(gone[near, at])


def cut_grid(points: SurfacePoints, at: int) -> Grid:
    """Return the points that share the best one's other HPs."""
    others = np.arange(len(points.hps)) != at
    best = points.positions[points.best]
    same = (points.positions == best)[:, others].all(axis=1)
    grid = build_grid(
        points.positions[same, at], points.losses[:, same], loss_at_init=points.loss_at_init
    )
    assert grid is not None, "the best point is sound"
    return grid
