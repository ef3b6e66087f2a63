"""From a sheet's rows to rows of a ledger: checked, converted, every treatment counted."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hptransfer.config.sweep import MOST_TRIALS
from hptransfer.errors import UserError
from hptransfer.results.importers.cells import (
    Numbers,
    label,
    log2_of,
    require_unit,
    scaling_label,
    truth,
)
from hptransfer.results.importers.columns import Chosen, normalised
from hptransfer.results.importers.sheet import Sheet
from hptransfer.results.ledger_rows import LEDGER_SCHEMA
from hptransfer.results.table import conditions_of
from hptransfer.system.version import package_version

UNKNOWN = "imported"  # the family, and the arm, of rows that do not say theirs
# Runs in these states never had their whole budget: neither a loss nor a divergence.
UNFINISHED = frozenset(
    {"running", "waiting", "pruned", "crashed", "killed", "scheduled", "queued", "pending"}
    | {"preempting", "preempted", "stopped"}
)
FAILED = frozenset({"diverged"})
BROKEN_OFF = frozenset({"fail", "failed"})  # without a loss: a missing one; with one: not the last
_WHOLE = ("steps", "depth", "batch_size", "n_seeds", "diverged_at_step")
_NUMBERS = ("loss_std", "loss_at_init", "train_loss", "flops", "seconds")


@dataclass
class Account:
    """What became of a sheet's rows, in counts and first places."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, place: str) -> None:
        """Count a treatment."""
        self.counts[what] += 1
        self.first.setdefault(what, place)


@dataclass(frozen=True)
class Defaults:
    """What rows are where no column says it."""

    family: str = UNKNOWN
    arm: str = UNKNOWN


def rows_of(
    sheet: Sheet,
    chosen: Chosen,
    *,
    drop_missing: bool,
    defaults: Defaults,
    numbers: Numbers,
    account: Account,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, ledger row) of every trial of a sheet; nothing is left out uncounted.

    Raises:
        UserError: a cell that cannot be what its column is, or more rows than a sweep may have.
    """
    plain = tuple(chosen.columns.items())
    wide = tuple(chosen.wide.columns.items()) if chosen.wide else ()
    names = [column for _, column in plain] + [column for column, _ in wide]
    reading = _Reading(sheet.name, chosen, drop_missing, defaults, numbers, account)
    count = 0
    for place, cells in sheet.rows(names):
        common = {**chosen.constants, **dict(zip((o for o, _ in plain), cells, strict=False))}
        variants: list[tuple[str, dict[str, Any]]] = [(place, common)]
        if wide:
            losses = cells[len(plain) :]
            variants = [
                (f"{place}, {column!r}", {**common, **said, "loss": loss})
                for (column, said), loss in zip(wide, losses, strict=True)
            ]
        for where, record in variants:
            count += 1
            if count > MOST_TRIALS:
                raise UserError(
                    f"An imported sweep may have {MOST_TRIALS:,} rows, but {sheet.name} has more. "
                    "Leave out what is not needed, or import it into several folders."
                )
            row = reading.row(record, where)
            if row is not None:
                yield where, row


@dataclass(frozen=True)
class _Reading:
    """One sheet being read under one choice of columns."""

    file: str
    chosen: Chosen
    drop_missing: bool
    defaults: Defaults
    numbers: Numbers
    account: Account

    def row(self, record: Mapping[str, Any], place: str) -> dict[str, Any] | None:
        """Return one trial's ledger row, or None where it is left out and counted."""
        status = str(record.get("status") or "").strip().lower()
        if status in UNFINISHED:
            self.account.add(f"of status {status!r}, left out", place)
            return None
        loss = self._loss(record, status, place)
        if loss is None:
            return None
        numbers, file = self.numbers, self.file
        hps = {
            axis: log2_of(numbers.number(record[name], name, place), name, place, file)
            for name, axis in self.chosen.axes
        }
        width = numbers.whole(record["width"], "width", place, least=1)
        seed = numbers.whole(record["seed"], "seed", place, least=0) if "seed" in record else 0
        said = {
            name: numbers.whole(record[name], name, place, least=0 if "_at_" in name else 1)
            for name in _WHOLE
            if name in record and not math.isnan(numbers.number(record[name], name, place))
        }
        family, arm = self.defaults.family, self.defaults.arm
        if "family" in record:
            family = label(record["family"], "family", place, file)
        if "parametrization" in record:
            arm = scaling_label(record["parametrization"], self._arm_column, place, file)
        budget: dict[str, Any] = {}
        if "steps" in said:
            budget["steps"] = said["steps"]
        if "step" in record:  # a checkpoint's step wins over its run's length
            budget["steps"] = numbers.whole(record["step"], "step", place, least=0)
        if "batch_size" in said:
            budget["batch_size"] = said["batch_size"]
        return ledger_row(
            self.file,
            family=family,
            arm=arm,
            width=width,
            depth=said.get("depth"),
            seed=seed,
            hps=hps,
            budget=budget,
            loss=loss if math.isfinite(loss) else None,
            of_runs={
                "n_seeds": said.get("n_seeds"),
                "loss_sd": self._number(record, "loss_std", place),
            },
            measured={n: self._number(record, n, place) for n in _NUMBERS if n != "loss_std"},
            diverged_at_step=said.get("diverged_at_step"),
        )

    def _loss(self, record: Mapping[str, Any], status: str, place: str) -> float | None:
        """Return the loss, infinite where the trial diverged; None where it is left out."""
        loss = self.numbers.number(record["loss"], "loss", place)
        if status in BROKEN_OFF and math.isfinite(loss):
            self.account.add(f"of status {status!r} with a loss of part of a run, left out", place)
            return None
        flagged = "diverged" in record and truth(record["diverged"], "diverged", place, self.file)
        if flagged or status in FAILED:
            self.account.add("flagged as diverged", place)
            return math.inf
        if math.isnan(loss):
            if self.drop_missing:
                self.account.add("without a loss, left out (--missing drop)", place)
                return None
            self.account.add("without a loss, taken as diverged trials", place)
            return math.inf
        if math.isinf(loss):
            self.account.add("with an infinite loss, taken as diverged trials", place)
            return math.inf
        return loss

    @cached_property
    def _arm_column(self) -> str:
        return normalised(self.chosen.columns.get("parametrization", ""))

    def _number(self, record: Mapping[str, Any], name: str, place: str) -> float | None:
        if name not in record:
            return None
        value = self.numbers.number(record[name], name, place)
        return value if math.isfinite(value) else None


