"""A table that was read from a file of another program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Sheet:
    """A table's columns by name; their cells are loaded when they are needed.

    `load(names)` returns a frame of those columns, in which a cell is text, a number, a truth value
    or missing. The frame's index says where each row stands: `unit` "line" and 3 is line 3.
    """

    name: str
    columns: tuple[str, ...]
    load: Callable[[Sequence[str]], pd.DataFrame]
    unit: str = "row"
    decimal_comma: bool = False  # whether 0,5 may be a number
