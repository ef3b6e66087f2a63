"""The import of another program's table into a results folder.

Cells are checked and converted column by column; whatever becomes of an unusual row is counted.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.config.hyperparameters import LARGEST_LOG2
from hptransfer.config.sweep import CONDITIONS, MOST_TRIALS
from hptransfer.errors import UserError, abbreviate
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.importers.columns import (
    ChosenColumns,
    Unclear,
    choose_columns,
    label_columns,
    readings,
)
from hptransfer.results.importers.names import (
    LOGARITHMS,
    axis_of,
    hp_of,
    hp_spelled,
    is_complement,
    is_linear,
    log_of,
    normalised,
)
from hptransfer.results.importers.optima import (
    OptimaColumns,
    optima_columns,
    place_of,
    read_optima,
)
from hptransfer.results.importers.read_file import Sheet, open_sheet
from hptransfer.results.importers.sweep_file import (
    derive_optima_file,
    derive_sweep_file,
    read_given_optima,
)
from hptransfer.results.importers.values import (
    EMPTY,
    LONGEST_LABEL,
    TRUTH,
    number_columns,
    texts_of,
)
from hptransfer.results.ledger_rows import (
    LEDGER_SCHEMA,
    find_ledger,
    finite_or_none,
    iterate_ledger_rows,
)
from hptransfer.results.ledger_writer import LedgerWriter
from hptransfer.results.sweep_file import ImportedFacts, read_facts
from hptransfer.results.table import conditions_of
from hptransfer.system.files import require_inside, require_links_inside
from hptransfer.system.version import package_version

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN_LABEL = "imported"  # the family and arm of imported rows that name none
LOG2_DECIMALS = 6  # of the log2 of a hyperparameter in the ledger
LINEAR_DECIMALS = 9  # of one that is compared as it is
ENDLESS = frozenset({"diverged", "∞"})  # texts of an infinite number, besides Python's own
# Other programs' labels of an arm, in lower case and without blanks -> ours.
_ARMS = {
    **dict.fromkeys(("sp", "standard", "std", "standardparametrization"), "standard"),
    **dict.fromkeys(("mup", "μp"), "mup"),
    "shared": "shared",
}
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
# States of a run that did not have its whole budget: it has neither a loss nor a divergence.
UNFINISHED = frozenset(
    {"running", "waiting", "pruned", "crashed", "killed", "scheduled", "queued", "pending"}
    | {"preempting", "preempted", "stopped"}
)
FAILED = frozenset({"fail", "failed"})  # with a loss, that of a part of the run; else it diverged
_MEASURED = ("loss_std", "loss_at_init", "train_loss", "flops", "seconds")  # may be missing
_COUNTS = ("steps", "depth", "batch_size", "n_seeds", "diverged_at_step")  # may be missing
_FROM_ZERO = ("seed", "step", "diverged_at_step")  # other whole numbers are 1 or more

_OTHER_STORAGES = ("mysql", "postgresql", "redis", "journal")  # of Optuna's studies

IMPORT_SCHEMA = 1  # of what `import --json` prints for a table
MOST_TRIED = 27  # ways of reading a table that are tried before one is proposed

OddRows = dict[str, list[str]]  # a special treatment -> the places of the rows that had it


@dataclass(frozen=True)
class Request:
    """What is to be imported, whereto, and how its table is to be read."""

    source: str | Path
    folder: ResultsFolder
    words: tuple[str, ...]  # of `--columns`
    drop_missing: bool  # whether rows without a loss are left out, and no diverged trials
    repeats_are_seeds: bool  # whether several losses of one trial are runs of different seeds
    is_typed: bool  # whether the user typed a command, and no Python

    def proposed(self, words: Sequence[str], *, seeds: bool = False) -> Request:
        """Return the request with further words; a word for the same name takes another's place."""
        new = {_unit_free(word) for word in words}
        kept = [word for word in self.words if _unit_free(word) not in new]
        return replace(
            self,
            words=(*kept, *words),
            repeats_are_seeds=self.repeats_are_seeds or seeds,
        )

    @property
    def typed(self) -> str:
        """The request as one types it."""
        if not self.is_typed:
            named = dict(word.split("=", 1) for word in self.words)
            columns = [f"columns={named!r}"] if named else []
            repeats = ['repeats="seeds"'] if self.repeats_are_seeds else []
            return f"hptransfer.fit(rows, {', '.join([*columns, *repeats])})"
        missing = ["--missing", "drop"] if self.drop_missing else []
        repeats = ["--repeats", "seeds"] if self.repeats_are_seeds else []
        columns = ["--columns", *self.words] if self.words else []
        place = [str(self.source), str(self.folder.path)]
        return shlex.join(["hptransfer", "import", *place, *missing, *repeats, *columns])


