"""Adaptive refinement of one axis: coarse first, then where the target's optimum gains most.

Bracketing. The narrowest width of an arm is tried over the whole axis at every second grid point.
A wider width starts with three grid points around the optimum that the narrower widths predict.
Points are then added in whole grid steps, until the width's minimum lies between two points that
are worse, or at an end of the axis.

Refinement. All other points lie on a grid of half the step. Each is put where it lowers the
predicted variance of the target's optimum most. That prediction takes the variance of a width's
optimum under its fitted curve, with the points that the width would then have (delta method, plus
the model error of such a grid), and carries it to the target by the constant and the linear law.
It needs no loss of the new points, so the points of a round are chosen one after another. A point
that would not lower the variance is not asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hptransfer.analysis.basins.basin import (
    FLAT_RANGE,
    FLAT_SPAN,
    MODEL_ERROR_STEPS,
    Grid,
    build_grid,
    pool_noise,
)
from hptransfer.analysis.basins.curve import Curves, Floats, fit_curves
from hptransfer.analysis.laws.law import LawName, regressors
from hptransfer.config.sweep import Axis, SweepConfig
from hptransfer.sweeping.design.rounds import ArmAndWidth, History, Point, TriedPoint
from hptransfer.sweeping.design.trials import DECIMALS
from hptransfer.system.random_streams import stream

COARSE = 2  # grid steps between the first points of the narrowest width
FINEST = 0.5  # grid steps: the least distance of two points
REACH = 2  # grid steps from the minimum within which points may be added
NOISE_SHARE = 0.002  # sd of a loss as a share of the loss, where no seeds measure it
# Standard deviation of a curve's two amplitudes about their mean, as a share of that mean.
AMPLITUDE_SD = 0.5
# Power of the width by which a point's gain is divided. A trial of twice the width costs about four
# times as much, but with power 2 the widest widths, on which the target depends most, would be left
# without points.
COST_POWER = 1.0
SAME = 1e-6  # octaves below which two points are the same
NINETY = 3.29  # standard deviations that a 90 % interval spans
FLAT_SD = 2.0  # octaves: error of an optimum on a window in which the fit would find no minimum


@dataclass(frozen=True)
class TriedWidth:
    """The tried points of one arm at one width, as a grid for the fit."""

    place: ArmAndWidth
    theta: Floats  # (point,), ascending
    grid: Grid | None  # None where no point is sound

    @property
    def best(self) -> float:
        """The sound point of lowest mean loss."""
        assert self.grid is not None, "a place without a sound point has no best one"
        return float(self.grid.theta[self.grid.minimum])


def propose(sweep: SweepConfig, history: History) -> Mapping[ArmAndWidth, Sequence[Point]]:
    """Return the next round's points: those that bracket minima, later those of the refinement."""
    ((name, axis),) = sweep.search
    known = [_known(place, rounds) for place, rounds in history.items()]
    left = sweep.design.total * len(known) - sum(len(k.theta) for k in known)
    chosen: Sequence[tuple[ArmAndWidth, float]] = [*dict.fromkeys(_bracketing(known, axis))]
    if not chosen:
        count = max(min(left, sweep.design.batch * len(known)), 0)
        chosen = list(itertools.islice(_refining(sweep, known, axis), count))
    by_place: dict[ArmAndWidth, list[Point]] = {}
    for place, theta in chosen[: max(left, 0)]:
        by_place.setdefault(place, []).append({f"log2_{name}": round(theta, DECIMALS)})
    return by_place


def _known(place: ArmAndWidth, rounds: Sequence[Sequence[TriedPoint]]) -> TriedWidth:
    points = sorted((p for points in rounds for p in points), key=lambda p: p.point)
    if not points:
        return TriedWidth(place, np.empty(0), None)
    theta = np.array([p.point[0][1] for p in points])
    losses = np.array([p.losses for p in points]).T
    start = float(np.median([p.loss_at_init for p in points]))
    return TriedWidth(place, theta, build_grid(theta, losses, loss_at_init=start))


def _arms(known: Sequence[TriedWidth]) -> list[list[TriedWidth]]:
    """Return each arm's widths, narrow ones first; the shared base width belongs to every arm."""
    own = dict.fromkeys(k.place.arm for k in known if k.place.arm != "shared")
    arms = [[k for k in known if k.place.arm in (arm, "shared")] for arm in own] or [list(known)]
    return [sorted(arm, key=lambda k: k.place.width) for arm in arms]


