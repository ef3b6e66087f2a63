"""`status --verify`: every line and curve of a results folder is read; nothing is changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError
from hptransfer.results.curves import curve_file
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import find_ledger, parse_strict_json, scan_ledger
from hptransfer.system.files import require_inside


def verify_folder(folder: ResultsFolder) -> list[dict[str, Any]]:
    """Read the ledgers and curves of a sweep and of its target; describe each ledger.

    Raises:
        UserError: a line or curve is not as it was written; the sentence names file and line.
    """
    require_inside(folder.path, folder.target)
    ledgers = [(each, find_ledger(each)) for each in (folder.path, folder.target)]
    return [_verified(each, path) for each, path in ledgers if path is not None]


def _verified(folder: Path, path: Path) -> dict[str, Any]:
    rows = 0
    for stretch in scan_ledger(path):
        for number, row in enumerate(stretch.rows, start=rows + 1):
            require_key(row, path, number)
        rows += len(stretch.rows)
        if stretch.torn_bytes:
            raise UserError(
                f"Line {rows + 1} of {path} is cut off ({stretch.torn_bytes} bytes): an "
                "interrupted write, or a sweep that is writing now. Running the sweep again "
                "removes it and runs its trial."
            )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "file": str(path),
        "rows": rows,
        "bytes": path.stat().st_size,
        "sha256": digest,
        "curves": _verified_curves(folder),
    }


def require_key(row: Mapping[str, Any], path: Path, number: int) -> None:
    """Refuse a row whose key is not the digest of its config."""
    config = json.dumps(row["config"], sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(config.encode()).hexdigest()[:12]
    if key != row["trial_key"]:
        raise UserError(
            f"Line {number} of {path} has the key {row['trial_key']}, but its config's is {key}. "
            "Restore the file from a copy."
        )


def _verified_curves(folder: Path) -> int:
    require_inside(folder, folder / "curves")
    paths = sorted((folder / "curves").glob("[!.]*.json"))
    for path in paths:
        _require_curve(curve_file(folder, path.stem))
    return len(paths)


def _require_curve(path: Path) -> None:
    try:
        value = parse_strict_json(path.read_text(encoding="utf-8"))
        problem = None
        if value["trial_key"] != path.stem:
            problem = f"it is the curve of {value['trial_key']}"
        elif not all(_is_point(p) for p in (*value["curve"], *value.get("held_out", ()))):
            problem = "its points are no pairs of step and loss"
    except (ValueError, KeyError, TypeError, OSError) as error:
        problem = str(error) or type(error).__name__
    if problem:
        raise UserError(
            f"{path} is not a curve as hptransfer wrote it ({problem}). Restore or delete it; the "
            "ledger is untouched."
        )


def _is_point(point: Any) -> bool:
    step, loss = point
    return isinstance(step, int) and (loss is None or isinstance(loss, int | float))