def _unit_free(word: str) -> str:
    """Return our name in a word of `--columns`; of a hyperparameter the ledger's axis."""
    ours = word.partition("=")[0].removesuffix(":").strip()
    return axis_of(ours) if hp_of(ours) else ours


@dataclass(frozen=True)
class Checked:
    """A table that has been read and whose rows may be written."""

    chosen: ChosenColumns
    cells: Cells
    trials: pd.DataFrame
    odd: OddRows
    were_there: int  # trials that the folder has already

    @property
    def axes(self) -> list[str]:
        """The ledger's names of the hyperparameters."""
        return [axis for _, axis in self.chosen.axes]


def import_file(
    source: str | Path,
    folder: ResultsFolder,
    words: Sequence[str],
    *,
    drop_missing: bool,
    repeats_are_seeds: bool = False,
    is_typed: bool = True,
) -> dict[str, Any]:
    """Append the trials of another program's table to a folder; describe what was done.

    Nothing is written before all rows have been checked. Trials that the folder has are left as
    they are, and the folder's sweep.yaml is derived again from all its rows.

    Args:
        source: a file, or an Optuna `sqlite:///` address.
        folder: an imported folder, a new one, or the `target/` of a sweep.
        words: the words of `--columns`.
        drop_missing: whether rows without a loss are left out, and not taken as diverged trials.
        repeats_are_seeds: whether several losses of one trial are runs of different seeds.
        is_typed: whether refusals propose a command, and not a call of Python.

    Raises:
        UserError: the file is no table, a column or cell is not as it must be, or the folder holds
            rows of our own sweep. Where other words would make the table clear, they are proposed.
    """
    request = Request(source, folder, tuple(words), drop_missing, repeats_are_seeds, is_typed)
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
    try:
        columns = None if is_target else optima_columns(words, sheet)
        if columns is not None:
            return _import_optima(columns, request, sheet, labels)
        if not is_target:
            _require_trials(folder)
        found = _checked(request, sheet, labels)
    except Unclear as problem:
        raise UserError(_with_remedy(problem, request, sheet, labels)) from None
    with LedgerWriter(folder.path) as writer:
        rows = _ledger_rows(found.trials, found.axes, sheet.name)
        appended = writer.append_new(row for _, row in rows)
    if not is_target:
        derive_sweep_file(
            folder, {sheet.name: found.chosen.record()}, repeats_are_seeds=repeats_are_seeds
        )
    checkpoints = len(set(found.trials["steps"].dropna())) if "step" in found.chosen.names else 0
    return {
        "schema": IMPORT_SCHEMA,
        "source": str(source),
        "into": str(folder.path),
        "columns": found.chosen.record(),
        "appended": appended,
        "identical": found.were_there,
        "notes": _notes(found, labels, checkpoints, is_typed=is_typed),
        "repaired": writer.notice,
    }


def _import_optima(
    columns: OptimaColumns, request: Request, sheet: Sheet, labels: Mapping[str, str]
) -> dict[str, Any]:
    """Write a table's optima into the folder's sweep.yaml; describe what was done."""
    found, known, notes = _checked_optima(columns, request, sheet, labels)
    new = [each for each in found if place_of(each) not in known]
    derive_optima_file(request.folder, {sheet.name: columns.record()}, new)
    return {
        "schema": IMPORT_SCHEMA,
        "source": str(request.source),
        "into": str(request.folder.path),
        "columns": columns.record(),
        "appended": len(new),
        "identical": len(found) - len(new),
        "notes": notes,
        "repaired": None,
    }


def _checked_optima(
    columns: OptimaColumns, request: Request, sheet: Sheet, labels: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[tuple[Any, ...], dict[str, Any]], list[str]]:
    """Return a table's optima, those that the folder has by their places, and what to tell."""
    folder = request.folder
    if find_ledger(folder.path) is not None:
        raise UserError(
            f"Optima and trials cannot be fitted together, and {folder.path} holds trials. Import "
            f"{sheet.name} into a folder of its own."
        )
    place, cells = columns.place, Cells(sheet.name, sheet.decimal_comma)
    loaded = sheet.load(list(dict.fromkeys([*place.columns.values(), sheet.columns[0]])))
    settings = []
    for i, where in enumerate(loaded.index):
        told = {ours: _one_cell(loaded[column], i) for ours, column in place.columns.items()}
        told |= place.constants
        setting: dict[str, Any] = {**labels, "width": cells.whole(told["width"], "width", where)}
        for ours in ("family", "parametrization"):
            if ours in told:
                is_flag = "mup" in normalised(place.columns.get(ours, ""))
                convert = cells.arm_by_flag if is_flag else cells.label
                setting[ours] = convert(told[ours], ours, where)
        for ours in CONDITIONS:
            if ours in told:
                setting[ours] = cells.whole(told[ours], ours, where)
        settings.append(setting)
    found, left_out = read_optima(columns, sheet, settings)
    if not found:
        raise UserError(f"{sheet.name} holds no optimum with an error. Add the error's column.")
    known = {place_of(each): each for each in read_given_optima(folder)}
    seen = dict(known)
    for each in found:
        before = seen.setdefault(place_of(each), each)
        told = [(e["axis"], e["optimum"], e["sd"]) for e in (before, each)]
        if told[0] != told[1]:
            raise UserError(
                f"Every width must have one optimum, but {sheet.name} gives {told[1][1]:g} ± "
                f"{told[1][2]:g} (log2) for {each['parametrization']}, width {each['width']}, "
                f"where there was {told[0][1]:g} ± {told[0][2]:g}. Give the mean with its error, "
                "or import into another folder."
            )
    axes = {each["axis"] for each in seen.values()}
    if len(axes) > 1:
        raise UserError(
            f"A folder holds optima of one hyperparameter, but would hold those of "
            f"{' and '.join(sorted(axes))}. Import them into another folder."
        )
    notes = [f"a table of optima, fitted without losses: {_optima_text(columns)}"]
    if left_out:
        notes.append(f"{len(left_out)} rows without an error, ignored (first: {left_out[0]})")
    unique = {place_of(each): each for each in found}
    return list(unique.values()), known, notes


