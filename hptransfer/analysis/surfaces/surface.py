"""Several HPs at once: one width's loss as a convex quadratic surface in log2 of all of them.

The optimum is the surface's minimum within the box of the fitted points; its joint interval comes
from parametric draws. An HP whose optimum is at the face of the sampled box is censored there, one
whose interval spans most of the window is flat: its optimum is not resolved, whatever the others'
are. Each HP's basin, as the laws and the verdict read it, is the slice through the optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.basin import FLAT_SPAN, INTERVAL, Basin, Censoring, fit_basin
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.grid import Grid
from hptransfer.analysis.basins.noise import Noise
from hptransfer.analysis.basins.rows import TrialArrays
from hptransfer.analysis.surfaces.fit import (
    Window,
    choose_window,
    draw_surfaces,
    is_shapeless,
    residual_noise,
)
from hptransfer.analysis.surfaces.points import SurfacePoints, seed_noise, varying, width_points
from hptransfer.analysis.surfaces.quadratic import Quadratics
from hptransfer.analysis.surfaces.slices import cut_grid, slice_curves, slice_grid
from hptransfer.system.random_streams import stream

# The sd of what the shape costs, as a share of how far the skew moved the optimum: what bends more
# than a cubic can follow, such as two parabolas that meet, is misplaced by about as much.
MODEL_ERROR = 1.0
CLEAR = 2.0  # sds of the optimum below which such a move may be noise
AT_FACE = 1e-6  # of a box's half: a minimum this near to a face is on it

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class SurfaceFit:
    """The fitted surface, and its draws in log2 of the HPs."""

    window: Window
    surfaces: Quadratics  # (draw,), scaled coordinates
    minima: Floats  # (draw, hp), scaled, without the model error
    theta_draws: Floats  # (draw, hp), model error included
    model_sd: Floats  # (hp,) octaves

    @property
    def optimum(self) -> Floats:
        """The surface's minimum in the box, log2, (hp,)."""
        return self.window.positions(self.window.surface.minima())[0]

    @property
    def hessian(self) -> Floats:
        """Second derivatives at the optimum per octave², shape (hp, hp)."""
        surface = self.window.surface
        return surface.bends(surface.minima())[0] / np.outer(self.window.half, self.window.half)

    @property
    def hessian_draws(self) -> Floats:
        """Second derivatives at each draw's optimum, shape (draw, hp, hp)."""
        return self.surfaces.bends(self.minima) / np.outer(self.window.half, self.window.half)

    @property
    def interval(self) -> tuple[Floats, Floats]:
        """The 5 % and 95 % quantiles per HP."""
        low, high = np.quantile(self.theta_draws, INTERVAL, axis=0)
        return low, high

    @property
    def skew(self) -> Floats:
        """Third derivatives per octave³, shape (hp,)."""
        return self.window.surface.skew[0] / self.window.half**3

    def loss_at(self, positions: Floats) -> Floats:
        """Return the surface's loss at positions (point, hp) in log2, shape (point,)."""
        return self.window.surface.loss(self.window.scaled(positions))[0]


@dataclass(frozen=True)
class Surface:
    """One width's answer for all HPs together, in the order of `hps`."""

    points: SurfacePoints
    basins: tuple[Basin, ...]  # the slices through the optimum, draws aligned over HPs
    fit: SurfaceFit | None  # None for too few points: the basins are then cut out at the best one

    @property
    def hps(self) -> tuple[str, ...]:
        """The HPs' names."""
        return self.points.hps

    def basin(self, hp: str) -> Basin:
        """Return one HP's basin."""
        return self.basins[self.hps.index(hp)]


@dataclass(frozen=True)
class ArmSurfaces:
    """An arm's surfaces over width, ascending."""

    hps: tuple[str, ...]
    surfaces: dict[int, Surface]
    noise: Noise | None
    lost: list[int]  # widths without a sound point

    def basins(self, hp: str) -> dict[int, Basin]:
        """Return one HP's basin at every width."""
        return {width: surface.basin(hp) for width, surface in self.surfaces.items()}


def arm_surfaces(rows: TrialArrays, *names: object, draws: int = 2000) -> ArmSurfaces:
    """Fit every width of one arm's rows over all HPs that vary; `names` name its random streams."""
    hps = varying(rows)
    every = width_points(rows, hps)
    sound = {width: points for width, points in every.items() if points is not None}
    noise = seed_noise(sound.values(), rng=stream(*names, "surface noise"), draws=draws)
    surfaces = {
        width: fit_surface(points, noise, rng=stream(*names, "surface", width), draws=draws)
        for width, points in sound.items()
    }
    if noise is None:
        found = [surface.fit.window for surface in surfaces.values() if surface.fit is not None]
        noise = residual_noise(found, rng=stream(*names, "surface residuals"), draws=draws)
    return ArmSurfaces(hps, surfaces, noise, [w for w, points in every.items() if points is None])


