"""A table that was read from a file of another program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sheet:
    """Columns by name, and a reader of the rows, which can be read again.

    `rows(names)` gives where each row stands ("line 3") and its cells of those columns: text, a
    number, a truth value, or None where there is nothing.
    """

    name: str
    columns: tuple[str, ...]
    rows: Callable[[Sequence[str]], Iterator[tuple[str, Sequence[Any]]]]
    notes: tuple[str, ...] = ()  # what reading took for granted
    decimal_comma: bool = False  # whether 0,5 may be a number