def _one_cell(column: Any, i: int) -> Any:
    cell = column.iloc[i]
    return None if texts_of(column.iloc[i : i + 1]) == [""] else cell


def _optima_text(columns: OptimaColumns) -> str:
    return "; ".join(
        f"{ours} := {theirs[2:]}" if theirs.startswith(":=") else f"{ours} = {theirs!r}"
        for ours, theirs in columns.record().items()
    )


def _require_trials(folder: ResultsFolder) -> None:
    """Refuse a folder that holds a table of optima."""
    if folder.sweep_file.is_file() and read_given_optima(folder):
        raise UserError(
            f"Optima and trials cannot be fitted together, and {folder.path} holds a table of "
            "optima. Import the trials into a folder of their own."
        )


def _checked(request: Request, sheet: Sheet, labels: Mapping[str, str]) -> Checked:
    """Read a table and check its rows among themselves and against the folder's."""
    folder = request.folder
    chosen = choose_columns(request.words, sheet)
    cells, axes = Cells(sheet.name, sheet.decimal_comma), [axis for _, axis in chosen.axes]
    trials, odd = _read_trials(sheet, chosen, cells, labels, drop_missing=request.drop_missing)
    if trials.empty:
        raise UserError(_nothing(sheet.name, odd))
    first: dict[bytes, tuple[str, tuple[Any, ...]]] = {}
    known, there = set[str](), defaultdict[bytes, list[tuple[int, Outcome]]](list)
    for row in iterate_ledger_rows(folder.path):
        _is_new(first, row, f"{row.get('source', 'a row')} (in {folder.path})")
        known.add(row["trial_key"])
        there[_cell(row)].append((row["seed"], _outcome(row)))
        _require_same_axes(row, axes, sheet.name, folder)
    if request.repeats_are_seeds:
        trials = _with_seeds(trials, axes, sheet.name, there)
    were_there = 0
    for place, row in _ledger_rows(trials, axes, sheet.name):
        try:
            is_new = _is_new(first, row, f"{place} of {sheet.name}")
        except Repeated as problem:
            before, of_sheet = first[_trial(row)][0], f" of {sheet.name}"
            among = [before.removesuffix(of_sheet), place] if before.endswith(of_sheet) else []
            gaps = [f" {note}." for note in chosen.notes if "empty in some rows" in note]
            raise Repeated("".join([str(problem), *gaps]), _apart(chosen, sheet, among)) from None
        if not is_new and row["trial_key"] in known:
            were_there += 1
        elif not is_new:
            odd["given twice and kept once"].append(place)
    return Checked(chosen, cells, trials, odd, were_there)


def _with_remedy(
    problem: Unclear, request: Request, sheet: Sheet, labels: Mapping[str, str]
) -> str:
    """Return a refusal with the first of its remedies that has been tried and works."""
    told, say = str(problem), problem.say
    if isinstance(problem, Repeated):
        seeds = request.proposed([], seeds=True)
        if _works(seeds, sheet, labels):
            told += f" To count repeated runs as seeds: {seeds.typed}"
    for words in problem.remedies[:MOST_TRIED]:
        better = request.proposed(words)
        if _works(better, sheet, labels):
            return f"{told}{'' if say.startswith((';', ':')) else ' '}{say} {better.typed}"
    how = "--columns OURS=THEIRS" if request.is_typed else "columns={OURS: THEIRS}"
    return f"{told} Say which column is which with {how}." if problem.needs_words else told


