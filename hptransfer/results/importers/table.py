"""The import of another program's table into a results folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.importers.cells import Numbers
from hptransfer.results.importers.columns import ChosenColumns, choose_columns
from hptransfer.results.importers.read_file import open_sheet
from hptransfer.results.importers.rows import (
    UNKNOWN_LABEL,
    Defaults,
    OddRows,
    describe_columns,
    describe_exclusions,
    outcome,
    read_trials,
    trial_digest,
)
from hptransfer.results.importers.sweep_file import RowSurvey, write_sweep_file
from hptransfer.results.ledger_rows import find_ledger, iterate_ledger_rows
from hptransfer.results.ledger_writer import LedgerWriter
from hptransfer.results.sweep_file import ImportedFacts, read_facts
from hptransfer.system.files import require_inside, require_links_inside

ROWS_PER_APPEND = 2000  # each append is one fsync
_OTHER_STORAGES = ("mysql", "postgresql", "redis", "journal")


@dataclass
class _Seen:
    """Where the first row of each trial stands, and the outcome that it gives."""

    first: dict[bytes, tuple[str, tuple[Any, ...]]] = field(default_factory=dict)

    def is_new(self, row: Mapping[str, Any], where: str) -> bool:
        """Say whether a row is the first of its trial.

        Raises:
            UserError: an earlier row of the trial has another outcome.
        """
        came = outcome(row)
        before, then = self.first.setdefault(trial_digest(row), (where, came))
        if then != came:
            hps = ", ".join(f"{name} {value:g}" for name, value in row["hps"].items())
            raise UserError(
                f"A trial has one loss, but {where} gives {_loss(came)} where {before} gave "
                f"{_loss(then)}, both for {row['parametrization']}, width {row['width']}, {hps}, "
                f"seed {row['seed']}{_at_steps(row)}. Tell repeated runs apart by a column of "
                "seeds (--columns seed=COLUMN), or give their mean with n_seeds and loss_std; what "
                "else differs may be an arm (parametrization=COLUMN), a checkpoint (step=COLUMN) "
                "or another hyperparameter (weight_decay=COLUMN)."
            )
        return before == where


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
    is_target = _is_target(folder)
    if is_target:
        require_inside(folder.path.parent, folder.path)
    else:
        _require_imported(folder)
    require_links_inside(folder.path)
    sheet = open_sheet(local_file(source))
    chosen = choose_columns(words, sheet.columns, sheet.name)
    numbers = Numbers(sheet.name, sheet.decimal_comma)
    defaults = _target_defaults(folder) if is_target else Defaults()
    odd = OddRows()
    trials = read_trials(
        sheet, chosen, drop_missing=drop_missing, defaults=defaults, numbers=numbers, odd=odd
    )
    if trials.frame.empty:
        raise UserError(_nothing(sheet.name, odd))

    seen, survey = _Seen(), RowSurvey()
    known = _survey_recorded(folder.path, seen, survey)
    _require_same_axes(chosen, survey, sheet.name, folder)
    were_there = 0
    for place, row in trials.rows():
        if seen.is_new(row, f"{place} of {sheet.name}"):
            survey.add(row)
        elif row["trial_key"] in known:
            were_there += 1
        else:
            odd.add("given twice, kept once", place)
    appended, notice = _append(folder.path, trials.rows())
    if not is_target:
        survey.add_file(sheet.name, chosen.record())
        write_sweep_file(folder, survey)
    checkpoints = len(set(trials.frame["steps"])) if "step" in chosen.names else 0
    return {
        "source": str(source),
        "into": str(folder.path),
        "columns": chosen.record(),
        "appended": appended,
        "identical": were_there,
        "notes": _notes(chosen, odd, numbers, defaults, checkpoints),
        "repaired": notice,
    }


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


def _is_target(folder: ResultsFolder) -> bool:
    parent = ResultsFolder(folder.path.absolute().parent)
    return folder.path.name == parent.target.name and parent.sweep_file.is_file()


def _require_imported(folder: ResultsFolder) -> None:
    if not folder.sweep_file.is_file():
        if find_ledger(folder.path) is not None and not _only_foreign(folder.path):
            raise UserError(
                f"{folder.path} holds a ledger without its sweep.yaml. Restore that file, or "
                "import into another folder."
            )
        return
    if not isinstance(read_facts(folder), ImportedFacts):
        raise UserError(
            f"{folder.path} holds a sweep of our own, so rows of another program would be fitted "
            f"with it. Import them into a folder of their own, or into {folder.target} if they "
            "are of the target."
        )


def _only_foreign(folder: Path) -> bool:
    """Say whether a folder's ledger has imported rows only, as an interrupted import leaves it."""
    return all("foreign" in row["config"] for row in iterate_ledger_rows(folder))


