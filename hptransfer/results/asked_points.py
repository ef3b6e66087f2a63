"""The points that a design without a grid has asked so far, as `design.json` records them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hptransfer.config import TrialConfig
from hptransfer.config.hyperparameters import hps
from hptransfer.config.identity import arm_of
from hptransfer.config.sweep import SweepConfig
from hptransfer.results.folder import ResultsFolder, write_json


@dataclass(frozen=True)
class AskedPoints:
    """The points that a design without a grid has asked so far of each arm and width."""

    method: str
    rounds: int
    points: Mapping[tuple[str, int], tuple[Mapping[str, float], ...]]  # by (arm, width)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> AskedPoints:
        """Read a record that `asked_points_record` made."""
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
        """Say whether a row's point was asked of its arm and width."""
        point = frozenset((axis, row["hps"].get(axis)) for axis in axes)
        return (row["parametrization"], row["width"], point) in self._asked


def asked_points_record(
    sweep: SweepConfig, rounds: Sequence[Sequence[TrialConfig]]
) -> dict[str, Any]:
    """Return the points of all rounds' trials as JSON, in the order in which they were asked."""
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

    Only points whose trials completed with all seeds of their arm and width count.
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


def write_asked_points(
    folder: ResultsFolder, sweep: SweepConfig, rounds: Sequence[Sequence[TrialConfig]]
) -> None:
    """Write the points asked so far, for commands that only read the folder."""
    write_json(folder.design_file, asked_points_record(sweep, rounds))