def _works(request: Request, sheet: Sheet, labels: Mapping[str, str]) -> bool:
    try:
        columns = optima_columns(request.words, sheet)
        if columns is None:
            _checked(request, sheet, labels)
        else:
            _checked_optima(columns, request, sheet, labels)
    except UserError:
        return False
    return True


def _apart(chosen: ChosenColumns, sheet: Sheet, places: Sequence[str]) -> list[list[str]]:
    """Return words of `--columns` for columns in which two rows of one trial differ."""
    if len(places) < 2 or chosen.wide:
        return []
    named = label_columns(replace(chosen, columns=_without_arm(chosen)), sheet)
    arm = chosen.columns.get("parametrization")
    ours = "parametrization" if arm is None else "family"
    used, axes = set(chosen.columns.values()), [axis for _, axis in chosen.axes]
    loaded = sheet.load([column for column in sheet.columns if column not in used])
    words = []
    for column in loaded.columns:
        texts = texts_of(loaded[column])
        here = [texts[list(loaded.index).index(place)] for place in places]
        if here[0] == here[1]:
            continue
        values = number_columns(texts, decimal_comma=sheet.decimal_comma)
        hp = hp_spelled(normalised(column))
        if hp is not None and axis_of(hp) in axes:
            continue  # the rate after a factor, of which the one before it is taken
        if column in named and ours not in chosen.names:
            words.append([f"{ours}={column}"])
        elif values is not None and 2 * len(set(values)) <= len(values):
            spelled = normalised(column)
            if hp is None and all(value == round(value) for value in values if value == value):
                words.append([f"seed={column}"])
            elif hp is not None or re.fullmatch(r"[a-z][a-z0-9_]*", spelled):
                words.append([f"{hp or spelled}={column}"])
    if len(named) > 1 and not {"parametrization", "family"} & chosen.names:
        words.append([f"parametrization={named[0]}", f"family={named[1]}"])
    return words


def _without_arm(chosen: ChosenColumns) -> dict[str, str]:
    return {ours: column for ours, column in chosen.columns.items() if ours != "parametrization"}


Outcome = tuple[Any, ...]  # status, loss, n_seeds and loss_sd of a trial


def _with_seeds(
    trials: pd.DataFrame,
    axes: Sequence[str],
    file: str,
    there: Mapping[bytes, list[tuple[int, Outcome]]],
) -> pd.DataFrame:
    """Give the runs of one cell, which agree in all but the seed, seeds of their own.

    A run keeps its seed unless another has it, then it gets the next free one. A run whose outcome
    the folder has for that cell has the seed of that row, so that a file may be imported twice.
    """
    unmatched = {cell: list(known) for cell, known in there.items()}
    taken = {cell: {seed for seed, _ in known} for cell, known in there.items()}
    seeds = []
    for _, row in _ledger_rows(trials, axes, file):
        cell, outcome = _cell(row), _outcome(row)
        same = next((e for e in unmatched.get(cell, []) if e[1] == outcome), None)
        if same is not None:
            unmatched[cell].remove(same)
            seeds.append(same[0])
            continue
        used, seed = taken.setdefault(cell, set()), row["seed"]
        while seed in used:
            seed += 1
        used.add(seed)
        seeds.append(seed)
    return trials.assign(seed=seeds)


