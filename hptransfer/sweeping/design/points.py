"""Where to look: a sweep's points where they are known beforehand, and a record of those asked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Method
from hptransfer.config.identity import arm_of
from hptransfer.config.sweep import Axis, SweepConfig, hps

DECIMALS = 9  # of a point in log2, as on a grid


def points(sweep: SweepConfig) -> list[dict[str, float]]:
    """Return the points of a grid or Sobol sweep, each as {`log2_<hp>`: value}."""
    if sweep.design.method is Method.grid:
        return grid(sweep.search)
    assert sweep.design.method is Method.sobol, "adaptive points follow from losses"
    return sobol(sweep.search, count=sweep.design.total, seed=sweep.design.seed)


def grid(search: Sequence[tuple[str, Axis]]) -> list[dict[str, float]]:
    """Return the full grid of the axes, last axis fastest."""
    names = [f"log2_{name}" for name, _ in search]
    points = itertools.product(*(axis.points for _, axis in search))
    return [dict(zip(names, point, strict=True)) for point in points]


def sobol(search: Sequence[tuple[str, Axis]], *, count: int, seed: int) -> list[dict[str, float]]:
    """Return the first `count` points of the seed's scrambled Sobol sequence in the axes' box."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(search), scramble=True, rng=seed)
    unit = sequence.random_base2(math.ceil(math.log2(count)))[:count]
    return [in_box(search, point) for point in unit.tolist()]


def in_box(search: Sequence[tuple[str, Axis]], unit: Sequence[float]) -> dict[str, float]:
    """Return the point of the axes' box at these shares of its sides."""
    return {
        f"log2_{name}": round(axis.low + share * (axis.high - axis.low), DECIMALS)
        for (name, axis), share in zip(search, unit, strict=True)
    }


@dataclass(frozen=True)
class Design:
    """The points asked so far of each arm and width, where they are no grid."""

    method: str
    rounds: int
    points: Mapping[tuple[str, int], tuple[Mapping[str, float], ...]]  # by (arm, width)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Design:
        """Read what `design_record` returned."""
        points = {
            (entry["parametrization"], entry["width"]): tuple(
                {axis: float(value) for axis, value in point.items()} for point in entry["points"]
            )
            for entry in record["asked"]
        }
        return cls(record["method"], record["rounds"], points)

    @cached_property
    def _asked(self) -> frozenset[tuple[Any, ...]]:
        return frozenset(
            (*place, frozenset(point.items()))
            for place, points in self.points.items()
            for point in points
        )

    def wants(self, row: Mapping[str, Any], axes: Sequence[str]) -> bool:
        """Say whether a row stands on a point that was asked of its arm and width."""
        point = frozenset((axis, row["hps"].get(axis)) for axis in axes)
        return (row["parametrization"], row["width"], point) in self._asked


def design_record(sweep: SweepConfig, rounds: Sequence[Sequence[TrialConfig]]) -> dict[str, Any]:
    """Return the points of the trials asked so far as JSON, in the order asked."""
    points: dict[tuple[str, int], dict[tuple[tuple[str, float], ...], None]] = {}
    for config in itertools.chain.from_iterable(rounds):
        place = (arm_of(config), config.model.width)
        points.setdefault(place, {})[tuple(hps(config, sweep.axes).items())] = None
    asked = [
        {"parametrization": arm, "width": width, "points": [dict(point) for point in of_place]}
        for (arm, width), of_place in points.items()
    ]
    return {"method": sweep.design.method.value, "rounds": len(rounds), "asked": asked}


def best_points(rows: Iterable[Mapping[str, Any]], axes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the point of lowest mean loss of each arm and width, narrow widths first.

    Only points with a row of every seed that the arm has at the width, all completed, count.
    """
    losses: dict[tuple[str, int], dict[tuple[float, ...], list[float]]] = {}
    for row in rows:
        place = losses.setdefault((row["parametrization"], row["width"]), {})
        loss = math.inf if row["loss"] is None else row["loss"]
        place.setdefault(tuple(row["hps"][axis] for axis in axes), []).append(loss)
    best = []
    for (arm, width), points in sorted(losses.items()):
        n_seeds = max(map(len, points.values()))
        loss, point = min(
            (math.fsum(values) / n_seeds, point)
            for point, values in points.items()
            if len(values) == n_seeds
        )
        if math.isfinite(loss):
            at = dict(zip(axes, point, strict=True))
            where = {"parametrization": arm, "width": width, "hps": at}
            best.append({**where, "loss": loss, "n_seeds": n_seeds})
    return best
