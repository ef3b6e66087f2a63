"""One arm and one hyperparameter, fitted: a basin per setting, and the law over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from hptransfer.analysis.answer.settings import Layout, Setting, lay_out
from hptransfer.analysis.answer.switched_off import off_notes, without_off
from hptransfer.analysis.basins.basin import Basin, fit_basins
from hptransfer.analysis.basins.corner import Corners, find_corners
from hptransfer.analysis.basins.curve import Curves, Floats
from hptransfer.analysis.basins.noise import Noise, pool_noise
from hptransfer.analysis.basins.numbers import quantile
from hptransfer.analysis.basins.rows import Arm, hp_grid
from hptransfer.analysis.basins.scale import Scale, scaled_rows
from hptransfer.analysis.laws.hierarchy import Law, fit_law
from hptransfer.analysis.laws.loss_law import LossLaw, fit_loss_law
from hptransfer.analysis.surfaces.points import varying
from hptransfer.analysis.surfaces.record import surface_notes
from hptransfer.analysis.surfaces.surface import ArmSurfaces, arm_surfaces
from hptransfer.config.hyperparameters import hp_value
from hptransfer.config.sweep import VerdictConfig
from hptransfer.system.random_streams import stream

K_SLOPE_SD = 0.15  # prior sd of log k per doubling of an axis
K_SCATTER = 0.2  # sd of log k between settings beyond what their basins leave open
PRICED_BY = 3  # last settings along the main axis that price a rise of the loss
LEAST_COMPUTE = 0.1  # doublings below which the rows' FLOPs do not grow along the axis
CLIFF_SHARE = 0.1  # quantile of the cliff's movement below which the value stays
WIDTH_COMPUTE = 2.0  # doublings of compute for one of the width, where rows say no FLOPs


@dataclass(frozen=True)
class Request:
    """What is asked of every arm of a sweep."""

    target_width: int | None
    rule: VerdictConfig
    draws: int
    at: Mapping[str, float | None] | None  # condition of the answer; None: by the rows
    target_at: Mapping[str, float | None] | None  # the target's depth, batch size and steps


@dataclass(frozen=True)
class FittedArm:
    """The fits of one arm and one hyperparameter. Draws are the same at every access."""

    arm: Arm  # losses on the scale
    hp: str
    scale: Scale
    layout: Layout
    basins: Mapping[Setting, Basin]  # settings where every point failed are absent
    noise: Noise | None
    request: Request
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = field(default=(), repr=False)  # of the random streams

    @property
    def unit(self) -> float:
        """The unit of the HP's axis (`basins/units.py`): 1 where that is in octaves."""
        return self.arm.rows.units.get(self.hp, 1.0)

    def value(self, point: float) -> float:
        """Return the HP's own value at a point of the axis."""
        return hp_value(self.hp, self.unit * point)

    @property
    def on_main(self) -> tuple[Setting, ...]:
        """The settings with a basin along the main axis, ascending."""
        return tuple(setting for setting in self.layout.on_main if setting in self.basins)

    @property
    def lost(self) -> list[Setting]:
        """The settings at which every point failed."""
        return [setting for setting in self.layout.settings if setting not in self.basins]

    @cached_property
    def law(self) -> Law:
        """The law of the optimum over all settings."""
        return fit_law(self.layout.log2(list(self.basins)), list(self.basins.values()))

    @property
    def has_target(self) -> bool:
        """Whether a target is named on the main axis."""
        main = self.layout.main
        if main == "width":
            return self.request.target_width is not None
        asked = (self.request.target_at or {}).get(main)
        return asked is not None and asked not in [s.value(main) for s in self.layout.settings]

    @cached_property
    def destination(self) -> Floats:
        """Log2 of the axes where the answer holds: the target, else the last main setting."""
        if self.has_target:
            return self.layout.place(self.request.target_width, self.request.target_at or {})
        return self.layout.log2([self.on_main[-1]])[0]

    @property
    def origin(self) -> Setting:
        """The setting whose value would be kept if movement were ignored.

        It is the last on the main axis on the way to a target; without one, the first.
        """
        return self.on_main[-1] if self.has_target else self.on_main[0]

    @cached_property
    def _drawn(self) -> tuple[Floats, Floats]:
        rng = stream(*self.names, "law")
        optima, skew = self.law.draws(self.destination[None, :], rng, self.request.draws)
        first = next(iter(self.basins.values()))
        return optima, first.skews[skew]

    def optimum_draws(self, setting: Setting) -> Floats:
        """Return the optimum of a setting by its own basin and all others', (draw,)."""
        return self._drawn[0][:, list(self.basins).index(setting)]

    @property
    def destination_draws(self) -> Floats:
        """The optimum at the destination, (draw,)."""
        return self._drawn[0][:, -1]

    @cached_property
    def slopes(self) -> dict[str, Floats]:
        """How fast the settings' optima move along each axis, octaves per doubling, (draw,).

        The least-squares plane through each draw's optima; empty where nothing varies.
        """
        axes = self.layout.log2(list(self.basins))
        moved = [i for i in range(axes.shape[1]) if np.ptp(axes[:, i]) > 0]
        if not moved:
            return {}
        centred = axes[:, moved] - axes[:, moved].mean(axis=0)
        slopes = self._drawn[0][:, :-1] @ np.linalg.pinv(centred).T
        return {self.layout.axes[i]: slopes[:, n] for n, i in enumerate(moved)}

    @property
    def movement(self) -> Floats:
        """How far the optimum moves from the origin to the destination, octaves, (draw,)."""
        return self.destination_draws - self.optimum_draws(self.origin)

    @cached_property
    def basin_draws(self) -> dict[Setting, Curves]:
        """Each basin's own curves, (draw,)."""
        return {
            setting: basin.draws(stream(*self.names, "basin", setting), self.request.draws)
            for setting, basin in self.basins.items()
        }

    @cached_property
    def at_destination(self) -> Curves:
        """The basin at the destination: optimum, k and skew by the laws; level by `loss_there`."""
        optima, skew = self._drawn
        axes = self.layout.log2(list(self.basins))
        curvatures = np.array([curves.curvature for curves in self.basin_draws.values()])
        log_k = np.log(np.maximum(curvatures, 1e-300)).T
        rng = stream(*self.names, "curvature")
        k = np.exp(_carried(axes, log_k, self.destination, rng))
        level = np.log(self.loss_there) if self.scale.is_log else self.loss_there
        return Curves(optima[:, -1], level, k, skew)

    @cached_property
    def priced_at_destination(self) -> Curves:
        """The basin that says what a value costs: it has a corner in as many draws as is likely."""
        there = self.at_destination
        if self.corners is None:
            return there
        rng = stream(*self.names, "corner")
        count = len(there.optimum)
        has_corner = rng.uniform(size=count) < self.corners.probability
        sides = self.corners.log_sides
        spread = np.hypot(sides.std(axis=0), K_SCATTER)
        drawn = np.exp(sides.mean(axis=0) + spread * rng.standard_normal((count, 2)))
        below, above = np.where(has_corner[:, None], drawn, 0.0).T
        curvature = np.where(has_corner, 0.0, there.curvature)
        return replace(there, curvature=curvature, below=below, above=above)

    @cached_property
    def corners(self) -> Corners | None:
        """Whether the basins have a corner, which makes small errors cost more."""
        return find_corners([basin.grid for basin in self.basins.values()], self.noise)

    @property
    def cliff(self) -> float:
        """Octaves from the optimum to the nearest cliff of any setting; infinite without one."""
        distances = [basin.cliff_distance for basin in self.basins.values()]
        return min((d for d in distances if d is not None), default=np.inf)

    @cached_property
    def highest_for_destination(self) -> float:
        """The highest value that is taken for the destination; infinite without a cliff.

        The last main setting's highest value, moved by the law: by the CLIFF_SHARE quantile of
        that movement.
        """
        last = self.on_main[-1]
        moved = self.destination_draws - self.optimum_draws(last)
        return self.highest_at(last) + quantile(moved, CLIFF_SHARE)

    def highest_at(self, setting: Setting) -> float:
        """The highest value that is taken for a setting, halfway to its first failed point."""
        grid = self.basins[setting].grid
        if grid.cliff is None:
            return np.inf
        return (float(grid.theta[grid.sound[-1]]) + grid.cliff) / 2.0

    @cached_property
    def worst_rise(self) -> float:
        """The rise of y from the best to the worst run, beyond which no cost is extrapolated."""
        seen = self.arm.rows.loss[np.isfinite(self.arm.rows.loss)]
        return float(np.ptp(seen)) if len(seen) else np.inf

    @cached_property
    def levels(self) -> Floats:
        """The loss at the optimum along the main axis, (draw, setting)."""
        drawn = [self.basin_draws[setting].level for setting in self.on_main]
        return self.scale.loss(np.stack(drawn, axis=1))

    @cached_property
    def loss_law(self) -> LossLaw | None:
        """The law of the loss along the main axis; None where nothing is known of the noise."""
        if self.noise is None:
            return None
        axis = self.layout.log2(self.on_main)[:, 0]
        return fit_loss_law(axis, self.levels, stream(*self.names, "loss"))

    @cached_property
    def price_law(self) -> LossLaw | None:
        """The law of the loss over the last settings, whose slope there prices a rise of the loss.

        A law of all settings bends to follow the narrow ones, where the loss falls fastest.
        """
        if self.noise is None:
            return None
        last = self.on_main[-PRICED_BY:]
        axis = self.layout.log2(last)[:, 0]
        return fit_loss_law(axis, self.levels[:, -len(last) :], stream(*self.names, "price"))

    @property
    def loss_there(self) -> Floats:
        """The loss at the destination's optimum, or the last main setting's without a law."""
        last = self.levels[:, -1]
        if not self.has_target or self.loss_law is None or len(self.on_main) < 3:
            return last
        loss = self.loss_law.loss(self.destination[0])
        return np.maximum(loss, 0.01 * last) if self.scale.is_log else loss

    @cached_property
    def compute_doublings(self) -> float:
        """Doublings of compute for one of the main axis, by the rows' FLOPs where they say them."""
        axis = self.layout.log2(self.on_main)[:, 0]
        rows = [self.layout.rows_of(self.arm.rows, setting) for setting in self.on_main]
        flops = np.array([np.median(r.flops) for r in rows])
        if len(axis) > 1 and np.isfinite(flops).all() and (flops > 0).all():
            doublings = float(np.polyfit(axis, np.log2(flops), 1)[0])
            if doublings > LEAST_COMPUTE:
                return doublings
        return WIDTH_COMPUTE if self.layout.main == "width" else 1.0