@dataclass
class Cells:
    """Converts the cells of one table, whose numbers all have a point or all a decimal comma.

    Every converter takes a cell (`log2`: a number), our name of its column, and its place.
    """

    file: str
    decimal_comma: bool  # whether 0,5 may be a number
    first: dict[str, str] = field(default_factory=dict)  # "," or "." -> the place of the first one
    commas: int = 0  # numbers with a decimal comma

    def number(self, cell: Any, ours: str, place: str) -> float:
        """Return a cell as a number: NaN if it is missing, inf if it is infinite."""
        if isinstance(cell, int | float) and not isinstance(cell, bool):
            return float(cell)
        text = "" if cell is None else str(cell).strip()
        try:
            value = float(text)
        except ValueError:
            return self._written(text, ours, place)
        if math.isinf(value):
            return value
        if "_" in text:
            raise self._refused(text, ours, place)
        if self.decimal_comma and "." in text:
            self._seen(".", place)
        return value

    def _written(self, text: str, ours: str, place: str) -> float:
        """Read a text that Python does not take for a number: missing, infinite or with a comma."""
        if text.lower() in EMPTY:
            return math.nan
        if text.lower() in ENDLESS:
            return math.inf
        if not _DECIMAL_COMMA.fullmatch(text) or not self.decimal_comma:
            raise self._refused(text, ours, place)
        self._seen(",", place)
        self.commas += 1
        return float(text.replace(",", "."))

    def _seen(self, mark: str, place: str) -> None:
        self.first.setdefault(mark, place)
        if len(self.first) > 1:
            raise UserError(
                f"Numbers in {self.file} have a decimal comma ({self.first[',']}) and a decimal "
                f"point ({self.first['.']}), so a comma may also mean thousands. Write all of them "
                "in one way."
            )

    def _refused(self, text: str, ours: str, place: str) -> UserError:
        what = "is a formula; save the values" if text.startswith("=") else "is no number"
        hint = ""
        if text.startswith(("{", "[")):
            hint = " Write nested configs as JSON: to_json('runs.json', orient='records')."
        return UserError(
            f"The {ours} in {place} of {self.file} {what}: {abbreviate(text, 60)}.{hint} "
            f"Correct it, or name another column for the {ours} with --columns."
        )

    def whole(self, cell: Any, ours: str, place: str) -> int:
        """Return a cell as a whole number."""
        value, least = self.number(cell, ours, place), 0 if ours in _FROM_ZERO else 1
        if not math.isfinite(value) or value != round(value) or not least <= value < 2**53:
            given = "is empty" if math.isnan(value) else f"is {abbreviate(cell, 40)}"
            raise UserError(
                f"The {ours} must be a whole number, {least} or more, but in {place} of "
                f"{self.file} it {given}. Correct or remove that row."
            )
        return int(value)

    def count(self, cell: Any, ours: str, place: str) -> float:
        """Return a cell as a whole number, or NaN if it is missing."""
        value = self.number(cell, ours, place)
        return value if math.isnan(value) else self.whole(value, ours, place)

    def truth(self, cell: Any, ours: str, place: str) -> bool:
        """Return a cell as a truth value; a missing cell is false."""
        text = "" if cell is None else str(cell).strip().lower()
        if text not in TRUTH:
            raise UserError(
                f"`{ours}` must be true or false, but is {abbreviate(cell, 40)} in {place} of "
                f"{self.file}."
            )
        return TRUTH[text]

    def label(self, cell: Any, ours: str, place: str) -> str:
        """Return the label in a cell; a known arm in another spelling gets our name."""
        text = "" if cell is None else str(cell)
        found = _label(text, ours)
        if found is None:
            given = "is empty" if text.strip().lower() in EMPTY else f"is {abbreviate(text, 60)}"
            raise UserError(
                f"The {ours} must be a label of at most {LONGEST_LABEL} characters and no number, "
                f"but in {place} of {self.file} it {given}. Correct it, or leave the column out: "
                f"{ours}="
            )
        return found

    def arm_by_flag(self, cell: Any, ours: str, place: str) -> str:
        """Return the arm in a cell of a column `mup`, which may hold truth values."""
        text = str(cell).strip().lower()
        if text and text in TRUTH:
            return "mup" if TRUTH[text] else "standard"
        return self.label(cell, ours, place)

    def point(self, value: float, ours: str, place: str) -> float:
        """Return the point of a hyperparameter's axis, rounded: a printed 0.00024414062 is 2^-12.

        Of an axis in log2, a hyperparameter of zero is off and lies at -inf.

        Raises:
            UserError: the value is missing, negative, or far from what an HP may be.
        """
        hp = hp_of(ours)
        log = log_of(ours)
        if math.isnan(value) or value == math.inf or (value == -math.inf and not log):
            given = "is empty" if math.isnan(value) else f"is {value:g}"
            raise self._unfit(ours, f"{given}", place)
        if not log and is_linear(ours):
            return round(value, LINEAR_DECIMALS) + 0.0
        if log:
            found = value * LOGARITHMS[log]
        else:
            given = f"is {value:g}"
            value = 1.0 - value if is_complement(ours) else value
            if value < 0:
                raise self._unfit(ours, given, place)
            found = math.log2(value) if value else -math.inf
        if found == -math.inf:
            return found
        if abs(found) > LARGEST_LOG2:
            raise UserError(
                f"The log2 of {hp} must lie within ±{LARGEST_LOG2:g}, but in {place} of "
                f"{self.file} it is {found:g}. Check the column's unit."
            )
        return round(found, LOG2_DECIMALS) + 0.0

    def _unfit(self, ours: str, given: str, place: str) -> UserError:
        hp = hp_of(ours)
        least = "at most 1" if is_complement(ours) else "zero or more"
        what = "must be a number" if is_linear(ours) or ours != hp else f"must be {least}"
        return UserError(
            f"The {hp} {what}, but in {place} of {self.file} it {given}. Correct or remove that "
            "row."
        )

    def require_plausible_unit(
        self, ours: str, chosen: ChosenColumns, values: Iterable[float]
    ) -> None:
        """Refuse values of a hyperparameter that as a whole can only be in another unit.

        Raises:
            Unclear: rates that are called logarithms, or logarithms without their base.
        """
        finite = [value for value in values if math.isfinite(value)]
        low, high = min(finite, default=0.0), max(finite, default=0.0)
        log, hp, source = log_of(ours), str(hp_of(ours)), chosen.source(ours)
        if log and low > 0 and high < 1 and high / low >= 4:
            raise Unclear(
                f"{source} of {self.file} is read as {ours}, but its values, {low:g} to "
                f"{high:g}, look like the {hp} itself.",
                [[chosen.word(ours, hp), f"{ours}="]],
            )
        is_rate = ours == hp and not is_linear(ours) and not is_complement(ours)
        if log == "log" or (is_rate and low < 0 and high <= 0):
            clause, words = readings(hp, low, high, lambda name: chosen.word(ours, name))
            what = "without telling their base" if log else f"and no {hp}, which is never negative"
            raise Unclear(
                f"{source} of {self.file} holds logarithms, {low:g} to {high:g}, {what}: {clause}.",
                [[word] for word in words],
                say="Say which, such as:",
            )


