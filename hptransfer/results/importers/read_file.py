"""A file of another program's trials as a table, whatever the file's format.

Nothing in a file is ever run: no pickles, no formulas, no text that is evaluated.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sqlite3
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.errors import UserError, abbreviate

if TYPE_CHECKING:
    import pandas as pd

LARGEST_TABLE_FILE = 1 << 30  # bytes; the text of a CSV is held in memory while its cells are read
LARGEST_JSON = 256 << 20  # bytes of a JSON file; parsed values take several times that
LONGEST_LINE = 1 << 20  # characters
DELIMITERS = (",", ";", "\t", "|")
OPTUNA_SCHEMA = 12  # of the tables that Optuna 3.0 to 5.0 write
_ODD_VALUES = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}  # in Optuna's tables
# First bytes of a file that is not read -> what it is, and what to do.
REFUSED = {
    b"PK\x03\x04": "a spreadsheet or archive (zip). Save the sheet as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel file. Save the sheet as CSV in UTF-8",
    b"\x1f\x8b": "gzipped. Unpack it with gunzip",
    b"\x80\x04": "a pickle, which may run code when it is read. Write the rows as CSV",
    b"\x80\x05": "a pickle, which may run code when it is read. Write the rows as CSV",
    b"\x89HDF": "an HDF5 file. Write the rows as CSV or Parquet",
}


@dataclass(frozen=True)
class Sheet:
    """A table's columns by name; their cells are loaded when they are needed.

    `load(names)` returns a frame of those columns, in which a cell is text, a number, a truth value
    or missing. The frame's index says where each row stands, such as `line 3`.
    """

    name: str
    columns: tuple[str, ...]
    load: Callable[[Sequence[str]], pd.DataFrame]
    decimal_comma: bool = False  # whether 0,5 may be a number


def open_sheet(path: Path) -> Sheet:
    """Return the table in a CSV, Parquet, JSON, JSON-lines or Optuna SQLite file.

    Raises:
        UserError: there is no such file, or it holds no table of rows.
    """
    head = _first_bytes(path)
    for magic, what in REFUSED.items():
        if head.startswith(magic):
            raise UserError(f"Rows are imported from a table, but {path} is {what} first.")
    if head.startswith(b"PAR1"):
        return _parquet_sheet(path)
    if head.startswith(b"SQLite format 3\x00"):
        return _optuna_sheet(path)
    _require_text(path, head)
    if path.suffix in (".jsonl", ".ndjson"):
        return _json_lines_sheet(path)
    if path.suffix == ".json" or head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return _json_sheet(path)
    return _csv_sheet(path)


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
        return frame.set_axis(_row_names(len(frame)))

    try:
        columns = tuple(parquet.read_schema(path).names)
        load(columns[:1])
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} must be a sound Parquet file, but: {_one_line(error)}.") from None
    return Sheet(path.name, columns, load)


def _json_lines_sheet(path: Path) -> Sheet:
    lines = [(number, line) for number, line in _decoded_lines(path) if line.strip()]
    values = [_parsed(line, f"line {number} of {path}") for number, line in lines]
    return _loaded(path, _records_frame(values, path, [f"line {number}" for number, _ in lines]))


def _json_sheet(path: Path) -> Sheet:
    """Read a JSON value, a list of objects or an object of columns; or an object on each line."""
    import pandas as pd

    if path.stat().st_size > LARGEST_JSON:
        raise UserError(
            f"A JSON file of rows may have {LARGEST_JSON >> 20} MiB, but {path} has "
            f"{path.stat().st_size >> 20}. Split it, or write it as CSV."
        )
    text = "".join(line for _, line in _decoded_lines(path, LARGEST_JSON))
    first = text.split("\n", 1)[0].strip()
    if first.startswith("{") and first.endswith("}") and text.strip() != first:
        return _json_lines_sheet(path)
    value = _parsed(text, str(path))
    if isinstance(value, list):
        return _loaded(path, _records_frame(value, path, _row_names(len(value))))
    columns = list(value.values()) if isinstance(value, Mapping) else []
    lists = all(isinstance(column, list) for column in columns)
    if columns and (lists or all(isinstance(column, Mapping) for column in columns)):
        keys = {len(column) if lists else tuple(column) for column in columns}
        if len(keys) == 1:
            frame = pd.DataFrame(value)
            return _loaded(path, frame.set_axis(_row_names(len(frame))))
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
    return pd.json_normalize(values).set_axis(places)


def _row_names(count: int) -> list[str]:
    return [f"row {number}" for number in range(1, count + 1)]


def _loaded(path: Path, frame: pd.DataFrame) -> Sheet:
    """Return a sheet of which all cells are in memory."""
    named = frame.set_axis([str(name) for name in frame.columns], axis="columns")
    return Sheet(path.name, tuple(named.columns), lambda names: named.filter(list(names)))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _decoded_lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, str]]:
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


def _csv_sheet(path: Path) -> Sheet:
    """Return the table in a file of delimited text, whose delimiter the header shows.

    Blank lines and lines that begin with `#` are left out. pandas reads the cells. It fills rows
    that were cut off with empty cells and does not say on which line a row stands, so the lines are
    looked through first.
    """
    header_line, header = next(
        ((n, text) for n, text in _records(path) if not re.fullmatch(r"sep=.", text.strip())),
        (0, ""),
    )
    if not header_line:
        raise UserError(f"{path} must hold a header and rows, but holds only comments.")
    delimiter = _delimiter(header)
    columns = _column_names(path, header_line, header, delimiter)

    def load(names: Sequence[str]) -> pd.DataFrame:
        """Read the cells of some columns as text, without the blanks around them."""
        import pandas as pd

        places, text = [], io.BytesIO()
        for number, record in _records(path):
            if number > header_line and record.strip(f'{delimiter}" \t\r\n'):
                _require_as_many(path, record, number, delimiter, len(columns))
                places.append(f"line {number}")
                text.write(record.encode())
        if not places:
            return pd.DataFrame(columns=list(names), dtype=str)
        text.seek(0)
        frame = pd.read_csv(
            text,
            sep=r"\s+" if delimiter == " " else delimiter,
            header=None,
            names=range(len(columns)),
            usecols=sorted({columns.index(name) for name in names}),
            index_col=False,
            dtype=str,
            keep_default_na=False,
        )
        cells = {name: frame[columns.index(name)].str.strip() for name in names}
        return pd.DataFrame(cells).set_axis(places)

    return Sheet(path.name, columns, load, decimal_comma=delimiter != ",")


def _require_as_many(path: Path, record: str, line: int, delimiter: str, count: int) -> None:
    """Refuse a row with fewer cells than the header has names, or with more that hold text."""
    if record.count(delimiter) == count - 1 and '"' not in record and delimiter != " ":
        return  # nearly every row, told in a fraction of the time that splitting it takes
    cells = _cells(record, delimiter, f"Line {line} of {path}")
    surplus = any(cell.strip() for cell in cells[count:])
    if len(cells) < count or surplus:
        hint = ""
        if surplus and delimiter == ",":
            hint = " (quote numbers that have a decimal comma, or separate the columns by ;)"
        raise UserError(
            f"Every row must have as many cells as the header has names, {count}, but line "
            f"{line} of {path} has {len(cells)}{hint}: {abbreviate(cells, 100)}."
        )


def _records(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the text of each row with the number of its last line: a quoted cell may hold lines."""
    held: list[str] = []
    is_open = False  # whether a quote is open
    number = 0
    for number, line in _decoded_lines(path):
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


