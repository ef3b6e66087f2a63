"""What trackers show of a trial: a name, its config as flat parameters, its curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]  # of the ledger
Curve = Sequence[tuple[int, float]]  # (step, training loss)

PROJECT = "hptransfer"
TRIAL_RUNS = 1000  # trials shown as runs of their own: beyond, no dashboard stays usable


def run_name(row: Row) -> str:
    """Name a trial for people: arm, width, swept HPs, seed; `/` groups them in a dashboard."""
    values = [f"{name}={value:.6g}" for name, value in row["hps"].items()]
    return "/".join((row["parametrization"], f"w{row['width']}", ",".join((*values, _seed(row)))))


def _seed(row: Row) -> str:
    return f"seed={row['seed']}"


def summary(row: Row) -> dict[str, str | float]:
    """Return what trials are compared by: the swept HPs and what tells the arms apart."""
    fields = ("trial_key", "status", "width", "parametrization", "seed")
    return {**row["hps"], **{name: row[name] for name in fields}}


def parameters(row: Row) -> dict[str, Any]:
    """Return a trial's config by dotted keys, and its summary: all that is sent."""
    return {**_flat(row["config"]), **summary(row)}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, item in value.items():
        nested = isinstance(item, Mapping)
        fields |= _flat(item, f"{prefix}{name}.") if nested else {f"{prefix}{name}": item}
    return fields


def finite(curve: Curve) -> list[tuple[int, float]]:
    """Return the points of a curve that can be drawn."""
    return [(step, loss) for step, loss in curve if math.isfinite(loss)]


def last_step(curve: Curve) -> int:
    """Return the step at which a trial's deciding loss is shown."""
    return curve[-1][0] if curve else 0