def _bracketing(known: Sequence[TriedWidth], axis: Axis) -> Iterator[tuple[ArmAndWidth, float]]:
    """Yield the points that bracket the minimum of each arm's narrowest width without a bracket."""
    for arm in _arms(known):
        for index, k in enumerate(arm):
            points = _following(k, axis) if len(k.theta) else _starting(k, arm[:index], axis)
            yield from ((k.place, theta) for theta in points)
            if points:
                break


def _starting(k: TriedWidth, narrower: Sequence[TriedWidth], axis: Axis) -> list[float]:
    """Return a width's first points: a coarse grid, or around the optimum of narrower widths."""
    found = [known for known in narrower if known.grid is not None]
    if not found:
        return list(axis.points[::COARSE])
    optima = [_curve(known).optimum[0] for known in found]
    predicted = optima[-1]
    if len(found) > 1:
        before, last = (np.log2(known.place.width) for known in found[-2:])
        slope = (optima[-1] - optima[-2]) / (last - before)
        predicted += slope * (np.log2(k.place.width) - last)
    at = int(np.argmin(np.abs(np.array(axis.points) - predicted)))
    at = min(max(at, 1), len(axis.points) - 2)
    return list(axis.points[max(at - 1, 0) : at + 2])


def _following(k: TriedWidth, axis: Axis) -> list[float]:
    """Return the point that a width lacks beside its minimum; none if nothing is lacking."""
    low, high = k.theta[0] - axis.step, k.theta[-1] + axis.step
    if k.grid is None:
        return [low] if low >= axis.low - SAME else []
    if k.best == k.theta[0] and low >= axis.low - SAME:
        return [float(low)]
    if k.best == k.theta[-1] and high <= axis.high + SAME:
        return [float(high)]
    top = k.grid.minimum == k.grid.sound[-1]
    if top and k.grid.cliff is not None and k.grid.cliff - k.best > FINEST * axis.step + SAME:
        halves = (k.grid.cliff - k.best) / (FINEST * axis.step)
        return [k.best + FINEST * axis.step * max(1, int(halves / 2 + SAME))]
    return []


def _is_bracketed(k: TriedWidth) -> bool:
    """Whether sound points that are worse lie on both sides of a width's minimum."""
    grid = k.grid
    return grid is not None and bool(grid.sound[0] < grid.minimum < grid.sound[-1])


def _refining(
    sweep: SweepConfig, known: Sequence[TriedWidth], axis: Axis
) -> Iterator[tuple[ArmAndWidth, float]]:
    """Yield points, each where it lowers the target's variance most for its cost."""
    noise = _standard_errors(known)
    target = max(sweep.widths) if sweep.target is None else sweep.target.model.width
    curves = {k.place: _curve(k) for k in known if _is_bracketed(k)}
    grids = {k.place: k.grid for k in known if k.grid is not None and k.place in curves}
    variances = {
        place: _variance(grid, curves[place], noise[place]) for place, grid in grids.items()
    }
    members = [[k.place for k in arm if k.place in grids] for arm in _arms(known)]

    def total(of_place: Mapping[ArmAndWidth, float]) -> float:
        return sum(_at_target(arm, of_place, target) for arm in members if arm)

    while True:
        now, best = total(variances), (0.0, None)
        for place, grid in grids.items():
            for theta in _candidates(grid, axis):
                grown = _with_point(grid, theta, curves[place])
                variance = _variance(grown, curves[place], noise[place])
                gained = now - total({**variances, place: variance})
                score = gained / place.width**COST_POWER
                if score > best[0]:
                    best = (score, (place, theta, grown, variance))
        if best[1] is None:
            return
        place, theta, grids[place], variances[place] = best[1]
        yield place, theta


def _candidates(grid: Grid, axis: Axis) -> list[float]:
    """Return the untried points of the finest grid near the minimum and below any cliff."""
    spacing = FINEST * axis.step
    count = round((axis.high - axis.low) / spacing) + 1
    lattice = axis.low + spacing * np.arange(count)
    near = np.abs(lattice - grid.theta[grid.minimum]) <= REACH * axis.step + SAME
    fresh = np.abs(lattice[:, None] - grid.theta[None, :]).min(axis=1) > SAME
    below = lattice < (np.inf if grid.cliff is None else grid.cliff)
    return lattice[near & fresh & below].tolist()