def _optuna_sheet(path: Path) -> Sheet:
    """Return the trials of all studies in a SQLite file of Optuna's as one table.

    Its columns are `params.*`, `user_attrs.*`, `study_attrs.*`, `value` and `state`. The tables are
    read as they are: Optuna itself would create and migrate tables in the file, and unpickle what
    its samplers keep there.
    """
    import pandas as pd

    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
            _require_readable(base, path)
            trials = _trials(base)
    except sqlite3.Error as error:
        raise UserError(
            f"{path} must be a SQLite file that Optuna wrote, but: {error}. Name that file, or "
            "export its trials: study.trials_dataframe().to_csv('trials.csv')"
        ) from None
    places = [f"trial {t['number']} of study {t['study']}" for t in trials]
    return _loaded(path, pd.DataFrame(trials, index=places))


def _require_readable(base: sqlite3.Connection, path: Path) -> None:
    (version,) = base.execute("SELECT schema_version FROM version_info").fetchone() or (None,)
    if version != OPTUNA_SCHEMA:
        raise UserError(
            f"Optuna studies of schema {OPTUNA_SCHEMA} are read, but {path} has {version}. "
            "Export it with its own Optuna: study.trials_dataframe().to_csv('trials.csv')"
        )
    for name, direction, objective in base.execute(
        "SELECT study_name, direction, objective FROM study_directions JOIN studies USING "
        "(study_id) ORDER BY objective DESC"
    ):
        if objective > 0 or direction == "MAXIMIZE":
            problem = "has several objectives" if objective > 0 else "maximises its value"
            raise UserError(
                f"A study must minimise one loss, but {name!r} in {path} {problem}. Export its "
                "trials and name the loss: study.trials_dataframe().to_csv('trials.csv')"
            )


def _trials(base: sqlite3.Connection) -> list[dict[str, Any]]:
    studies = dict(base.execute("SELECT study_id, study_name FROM studies"))
    of_study: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for study, key, value in base.execute(
        "SELECT study_id, key, value_json FROM study_user_attributes ORDER BY key"
    ):
        of_study[study][f"study_attrs.{key}"] = json.loads(value)
    found: dict[int, dict[str, Any]] = {}
    for trial, number, study, state in base.execute(
        "SELECT trial_id, number, study_id, state FROM trials ORDER BY study_id, number"
    ):
        name = studies[study]
        found[trial] = {"study": name, "number": number, "state": state, **of_study[study]}
    for trial, key, value, distribution in base.execute(
        "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params"
    ):
        choices = json.loads(distribution)["attributes"].get("choices")
        found[trial][f"params.{key}"] = value if choices is None else choices[int(value)]
    for trial, key, value in base.execute(
        "SELECT trial_id, key, value_json FROM trial_user_attributes"
    ):
        found[trial][f"user_attrs.{key}"] = json.loads(value)
    for trial, value, kind in base.execute("SELECT trial_id, value, value_type FROM trial_values"):
        found[trial]["value"] = _ODD_VALUES.get(kind, value)
    return list(found.values())
