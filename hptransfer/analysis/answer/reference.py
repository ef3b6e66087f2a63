"""The condition (depth, batch size, steps) at which the answer over width is read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.rows import TrialArrays
from hptransfer.config.sweep import CONDITIONS
from hptransfer.errors import UserError

HeldCondition = dict[str, float | None]  # None: not known, or not held

WORDS = {"depth": "depth", "batch_size": "batch size", "steps": "training time"}
_ORDER = ("steps", "batch_size", "depth")  # steps first: they differ the most often


def reference(rows: TrialArrays, asked: Mapping[str, float | None] | None) -> HeldCondition:
    """Return the condition at which width is judged.

    A value that is not asked for follows from the rows: the most steps that every width has, the
    most frequent batch size and depth that every width has; None where every width has its own.

    Raises:
        UserError: no row has what is asked.
    """
    found: HeldCondition = {}
    for name in _ORDER:
        value = (asked or {}).get(name)
        if value is None:
            value = _usual(rows, name)
        elif not (rows.conditions[name] == value).any():
            known = ", ".join(f"{v:g}" for v in known_values(rows.conditions[name]))
            raise UserError(
                f"The answer is read at {name}={value:g}, so some rows must have that value, but "
                + (f"they have {known}. Name one of these." if known else f"they say no {name}.")
            )
        found[name] = value
        rows = rows_at_condition(rows, {name: value})
    return {name: found[name] for name in CONDITIONS}


def rows_at_condition(rows: TrialArrays, condition: Mapping[str, float | None]) -> TrialArrays:
    """Return the rows under a condition; of a value that is None every row is kept."""
    held = [
        rows.conditions[name] == value for name, value in condition.items() if value is not None
    ]
    return rows.where(np.logical_and.reduce(held)) if held else rows


def known_values(values: Floats) -> list[float]:
    """Return the distinct values that rows say, ascending."""
    return np.unique(values[~np.isnan(values)]).tolist()


def _usual(rows: TrialArrays, name: str) -> float | None:
    """Return the value that rows are compared at, if there is one."""
    values = rows.conditions[name]
    by_width = [set(known_values(values[rows.width == width])) for width in np.unique(rows.width)]
    every = set[float]().union(*by_width)
    shared = every.intersection(*by_width)
    if not shared and all(len(own) < 2 for own in by_width):
        return None
    candidates = shared or every
    if name == "steps":
        return max(candidates)
    return max(candidates, key=lambda value: (int((values == value).sum()), value))