@lru_cache(maxsize=1024)
def _label(text: str, ours: str) -> str | None:
    """Return a label, or None where a text cannot be one."""
    text = unicodedata.normalize("NFKC", text).strip()
    if text.lower() in EMPTY or not text.isprintable() or len(text) > LONGEST_LABEL:
        return None
    if "${" in text or "???" in text:  # sweep.yaml holds values and looks nothing up
        return None
    if re.fullmatch(r"[-+\d.,eE]+[KMBkmb]?", text):  # a `param` column may count parameters
        return None
    if ours != "parametrization":
        return text
    return _ARMS.get(re.sub(r"[\s_-]", "", text.lower()), text)


def _read_trials(
    sheet: Sheet,
    chosen: ChosenColumns,
    cells: Cells,
    labels: Mapping[str, str],
    *,
    drop_missing: bool,
) -> tuple[pd.DataFrame, OddRows]:
    """Return a table's trials, and the rows that were treated in a special way or left out.

    The frame has a row a trial, by our names; missing numbers are NaN; its index is their place.

    Args:
        labels: the family and the parametrization of rows where no column gives them.
        drop_missing: whether rows without a loss are left out, and not taken as diverged trials.

    Raises:
        UserError: a cell that its column cannot hold, or more rows than a sweep may have.
    """
    import pandas as pd

    frame = _one_trial_a_row(sheet, chosen)
    if len(frame) > MOST_TRIALS:
        raise UserError(
            f"An imported sweep may have at most {MOST_TRIALS:,} rows, but {sheet.name} has more. "
            "Leave out what is not needed, or import it into several folders."
        )
    frame, left_out = _without_parents(frame, [name for name, _ in chosen.axes])
    frame, odd = _with_losses(frame, drop_missing, cells)
    frame, untrained = _without_step_zero(frame, cells)
    if untrained:
        odd["at step 0, before any training; ignored"] = untrained
    if left_out:
        odd["without a hyperparameter and a loss or width, so no trial; ignored"] = left_out

    def column(name: str, convert: Callable[[Any, str, str], Any], missing: Any = None) -> Any:
        if name not in frame:
            return missing
        each = zip(_cells(frame[name]), frame.index, strict=True)
        return [convert(cell, name, place) for cell, place in each]

    columns: dict[str, Any] = {"loss": frame["loss"]}
    for name, axis in chosen.axes:
        given = column(name, cells.number)
        cells.require_plausible_unit(name, chosen, given)
        if name in chosen.off:
            given = [0.0 if math.isnan(value) else value for value in given]
        each = zip(given, frame.index, strict=True)
        columns[axis] = [cells.point(value, name, place) for value, place in each]
    columns["width"] = column("width", cells.whole)
    columns["seed"] = column("seed", cells.whole, 0)
    for name in _COUNTS:
        columns[name] = column(name, cells.count, math.nan)
    # The step of a checkpoint wins over the length of its run.
    columns["steps"] = column("step", cells.whole, columns["steps"])
    for name in _MEASURED:
        columns[name] = column(name, cells.number, math.nan)
    columns["family"] = column("family", cells.label, labels["family"])
    named = normalised(chosen.columns.get("parametrization", ""))
    convert = cells.arm_by_flag if "mup" in named else cells.label
    columns["parametrization"] = column("parametrization", convert, labels["parametrization"])
    return pd.DataFrame(columns, index=frame.index), odd


def _without_step_zero(frame: pd.DataFrame, cells: Cells) -> tuple[pd.DataFrame, list[str]]:
    """Return rows without those of step 0, whose loss no hyperparameter has changed yet.

    Where every row has step 0, the column tells nothing and is left out instead.
    """
    if "step" not in frame:
        return frame, []
    each = zip(_cells(frame["step"]), frame.index, strict=True)
    is_zero = [cells.whole(cell, "step", place) == 0 for cell, place in each]
    if all(is_zero):
        return frame.drop(columns="step"), []
    places = [str(place) for place, zero in zip(frame.index, is_zero, strict=True) if zero]
    return frame.loc[[not zero for zero in is_zero]], places


