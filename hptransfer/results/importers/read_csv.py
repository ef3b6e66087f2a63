"""Delimited text: CSV and its relatives, as people and programs really write it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError, abbreviate
from hptransfer.results.importers.sheet import Sheet

DELIMITERS = (",", ";", "\t", "|")
LONGEST_LINE = 1 << 20  # characters; the csv module holds a cell to 128 KiB
_WIDE_UNICODE = (b"\xff\xfe", b"\xfe\xff")


def require_text_file(path: Path, head: bytes) -> None:
    """Refuse an empty, a binary and a UTF-16 file by its first bytes."""
    if not head.strip():
        raise UserError(f"{path} must hold a header and rows, but it is empty.")
    if head.startswith(_WIDE_UNICODE):
        raise UserError(
            f"{path} must be UTF-8, but is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 "
            f"{path.name} > utf8-{path.name}"
        )
    if b"\x00" in head:
        raise UserError(
            f"Rows are imported from CSV, Parquet, JSON, JSON lines or an Optuna SQLite file, but "
            f"{path} is some other binary file. Write the rows as CSV."
        )


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield a text file's lines with their numbers, without a byte-order mark.

    Raises:
        UserError: a line that is no UTF-8 or endless.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(4 * LONGEST_LINE), b""), start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} must be UTF-8, but byte {error.start + 1} of line {number} "
                    f"({raw[error.start]:#04x}) is not. Convert it, e.g.: iconv -f WINDOWS-1252 "
                    f"-t UTF-8 {path.name} > utf8-{path.name}"
                ) from None
            if len(line) > LONGEST_LINE:
                raise UserError(
                    f"A line may have {LONGEST_LINE:,} characters, but line {number} of {path} has "
                    "more. Remove that cell, or check the file's quotes."
                )
            yield number, line


def delimited_sheet(path: Path) -> Sheet:
    """Read delimited text: delimiter and comments are found out, and said."""
    reader = _Reader(path)
    return Sheet(
        path.name,
        reader.columns,
        reader.rows,
        notes=reader.notes,
        decimal_comma=reader.delimiter != ",",
    )


class _Reader:
    """The dialect of one file, found from its first lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self.comments = 0
        self.header_line, header = self._find_header()
        self.delimiter = _delimiter(header)
        self.columns = self._split_header(header)

    def _find_header(self) -> tuple[int, str]:
        """Return the header's line number and text; it may be a comment above bare numbers."""
        last: tuple[int, str] | None = None
        for number, line in lines_of(self.path):
            text = line.strip()
            if not text or re.fullmatch(r"sep=.", text):
                continue
            if text.startswith("#"):
                last = number, text.lstrip("# \t")
                self.comments += 1
                continue
            if last is not None and _is_data(line) and not _is_data(last[1]):
                self.comments -= 1
                self.notes += (f"line {last[0]}, a comment, was taken for the header",)
                return last
            return number, line.rstrip("\r\n")
        raise UserError(f"{self.path} must hold a header and rows, but holds only comments.")

    def _split_header(self, header: str) -> tuple[str, ...]:
        names = [name.strip() for name in next(csv.reader([self._joined(header)], **self._dialect))]
        while names and not names[-1]:
            names.pop()
        named = [name or f"column {i}" for i, name in enumerate(names, start=1)]
        if all(_is_number(name) for name in named):
            raise UserError(
                f"{self.path} must begin with a header that names its columns, but line "
                f"{self.header_line} holds numbers. Put a line such as width,lr,loss above it."
            )
        repeated = sorted({name for name in named if named.count(name) > 1})
        if repeated:
            raise UserError(
                f"Every column must have a name of its own, but {self.path} has more than one "
                f"{repeated[0]!r}. Rename or remove one."
            )
        return tuple(named)

    @property
    def _dialect(self) -> dict[str, Any]:
        return {"delimiter": "\t" if self.delimiter == " " else self.delimiter, "strict": True}

    def _joined(self, line: str) -> str:
        """Return a line as the csv module reads it: runs of blanks become one delimiter."""
        return "\t".join(line.split()) + "\n" if self.delimiter == " " else line

    def _data_lines(self, numbers: list[int]) -> Iterator[str]:
        """Yield the lines below the header that are no comments; note where the last one stands."""
        for number, line in lines_of(self.path):
            text = line.lstrip()
            if number > self.header_line and text.strip() and not text.startswith("#"):
                numbers[0] = number
                yield self._joined(line)

    def rows(self, names: Sequence[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield each row's place and its cells of the named columns; blank rows are left out."""
        places = [self.columns.index(name) for name in names]
        numbers = [self.header_line]
        try:
            for cells in csv.reader(self._data_lines(numbers), **self._dialect):
                if not any(cell.strip() for cell in cells):
                    continue
                place = f"line {numbers[0]}"
                self._require_as_many(cells, place)
                yield place, [cells[i].strip() for i in places]
        except csv.Error as error:
            raise UserError(
                f"Line {numbers[0]} of {self.path} cannot be read: {error}. Check its quotes."
            ) from None

    def _require_as_many(self, cells: list[str], place: str) -> None:
        surplus = any(cell.strip() for cell in cells[len(self.columns) :])
        if len(cells) >= len(self.columns) and not surplus:
            return
        hint = ""
        if surplus and self.delimiter == ",":
            hint = " (numbers with a decimal comma must be quoted, or the columns separated by ;)"
        raise UserError(
            f"Every row must have as many cells as the header has names, {len(self.columns)}, but "
            f"{place} of {self.path} has {len(cells)}{hint}: {abbreviate(cells, 100)}."
        )


def _delimiter(header: str) -> str:
    """Return the delimiter that splits the header most; a blank where there is no other."""
    outside = re.sub(r'"[^"]*"|\([^)]*\)|\[[^\]]*\]', "", header)
    best = max(DELIMITERS, key=outside.count)
    if outside.count(best):
        return best
    return " " if len(outside.split()) > 1 else ","


def _is_data(line: str) -> bool:
    """Say whether a line's first cell is a number, or all of its cells but labels are."""
    cells = [cell for cell in re.split(r"[,;|\t ]+", line.strip()) if cell]
    return sum(map(_is_number, cells)) * 2 > len(cells)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
