"""A sweep's rows as a CSV or Parquet file, with a data dictionary beside it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.results.sweep_file import SweepFacts
from hptransfer.results.table import TABLE_COLUMNS, TableColumn, rows_table
from hptransfer.system.files import opening, require_inside, write_whole

if TYPE_CHECKING:
    import pandas as pd

WANTED = TableColumn(
    "wanted", "bool", "", "whether the sweep asks for the trial; other trials are not used in a fit"
)
EXPORT_SUFFIXES = (".csv", ".parquet")


def export_rows(folder: ResultsFolder, facts: SweepFacts, path: str | Path) -> dict[str, Any]:
    """Write a folder's rows to a .csv or .parquet file, and a data dictionary beside that file.

    Raises:
        UserError: the file has another suffix or cannot be written, or there is no row yet.
    """
    import pandas as pd

    path = Path(path)
    _require_writable(folder, path)
    rows = read_ledger_rows(folder.path)
    if not rows:
        raise UserError(f"{folder.path} holds no finished trial yet. Run `hptransfer sweep` first.")
    frame = rows_table(rows)
    arms = facts.tree["sweep"]["parametrizations"]
    for arm in arms:
        frame[f"arm_{arm}"] = frame["parametrization"].isin([arm, "shared"])
    frame[WANTED.name] = [facts.wants(row) for row in rows]
    columns = dictionary(frame, arms)
    meanings = dictionary_file(path)
    with opening(path.parent, "choose another with --export"):
        write_whole(path, _parquet(frame, columns) if path.suffix == ".parquet" else _csv(frame))
        write_whole(meanings, _csv(pd.DataFrame(columns, columns=TableColumn._fields)))
    return {"file": str(path), "dictionary": str(meanings), "rows": len(rows)}


def dictionary_file(path: Path) -> Path:
    """Return the path of the data dictionary of an exported file."""
    return path.with_name(f"{path.stem}.dictionary.csv")


def dictionary(frame: pd.DataFrame, arms: Sequence[str]) -> list[TableColumn]:
    """Describe each column of an exported table, in their order."""
    known = {column.name: column for column in (*TABLE_COLUMNS, WANTED)}
    for arm in arms:
        meaning = (
            f"the trial belongs to the parametrization {arm}; at the base width trials belong to "
            "all of them"
        )
        known[f"arm_{arm}"] = TableColumn(f"arm_{arm}", "bool", "", meaning)
    for name in frame.columns:
        meaning = f"log2 of the swept {name.removeprefix('log2_')}"
        known.setdefault(name, known["log2_<hp>"]._replace(name=name, meaning=meaning))
    return [known[name] for name in frame.columns]


def _require_writable(folder: ResultsFolder, path: Path) -> None:
    if path.suffix not in EXPORT_SUFFIXES:
        raise UserError(
            f"Rows are exported as .csv or .parquet, but got {path}. Name a file that ends so."
        )
    for written in (path, dictionary_file(path)):
        if written.is_dir():
            raise UserError(f"Rows are exported to a file, but {written} is a folder.")
        if written.absolute().is_relative_to(folder.path.absolute()):
            require_inside(folder.path, written)
    if not path.parent.is_dir():
        raise UserError(f"Rows are exported into a folder that exists, but {path.parent} does not.")


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def _parquet(frame: pd.DataFrame, columns: Sequence[TableColumn]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    rows = pa.Table.from_pandas(frame, preserve_index=False)
    fields = [
        field.with_metadata({"unit": column.unit, "meaning": column.meaning})
        for field, column in zip(rows.schema, columns, strict=True)
    ]
    described = rows.cast(pa.schema(fields, rows.schema.metadata))
    file = io.BytesIO()
    parquet.write_table(described, file)
    return file.getvalue()
