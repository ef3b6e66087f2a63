"""A file of somebody's trials as named columns and numbered rows, whatever its format.

Nothing in a file is ever run: no pickles, no formulas, no text that is evaluated.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError, abbreviate
from hptransfer.results.importers.sheet import Sheet

LARGEST_FILE = 2 << 30  # bytes
LARGEST_JSON = 256 << 20  # bytes of a file that is one JSON value, and so is held whole
_MAGIC = {
    b"PK\x03\x04": "a spreadsheet or archive (zip). Save the sheet as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel file. Save the sheet as CSV in UTF-8",
    b"\x1f\x8b": "gzipped. Unpack it with gunzip",
    b"\x80\x04": "a pickle, which may run code when it is read. Write the rows as CSV",
    b"\x80\x05": "a pickle, which may run code when it is read. Write the rows as CSV",
    b"\x89HDF": "an HDF5 file. Write the rows as CSV or Parquet",
}
SQLITE = b"SQLite format 3\x00"
PARQUET = b"PAR1"
JSON_LINES = (".jsonl", ".ndjson")


def open_sheet(path: Path) -> Sheet:
    """Read a CSV, Parquet, JSON, JSON-lines or Optuna SQLite file.

    Raises:
        UserError: no such file, or one that holds no table of rows.
    """
    head = _head(path)
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"Rows are imported from a table, but {path} is {what} first.")
    if head.startswith(PARQUET):
        return _parquet(path)
    if head.startswith(SQLITE):
        from hptransfer.results.importers.read_optuna import optuna_sheet

        return optuna_sheet(path)
    from hptransfer.results.importers.read_csv import delimited_sheet, require_text_file

    require_text_file(path, head)
    if path.suffix in JSON_LINES:
        return _json_lines(path)
    if path.suffix == ".json" or head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return _json_table(path)
    return delimited_sheet(path)


def _head(path: Path) -> bytes:
    """Return a regular file's first bytes; a pipe or device is never opened."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UserError(
                f"Rows are imported from a file, but {path} is a folder without a ledger. Name a "
                "file in it."
            )
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} must be a file, but is a pipe or a device.")
        if status.st_size > LARGEST_FILE:
            raise UserError(
                f"A file of rows may have {LARGEST_FILE >> 20} MiB, but {path} has "
                f"{status.st_size >> 20}. Leave out the columns that are not needed, or split it."
            )
        with path.open("rb") as file:
            return file.read(1 << 16)
    except FileNotFoundError:
        raise UserError(f"There is no file {path}. Check the path.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{abbreviate(str(path))} must be a file to read, but: {reason}.") from None


def _parquet(path: Path) -> Sheet:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        columns = tuple(str(name) for name in parquet.ParquetFile(path).schema_arrow.names)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} must be a sound Parquet file, but: {_line(error)}.") from None

    def rows(names: Sequence[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        number = 0
        try:
            batches = parquet.ParquetFile(path).iter_batches(10_000, columns=list(names))
            for batch in batches:
                read = [batch.column(name).to_pylist() for name in names]
                for cells in zip(*read, strict=True):
                    number += 1
                    yield f"row {number}", cells
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} must be a sound Parquet file, but: {_line(error)}.") from None

    return Sheet(path.name, columns, rows)


def _json_lines(path: Path) -> Sheet:
    columns: dict[str, None] = {}
    for _, record in _parsed_lines(path):
        columns.update(dict.fromkeys(record))

    def rows(names: Sequence[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        for number, record in _parsed_lines(path):
            yield f"line {number}", [record.get(name) for name in names]

    return Sheet(path.name, tuple(columns), rows)


def _parsed_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    from hptransfer.results.importers.read_csv import lines_of

    for number, line in lines_of(path):
        if line.strip():
            yield number, _flat(_parse(line, path, f"line {number}"), path, f"line {number}")


def _json_table(path: Path) -> Sheet:
    """Read one JSON value: a list of objects, or an object of columns."""
    if path.stat().st_size > LARGEST_JSON:
        raise UserError(
            f"A JSON file of rows may have {LARGEST_JSON >> 20} MiB, but {path} has "
            f"{path.stat().st_size >> 20}. Write one object a line, as .jsonl."
        )
    try:
        value = _parse(path.read_bytes().decode("utf-8-sig"), path, None)
    except UserError:
        if _is_json_lines(path):
            return _json_lines(path)
        raise
    if isinstance(value, Mapping):
        value = _from_columns(value)
    if not isinstance(value, list):
        raise UserError(
            f"{path} must hold rows, a list of objects (or an object of equally long columns), but "
            f"holds {abbreviate(value)}. Write it with `to_json(path, orient='records')`."
        )
    records = [_flat(item, path, f"row {n}") for n, item in enumerate(value, start=1)]
    columns = tuple(dict.fromkeys(name for record in records for name in record))

    def rows(names: Sequence[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        for number, record in enumerate(records, start=1):
            yield f"row {number}", [record.get(name) for name in names]

    return Sheet(path.name, columns, rows)


def _is_json_lines(path: Path) -> bool:
    """Say whether the first line is an object by itself."""
    with path.open("rb") as file:
        first = file.readline().strip()
    return first.startswith(b"{") and first.endswith(b"}")


def _from_columns(value: Mapping[str, Any]) -> Any:
    """Return the rows of `{column: [cells]}` or pandas' `{column: {index: cell}}`."""
    cells = list(value.values())
    if cells and all(isinstance(column, list) for column in cells):
        if len({len(column) for column in cells}) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]
        return value
    indices = [list(column) for column in cells if isinstance(column, Mapping)]
    if cells and len(indices) == len(cells) and all(index == indices[0] for index in indices):
        return [{name: column[i] for name, column in value.items()} for i in indices[0]]
    return value


def _parse(text: str, path: Path, place: str | None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f"{place} of {path}" if place else str(path)
        raise UserError(f"{where} must be JSON, but {_line(error)}.") from None


def _flat(value: Any, path: Path, place: str) -> dict[str, Any]:
    """Return an object's plain values by dotted name: `config.lr`."""
    if not isinstance(value, Mapping):
        raise UserError(
            f"{place} of {path} must be an object such as {{'width': 64}}, but is "
            f"{abbreviate(value)}."
        )
    flat: dict[str, Any] = {}
    waiting = [("", value)]
    while waiting:
        prefix, level = waiting.pop()
        for name, item in level.items():
            if isinstance(item, Mapping):
                waiting.append((f"{prefix}{name}.", item))
            elif not isinstance(item, list):
                flat[f"{prefix}{name}"] = item
    return flat


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