def _one_trial_a_row(sheet: Sheet, chosen: ChosenColumns) -> pd.DataFrame:
    """Load a table's cells by our names; a row of a wide table becomes one for each loss."""
    import pandas as pd

    wide = chosen.wide.columns if chosen.wide else {}
    loaded = sheet.load(list(dict.fromkeys([*chosen.columns.values(), *wide])))
    common = pd.DataFrame(
        {ours: loaded[column] for ours, column in chosen.columns.items()}, index=loaded.index
    ).assign(**chosen.constants)
    if not wide:
        return common
    parts = [
        common.assign(**said, loss=loaded[column]).set_axis(
            [f"{place}, {column!r}" for place in loaded.index]
        )
        for column, said in wide.items()
    ]
    in_order = [i * len(loaded) + row for row in range(len(loaded)) for i in range(len(parts))]
    return pd.concat(parts).iloc[in_order]


def _without_parents(frame: pd.DataFrame, hps: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows that can be trials, and the places of others.

    A row without any hyperparameter that lacks the loss or the width too describes no run: it is
    the parent of runs in a tracker's export.
    """
    if not hps or not len(frame):
        return frame, []
    empty = {
        name: [not text for text in texts_of(frame[name])]
        for name in {*hps, "loss", "width"} & set(frame.columns)
    }
    parents = [
        all(empty[name][i] for name in hps) and (empty["loss"][i] or empty["width"][i])
        for i in range(len(frame))
    ]
    places = [place for place, is_one in zip(frame.index, parents, strict=True) if is_one]
    return frame.loc[[not each for each in parents]], places


def _with_losses(
    frame: pd.DataFrame, drop_missing: bool, cells: Cells
) -> tuple[pd.DataFrame, OddRows]:
    """Return the rows of runs that ended, with their losses as numbers; a diverged one's is inf."""
    odd: OddRows = defaultdict(list)

    def loss_of(cell: Any, state: Any, flag: Any, place: str) -> float | None:
        """Return a row's loss, or None where the row is left out."""
        status = str(state or "").strip().lower()
        if status in UNFINISHED:
            odd[f"with status {status!r}, ignored"].append(place)
            return None
        loss = cells.number(cell, "loss", place)
        if status in FAILED and math.isfinite(loss):
            odd[f"with status {status!r}, whose loss is of a part of the run; ignored"].append(
                place
            )
            return None
        if status == "diverged" or cells.truth(flag, "diverged", place):
            odd["flagged as diverged"].append(place)
            return math.inf
        if math.isnan(loss) and drop_missing:
            odd["without a loss, ignored (--missing drop)"].append(place)
            return None
        if not math.isfinite(loss):
            what = "with an infinite loss" if math.isinf(loss) else "without a loss"
            odd[f"{what}, counted as diverged trials"].append(place)
            return math.inf
        return loss

    nothing = [None] * len(frame)
    states = _cells(frame["status"]) if "status" in frame else nothing
    flags = _cells(frame["diverged"]) if "diverged" in frame else nothing
    read = zip(_cells(frame["loss"]), states, flags, frame.index, strict=True)
    losses = [loss_of(*row) for row in read]
    kept = [loss is not None for loss in losses]
    return frame.loc[kept].assign(loss=[loss for loss in losses if loss is not None]), odd


def _cells(column: Any) -> Iterable[Any]:
    """Return a column's cells, with None for missing ones of every kind."""
    return column.astype(object).where(column.notna(), None) if column.hasnans else column


def _ledger_rows(
    trials: pd.DataFrame, axes: Sequence[str], file: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place in the file and the ledger row of each of `_read_trials`' trials."""
    names = list(trials.columns)
    for place, *values in trials.itertuples(name=None):
        yield place, _row(dict(zip(names, values, strict=True)), axes, file)


def _row(trial: Mapping[str, Any], axes: Sequence[str], file: str) -> dict[str, Any]:
    """Return a trial's ledger row; the key `foreign` of its config marks it as not ours."""
    counts = {n: None if math.isnan(trial[n]) else int(trial[n]) for n in _COUNTS}
    measured = {name: finite_or_none(trial[name]) for name in _MEASURED}
    loss, arm, depth = finite_or_none(trial["loss"]), trial["parametrization"], counts["depth"]
    # Strict JSON has no -inf: a hyperparameter that is off is null.
    hps = {axis: finite_or_none(trial[axis]) for axis in axes}
    budget = {name: counts[name] for name in ("steps", "batch_size") if counts[name] is not None}
    of_runs = {"n_seeds": counts["n_seeds"], "loss_sd": measured["loss_std"]}
    model = {"family": trial["family"], "width": trial["width"]}
    config = {
        "model": model if depth is None else {**model, "depth": depth},
        "parametrization": {"scaling": arm},
        "hps": hps,
        "seed": trial["seed"],
        **({"budget": budget} if budget else {}),
        "foreign": {name: value for name, value in of_runs.items() if value is not None},
    }
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return {
        "trial_key": hashlib.sha256(text.encode()).hexdigest()[:12],
        "status": "diverged" if loss is None else "completed",
        "loss": loss,
        "width": trial["width"],
        "parametrization": arm,
        "hps": hps,
        "seed": trial["seed"],
        "schema": LEDGER_SCHEMA,
        "config": config,
        "diverged_at_step": counts["diverged_at_step"],
        "stopped_at_step": None,
        "metrics": {name: measured[name] for name in ("loss_at_init", "train_loss")},
        "cost": {"flops": measured["flops"], "seconds": measured["seconds"], "device": None},
        "provenance": {"hptransfer": package_version()},
        "source": file,
    }


class Repeated(Unclear):
    """Two losses of one trial."""

    def __init__(self, message: str, remedies: Sequence[Sequence[str]] = ()) -> None:
        super().__init__(message, remedies, say="; if another column tells them apart, name it:")


def _cell(row: Mapping[str, Any]) -> bytes:
    """Return a digest of all that a row's trial is but its seed."""
    family = row["config"]["model"]["family"]
    conditions = conditions_of(row["config"]).values()
    place = (family, row["parametrization"], row["width"])
    # Python hashes -1.0 and -2.0 alike, so that the values themselves are digested.
    cell = (*place, sorted(row["hps"].items()), *conditions)
    return hashlib.blake2b(repr(cell).encode(), digest_size=16).digest()


def _trial(row: Mapping[str, Any]) -> bytes:
    """Return a digest of a row's trial."""
    return _cell(row) + repr(row["seed"]).encode()


def _outcome(row: Mapping[str, Any]) -> Outcome:
    foreign = row["config"].get("foreign", {})
    return (row["status"], row["loss"], foreign.get("n_seeds"), foreign.get("loss_sd"))


def _is_new(first: dict[bytes, tuple[str, Outcome]], row: Mapping[str, Any], where: str) -> bool:
    """Say whether a row is the first of its trial, and note where the first one stands.

    Raises:
        Repeated: an earlier row of the trial has another outcome.
    """
    came = _outcome(row)
    before, then = first.setdefault(_trial(row), (where, came))
    if then != came:
        hps = ", ".join(
            f"{name} {'off' if value is None else format(value, 'g')}"
            for name, value in row["hps"].items()
        )
        steps = row["config"].get("budget", {}).get("steps")
        at_step = "" if steps is None else f", step {steps}"
        raise Repeated(
            f"A trial must have one loss, but {where} gives {_loss(came)} where {before} gave "
            f"{_loss(then)}, both for {row['parametrization']}, width {row['width']}, {hps}, seed "
            f"{row['seed']}{at_step}. If these are repeated runs, name a column of seeds, or give "
            "their mean with n_seeds and loss_std. If something else differs (the "
            "parametrization, the step, another hyperparameter), name its column."
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
                f"A results folder must hold its sweep.yaml, but {folder.path} has only a ledger. "
                "Restore that file, or import into another folder."
            )
    elif not isinstance(read_facts(folder), ImportedFacts):
        raise UserError(
            "Rows of another program must not be fitted together with a sweep of ours, but "
            f"{folder.path} holds one. Import them into a folder of their own, or into "
            f"{folder.target} if they are runs of the target."
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
    found: Checked, labels: Mapping[str, str], checkpoints: int, *, is_typed: bool
) -> list[str]:
    """Return what the user should know of an import, a sentence each."""
    chosen, commas = found.chosen, found.cells.commas
    notes = [_columns_text(chosen), *chosen.notes, *_exclusions(found.odd)]
    if commas:
        notes.append(f"{commas:,} numbers have a decimal comma: 0,5 was read as 0.5")
    if "seed" not in chosen.names:
        how = "--columns seed=COLUMN" if is_typed else "columns={'seed': COLUMN}"
        notes.append(f"no column of seeds, so every row counts as seed 0 (name one with {how})")
    if "parametrization" not in chosen.names and labels["parametrization"] == UNKNOWN_LABEL:
        how = (
            "name one with --columns parametrization=COLUMN, or add --columns "
            "parametrization:=mup for all rows"
            if is_typed
            else "name one with columns={'parametrization': COLUMN}, or give "
            "rows.assign(parametrization='mup')"
        )
        notes.append(
            "no column says how the models were parametrized, so all rows are taken as one "
            f"group, {UNKNOWN_LABEL!r} ({how})"
        )
    if checkpoints > 1:
        one = "`hptransfer fit --step N`" if is_typed else "`hptransfer.fit(rows, step=N)`"
        notes.append(
            f"warning: losses at {checkpoints} training steps are all kept, each as if it were a "
            "run of that many steps. That is right only under a constant learning rate; with a "
            f"decay read one step with {one}"
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
