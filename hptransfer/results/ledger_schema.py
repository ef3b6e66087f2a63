"""What a ledger's line holds, and how lines of older schemas are read: never by rewriting them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from hptransfer.errors import UserError

SCHEMA = 2
# What every row holds, whatever its schema.
FIELDS = frozenset(
    {
        *("trial_key", "status", "loss", "width", "parametrization", "hps", "seed", "schema"),
        *("config", "diverged_at_step", "metrics", "cost", "provenance"),
    }
)


def migrate(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of an older schema as this one has it."""
    while row["schema"] < SCHEMA:
        row = _MIGRATIONS[row["schema"]](row)
    return row


def _with_stopped_at_step(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make a row of schema 1 one of schema 2: no trial was stopped then."""
    migrated = {}
    for name, value in row.items():
        migrated[name] = value
        if name == "diverged_at_step":
            migrated["stopped_at_step"] = None
    return {**migrated, "schema": 2}


# How a row of each older schema becomes one of the next.
_MIGRATIONS: Mapping[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    1: _with_stopped_at_step,
}


def strict(text: str | bytes) -> Any:
    """Parse JSON as the standard has it: NaN and Infinity are a ValueError."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no strict JSON")


def parse_lines(lines: Sequence[bytes], path: Path, start: int) -> list[dict[str, Any]]:
    """Parse lines into rows of this schema; the first has number `start`.

    Raises:
        UserError: a line that is no row, or a newer hptransfer's.
    """
    try:
        # One call for all lines: three times as fast as one call a line.
        rows = strict(b"[" + b",".join(lines) + b"]")
    except ValueError:
        rows = [_parse_line(line) for line in lines]
    for number, row in enumerate(rows, start=start):
        _require_row(row, path, number)
    return [migrate(row) for row in rows]


def _parse_line(line: bytes) -> Any:
    with suppress(ValueError):
        return strict(line)
    return None


def _require_row(row: Any, path: Path, number: int) -> None:
    schema = row.get("schema") if isinstance(row, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise newer(schema, path, number)
    if schema not in (SCHEMA, *_MIGRATIONS) or not row.keys() >= FIELDS:
        raise UserError(f"Line {number} of {path} is no row of a ledger. Remove the line.")


def newer(schema: int, path: Path, number: int) -> UserError:
    """Return the refusal of a line that a newer hptransfer wrote."""
    return UserError(
        f"Line {number} of {path} has schema {schema}, but this hptransfer reads schemas up to "
        f"{SCHEMA}. Upgrade hptransfer."
    )
