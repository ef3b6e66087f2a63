"""The import of another ledger of our own, such as a part of the sweep that ran elsewhere.

The tables of other programs are imported by `table`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError
from hptransfer.results.curves import curve_file
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.importers.sweep_file import derive_sweep_file
from hptransfer.results.ledger_rows import (
    LEDGER_NAME,
    Ledger,
    find_ledger,
    read_ledger,
    read_ledger_rows,
    require_key,
)
from hptransfer.results.ledger_writer import LedgerWriter
from hptransfer.results.sweep_file import ImportedFacts, read_facts
from hptransfer.system.files import require_inside, write_text

# Fields of a row that its trial decides.
OUTCOME_FIELDS = ("status", "loss", "diverged_at_step", "stopped_at_step")
_LEDGER_LINE = b'{"trial_key":"'


@dataclass(frozen=True)
class LedgerSource:
    """A ledger to be imported, and the folder of the ledger that gets its rows."""

    ledger: Path
    name: str  # the field `source` of the rows that are imported from it
    into: Path


def is_ledger(source: Path) -> bool:
    """Say whether a path names a results folder or a ledger, and not another program's table."""
    if source.is_dir() or source.name == LEDGER_NAME or source.name.endswith(".jsonl.gz"):
        return True
    if not source.is_file():  # a bare name can only mean a folder; what has a suffix is a file
        return not source.suffix and ":" not in str(source)
    with source.open("rb") as file:
        return file.read(len(_LEDGER_LINE)) == _LEDGER_LINE


def import_ledger(source: Path, folder: ResultsFolder) -> dict[str, Any]:
    """Append the rows of a results folder or ledger that a folder lacks; describe what was done.

    No row of the folder is altered.

    Raises:
        UserError: there is no ledger or a damaged one, or the folder has no sweep.yaml and gets
            none from the source.
    """
    slices = _slices(source, folder)
    for each in slices:
        require_inside(folder.path, each.into)
    read_all = [(each, _read(each.ledger)) for each in slices]
    if not folder.sweep_file.is_file():
        _copy_sweep_file(source, folder)
    facts = read_facts(folder)
    answers = []
    for each, ledger in read_all:
        appended, answer = _append(each, ledger.rows)
        wanted = sum(map(facts.wants, appended)) if each.into == folder.path else None
        answers.append({**answer, "wanted": wanted, "notice": ledger.notice})
    if isinstance(facts, ImportedFacts):
        derive_sweep_file(folder, {})
    return {"folder": str(folder.path), "ledgers": answers}


def _read(path: Path) -> Ledger:
    """Read a ledger and check its keys against its configs, since keys become names of files."""
    ledger = read_ledger(path)
    for number, row in enumerate(ledger.rows, start=1):
        require_key(row, path, number)
    return ledger


def _slices(source: Path, folder: ResultsFolder) -> list[LedgerSource]:
    """Return the ledgers of a source; the rows of its target go into the folder's target."""
    if not source.exists():
        raise UserError(f"There is no ledger at {source}. Name a results folder or its ledger.")
    if source.is_file():
        home = source.resolve().parent
        name = home.name if source.name == LEDGER_NAME else source.name
        return [LedgerSource(source, name, _destination(home, folder))]
    home, target = source.resolve(), ResultsFolder(source).target
    require_inside(source, target)
    named = [
        (find_ledger(source), home.name, _destination(home, folder)),
        (find_ledger(target), f"{home.name}/{target.name}", folder.target),
    ]
    found = [LedgerSource(path, name, into) for path, name, into in named if path is not None]
    if not found:
        raise UserError(f"There is no ledger at {source}. Name a results folder or its ledger.")
    return found


def _destination(home: Path, folder: ResultsFolder) -> Path:
    is_target = home.name == folder.target.name and ResultsFolder(home.parent).sweep_file.is_file()
    return folder.target if is_target else folder.path


def _copy_sweep_file(source: Path, folder: ResultsFolder) -> None:
    asked = ResultsFolder(source)
    if not asked.sweep_file.is_file():
        raise UserError(
            f"Rows are imported into a sweep's folder, but {folder.path} holds no sweep.yaml, and "
            f"neither does {source}. Import a whole results folder first."
        )
    for path in (asked.sweep_file, asked.design_file):
        if path.is_file():
            require_inside(source, path)
            write_text(folder.path / path.name, path.read_text(encoding="utf-8"))


def _append(
    each: LedgerSource, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Append the rows of trials that have none; return these rows, and counts of all."""
    with LedgerWriter(each.into) as writer:
        ours = {row["trial_key"]: row for row in read_ledger_rows(each.into)}
        fresh = [
            {**row, "source": row.get("source", each.name)}
            for row in rows
            if row["trial_key"] not in ours
        ]
        # Before the rows, so that none is without its curves.
        curves = sum(_copy_curve(each, row["trial_key"]) for row in fresh)
        writer.append_new(fresh)
    pairs = [(ours[row["trial_key"]], row) for row in rows if row["trial_key"] in ours]
    differing = [(a, b) for a, b in pairs if any(a[name] != b[name] for name in OUTCOME_FIELDS)]
    gaps = [abs(a["loss"] - b["loss"]) for a, b in differing if None not in (a["loss"], b["loss"])]
    return fresh, {
        "source": str(each.ledger),
        "into": str(each.into),
        "appended": len(fresh),
        "curves": curves,
        "identical": len(pairs) - len(differing),
        "differing": len(differing),
        "largest_difference": max(gaps, default=None),
        "repaired": writer.notice,
    }


def _copy_curve(each: LedgerSource, key: str) -> bool:
    """Copy a trial's curves if the source has them; say whether it has."""
    kept = curve_file(each.ledger.parent, key)
    if not kept.is_file():
        return False
    write_text(curve_file(each.into, key), kept.read_text(encoding="utf-8"))
    return True
