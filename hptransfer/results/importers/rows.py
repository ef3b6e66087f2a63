"""From a table of another program to rows of a ledger.

Cells are checked and converted column by column; whatever becomes of an unusual row is counted.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hptransfer.config.sweep import MOST_TRIALS
from hptransfer.errors import UserError
from hptransfer.results.importers.cells import (
    Numbers,
    label,
    log2_of,
    require_plausible_unit,
    scaling_label,
    truth,
)
from hptransfer.results.importers.columns import ChosenColumns, normalised
from hptransfer.results.importers.sheet import Sheet
from hptransfer.results.ledger_rows import LEDGER_SCHEMA, finite_or_none
from hptransfer.results.table import conditions_of
from hptransfer.system.version import package_version

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN_LABEL = "imported"  # the family and arm of imported rows that name none
# States of a run that did not have its whole budget: it has neither a loss nor a divergence.
UNFINISHED = frozenset(
    {"running", "waiting", "pruned", "crashed", "killed", "scheduled", "queued", "pending"}
    | {"preempting", "preempted", "stopped"}
)
FAILED = frozenset({"fail", "failed"})  # with a loss, that of a part of the run; else it diverged
_MEASURED = ("loss_std", "loss_at_init", "train_loss", "flops", "seconds")  # may be missing
# Whole numbers that may be missing -> the least that each may be.
_COUNTS = {"steps": 1, "depth": 1, "batch_size": 1, "n_seeds": 1, "diverged_at_step": 0}


@dataclass
class OddRows:
    """How many rows of a table were treated in each special way, and where the first stands."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, treatment: str, place: str) -> None:
        """Count a row."""
        self.counts[treatment] += 1
        self.first.setdefault(treatment, place)


@dataclass(frozen=True)
class Defaults:
    """The family and the arm of rows where no column gives them."""

    family: str = UNKNOWN_LABEL
    arm: str = UNKNOWN_LABEL


@dataclass(frozen=True)
class ImportedTrials:
    """The trials of a table, their cells converted."""

    file: str
    axes: tuple[str, ...]  # log2_<hp>
    frame: pd.DataFrame  # a row a trial, by our names; missing numbers are NaN; index: the place

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each trial's place in the table and its ledger row."""
        names = list(self.frame.columns)
        for place, *values in self.frame.itertuples(name=None):
            yield place, _row(dict(zip(names, values, strict=True)), self.axes, self.file)


def read_trials(
    sheet: Sheet,
    chosen: ChosenColumns,
    *,
    drop_missing: bool,
    defaults: Defaults,
    numbers: Numbers,
    odd: OddRows,
) -> ImportedTrials:
    """Return a table's trials; rows that are left out are counted in `odd`.

    Args:
        drop_missing: whether rows without a loss are left out, and not taken as diverged trials.

    Raises:
        UserError: a cell that its column cannot hold, or more rows than a sweep may have.
    """
    import pandas as pd

    frame = _one_trial_a_row(sheet, chosen)
    if len(frame) > MOST_TRIALS:
        raise UserError(
            f"An imported sweep may have {MOST_TRIALS:,} rows, but {sheet.name} has more. "
            "Leave out what is not needed, or import it into several folders."
        )
    frame = _with_losses(frame, drop_missing, numbers, odd)

    def converted(name: str, convert: Callable[[Any, str], Any]) -> list[Any]:
        cells = zip(_cells(frame[name]), frame.index, strict=True)
        return [convert(cell, place) for cell, place in cells]

    def number(name: str) -> Callable[[Any, str], float]:
        return lambda cell, place: numbers.number(cell, name, place)

    def whole(name: str, least: int) -> Callable[[Any, str], int]:
        return lambda cell, place: numbers.whole(cell, name, place, least=least)

    def count(name: str) -> Callable[[Any, str], float]:
        """Return a converter to a whole number as a float: NaN where the cell is missing."""

        def convert(cell: Any, place: str) -> float:
            value = numbers.number(cell, name, place)
            if math.isnan(value):
                return value
            return numbers.whole(value, name, place, least=_COUNTS[name])

        return convert

    columns: dict[str, Any] = {"loss": frame["loss"]}
    for name, axis in chosen.axes:
        given = converted(name, number(name))
        _require_unit(name, chosen, given, sheet.name)
        columns[axis] = [
            log2_of(value, name, place, sheet.name)
            for place, value in zip(frame.index, given, strict=True)
        ]
    columns["width"] = converted("width", whole("width", 1))
    columns["seed"] = converted("seed", whole("seed", 0)) if "seed" in frame else 0
    for name in _COUNTS:
        columns[name] = converted(name, count(name)) if name in frame else math.nan
    if "step" in frame:  # the step of a checkpoint wins over the length of its run
        columns["steps"] = converted("step", whole("step", 0))
    for name in _MEASURED:
        columns[name] = converted(name, number(name)) if name in frame else math.nan
    columns["family"], columns["parametrization"] = defaults.family, defaults.arm
    if "family" in frame:
        columns["family"] = converted(
            "family", lambda cell, place: label(cell, "family", place, sheet.name)
        )
    if "parametrization" in frame:
        arm_column = normalised(chosen.columns.get("parametrization", ""))
        columns["parametrization"] = converted(
            "parametrization",
            lambda cell, place: scaling_label(cell, arm_column, place, sheet.name),
        )
    axes = tuple(axis for _, axis in chosen.axes)
    return ImportedTrials(sheet.name, axes, pd.DataFrame(columns, index=frame.index))