def fit_surface(
    points: SurfacePoints, noise: Noise | None, *, rng: np.random.Generator, draws: int = 2000
) -> Surface:
    """Locate the joint optimum; with too few points, each HP's at the best point of the others."""
    window = choose_window(points, noise)
    if window is None:
        cuts = [cut_grid(points, at) for at in range(len(points.hps))]
        basins = [fit_basin(cut, noise, rng=rng, draws=draws) for cut in cuts]
        return Surface(points, tuple(basins), None)
    surfaces = draw_surfaces(points, window, noise, rng=rng, draws=draws)
    minima = surfaces.minima()
    model_sd = MODEL_ERROR * _moved_by_skew(window, minima)
    theta_draws = window.positions(minima) + model_sd * rng.standard_normal(minima.shape)
    optimum = window.positions(window.surface.minima())[0]
    grids = [slice_grid(points, window, optimum, at) for at in range(len(optimum))]
    censored = _censoring(points, window, minima, grids)
    for at, (why, grid) in enumerate(zip(censored, grids, strict=True)):
        if why is Censoring.divergence and grid.cliff is not None:
            theta_draws[:, at] = rng.uniform(grid.theta[grid.sound[-2]], grid.cliff, draws)
    fit = SurfaceFit(window, surfaces, minima, theta_draws, model_sd)
    edges = _edge_shares(points, window, minima, grids)
    basins = [
        _basin(fit, grid, why, at=at, edges=edges[at])
        for at, (grid, why) in enumerate(zip(grids, censored, strict=True))
    ]
    return Surface(points, tuple(basins), fit)


def _basin(
    fit: SurfaceFit, grid: Grid, why: Censoring | None, *, at: int, edges: tuple[float, float]
) -> Basin:
    """Return one HP's slice; a censored one has draws only where the cliff brackets it."""
    surface, half = fit.window.surface, fit.window.half[at]
    bare = Basin(
        grid=grid,
        window=grid.window,
        optimum=float(fit.optimum[at]),
        loss=float(surface.loss_of_each(surface.minima())[0]),
        censored=why,
        model_sd=float(fit.model_sd[at]),
        edge_low=edges[0],
        edge_high=edges[1],
    )
    if why not in (None, Censoring.divergence):
        return bare
    low, high = fit.interval
    drawn = replace(
        bare, theta_draws=fit.theta_draws[:, at], low=float(low[at]), high=float(high[at])
    )
    if why is Censoring.divergence:
        return drawn
    level = np.array([bare.loss])
    return replace(
        drawn,
        curve=slice_curves(fit.optimum[[at]], level, fit.hessian[[at], at], fit.skew[[at]]),
        curve_draws=slice_curves(
            fit.window.centre[at] + half * fit.minima[:, at],
            fit.surfaces.loss_of_each(fit.minima),
            fit.hessian_draws[:, at, at],
            fit.surfaces.skew[:, at] / half**3,
        ),
        fit_sd=float(half * fit.minima[:, at].std()),
    )


def _moved_by_skew(window: Window, minima: Floats) -> Floats:
    """Return how many octaves the skew moved each optimum, less what noise may move it, (hp,)."""
    fitted = window.surface.loss(window.basis.z)
    plain = window.unskewed.fit(window.unskewed.observed(fitted)).minima()
    moved = (window.surface.minima() - plain)[0]
    return window.half * np.sqrt(np.maximum(moved**2 - CLEAR**2 * minima.var(axis=0), 0.0))


def _censoring(
    points: SurfacePoints, window: Window, minima: Floats, grids: Sequence[Grid]
) -> list[Censoring | None]:
    """Say per HP what keeps its optimum from being resolved, or None."""
    low, high = _open_faces(points, window)
    minimum = window.surface.minima()[0]
    spans = np.diff(np.quantile(minima, INTERVAL, axis=0), axis=0)[0]
    if is_shapeless(points, window):
        return [Censoring.flat] * len(minimum)

    def why(at: int) -> Censoring | None:
        if spans[at] > 2.0 * FLAT_SPAN:  # the box is two wide
            return Censoring.flat
        if low[at] and minimum[at] <= -1.0 + AT_FACE:
            return Censoring.grid_low
        if high[at] and minimum[at] >= 1.0 - AT_FACE:
            walled = grids[at].cliff is not None and len(grids[at].sound) > 1
            return Censoring.divergence if walled else Censoring.grid_high
        return None

    return [why(at) for at in range(len(minimum))]


def _edge_shares(
    points: SurfacePoints, window: Window, minima: Floats, grids: Sequence[Grid]
) -> list[tuple[float, float]]:
    """Return per HP the share of draws on each face of the sampled box; a cliff is no edge."""
    low, high = _open_faces(points, window)
    walled = np.array([grid.cliff is not None for grid in grids])
    below = np.where(low, (minima <= -1.0 + AT_FACE).mean(axis=0), 0.0)
    above = np.where(high & ~walled, (minima >= 1.0 - AT_FACE).mean(axis=0), 0.0)
    return [(float(a), float(b)) for a, b in zip(below, above, strict=True)]


def _open_faces(points: SurfacePoints, window: Window) -> tuple[Flags, Flags]:
    """Say per HP whether no sound point lies below, and above, the window."""
    sound = window.scaled(points.positions[~points.failed])
    return (
        np.asarray(sound.min(axis=0) >= -1.0 - AT_FACE),
        np.asarray(sound.max(axis=0) <= 1.0 + AT_FACE),
    )