def _target_defaults(folder: ResultsFolder) -> Defaults:
    """Return the family of a target's sweep, and the arm `shared` of rows that every arm has."""
    facts = read_facts(ResultsFolder(folder.path.absolute().parent))
    model = facts.tree.get("model") or {}
    return Defaults(family=str(model.get("family", UNKNOWN_LABEL)), arm="shared")


def _require_same_axes(
    chosen: ChosenColumns, survey: RowSurvey, file: str, folder: ResultsFolder
) -> None:
    axes = sorted({axis for _, axis in chosen.axes})
    if survey.points and sorted(survey.points) != axes:
        raise UserError(
            f"Rows of one folder must have the same hyperparameters, but those of {folder.path} "
            f"have {', '.join(sorted(survey.points))} and those of {file} {', '.join(axes)}. Name "
            "the columns alike with --columns, or import into another folder."
        )


def _survey_recorded(folder: Path, seen: _Seen, survey: RowSurvey) -> set[str]:
    """Add the rows that a folder has to `seen` and `survey`; return their keys."""
    keys = set[str]()
    for row in iterate_ledger_rows(folder):
        seen.is_new(row, f"{row.get('source', 'a row')} (in {folder})")
        survey.add(row)
        keys.add(row["trial_key"])
    survey.add_recorded_files(ResultsFolder(folder))
    return keys


def _append(folder: Path, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[int, str | None]:
    """Append the rows of trials that have none; return their number and the writer's notice."""
    appended, batch, waiting = 0, [], set[str]()
    with LedgerWriter(folder) as writer:
        for _, row in rows:
            key = row["trial_key"]
            if key in writer.keys or key in waiting:
                continue
            batch.append(row)
            waiting.add(key)
            if len(batch) == ROWS_PER_APPEND:
                writer.append(batch)
                appended, batch, waiting = appended + ROWS_PER_APPEND, [], set()
        if batch:
            writer.append(batch)
        return appended + len(batch), writer.notice


def _notes(
    chosen: ChosenColumns, odd: OddRows, numbers: Numbers, defaults: Defaults, checkpoints: int
) -> list[str]:
    """Return what the user should know of an import, a sentence each."""
    notes = [describe_columns(chosen), *describe_exclusions(odd)]
    if numbers.commas:
        notes.append(f"{numbers.commas:,} numbers have a decimal comma: 0,5 was read as 0.5")
    if "seed" not in chosen.names:
        notes.append("no column of seeds: every row is seed 0 (seed=COLUMN says otherwise)")
    if "parametrization" not in chosen.names and defaults.arm == UNKNOWN_LABEL:
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


def _nothing(file: str, odd: OddRows) -> str:
    left_out = "; ".join(describe_exclusions(odd))
    if left_out:
        return f"{file} holds no trial to import: {left_out}."
    return f"{file} must hold rows, but it holds a header alone. Add the trials below it."


def _loss(came: tuple[Any, ...]) -> str:
    status, loss, *of_runs = came
    said = status if loss is None or not math.isfinite(loss) else f"loss {loss:.6g}"
    n, sd = of_runs
    return said + (f" (n_seeds {n})" if n else "") + (f" (loss_std {sd:g})" if sd else "")


def _at_steps(row: Mapping[str, Any]) -> str:
    steps = row["config"].get("budget", {}).get("steps")
    return "" if steps is None else f", step {steps}"
