"""One HP's basin out of a surface of several: the slice through the joint optimum.

The slice holds the others at their optimum: that is the regret of a wrong value of this HP alone.
(With the others optimised anew it would be smaller, but nobody tunes them at the target.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.basin import Basin, Noise
from hptransfer.analysis.basins.curve import Curves, Floats
from hptransfer.analysis.basins.grid import Grid, build_grid
from hptransfer.analysis.surfaces.fit import Window
from hptransfer.analysis.surfaces.points import SurfacePoints

FLOOR = 1e-4  # share of a slice's posterior that is flat
LEAST_K = 1e-12
BINS = 7  # of a slice through scattered points
ON_FACE = 1e-9  # of a box's half

Flags = NDArray[np.bool_]


def slice_basin(grid: Grid, noise: Noise | None, curves: Curves, candidates: Floats) -> Basin:
    """Return an HP's basin from draws of the surface's slice through its minimum.

    k is log-normal with the draws' mean and variance: draws without any bend have no logarithm.

    Args:
        grid: the points as `slice_grid` returns them.
        curves: (draw,), of one skew.
        candidates: evenly spaced.
    """
    spacing = candidates[1] - candidates[0]
    place = np.clip((curves.optimum - candidates[0]) / spacing, 0.0, len(candidates) - 1.0)
    left = np.minimum(np.floor(place), len(candidates) - 2.0).astype(int)
    near = place - left  # a draw between two candidates counts for both
    density = np.bincount(left, 1.0 - near, len(candidates))
    density = (density + np.bincount(left + 1, near, len(candidates))) / len(place)
    smooth = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    density = np.convolve(density, smooth / smooth.sum(), mode="same")
    density = (density + FLOOR / len(density)) / (density.sum() + FLOOR)
    mean = max(float(curves.curvature.mean()), LEAST_K)
    log_variance = float(np.log1p(curves.curvature.var() / mean**2))
    flat = np.ones((1, len(candidates)))
    return Basin(
        grid=grid,
        noise=noise,
        candidates=candidates,
        skews=curves.skew[:1],
        log_prior=np.zeros(1),
        density=density[None, :],
        log_k=(np.log(mean) - log_variance / 2.0) * flat,
        log_k_sd=np.sqrt(log_variance) * flat,
        shape_mean=0.0 * flat,
        mean=float(np.median(curves.level)),
        level_sd=float(curves.level.std()),
    )


def of_one_skew(basin: Basin, skew: float) -> Basin:
    """Return a basin whose skews are summed over, so that it fits beside slices of surfaces."""
    weight = basin.posterior / np.maximum(basin.posterior.sum(axis=0), 1e-300)
    log_k = (weight * basin.log_k).sum(axis=0)[None, :]
    spread = (weight * (basin.log_k_sd**2 + (basin.log_k - log_k) ** 2)).sum(axis=0)[None, :]
    return replace(
        basin,
        skews=np.array([skew]),
        log_prior=np.zeros(1),
        density=basin.posterior.sum(axis=0)[None, :],
        log_k=log_k,
        log_k_sd=np.sqrt(spread),
        shape_mean=(weight * basin.shape_mean).sum(axis=0)[None, :],
    )


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
    failed = np.concatenate([np.full(len(levels), False), np.full(len(cliff), True)])
    losses = np.concatenate([losses, np.full((len(losses), len(cliff)), np.inf)], axis=1)
    return Grid(
        theta=np.concatenate([levels, cliff]),
        losses=losses,
        failed=failed,
        runs=np.ones_like(losses),
        run_sds=np.full_like(losses, np.nan),
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
