"""Adaptive refinement of one axis: coarse first, then where the target's optimum gains most.

Bracketing. The narrowest width of an arm is tried over the whole axis at every second grid point.
A wider width starts with three grid points around the optimum that the narrower widths predict.
Points are then added in whole grid steps, until the width's minimum lies between two points that
are worse, or at an end of the axis.

Refinement. All other points lie on a grid of half the step. Each is put where it lowers the
predicted variance of the target's optimum most, for its cost. That prediction adds the point to
the width's grid with the loss of the width's fitted curve, fits the basin again and carries all
widths' optima to the target by the law. It needs no loss of the new points, so the points of a
round are chosen one after another. A point that would not lower the variance is not asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hptransfer.analysis.basins.basin import (
    BEYOND,
    FEWEST,
    Basin,
    build_grid,
    fit_basins,
    pool_noise,
)
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.grid import Grid
from hptransfer.analysis.basins.noise import Noise
from hptransfer.analysis.laws.hierarchy import Prior
from hptransfer.config.sweep import Axis, SweepConfig
from hptransfer.sweeping.design.rounds import ArmAndWidth, History, Point, TriedPoint
from hptransfer.sweeping.design.trials import DECIMALS

COARSE = 2  # grid steps between the first points of the narrowest width
FINEST = 0.5  # grid steps: the least distance of two points
REACH = 2  # grid steps from the minimum within which points may be added
# Power of the width by which a point's gain is divided. A trial of twice the width costs about four
# times as much, but with power 2 the widest widths, on which the target depends most, would be left
# without points.
COST_POWER = 1.0
SAME = 1e-6  # octaves below which two points are the same


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
    losses = [loss for rounds in history.values() for loss in _losses(rounds)]
    is_log = min(losses, default=0.0) > 0.0
    known = [_known(place, rounds, is_log=is_log) for place, rounds in history.items()]
    left = sweep.design.total * len(known) - sum(len(k.theta) for k in known)
    chosen: Sequence[tuple[ArmAndWidth, float]] = [*dict.fromkeys(_bracketing(known, axis))]
    if not chosen:
        count = max(min(left, sweep.design.batch * len(known)), 0)
        chosen = list(itertools.islice(_refining(sweep, known, axis), count))
    by_place: dict[ArmAndWidth, list[Point]] = {}
    for place, theta in chosen[: max(left, 0)]:
        by_place.setdefault(place, []).append({f"log2_{name}": round(theta, DECIMALS)})
    return by_place


def _losses(rounds: Sequence[Sequence[TriedPoint]]) -> list[float]:
    return [loss for points in rounds for point in points for loss in point.losses]


def _known(
    place: ArmAndWidth, rounds: Sequence[Sequence[TriedPoint]], *, is_log: bool
) -> TriedWidth:
    """Return a width's tried points; `is_log` where the logs of losses are compared."""
    points = sorted((p for points in rounds for p in points), key=lambda p: p.point)
    if not points:
        return TriedWidth(place, np.empty(0), None)
    theta = np.array([p.point[0][1] for p in points])
    losses = np.array([p.losses for p in points]).T
    start = float(np.median([p.loss_at_init for p in points]))
    if is_log:
        losses, start = np.log(losses), float(np.log(start))
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
    noise = _noise(narrower)
    moments = np.array([_fitted(k.grid, noise).moments for k in found if k.grid is not None])
    law = Prior.of(_log2_widths(known.place.width for known in found), np.log2([k.place.width]))
    predicted = law.given(*moments.T[:, None, :])[0]
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


@dataclass(frozen=True)
class Addition:
    """An untried value of one width, with the basin that it should give."""

    width: int  # index in the tried widths
    theta: float
    basin: Basin