def _with_point(grid: Grid, theta: float, curve: Curves) -> Grid:
    """Return the grid as it would be with a sound point that lies on the curve."""
    at = int(np.searchsorted(grid.theta, theta))
    loss = float(curve.loss(np.array([theta]))[0, 0])
    return replace(
        grid,
        theta=np.insert(grid.theta, at, theta),
        losses=np.insert(grid.losses, at, loss, axis=1),
        failed=np.insert(grid.failed, at, False),
    )


def _curve(k: TriedWidth) -> Curves:
    """Return the curve through a width's window, or a level at its best point."""
    assert k.grid is not None, "a place without a sound point has no curve"
    window = k.grid.window
    means = k.grid.losses[:, window].mean(axis=0)
    if len(window) < 3:
        zero = np.zeros(1)
        return Curves(np.array([k.best]), np.array([means.min()]), zero, zero)
    return fit_curves(k.grid.theta[window], means[None, :])


def _standard_errors(known: Sequence[TriedWidth]) -> dict[ArmAndWidth, float]:
    """Return the sd of a point's mean loss: pooled over its arm, the largest of its arms."""
    errors: dict[ArmAndWidth, float] = {}
    for arm in _arms(known):
        grids = [k.grid for k in arm if k.grid is not None]
        noise = pool_noise(grids, rng=stream("refine"), draws=1)
        if noise is not None and noise.sd > 0:
            sd = float(noise.sd)
        else:
            sd = NOISE_SHARE * min((g.losses[:, g.minimum].mean() for g in grids), default=1.0)
        for k in arm:
            seeds = 1 if k.grid is None else len(k.grid.losses)
            errors[k.place] = max(errors.get(k.place, 0.0), sd / np.sqrt(seeds))
    return errors


def _variance(grid: Grid, curve: Curves, noise: float) -> float:
    """Return the variance of a width's optimum: delta method, plus the grid's model error.

    The amplitudes have a prior about their mean, and the optimum a weak prior as wide as the
    window, so that three points suffice. A window on which the fit would find no minimum counts as
    no knowledge; otherwise points would be drawn too close together.

    Args:
        noise: standard deviation of a point's mean loss.
    """
    theta = grid.theta[grid.window]
    offset, small = theta - curve.optimum[0], 1e-3
    unit = np.ones(1)
    shapes = [
        Curves(curve.optimum, unit, slow * unit, (1 - slow) * unit).rise(offset)[0]
        for slow in (1.0, 0.0)
    ]
    slope = (curve.rise(offset + small) - curve.rise(offset - small))[0] / (2 * small)
    design = np.stack([np.ones_like(theta), *shapes, -slope], axis=1)
    amplitude = max(AMPLITUDE_SD * float(curve.slow[0] + curve.fast[0]) / 2, 1e-12)
    prior = np.array([0.0, amplitude**-2, amplitude**-2, (theta[-1] - theta[0]) ** -2])
    precision = design.T @ design / noise**2 + np.diag(prior)
    fit = float(np.linalg.inv(precision)[-1, -1])
    span = float(theta[-1] - theta[0])
    range_ = float(np.ptp(grid.losses[:, grid.window].mean(axis=0)))
    if range_ <= FLAT_RANGE * noise or NINETY * np.sqrt(fit) > FLAT_SPAN * span:
        fit += FLAT_SD**2
    return fit + (MODEL_ERROR_STEPS * grid.step) ** 2


def _at_target(
    arm: Sequence[ArmAndWidth], variances: Mapping[ArmAndWidth, float], target: int
) -> float:
    """Return the variance of an arm's optimum at the target, a mean over the two laws."""
    widths = np.array([place.width for place in arm], dtype=float)
    weights = 1.0 / np.array([variances[place] for place in arm])
    laws = (LawName.constant, LawName.linear)[: len(arm)]
    found = []
    for law in laws:
        design = regressors(law, widths, float(widths[0]))
        at = regressors(law, np.array([float(target)]), float(widths[0]))[0]
        found.append(at @ np.linalg.inv(design.T @ (design * weights[:, None])) @ at)
    return float(np.mean(found))
