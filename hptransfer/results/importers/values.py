"""What the cells of a column hold, looked at before the column is taken for something."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

# Texts of a missing cell, in lower case.
EMPTY = frozenset({"", "nan", "na", "n/a", "null", "none", "-", "--", "#n/a", "<na>"})
# Texts of truth values, in lower case.
TRUTH = {
    **dict.fromkeys(("true", "yes", "1", "y", "t", "1.0"), True),
    **dict.fromkeys(("false", "no", "0", "n", "f", "0.0", ""), False),
}
MOST_LABELS = 12  # different labels of a column that may tell arms apart
LONGEST_LABEL = 40  # characters of an arm's or a family's name
SAME_RATIO = 1e-5  # relative difference within which two ratios are the same
# Words of names of columns whose texts tell runs, people, places or files, not arms.
_NOT_ARMS = frozenset(
    {
        "name",
        "runname",
        "wandb",
        "mlflow",
        "id",
        "run",
        "notes",
        "note",
        "comment",
        "user",
        "host",
        "hostname",
        "path",
    }
    | {"group", "created", "date", "time", "timestamp", "commit", "git", "device", "gpu", "dir"}
    | {"url", "uri", "sweep", "project", "entity", "node", "file", "source", "tags", "tag", "job"}
    | {"key", "study", "description", "status", "state", "size", "started", "ended", "end", "start"}
    | {"dtype", "precision", "cluster", "machine", "author", "owner", "command", "log", "logs"}
)


def texts_of(column: Any) -> list[str]:
    """Return a column's cells as texts; a missing cell is empty."""
    filled = column.astype(object).where(column.notna(), "")
    texts = [str(cell).strip() for cell in filled]
    return ["" if text.lower() in EMPTY else text for text in texts]


def number_columns(cells: Iterable[str], *, decimal_comma: bool) -> list[float] | None:
    """Return texts as numbers, NaN where missing; None where one is no number."""
    found = []
    for cell in cells:
        if decimal_comma and re.fullmatch(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?", cell):
            cell = cell.replace(",", ".")
        try:
            found.append(float(cell) if cell else math.nan)
        except ValueError:
            return None
    return found


def varies_within(values: Sequence[Hashable], groups: Sequence[Sequence[Hashable]]) -> bool:
    """Say whether there are several values where all of `groups` are the same; NaN is none."""
    seen: defaultdict[tuple[Hashable, ...], set[Hashable]] = defaultdict(set)
    for value, *place in zip(values, *groups, strict=True):
        if value == value and value != "":
            seen[tuple(place)].add(value)
    return any(len(each) > 1 for each in seen.values())


def follows(
    values: Sequence[float], rates: Sequence[float], groups: Sequence[Sequence[Hashable]]
) -> bool:
    """Say whether values are a fixed multiple of rates wherever `groups` are the same."""
    seen: defaultdict[tuple[Hashable, ...], list[tuple[float, float]]] = defaultdict(list)
    for value, rate, *place in zip(values, rates, *groups, strict=True):
        if math.isfinite(value) and math.isfinite(rate) and rate != 0.0:
            seen[tuple(place)].append((rate, value / rate))
    several = False
    for pairs in seen.values():
        ratios = [ratio for _, ratio in pairs]
        if max(ratios) - min(ratios) > SAME_RATIO * max(abs(max(ratios)), 1e-300):
            return False
        several = several or len({rate for rate, _ in pairs}) > 1
    return several and any(value != 0.0 for value in values)


def is_label_column(name: str, column: str, cells: Sequence[str] | None = None) -> bool:
    """Say whether a column may hold labels of arms: by its name, and by its cells where given.

    Args:
        name: of the column, normalised.
        column: the name as it stands in the table.
        cells: its texts.
    """
    if cells is None:
        first, last = name.split("_")[0], name.split("_")[-1]
        if column.startswith(("_", "tags.", "metrics.", "summary.")) or first in _NOT_ARMS:
            return False
        return last not in _NOT_ARMS or (last == "name" and first not in ("display", "experiment"))
    labels = set(cells)
    if "" in labels or not 2 <= len(labels) <= MOST_LABELS or 2 * len(labels) > len(cells):
        return False
    if any(len(label) > LONGEST_LABEL for label in labels):
        return False
    if all(label.lower() in TRUTH for label in labels):
        return False
    return all(re.search("[A-Za-z]", label) for label in labels) and not any(
        re.fullmatch(r"[-+\d.,eE]+[KMBkmb]?", label) for label in labels
    )
