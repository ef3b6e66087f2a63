"""Several HPs at once: one setting's loss as a convex quadratic surface in log2 of all of them.

The optimum is the surface's minimum within the box of the fitted points; its joint interval comes
from parametric draws. Each HP's basin, as the law and the verdict read it, is the slice through the
optimum; a minimum on a face of the sampled box may lie anywhere beyond that face.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hptransfer.analysis.answer.settings import Setting
from hptransfer.analysis.basins.basin import INTERVAL, Basin, candidate_minima, fit_basins
from hptransfer.analysis.basins.curve import Curves, Floats
from hptransfer.analysis.basins.grid import Grid
from hptransfer.analysis.basins.noise import Noise
from hptransfer.analysis.basins.rows import TrialArrays
from hptransfer.analysis.surfaces.crests import find_crests, minima_at
from hptransfer.analysis.surfaces.fit import (
    Window,
    choose_window,
    draw_surfaces,
    is_shapeless,
    residual_noise,
)
from hptransfer.analysis.surfaces.points import SurfacePoints, seed_noise, setting_points, varying
from hptransfer.analysis.surfaces.quadratic import Quadratics
from hptransfer.analysis.surfaces.slices import (
    Flags,
    cut_grid,
    of_one_skew,
    slice_basin,
    slice_grid,
)
from hptransfer.system.random_streams import stream

# The sd of what the shape costs, as a share of how far the skew moved the optimum: what bends more
# than a cubic can follow, such as two parabolas that meet, is misplaced by about as much.
MODEL_ERROR = 1.0
CLEAR = 2.0  # sds of the optimum below which such a move may be noise
AT_FACE = 1e-6  # of a box's half: a minimum this near to a face is on it
STEEPEST_SKEW = 1.0  # per octave, of a slice


@dataclass(frozen=True)
class SurfaceFit:
    """The fitted surface, and its draws in log2 of the HPs."""

    window: Window
    surfaces: Quadratics  # (draw,), scaled coordinates
    lowest: Floats  # (1, hp) the fitted surface's minimum, scaled
    minima: Floats  # (draw, hp), scaled, without the model error
    model_sd: Floats  # (hp,) octaves
    errors: Floats  # (draw, hp) of the model, in its sds
    free: Floats  # (draw, hp) minima anywhere on a crest; else the same as `minima`
    crests: Floats  # (hp, crest) directions along which HPs trade and the place was chosen

    @property
    def theta_draws(self) -> Floats:
        """Draws of the optimum with the model's error, log2, (draw, hp)."""
        return self.window.positions(self.minima) + self.model_sd * self.errors

    @property
    def optimum(self) -> Floats:
        """The surface's minimum in the box, log2, (hp,)."""
        return self.window.positions(self.lowest)[0]

    @property
    def hessian(self) -> Floats:
        """Second derivatives at the optimum per octave², shape (hp, hp)."""
        bends = self.window.surface.bends(self.lowest)[0]
        return bends / np.outer(self.window.half, self.window.half)

    def at_middle(self, crests: Floats, middle: Floats) -> SurfaceFit:
        """Return the fit with its optimum beside the middle of the crests (`crests.py`)."""
        minima, lowest, plain = (
            minima_at(self.window, surfaces, crests, middle)
            for surfaces in (self.surfaces, self.window.surface, _without_skew(self.window))
        )
        model_sd = _model_sd(self.window, lowest - plain, minima)
        return replace(self, lowest=lowest, minima=minima, model_sd=model_sd, crests=crests)

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
    """One setting's answer for all HPs together, in the order of `hps`."""

    points: SurfacePoints
    grids: tuple[Grid, ...]  # per HP: the slice through the optimum
    fit: SurfaceFit | None  # None for too few points: slices are then cut out at the best one

    @property
    def hps(self) -> tuple[str, ...]:
        """The HPs' names."""
        return self.points.hps


@dataclass(frozen=True)
class ArmSurfaces:
    """An arm's surfaces by setting, along its main axis."""

    hps: tuple[str, ...]
    surfaces: Mapping[Setting, Surface]
    noise: Noise | None

    def basins(self, hp: str) -> dict[Setting, Basin]:
        """Return one HP's basin at every setting."""
        at = self.hps.index(hp)
        grids = {setting: surface.grids[at] for setting, surface in self.surfaces.items()}
        candidates = candidate_minima(list(grids.values()))
        skew = self._skew(at)
        cut = {s: grids[s] for s, surface in self.surfaces.items() if surface.fit is None}
        alone = fit_basins(cut, self.noise, candidates)
        return {
            setting: of_one_skew(alone[setting], skew)
            if surface.fit is None
            else self._slice(surface, surface.fit, at, skew, candidates)
            for setting, surface in self.surfaces.items()
        }

    def _skew(self, at: int) -> float:
        """Return the skew that all settings' slices share: third over second derivative.

        It is the least-squares ratio over the draws, which is small where both are noise.
        """
        fits = [each.fit for each in self.surfaces.values() if each.fit is not None]
        if not fits:
            return 0.0
        second = np.concatenate([fit.hessian_draws[:, at, at] for fit in fits])
        third = np.concatenate([f.surfaces.skew[:, at] / f.window.half[at] ** 3 for f in fits])
        ratio = second @ third / max(float(second @ second), 1e-300)
        return float(np.clip(ratio, -STEEPEST_SKEW, STEEPEST_SKEW))

    def _slice(
        self, surface: Surface, fit: SurfaceFit, at: int, skew: float, candidates: Floats
    ) -> Basin:
        low, high = _open_faces(surface.points, fit.window)
        grid, draws = surface.grids[at], fit.theta_draws[:, at]
        ends = candidates[0], candidates[-1] if grid.cliff is None else grid.cliff
        if self.noise is not None and is_shapeless(surface.points, fit.window, self.noise):
            centre, half = fit.window.centre[at], fit.window.half[at]
            start = ends[0] if low[at] else centre - half
            draws = np.linspace(start, ends[1] if high[at] else centre + half, len(draws))
        else:
            draws = draws.copy()
            for is_open, side, end in zip((low[at], high[at]), (-1.0, 1.0), ends, strict=True):
                beyond = is_open & (side * fit.minima[:, at] >= 1.0 - AT_FACE)
                share = (np.arange(beyond.sum()) + 0.5) / max(int(beyond.sum()), 1)
                draws[beyond] += share * (end - draws[beyond])
        curves = Curves(
            optimum=draws,
            level=fit.surfaces.loss_of_each(fit.minima),
            curvature=fit.hessian_draws[:, at, at] / 2.0,
            skew=np.full(len(draws), skew),
        )
        return slice_basin(grid, self.noise, curves, candidates)


