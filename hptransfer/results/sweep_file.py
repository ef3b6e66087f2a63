"""A folder's sweep.yaml, read as plain YAML: the points that the sweep asks, and its wanted rows.

The points that a design without a grid has asked so far stand in design.json.

Nothing here imports Hydra, so that commands which only read rows start fast.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Method
from hptransfer.config.external import ExternalTrial, is_external
from hptransfer.config.hyperparameters import hps
from hptransfer.config.identity import arm_of
from hptransfer.config.sweep import (
    Condition,
    SweepConfig,
    VaryConfig,
    VerdictConfig,
    current_rule,
    one_at_a_time,
    read_axis,
)
from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder, read_json, write_json
from hptransfer.results.table import conditions_of
from hptransfer.system.safe_yaml import read_mapping


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


@dataclass(frozen=True)
class SweepFacts:
    """The question of a sweep: its points, its target and the rule of its verdict."""

    name: str
    points: Mapping[str, tuple[float, ...]]  # log2_<hp> -> the grid of its values
    target_width: int | None
    verdict: VerdictConfig
    tree: Mapping[str, Any]  # the whole file
    design: AskedPoints | None = None  # None: the points are a grid

    @property
    def axes(self) -> tuple[str, ...]:
        """The searched hyperparameters by their names in the ledger: `log2_<hp>`."""
        return tuple(self.points)

    @property
    def target_width_key(self) -> str:
        """The key of the target's width below `sweep.target`."""
        return "width" if is_external(self.tree) else "model.width"

    @property
    def is_scattered(self) -> bool:
        """Whether points of several hyperparameters lie on no grid, so that no HP has a basin."""
        return self.design is not None and len(self.points) > 1

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Say whether a ledger row belongs to the sweep's wanted set."""
        section = self.tree["sweep"]
        return (
            row["width"] in section["widths"]
            and row["seed"] in section["seeds"]
            and row["parametrization"] in (*section["parametrizations"], "shared")
            and conditions_of(row["config"]) in self._conditions
            and (self._on_grid(row) if self.design is None else self.design.wants(row, self.axes))
        )

    def _on_grid(self, row: Mapping[str, Any]) -> bool:
        return all(
            _has_near(points, row["hps"].get(axis, math.nan))
            for axis, points in self._ascending_points.items()
        )

    @cached_property
    def _ascending_points(self) -> Mapping[str, list[float]]:
        return {axis: sorted(points) for axis, points in self.points.items()}

    def wanted_count(self) -> int:
        """Return the number of wanted trials; of a design without a grid, those asked so far."""
        return sum(self.wanted_by_width().values())

    def wanted_by_width(self) -> dict[tuple[str, int], int]:
        """Return the number of wanted trials of each arm and width.

        The arms share their trials at base width.
        """
        section = self.tree["sweep"]
        grid = math.prod(len(points) for points in self.points.values())
        return {
            (arm, width): len(section["seeds"])
            * self._models(arm, width)
            * (grid if self.design is None else len(self.design.points.get((arm, width), ())))
            for arm in (*section["parametrizations"], "shared")
            for width in section["widths"]
        }

    @cached_property
    def _conditions(self) -> tuple[Condition, ...]:
        vary = VaryConfig(**self.tree["sweep"].get("vary", {}))
        return one_at_a_time(conditions_of(self.tree), vary)

    def _models(self, arm: str, width: int) -> int:
        """Return the number of conditions under which an arm has trials of its own at a width."""
        if is_external(self.tree):
            return 0 if arm == "shared" else len(self._conditions)
        model = self.tree["model"]
        bases = [
            width == model["base_width"] and model.get("base_depth") in (None, condition["depth"])
            for condition in self._conditions
        ]
        return bases.count(arm == "shared")


def _has_near(ascending: Sequence[float], value: float) -> bool:
    """Say whether one of some numbers equals a value up to rounding; NaN equals none."""
    place = bisect_left(ascending, value - 1e-6)
    return place < len(ascending) and ascending[place] <= value + 1e-6


@dataclass(frozen=True)
class ImportedFacts(SweepFacts):
    """The question of an imported folder: every row is wanted, and none is missing."""

    rows: int = 0

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Say whether a row is wanted: always."""
        return True

    def wanted_count(self) -> int:
        """Return the number of rows."""
        return self.rows


def read_facts(folder: ResultsFolder) -> SweepFacts:
    """Read the question of a folder's sweep.

    Raises:
        UserError: the folder's sweep.yaml or design.json is not as hptransfer wrote it.
    """
    try:
        tree = read_mapping(folder.sweep_file)
        return facts_of(tree, name=tree["name"], design=read_design(folder, tree))
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{folder.sweep_file} must be a sweep as `hptransfer sweep` wrote it, but it is not "
            f"({error!r}). Restore it, or run the sweep again under another name."
        ) from None


def facts_of(
    tree: Mapping[str, Any], *, name: str, design: AskedPoints | None = None
) -> SweepFacts:
    """Return the question of a sweep's config; `design` where its points are no grid."""
    target = tree["sweep"]["target"].get("model") or {}
    rule = VerdictConfig(**current_rule(tree["verdict"]))
    if "imported" in tree:
        points = dict(_imported_axis(n, axis) for n, axis in tree["search"].items())
        rows = int(tree["imported"]["rows"])
        return ImportedFacts(name, points, target.get("width"), rule, tree, rows=rows)
    external = is_external(tree)
    axes = {
        f"log2_{n}": read_axis(n, axis, external=external).points
        for n, axis in tree["search"].items()
        if axis
    }
    width = tree["sweep"]["target"].get("width") if external else target.get("width")
    return SweepFacts(name, axes, width, rule, tree, design)


def _imported_axis(name: str, entry: Mapping[str, Any]) -> tuple[str, tuple[float, ...]]:
    """Return the axis of an entry of an imported search, and its points; null, off, is -inf."""
    points = tuple(-math.inf if point is None else point for point in entry["points"])
    return (name if entry.get("linear") else f"log2_{name}"), points


def read_design(folder: ResultsFolder, tree: Mapping[str, Any]) -> AskedPoints | None:
    """Read the points asked so far; None for a grid, no points where there is no file yet."""
    method = tree["sweep"].get("design", {}).get("method", Method.grid.value)
    if method == Method.grid.value:
        return None
    found = read_json(folder.design_file, "asked") or {"rounds": 0, "asked": []}
    try:
        return AskedPoints.of_record({**found, "method": method})
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{folder.design_file} is not as hptransfer wrote it (the points asked for each "
            "parametrization and width). Delete it and run the sweep again; finished trials are "
            "not affected."
        ) from None


def asked_points_record(
    sweep: SweepConfig, rounds: Sequence[Sequence[TrialConfig | ExternalTrial]]
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
    folder: ResultsFolder,
    sweep: SweepConfig,
    rounds: Sequence[Sequence[TrialConfig | ExternalTrial]],
) -> None:
    """Write the points asked so far, for commands that only read the folder."""
    write_json(folder.design_file, asked_points_record(sweep, rounds))
