"""What analysis and report need of a sweep file, read as plain YAML: what it asked and wants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hptransfer.config.conditions import Condition, VaryConfig, star
from hptransfer.config.sweep import VerdictConfig
from hptransfer.results.table import conditions
from hptransfer.sweeping.design.points import Design


@dataclass(frozen=True)
class SweepFacts:
    """A sweep as its file says it."""

    name: str
    points: Mapping[str, tuple[float, ...]]  # log2_<hp> -> its grid
    target_width: int | None
    verdict: VerdictConfig
    tree: Mapping[str, Any]
    design: Design | None = None  # null: a grid

    @property
    def axes(self) -> tuple[str, ...]:
        """The searched HPs as the ledger names them: `log2_<hp>`."""
        return tuple(self.points)

    @property
    def is_scattered(self) -> bool:
        """Whether points of several HPs lie on no grid, so that no HP's basin can be cut out."""
        return self.design is not None and len(self.points) > 1

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Say whether a ledger row belongs to the sweep's wanted set."""
        section = self.tree["sweep"]
        return (
            row["width"] in section["widths"]
            and row["seed"] in section["seeds"]
            and row["parametrization"] in (*section["parametrizations"], "shared")
            and conditions(row["config"]) in self._conditions
            and (self._on_grid(row) if self.design is None else self.design.wants(row, self.axes))
        )

    def _on_grid(self, row: Mapping[str, Any]) -> bool:
        return all(
            any(abs(row["hps"].get(axis, math.nan) - point) < 1e-6 for point in points)
            for axis, points in self.points.items()
        )

    def wanted_count(self) -> int:
        """Return how many trials are wanted: of a grid all, else those asked so far.

        Arms share theirs at base width.
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
        return star(conditions(self.tree), vary)

    def _models(self, arm: str, width: int) -> int:
        """Return under how many conditions an arm has trials of its own at a width."""
        model = self.tree["model"]
        bases = [
            width == model["base_width"] and model.get("base_depth") in (None, condition["depth"])
            for condition in self._conditions
        ]
        return bases.count(arm == "shared")


@dataclass(frozen=True)
class ImportedFacts(SweepFacts):
    """What is known of rows that another program made: every row is wanted, none is missing."""

    rows: int = 0

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Say that the row is wanted."""
        return True

    def wanted_count(self) -> int:
        """Return how many rows there are."""
        return self.rows