def arm_surfaces(
    rows: Mapping[Setting, TrialArrays], *names: object, draws: int = 2000
) -> ArmSurfaces:
    """Fit every setting's rows over all HPs that vary; `names` name the random streams."""
    hps = tuple(dict.fromkeys(hp for members in rows.values() for hp in varying(members)))
    points = setting_points(rows, hps)
    noise = points_noise(points.values())
    surfaces = {
        setting: fit_surface(found, noise, rng=stream(*names, "surface", setting), draws=draws)
        for setting, found in points.items()
    }
    return ArmSurfaces(hps, _on_common_crests(surfaces), noise)


def _on_common_crests(surfaces: Mapping[Setting, Surface]) -> dict[Setting, Surface]:
    """Return the surfaces with their optima at the same place of the crests that they share."""
    fits = [each.fit for each in surfaces.values() if each.fit is not None]
    if not fits:
        return dict(surfaces)
    bends = [fit.hessian_draws for fit in fits]
    crests = find_crests([fit.window for fit in fits], [fit.minima for fit in fits], bends)
    if not crests.shape[1]:
        return dict(surfaces)
    middle = np.mean([fit.window.centre for fit in fits], axis=0)
    found: dict[Setting, Surface] = {}
    for setting, surface in surfaces.items():
        fit = surface.fit and surface.fit.at_middle(crests, middle)
        found[setting] = surface if fit is None else _sliced(surface.points, fit)
    return found


def points_noise(every: Iterable[SurfacePoints]) -> Noise | None:
    """Return the noise of a run by its seeds; of single seeds by what surfaces leave unexplained.

    None where nothing tells it.
    """
    every = list(every)
    return seed_noise(every) or residual_noise(every)


def fit_surface(
    points: SurfacePoints, noise: Noise | None, *, rng: np.random.Generator, draws: int = 2000
) -> Surface:
    """Locate the joint optimum; with too few points, slices are cut out at the best one."""
    window = choose_window(points, noise)
    if window is None:
        return Surface(points, tuple(cut_grid(points, at) for at in range(len(points.hps))), None)
    surfaces = draw_surfaces(points, window, noise, rng=rng, draws=draws)
    minima = surfaces.minima()
    lowest, none = window.surface.minima(), np.zeros((minima.shape[1], 0))
    model_sd = _model_sd(window, lowest - _without_skew(window).minima(), minima)
    errors = rng.standard_normal(minima.shape)
    fit = SurfaceFit(window, surfaces, lowest, minima, model_sd, errors, free=minima, crests=none)
    return _sliced(points, fit)


def _sliced(points: SurfacePoints, fit: SurfaceFit) -> Surface:
    hps = range(len(points.hps))
    grids = tuple(slice_grid(points, fit.window, fit.optimum, at) for at in hps)
    return Surface(points, grids, fit)


def _without_skew(window: Window) -> Quadratics:
    """Return the quadratic that is nearest to the fitted surface at the points."""
    fitted = window.surface.loss(window.basis.z)
    return window.unskewed.fit(window.unskewed.observed(fitted))


def _model_sd(window: Window, moved: Floats, minima: Floats) -> Floats:
    """Return the sd of the model's error, (hp,) octaves.

    Args:
        moved: how far the skew moved the optimum, scaled, (1, hp).
        minima: draws of it, (draw, hp): by so much noise may move it.
    """
    beyond = moved[0] ** 2 - CLEAR**2 * minima.var(axis=0)
    return MODEL_ERROR * window.half * np.sqrt(np.maximum(beyond, 0.0))


def _open_faces(points: SurfacePoints, window: Window) -> tuple[Flags, Flags]:
    """Say per HP whether no sound point lies below, and above, the window."""
    sound = window.scaled(points.positions[~points.failed])
    return (
        np.asarray(sound.min(axis=0) >= -1.0 - AT_FACE),
        np.asarray(sound.max(axis=0) <= 1.0 + AT_FACE),
    )