def _carried(axes: Floats, log_k: Floats, place: Floats, rng: np.random.Generator) -> Floats:
    """Return log k at a place, (draw,): regression on the axes with a prior on its slopes.

    Args:
        axes: (setting, axis).
        log_k: (draw, setting).
    """
    centre = axes.mean(axis=0)
    design = np.column_stack([np.ones(len(axes)), axes - centre])
    variance = log_k.var(axis=0) + K_SCATTER**2
    prior = np.diag([1e-6, *np.full(axes.shape[1], K_SLOPE_SD**-2)])
    covariance = np.linalg.inv(design.T @ (design / variance[:, None]) + prior)
    mean = covariance @ design.T @ (log_k.mean(axis=0) / variance)
    there = np.concatenate([[1.0], place - centre])
    sd = np.sqrt(there @ covariance @ there + K_SCATTER**2)
    return there @ mean + sd * rng.standard_normal(len(log_k))


def fit_arm(arm: Arm, request: Request) -> tuple[list[FittedArm], ArmSurfaces | None]:
    """Return an arm's fits for every hyperparameter that varies, and the surface of several.

    Notes on the surface stand with its first hyperparameter, as do those on one that is off in
    some rows and varies no further.
    """
    scale, every = scaled_rows(arm.rows)
    rows = without_off(every)
    arm = replace(arm, rows=rows)
    layout = lay_out(rows, request.at)
    hps = varying(rows) or tuple(rows.hps)[:1]
    found: ArmSurfaces | None = None
    if len(hps) == 1:
        grids = {s: hp_grid(layout.rows_of(rows, s), hps[0]) for s in layout.settings}
        known = {setting: grid for setting, grid in grids.items() if grid is not None}
        noise = pool_noise(known.values(), least=scale.rounding)
        fits = [_fitted(arm, hps[0], scale, layout, fit_basins(known, noise), noise, request)]
    else:
        there = {s: layout.rows_of(rows, s) for s in layout.on_main}
        found = arm_surfaces(there, arm.family, arm.parametrization, draws=request.draws)
        noise = found.noise
        main = replace(layout, settings=layout.on_main, axes=layout.axes[:1])
        fits = [_fitted(arm, hp, scale, main, found.basins(hp), noise, request) for hp in hps]
        notes = surface_notes(found, [fit.unit for fit in fits], layout.main)
        fits[0] = replace(fits[0], notes=tuple(notes))
    for hp, notes in off_notes(every, layout, scale, noise).items():
        at = hps.index(hp) if hp in hps else 0
        fits[at] = replace(fits[at], notes=(*fits[at].notes, *notes))
    return fits, found


def _fitted(
    arm: Arm,
    hp: str,
    scale: Scale,
    layout: Layout,
    basins: Mapping[Setting, Basin],
    noise: Noise | None,
    request: Request,
) -> FittedArm:
    names = (arm.family, arm.parametrization, hp)
    return FittedArm(arm, hp, scale, layout, basins, noise, request, names=names)
