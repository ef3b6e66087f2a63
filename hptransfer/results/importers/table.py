"""The import of another program's table into a results folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.importers.columns import ChosenColumns, choose_columns
from hptransfer.results.importers.read_file import open_sheet
from hptransfer.results.importers.rows import (
    UNKNOWN_LABEL,
    Cells,
    OddRows,
    ledger_rows,
    outcome,
    read_trials,
    trial_digest,
)
from hptransfer.results.importers.sweep_file import derive_sweep_file
from hptransfer.results.ledger_rows import iterate_ledger_rows
from hptransfer.results.ledger_writer import LedgerWriter
from hptransfer.results.sweep_file import ImportedFacts, read_facts
from hptransfer.system.files import require_inside, require_links_inside

_OTHER_STORAGES = ("mysql", "postgresql", "redis", "journal")


def import_file(
    source: str | Path, folder: ResultsFolder, words: Sequence[str], *, drop_missing: bool
) -> dict[str, Any]:
    """Append the trials of another program's table to a folder; describe what was done.

    Nothing is written before all rows have been checked. Trials that the folder has are left as
    they are, and the folder's sweep.yaml is derived again from all its rows.

    Args:
        source: a file, or an Optuna `sqlite:///` address.
        folder: an imported folder, a new one, or the `target/` of a sweep.
        words: the words of `--columns`.
        drop_missing: whether rows without a loss are left out, and not taken as diverged trials.

    Raises:
        UserError: the file is no table, a column or cell is not as it must be, or the folder holds
            rows of our own sweep.
    """
    above = ResultsFolder(folder.path.absolute().parent)
    is_target = folder.path.name == above.target.name and above.sweep_file.is_file()
    labels = {"family": UNKNOWN_LABEL, "parametrization": UNKNOWN_LABEL}
    if is_target:
        require_inside(folder.path.parent, folder.path)
        # Every arm has the target's rows, and its sweep names their family.
        family = str((read_facts(above).tree.get("model") or {}).get("family", UNKNOWN_LABEL))
        labels = {"family": family, "parametrization": "shared"}
    else:
        _require_imported(folder)
    require_links_inside(folder.path)
    sheet = open_sheet(local_file(source))
    chosen = choose_columns(words, sheet.columns, sheet.name)
    cells, axes = Cells(sheet.name, sheet.decimal_comma), [axis for _, axis in chosen.axes]
    trials, odd = read_trials(sheet, chosen, cells, labels, drop_missing=drop_missing)
    if trials.empty:
        raise UserError(_nothing(sheet.name, odd))

    first: dict[bytes, tuple[str, tuple[Any, ...]]] = {}
    known = set[str]()
    for row in iterate_ledger_rows(folder.path):
        _is_new(first, row, f"{row.get('source', 'a row')} (in {folder.path})")
        known.add(row["trial_key"])
        _require_same_axes(row, axes, sheet.name, folder)
    were_there = 0
    for place, row in ledger_rows(trials, axes, sheet.name):
        is_new = _is_new(first, row, f"{place} of {sheet.name}")
        if not is_new and row["trial_key"] in known:
            were_there += 1
        elif not is_new:
            odd["given twice, kept once"].append(place)
    with LedgerWriter(folder.path) as writer:
        appended = writer.append_new(row for _, row in ledger_rows(trials, axes, sheet.name))
    if not is_target:
        derive_sweep_file(folder, {sheet.name: chosen.record()})
    checkpoints = len(set(trials["steps"])) if "step" in chosen.names else 0
    return {
        "source": str(source),
        "into": str(folder.path),
        "columns": chosen.record(),
        "appended": appended,
        "identical": were_there,
        "notes": _notes(chosen, odd, cells, labels, checkpoints),
        "repaired": writer.notice,
    }


def _is_new(
    first: dict[bytes, tuple[str, tuple[Any, ...]]], row: Mapping[str, Any], where: str
) -> bool:
    """Say whether a row is the first of its trial, and note where the first one stands.

    Raises:
        UserError: an earlier row of the trial has another outcome.
    """
    came = outcome(row)
    before, then = first.setdefault(trial_digest(row), (where, came))
    if then != came:
        hps = ", ".join(f"{name} {value:g}" for name, value in row["hps"].items())
        steps = row["config"].get("budget", {}).get("steps")
        at_step = "" if steps is None else f", step {steps}"
        raise UserError(
            f"A trial has one loss, but {where} gives {_loss(came)} where {before} gave "
            f"{_loss(then)}, both for {row['parametrization']}, width {row['width']}, {hps}, "
            f"seed {row['seed']}{at_step}. Tell repeated runs apart by a column of "
            "seeds (--columns seed=COLUMN), or give their mean with n_seeds and loss_std; what "
            "else differs may be an arm (parametrization=COLUMN), a checkpoint (step=COLUMN) "
            "or another hyperparameter (weight_decay=COLUMN)."
        )
    return before == where


def _loss(came: tuple[Any, ...]) -> str:
    status, loss, n, sd = came
    said = status if loss is None or not math.isfinite(loss) else f"loss {loss:.6g}"
    return said + (f" (n_seeds {n})" if n else "") + (f" (loss_std {sd:g})" if sd else "")


def local_file(source: str | Path) -> Path:
    """Return the file of a path or of an Optuna `sqlite:///` address."""
    scheme, colon, rest = str(source).partition(":/")
    if colon and scheme.split("+")[0] in _OTHER_STORAGES:
        raise UserError(
            f"Optuna studies are read from a SQLite file, but got {source}. Export the trials: "
            "study.trials_dataframe().to_csv('trials.csv')"
        )
    if not colon or scheme != "sqlite":
        return Path(source)
    relative = Path(rest.lstrip("/"))
    return relative if relative.exists() else Path(f"/{relative}")


def _require_imported(folder: ResultsFolder) -> None:
    """Refuse a folder that holds rows of our own."""
    if not folder.sweep_file.is_file():
        # An interrupted import leaves a ledger of imported rows alone.
        if not all("foreign" in row["config"] for row in iterate_ledger_rows(folder.path)):
            raise UserError(
                f"{folder.path} holds a ledger without its sweep.yaml. Restore that file, or "
                "import into another folder."
            )
    elif not isinstance(read_facts(folder), ImportedFacts):
        raise UserError(
            f"{folder.path} holds a sweep of our own, so rows of another program would be fitted "
            f"with it. Import them into a folder of their own, or into {folder.target} if they "
            "are of the target."
        )


def _require_same_axes(
    row: Mapping[str, Any], axes: Sequence[str], file: str, folder: ResultsFolder
) -> None:
    if sorted(row["hps"]) != sorted(axes):
        raise UserError(
            f"Rows of one folder must have the same hyperparameters, but those of {folder.path} "
            f"have {', '.join(sorted(row['hps']))} and those of {file} {', '.join(sorted(axes))}. "
            "Name the columns alike with --columns, or import into another folder."
        )


def _notes(
    chosen: ChosenColumns, odd: OddRows, cells: Cells, labels: Mapping[str, str], checkpoints: int
) -> list[str]:
    """Return what the user should know of an import, a sentence each."""
    notes = [_columns_text(chosen), *_exclusions(odd)]
    if cells.commas:
        notes.append(f"{cells.commas:,} numbers have a decimal comma: 0,5 was read as 0.5")
    if "seed" not in chosen.names:
        notes.append("no column of seeds: every row is seed 0 (seed=COLUMN says otherwise)")
    if "parametrization" not in chosen.names and labels["parametrization"] == UNKNOWN_LABEL:
        notes.append(
            f"no column of arms: all rows are one arm, {UNKNOWN_LABEL!r} "
            "(parametrization=COLUMN, or parametrization:=mup for all)"
        )
    if checkpoints > 1:
        notes.append(
            f"warning: losses at {checkpoints} steps of training are all kept, each as a run of so "
            "many steps; that holds only under a constant learning rate, and not under a decay "
            "(read another step with `hptransfer fit --step N`)"
        )
    return notes


def _columns_text(chosen: ChosenColumns) -> str:
    """Return a sentence that says which column was taken for what."""
    parts = [f"{ours} = {column!r}" for ours, column in sorted(chosen.columns.items())]
    parts += [f"{ours} := {value}" for ours, value in sorted(chosen.constants.items())]
    if chosen.wide:
        columns = list(chosen.wide.columns)
        listed = ", ".join(map(repr, columns[:3])) + (" ..." if len(columns) > 3 else "")
        by = ", ".join(chosen.wide.names)
        parts.append(f"loss by {by} = {len(columns)} columns {listed}")
    return f"columns: {'; '.join(parts)}"


def _exclusions(odd: OddRows) -> list[str]:
    """Return a sentence for each special treatment: how many rows had it, and the first's place."""
    return [
        f"{len(places):,} row{'s' if len(places) > 1 else ''} {treatment} (first: {places[0]})"
        for treatment, places in sorted(odd.items())
    ]


def _nothing(file: str, odd: OddRows) -> str:
    left_out = "; ".join(_exclusions(odd))
    if left_out:
        return f"{file} holds no trial to import: {left_out}."
    return f"{file} must hold rows, but it holds a header alone. Add the trials below it."