def _one_trial_a_row(sheet: Sheet, chosen: ChosenColumns) -> pd.DataFrame:
    """Load a table's cells by our names; a row of a wide table becomes one for each loss."""
    import pandas as pd

    wide = chosen.wide.columns if chosen.wide else {}
    loaded = sheet.load(list(dict.fromkeys([*chosen.columns.values(), *wide])))
    places = [f"{sheet.unit} {number}" for number in loaded.index]
    common = pd.DataFrame(
        {ours: loaded[column] for ours, column in chosen.columns.items()}, index=loaded.index
    ).assign(**chosen.constants)
    if not wide:
        return common.set_axis(places)
    parts = [
        common.assign(**said, loss=loaded[column]).set_axis(
            [f"{place}, {column!r}" for place in places]
        )
        for column, said in wide.items()
    ]
    in_order = [i * len(loaded) + row for row in range(len(loaded)) for i in range(len(parts))]
    return pd.concat(parts).iloc[in_order]


def _with_losses(
    frame: pd.DataFrame, drop_missing: bool, numbers: Numbers, odd: OddRows
) -> pd.DataFrame:
    """Return the rows of runs that ended, with their losses as numbers; a diverged one's is inf."""

    def loss_of(cell: Any, state: Any, flag: Any, place: str) -> float | None:
        """Return a row's loss, or None where the row is left out."""
        status = str(state or "").strip().lower()
        if status in UNFINISHED:
            odd.add(f"of status {status!r}, left out", place)
            return None
        loss = numbers.number(cell, "loss", place)
        if status in FAILED and math.isfinite(loss):
            odd.add(f"of status {status!r} with a loss of part of a run, left out", place)
            return None
        if status == "diverged" or truth(flag, "diverged", place, numbers.file):
            odd.add("flagged as diverged", place)
            return math.inf
        if math.isnan(loss) and drop_missing:
            odd.add("without a loss, left out (--missing drop)", place)
            return None
        if not math.isfinite(loss):
            what = "with an infinite loss" if math.isinf(loss) else "without a loss"
            odd.add(f"{what}, taken as diverged trials", place)
            return math.inf
        return loss

    nothing = [None] * len(frame)
    states = _cells(frame["status"]) if "status" in frame else nothing
    flags = _cells(frame["diverged"]) if "diverged" in frame else nothing
    read = zip(_cells(frame["loss"]), states, flags, frame.index, strict=True)
    losses = [loss_of(*cells) for cells in read]
    kept = [loss is not None for loss in losses]
    return frame.loc[kept].assign(loss=[loss for loss in losses if loss is not None])


def _cells(column: Any) -> Iterable[Any]:
    """Return a column's cells, with None for missing ones of every kind."""
    return column.astype(object).where(column.notna(), None) if column.hasnans else column


def _require_unit(name: str, chosen: ChosenColumns, values: Iterable[float], file: str) -> None:
    """Refuse a column of a hyperparameter that as a whole can only be in another unit."""
    finite = [value for value in values if math.isfinite(value)]
    if finite and name in chosen.columns:
        require_plausible_unit(name, chosen.columns[name], min(finite), max(finite), file)


def _row(trial: Mapping[str, Any], axes: Sequence[str], file: str) -> dict[str, Any]:
    """Return a trial's ledger row; the key `foreign` of its config marks it as not ours."""
    counts = {
        name: None if math.isnan(value) else int(value)
        for name, value in ((name, trial[name]) for name in _COUNTS)
    }
    measured = {name: finite_or_none(trial[name]) for name in _MEASURED}
    loss, arm, depth = finite_or_none(trial["loss"]), trial["parametrization"], counts["depth"]
    hps = {axis: trial[axis] for axis in axes}
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


def trial_digest(row: Mapping[str, Any]) -> bytes:
    """Return 16 bytes that stand for what a row says of its trial, all but the outcome.

    Two rows of one digest are of one trial, which may have one loss only.
    """
    family = row["config"]["model"]["family"]
    hps = sorted(row["hps"].items())
    conditions = conditions_of(row["config"])
    said = (family, row["parametrization"], row["width"], row["seed"], hps, *conditions.values())
    return hashlib.blake2b(repr(said).encode(), digest_size=16).digest()


def outcome(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what two rows of one trial must agree in."""
    foreign = row["config"].get("foreign", {})
    return (row["status"], row["loss"], foreign.get("n_seeds"), foreign.get("loss_sd"))


def describe_columns(chosen: ChosenColumns) -> str:
    """Return a sentence that says which column was taken for what."""
    parts = [f"{ours} = {column!r}" for ours, column in sorted(chosen.columns.items())]
    parts += [f"{ours} := {value}" for ours, value in sorted(chosen.constants.items())]
    if chosen.wide:
        columns = list(chosen.wide.columns)
        listed = ", ".join(map(repr, columns[:3])) + (" ..." if len(columns) > 3 else "")
        by = ", ".join(chosen.wide.names)
        parts.append(f"loss by {by} = {len(columns)} columns {listed}")
    return f"columns: {'; '.join(parts)}"


def describe_exclusions(odd: OddRows) -> list[str]:
    """Return a sentence for each special treatment: how many rows had it, and the first's place."""
    return [
        f"{count:,} row{'s' if count > 1 else ''} {treatment} (first: {odd.first[treatment]})"
        for treatment, count in sorted(odd.counts.items())
    ]
