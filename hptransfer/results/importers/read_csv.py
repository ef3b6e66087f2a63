"""Delimited text as a table: CSV, TSV and columns separated by `;`, `|` or blanks.

pandas reads the cells. It fills rows that were cut off with empty cells and does not say on which
line a row stands, so the lines are looked through first.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hptransfer.errors import UserError, abbreviate
from hptransfer.results.importers.sheet import Sheet

if TYPE_CHECKING:
    import pandas as pd

DELIMITERS = (",", ";", "\t", "|")
LONGEST_LINE = 1 << 20  # characters


def decoded_lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, str]]:
    """Yield a text file's lines with their numbers, without a byte-order mark.

    Raises:
        UserError: a line is not UTF-8, or longer than `longest` characters.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(4 * longest), b""), start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} must be UTF-8, but byte {error.start + 1} of line {number} "
                    f"({raw[error.start]:#04x}) is not. Convert it, e.g.: iconv -f WINDOWS-1252 "
                    f"-t UTF-8 {path.name} > utf8-{path.name}"
                ) from None
            if len(line) > longest:
                raise UserError(
                    f"A line may have {longest:,} characters, but line {number} of {path} has "
                    "more. Remove that cell, or check the file's quotes."
                )
            yield number, line


def csv_sheet(path: Path) -> Sheet:
    """Return the table in a file of delimited text, whose delimiter the header shows.

    Blank lines and lines that begin with `#` are left out.

    Raises:
        UserError: there is no header, or two columns have one name.
    """
    header_line, header = next(
        ((n, text) for n, text in _records(path) if not re.fullmatch(r"sep=.", text.strip())),
        (0, ""),
    )
    if not header_line:
        raise UserError(f"{path} must hold a header and rows, but holds only comments.")
    delimiter = _delimiter(header)
    table = _Table(
        path, header_line, delimiter, _column_names(path, header_line, header, delimiter)
    )
    return Sheet(path.name, table.columns, table.load, "line", decimal_comma=delimiter != ",")


@dataclass(frozen=True)
class _Table:
    path: Path
    header_line: int
    delimiter: str  # a blank stands for any number of blanks
    columns: tuple[str, ...]

    def load(self, names: Sequence[str]) -> pd.DataFrame:
        """Read the cells of some columns as text, without the blanks around them."""
        import pandas as pd

        lines, text = [], io.BytesIO()
        filler = f'{self.delimiter}" \t\r\n'
        for number, record in _records(self.path):
            if number > self.header_line and record.strip(filler):
                self._require_as_many(record, number)
                lines.append(number)
                text.write(record.encode())
        if not lines:
            return pd.DataFrame(columns=list(names), dtype=str)
        text.seek(0)
        frame = pd.read_csv(
            text,
            sep=r"\s+" if self.delimiter == " " else self.delimiter,
            header=None,
            names=range(len(self.columns)),
            usecols=sorted({self.columns.index(name) for name in names}),
            index_col=False,
            dtype=str,
            keep_default_na=False,
        )
        columns = {name: frame[self.columns.index(name)].str.strip() for name in names}
        return pd.DataFrame(columns).set_axis(lines)

    def _require_as_many(self, record: str, line: int) -> None:
        """Refuse a row with fewer cells than the header has names, or with more that hold text."""
        count, delimiters = len(self.columns), record.count(self.delimiter)
        if delimiters == count - 1 and '"' not in record and self.delimiter != " ":
            return  # nearly every row, told in a fraction of the time that splitting it takes
        cells = _cells(record, self.delimiter, f"Line {line} of {self.path}")
        surplus = any(cell.strip() for cell in cells[count:])
        if len(cells) < count or surplus:
            hint = ""
            if surplus and self.delimiter == ",":
                hint = " (quote numbers that have a decimal comma, or separate the columns by ;)"
            raise UserError(
                f"Every row must have as many cells as the header has names, {count}, but line "
                f"{line} of {self.path} has {len(cells)}{hint}: {abbreviate(cells, 100)}."
            )


def _records(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the text of each row with the number of its last line: a quoted cell may hold lines."""
    held: list[str] = []
    is_open = False  # whether a quote is open
    number = 0
    for number, line in decoded_lines(path):
        if not held and (not line.strip() or line.lstrip().startswith("#")):
            continue
        if "\r" in line.rstrip("\r\n"):
            raise UserError(
                f"A line must end with a newline, but line {number} of {path} has a carriage "
                f"return within it. Convert it: tr '\\r' '\\n' < {path.name} > rows.csv"
            )
        held.append(line)
        is_open ^= line.count('"') % 2 == 1
        if not is_open:
            yield number, "".join(held)
            held = []
    if held:
        raise UserError(
            f"A quote must be closed, but the one in line {number + 1 - len(held)} of {path} is "
            "not. Check its quotes."
        )


def _cells(record: str, delimiter: str, place: str) -> list[str]:
    """Split a row's text; `place` is for the message about a quote that stands within a cell."""
    if delimiter == " ":
        return record.split()
    try:
        return next(csv.reader([record.rstrip("\r\n")], delimiter=delimiter), [])
    except csv.Error as error:
        raise UserError(f"{place} cannot be read: {error}. Check the quotes there.") from None


def _delimiter(header: str) -> str:
    """Return the delimiter that splits the header most; a blank where there is no other."""
    outside = re.sub(r'"[^"]*"|\([^)]*\)|\[[^\]]*\]', "", header)
    best = max(DELIMITERS, key=outside.count)
    if outside.count(best):
        return best
    return " " if len(outside.split()) > 1 else ","


def _column_names(path: Path, line: int, header: str, delimiter: str) -> tuple[str, ...]:
    names = [name.strip() for name in _cells(header, delimiter, f"Line {line} of {path}")]
    while names and not names[-1]:
        names.pop()
    named = [name or f"column {i}" for i, name in enumerate(names, start=1)]
    if all(re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", name, re.IGNORECASE) for name in named):
        raise UserError(
            f"{path} must begin with a header that names its columns, but line {line} holds "
            "numbers. Put a line such as width,lr,loss above it."
        )
    repeated = sorted({name for name in named if named.count(name) > 1})
    if repeated:
        raise UserError(
            f"Every column must have a name of its own, but {path} has more than one "
            f"{repeated[0]!r}. Rename or remove one."
        )
    return tuple(named)