def _refining(
    sweep: SweepConfig, known: Sequence[TriedWidth], axis: Axis
) -> Iterator[tuple[ArmAndWidth, float]]:
    """Yield points, each where it lowers the target's variance most for its cost."""
    noise = _noise(known)
    target = max(sweep.widths) if sweep.target is None else sweep.target.model.width
    basins = {i: _fitted(k.grid, noise) for i, k in enumerate(known) if k.grid is not None}
    additions = {i: _additions(i, basin, axis) for i, basin in basins.items()}
    index = {k.place: i for i, k in enumerate(known)}
    members = [[index[k.place] for k in arm if k.grid is not None] for arm in _arms(known)]
    laws = [
        (arm, Prior.of(_log2_widths(known[i].place.width for i in arm), np.log2([target])))
        for arm in members
        if arm
    ]
    while True:
        gains: dict[tuple[int, float], float] = {}
        for arm, law in laws:
            tried = [addition for i in arm for addition in additions[i]]
            for addition, gain in zip(tried, _gains(arm, law, basins, tried), strict=True):
                key = addition.width, addition.theta
                gains[key] = gains.get(key, 0.0) + gain
        cost = {i: k.place.width**COST_POWER for i, k in enumerate(known)}
        best = max(gains, key=lambda key: gains[key] / cost[key[0]], default=None)
        if best is None or gains[best] <= 0.0:
            return
        at, theta = best
        basins[at] = next(a.basin for a in additions[at] if a.theta == theta)
        additions[at] = _additions(at, basins[at], axis)
        yield known[at].place, theta


def _additions(width: int, basin: Basin, axis: Axis) -> list[Addition]:
    """Return the values that a width may still try, with what they should give."""
    return [
        Addition(width, theta, _fitted(_with_point(basin, theta), basin.noise))
        for theta in _candidates(basin.grid, axis)
    ]


def _gains(
    arm: Sequence[int], law: Prior, basins: Mapping[int, Basin], tried: Sequence[Addition]
) -> Floats:
    """Return by how much each addition would lower the variance of the arm's target."""
    means, variances = np.array([basins[i].moments for i in arm]).T
    rows = np.tile(variances, (len(tried) + 1, 1))
    for row, addition in enumerate(tried, start=1):
        rows[row, arm.index(addition.width)] = addition.basin.moments[1]
    found = law.given(np.tile(means, (len(rows), 1)), rows)[1]
    return found[0] - found[1:]


def _fitted(grid: Grid, noise: Noise | None) -> Basin:
    candidates = np.linspace(grid.theta[0] - BEYOND, grid.theta[-1] + BEYOND, FEWEST)
    return fit_basins({0: grid}, noise, candidates)[0]


def _noise(known: Sequence[TriedWidth]) -> Noise | None:
    return pool_noise(k.grid for k in known if k.grid is not None)


def _log2_widths(widths: Iterable[int]) -> Floats:
    """Return log2 of widths, (setting, axis)."""
    return np.log2([[width] for width in widths])


def _candidates(grid: Grid, axis: Axis) -> list[float]:
    """Return the untried points of the finest grid near the minimum and below any cliff."""
    spacing = FINEST * axis.step
    count = round((axis.high - axis.low) / spacing) + 1
    lattice = axis.low + spacing * np.arange(count)
    near = np.abs(lattice - grid.theta[grid.minimum]) <= REACH * axis.step + SAME
    fresh = np.abs(lattice[:, None] - grid.theta[None, :]).min(axis=1) > SAME
    below = lattice < (np.inf if grid.cliff is None else grid.cliff)
    return lattice[near & fresh & below].tolist()


def _with_point(basin: Basin, theta: float) -> Grid:
    """Return a basin's grid as it would be with a point whose runs lie on its curve."""
    grid, at = basin.grid, int(np.searchsorted(basin.grid.theta, theta))
    loss = float(basin.curve.loss(np.array([theta]))[0, 0])
    return replace(
        grid,
        theta=np.insert(grid.theta, at, theta),
        losses=np.insert(grid.losses, at, loss, axis=1),
        failed=np.insert(grid.failed, at, False),
        runs=np.insert(grid.runs, at, 1.0, axis=1),
        run_sds=np.insert(grid.run_sds, at, np.nan, axis=1),
    )