def ledger_row(
    source: str,
    *,
    family: str,
    arm: str,
    width: int,
    depth: int | None,
    seed: int,
    hps: Mapping[str, float],
    budget: Mapping[str, Any],
    loss: float | None,
    of_runs: Mapping[str, Any],
    measured: Mapping[str, Any],
    diverged_at_step: int | None,
) -> dict[str, Any]:
    """Build a ledger row; the key `foreign` of its config marks what is not ours."""
    config = {
        "model": {"family": family, "width": width, **({} if depth is None else {"depth": depth})},
        "parametrization": {"scaling": arm},
        "hps": dict(hps),
        "seed": seed,
        **({"budget": dict(budget)} if budget else {}),
        "foreign": {name: value for name, value in of_runs.items() if value is not None},
    }
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return {
        "trial_key": hashlib.sha256(text.encode()).hexdigest()[:12],
        "status": "diverged" if loss is None else "completed",
        "loss": loss,
        "width": width,
        "parametrization": arm,
        "hps": dict(hps),
        "seed": seed,
        "schema": LEDGER_SCHEMA,
        "config": config,
        "diverged_at_step": diverged_at_step,
        "stopped_at_step": None,
        "metrics": {name: measured[name] for name in ("loss_at_init", "train_loss")},
        "cost": {"flops": measured["flops"], "seconds": measured["seconds"], "device": None},
        "provenance": {"hptransfer": package_version()},
        "source": source,
    }


def identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what may have one loss only: everything that a row says but its outcome."""
    said = conditions_of(row["config"])
    family = row["config"]["model"]["family"]
    hps = tuple(sorted(row["hps"].items()))
    return (family, row["parametrization"], row["width"], row["seed"], hps, *said.values())


def outcome(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what two rows of one trial must agree in."""
    foreign = row["config"].get("foreign", {})
    return (row["status"], row["loss"], foreign.get("n_seeds"), foreign.get("loss_sd"))


def require_units(sheet: Sheet, chosen: Chosen, numbers: Numbers) -> None:
    """Refuse HP columns that as a whole can only be of another unit."""
    named = [(name, chosen.columns[name]) for name in chosen.hps if name in chosen.columns]
    ends = {name: (math.inf, -math.inf) for name, _ in named}
    for place, cells in sheet.rows([column for _, column in named]):
        for (name, _), cell in zip(named, cells, strict=True):
            value = numbers.number(cell, name, place)
            if math.isfinite(value):
                low, high = ends[name]
                ends[name] = min(low, value), max(high, value)
    for name, column in named:
        if ends[name][0] <= ends[name][1]:
            require_unit(name, column, *ends[name], sheet.name)


def told(chosen: Chosen, sheet: Sheet) -> list[str]:
    """Say what was taken for what."""
    parts = [f"{ours} = {column!r}" for ours, column in sorted(chosen.columns.items())]
    parts += [f"{ours} := {value}" for ours, value in sorted(chosen.constants.items())]
    if chosen.wide:
        inner = ", ".join(next(iter(chosen.wide.columns.values())))
        shown = list(chosen.wide.columns)
        listed = ", ".join(map(repr, shown[:3])) + (" ..." if len(shown) > 3 else "")
        parts.append(f"loss by {inner} = {len(shown)} columns {listed}")
    return [f"columns: {'; '.join(parts)}", *chosen.notes, *sheet.notes]


def treated(account: Account) -> Sequence[str]:
    """Say what became of unusual rows, a line each."""
    return [
        f"{count:,} row{'s' if count > 1 else ''} {what} (first: {account.first[what]})"
        for what, count in sorted(account.counts.items())
    ]
