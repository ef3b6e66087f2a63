"""A folder's sweep.yaml, read as plain YAML: the points that the sweep asks, and its wanted rows.

Nothing here imports Hydra, so that commands which only read rows start fast.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hptransfer.config.choices import Method
from hptransfer.config.sweep import Condition, VaryConfig, VerdictConfig, one_at_a_time, read_axis
from hptransfer.errors import UserError
from hptransfer.results.asked_points import AskedPoints
from hptransfer.results.folder import ResultsFolder, read_json
from hptransfer.results.table import conditions_of
from hptransfer.system.safe_yaml import read_mapping


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
        """Return the number of wanted trials; of a design without a grid, those asked so far.

        The arms share their trials at base width.
        """
        section = self.tree["sweep"]
        grid = math.prod(len(points) for points in self.points.values())
        arms = (*section["parametrizations"], "shared")
        return len(section["seeds"]) * sum(
            self._models(arm, width)
            * (grid if self.design is None else len(self.design.points.get((arm, width), ())))
            for arm in arms
            for width in section["widths"]
        )

    @cached_property
    def _conditions(self) -> tuple[Condition, ...]:
        vary = VaryConfig(**self.tree["sweep"].get("vary", {}))
        return one_at_a_time(conditions_of(self.tree), vary)

    def _models(self, arm: str, width: int) -> int:
        """Return the number of conditions under which an arm has trials of its own at a width."""
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
    rule = VerdictConfig(**tree["verdict"])
    if "imported" in tree:
        points = {f"log2_{n}": tuple(axis["points"]) for n, axis in tree["search"].items()}
        rows = int(tree["imported"]["rows"])
        return ImportedFacts(name, points, target.get("width"), rule, tree, rows=rows)
    axes = {f"log2_{n}": read_axis(n, axis).points for n, axis in tree["search"].items() if axis}
    return SweepFacts(name, axes, target.get("width"), rule, tree, design)


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
            f"{folder.design_file} is not as hptransfer wrote it (the points asked of each arm "
            "and width). Delete it and run the sweep again; the ledger is untouched."
        ) from None
