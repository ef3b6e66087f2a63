"""A file of another program's trials as a table, whatever the file's format.

Nothing in a file is ever run: no pickles, no formulas, no text that is evaluated.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.errors import UserError, abbreviate
from hptransfer.results.importers.read_csv import csv_sheet, decoded_lines
from hptransfer.results.importers.read_optuna import optuna_sheet
from hptransfer.results.importers.sheet import Sheet

if TYPE_CHECKING:
    import pandas as pd

LARGEST_TABLE_FILE = 1 << 30  # bytes; the text of a CSV is held in memory while its cells are read
LARGEST_JSON = 256 << 20  # bytes of a JSON file; parsed values take several times that
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = b"PAR1"
SQLITE = b"SQLite format 3\x00"
# First bytes of a file that is not read -> what it is, and what to do.
REFUSED = {
    b"PK\x03\x04": "a spreadsheet or archive (zip). Save the sheet as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel file. Save the sheet as CSV in UTF-8",
    b"\x1f\x8b": "gzipped. Unpack it with gunzip",
    b"\x80\x04": "a pickle, which may run code when it is read. Write the rows as CSV",
    b"\x80\x05": "a pickle, which may run code when it is read. Write the rows as CSV",
    b"\x89HDF": "an HDF5 file. Write the rows as CSV or Parquet",
}


def open_sheet(path: Path) -> Sheet:
    """Return the table in a CSV, Parquet, JSON, JSON-lines or Optuna SQLite file.

    Raises:
        UserError: there is no such file, or it holds no table of rows.
    """
    head = _first_bytes(path)
    for magic, what in REFUSED.items():
        if head.startswith(magic):
            raise UserError(f"Rows are imported from a table, but {path} is {what} first.")
    if head.startswith(PARQUET):
        return _parquet_sheet(path)
    if head.startswith(SQLITE):
        return optuna_sheet(path)
    _require_text(path, head)
    if path.suffix in JSON_LINES:
        return _json_lines_sheet(path)
    if path.suffix == ".json" or head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return _json_sheet(path)
    return csv_sheet(path)


def _first_bytes(path: Path) -> bytes:
    """Return the first bytes of a regular file; a pipe or a device is never opened."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UserError(
                f"Rows are imported from a file, but {path} is a folder without a ledger. Name a "
                "file in it."
            )
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} must be a file, but is a pipe or a device.")
        if status.st_size > LARGEST_TABLE_FILE:
            raise UserError(
                f"A file of rows may have {LARGEST_TABLE_FILE >> 20} MiB, but {path} has "
                f"{status.st_size >> 20}. Leave out the columns that are not needed, or split it."
            )
        with path.open("rb") as file:
            return file.read(1 << 16)
    except FileNotFoundError:
        raise UserError(f"There is no file {path}. Check the path.") from None
    except OSError as error:
        raise UserError(
            f"{abbreviate(str(path))} must be a file to read, but: {error.strerror}."
        ) from None


def _require_text(path: Path, head: bytes) -> None:
    """Refuse an empty, a binary and a UTF-16 file by its first bytes."""
    if not head.strip():
        raise UserError(f"{path} must hold a header and rows, but it is empty.")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(
            f"{path} must be UTF-8, but is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 "
            f"{path.name} > utf8-{path.name}"
        )
    if b"\x00" in head:
        raise UserError(
            f"Rows are imported from CSV, Parquet, JSON, JSON lines or an Optuna SQLite file, but "
            f"{path} is some other binary file. Write the rows as CSV."
        )


def _parquet_sheet(path: Path) -> Sheet:
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    def load(names: Sequence[str]) -> pd.DataFrame:
        # Arrow's types keep whole numbers whole where a cell of their column is missing.
        frame = pd.read_parquet(path, columns=list(names), dtype_backend="pyarrow")
        return frame.set_axis(range(1, len(frame) + 1))

    try:
        columns = tuple(parquet.read_schema(path).names)
        load(columns[:1])
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} must be a sound Parquet file, but: {_one_line(error)}.") from None
    return Sheet(path.name, columns, load)


def _json_lines_sheet(path: Path) -> Sheet:
    lines = [(number, line) for number, line in decoded_lines(path) if line.strip()]
    values = [_parsed(line, f"line {number} of {path}") for number, line in lines]
    frame = _records_frame(values, path, [f"line {number}" for number, _ in lines])
    return _loaded(path, frame.set_axis([number for number, _ in lines]), "line")


def _json_sheet(path: Path) -> Sheet:
    """Read a JSON value, a list of objects or an object of columns; or an object on each line."""
    import pandas as pd

    if path.stat().st_size > LARGEST_JSON:
        raise UserError(
            f"A JSON file of rows may have {LARGEST_JSON >> 20} MiB, but {path} has "
            f"{path.stat().st_size >> 20}. Split it, or write it as CSV."
        )
    text = "".join(line for _, line in decoded_lines(path, LARGEST_JSON))
    first = text.split("\n", 1)[0].strip()
    if first.startswith("{") and first.endswith("}") and text.strip() != first:
        return _json_lines_sheet(path)
    value = _parsed(text, str(path))
    if isinstance(value, list):
        places = [f"row {number}" for number in range(1, len(value) + 1)]
        return _loaded(path, _records_frame(value, path, places))
    columns = list(value.values()) if isinstance(value, Mapping) else []
    lists = all(isinstance(column, list) for column in columns)
    if columns and (lists or all(isinstance(column, Mapping) for column in columns)):
        keys = {len(column) if lists else tuple(column) for column in columns}
        if len(keys) == 1:
            return _loaded(path, pd.DataFrame(value))
    raise UserError(
        f"{path} must hold rows, a list of objects (or an object of equally long columns), but "
        f"holds {abbreviate(value)}. Write it with `to_json(path, orient='records')`."
    )


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} must be JSON, but {_one_line(error)}.") from None


def _records_frame(values: list[Any], path: Path, places: list[str]) -> pd.DataFrame:
    """Return objects as rows; a value inside another has a dotted name: `config.lr`."""
    import pandas as pd

    for value, place in zip(values, places, strict=True):
        if not isinstance(value, Mapping):
            raise UserError(
                f"{place} of {path} must be an object such as {{'width': 64}}, but is "
                f"{abbreviate(value)}."
            )
    return pd.json_normalize(values)


def _loaded(path: Path, frame: pd.DataFrame, unit: str = "row") -> Sheet:
    """Return a sheet of which all cells are in memory."""
    if unit == "row":
        frame = frame.set_axis(range(1, len(frame) + 1))
    named = frame.set_axis([str(name) for name in frame.columns], axis="columns")
    return Sheet(path.name, tuple(named.columns), lambda names: named.filter(list(names)), unit)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
