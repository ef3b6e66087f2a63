"""The import of a table of optima: a width, its optimum and the optimum's error, and no losses.

An optimum is no trial: it stands in the folder's sweep.yaml, in log2 of the hyperparameter and with
its error as the sd of a normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hptransfer.config.hyperparameters import LARGEST_LOG2
from hptransfer.config.sweep import CONDITIONS
from hptransfer.errors import UserError
from hptransfer.results.importers.columns import (
    LEAST_LOG10,
    ChosenColumns,
    Unclear,
    label_columns,
    readings,
)
from hptransfer.results.importers.names import (
    LOGARITHMS,
    axis_of,
    hp_of,
    hp_spelled,
    log_of,
    normalised,
    recognised,
)
from hptransfer.results.importers.read_file import Sheet
from hptransfer.results.importers.values import number_columns, texts_of

NINETY = 1.645  # sds from a normal's middle to the ends of its 90 % interval
LEAST_GRID_SD = 0.3  # octaves: the sd of an even spread over one step of a factor of 2
LEAST_SD = 1e-3  # octaves of an optimum's error
DECIMALS = 6  # of an optimum and its error
# Our name of a column of optima -> words of its name that tell it.
_TELLING = {
    "low": ("low", "lower", "q05", "p05", "p5"),
    "high": ("high", "upper", "q95", "p95"),
    "error": (
        *("error", "err", "std", "sd", "se", "sem", "stderr", "sigma", "uncertainty", "stdev"),
    ),
    "optimum": ("optimum", "optimal", "best", "opt", "star"),
}
_FILLING = frozenset(  # further words that such a name may have
    {"octaves", "octave", "ci", "ci90", "90", "bound", "of", "the", "hp", "value"}
    | {"in", "bar", "end", *LOGARITHMS}
    | {word for words in _TELLING.values() for word in words}
)
_UNITS = {**{log: log for log in LOGARITHMS}, "octaves": "log2", "octave": "log2"}
_CONSTANT = ":="  # before a value that holds for all rows, in place of a column
_PLACE = ("width", "parametrization", "family", *CONDITIONS)


@dataclass(frozen=True)
class OptimaColumns:
    """The sources of a table of optima: where each stands, and what it is the optimum of."""

    place: ChosenColumns  # of width, arm, family and conditions
    columns: Mapping[str, str]  # optimum, error, low, high -> a column of the sheet, or :=VALUE
    units: Mapping[str, str]  # of the same: a key of LOGARITHMS, or "" where no name tells it
    hp: str

    def record(self) -> dict[str, str]:
        """Return the sources as words of `--columns` give them."""
        units = {name: f"{unit}_" if unit else "" for name, unit in self.units.items()}
        told = {f"{units[name]}{name}": column for name, column in self.columns.items()}
        return dict(sorted({**self.place.record(), **told}.items()))


def optima_columns(words: Sequence[str], sheet: Sheet) -> OptimaColumns | None:
    """Return the sources of a table of optima; None for a table of trials.

    A table of optima has a column of errors, or two of an interval's ends, beside a column that is
    called an optimum, or beside a hyperparameter of which every setting has one row and no loss.

    Raises:
        Unclear: a table of optima without errors.
    """
    place, constants, found, units, hp = {}, {}, {}, {}, None
    has_loss = False
    rates: list[tuple[str, str]] = []  # columns of a hyperparameter, with our names of them
    for word in words:
        ours, _, theirs = word.partition("=")
        unit, _, name = ours.rpartition("_")
        if name in _TELLING and unit in ("", *LOGARITHMS) and theirs in sheet.columns:
            found[name], units[name] = theirs, unit
        elif name == "error:" and unit in ("", *LOGARITHMS):
            found["error"], units["error"] = f"{_CONSTANT}{theirs}", unit
        elif ours in _PLACE and theirs in sheet.columns:
            place[ours] = theirs
        elif ours.removesuffix(":") in _PLACE and ours.endswith(":"):
            constants[ours.removesuffix(":")] = theirs
        elif hp_of(ours) and theirs in sheet.columns:
            rates.append((theirs, ours))
        has_loss = has_loss or ours == "loss"
    used = {*place.values(), *found.values(), *(column for column, _ in rates)}
    for column in sheet.columns:
        told, ours = _told(column), recognised(column)[0]
        if column in used:
            continue
        if told is not None and told[0] not in found:
            name, unit, named = told
            found[name], units[name] = column, unit
            hp = named if name == "optimum" and named else hp
        elif ours in _PLACE and ours not in {*place, *constants}:
            place[ours] = column
        elif ours is not None and hp_of(ours):
            rates.append((column, ours))
        has_loss = has_loss or ours == "loss"
    has_error = "error" in found or {"low", "high"} <= found.keys()
    is_clear = "optimum" in found and not (rates and has_loss)
    if "width" not in {*place, *constants} or not (has_error or (is_clear and not rates)):
        return None
    if not is_clear:
        if has_loss or len(rates) != 1:
            return None
        found["optimum"], ours = rates[0]
        units["optimum"], hp = log_of(ours), hp_of(ours)
    chosen = ChosenColumns(place, constants, None)
    if "parametrization" not in chosen.names:
        free = [c for c in sheet.columns if c not in {*found.values(), "hp"}]
        labels = label_columns(chosen, _narrowed(sheet, free))
        if len(labels) == 1:
            chosen = ChosenColumns({**place, "parametrization": labels[0]}, constants, None)
    if not (is_clear and has_error) and _has_repeats(chosen, sheet):
        return None  # many rows a setting: trials, whose losses are called an error
    if not has_error:
        return _refused_without_error(found["optimum"], sheet)
    return OptimaColumns(chosen, found, units, _hp_told(sheet) or hp or "lr")


def _refused_without_error(column: str, sheet: Sheet) -> None:
    """Refuse a table of optima without errors; None where its optima are no numbers."""
    texts = texts_of(sheet.load([column])[column])
    if number_columns(texts, decimal_comma=sheet.decimal_comma) is None:
        return
    raise Unclear(
        f"{sheet.name} looks like a table of optima, {column!r} by width, but optima are fitted by "
        "their errors, and no column has them. Add a column error (one standard deviation), or low "
        "and high (the ends of the 90 % interval), or give one error in octaves for all rows; "
        f"{LEAST_GRID_SD:g} is the least for the best of a grid in steps of a factor of 2",
        [[f"log2_error:={LEAST_GRID_SD:g}"]],
        say=":",
    )


def _told(column: str) -> tuple[str, str, str | None] | None:
    """Return what a name tells of a column of optima: our name, its unit and hyperparameter."""
    spelled = normalised(column).split("_")
    unit = next((_UNITS[word] for word in spelled if word in _UNITS), "")
    rest = "_".join(word for word in spelled if word not in _FILLING)
    hp = hp_spelled(rest) if rest else None
    if rest and hp is None:
        return None
    for name, telling in _TELLING.items():
        if any(word in telling for word in spelled):
            return name, unit, hp
    return None


def _narrowed(sheet: Sheet, columns: Sequence[str]) -> Sheet:
    return Sheet(sheet.name, tuple(columns), sheet.load, sheet.decimal_comma)


def _has_repeats(chosen: ChosenColumns, sheet: Sheet) -> bool:
    loaded = sheet.load(list(chosen.columns.values()))
    cells = [texts_of(loaded[column]) for column in chosen.columns.values()]
    places = list(zip(*cells, strict=True))
    return len(set(places)) < len(places)


def _hp_told(sheet: Sheet) -> str | None:
    """Return the hyperparameter that a column `hp` names, as in a table of `answer.optima`."""
    if "hp" not in sheet.columns:
        return None
    names = sorted(set(texts_of(sheet.load(["hp"])["hp"])))
    if len(names) != 1:
        raise UserError(
            f"A table of optima must be of one hyperparameter, but {sheet.name} has "
            f"{', '.join(names)}. Import the rows of one at a time."
        )
    return hp_of(names[0])


def read_optima(
    columns: OptimaColumns, sheet: Sheet, settings: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a table's optima, and the places of rows without an error, which are left out.

    Args:
        settings: width, family, parametrization and conditions of each row.

    Raises:
        UserError: a cell that is no number, an error that is none, or a unit that is not clear.
    """
    loaded = sheet.load([c for c in columns.columns.values() if c in sheet.columns])
    cells = {name: _numbers(sheet, loaded, name, c) for name, c in columns.columns.items()}
    unit, axis = _optimum_unit(columns, sheet, cells["optimum"]), axis_of(columns.hp)
    if not axis.startswith("log2_") or "one_minus" in axis:
        raise UserError(
            f"Optima must be of a hyperparameter on a log scale, but those in {sheet.name} are of "
            f"the {columns.hp}. Import the trials that they were found by."
        )
    in_octaves = columns.units.get("error", "") == "log2" or (
        unit == ""
        and "error" in cells
        and any(e > v for e, v in zip(cells["error"], cells["optimum"], strict=True))
    )
    found, left_out = [], []
    for i, place in enumerate(loaded.index):
        row = {name: values[i] for name, values in cells.items()}
        ends = [row.get("low", math.nan), row.get("high", math.nan)]
        error = row.get("error", math.nan)
        if math.isnan(row["optimum"]) or (math.isnan(error) and any(map(math.isnan, ends))):
            left_out.append(str(place))
            continue
        optimum = _log2(row["optimum"], unit)
        if not math.isnan(error):
            octaves = 1.0 if in_octaves else LOGARITHMS.get(unit, 0.0)
            octaves = octaves or 1.0 / (row["optimum"] * math.log(2.0))
            sd = error * octaves
        else:
            sd = (_log2(ends[1], unit) - _log2(ends[0], unit)) / (2.0 * NINETY)
        if not 0.0 < sd < LARGEST_LOG2 or abs(optimum) > LARGEST_LOG2:
            raise UserError(
                f"An optimum must be a number with an error above zero, but {place} of "
                f"{sheet.name} gives an error of {sd:g} octaves. Correct or remove that row."
            )
        told = {
            "axis": axis,
            "optimum": round(optimum, DECIMALS),
            "sd": round(max(sd, LEAST_SD), 6),
        }
        found.append({**settings[i], **told})
    return found, left_out


def _log2(value: float, unit: str) -> float:
    if unit:
        return value * LOGARITHMS[unit]
    return math.log2(value) if value > 0 else math.nan


def _numbers(sheet: Sheet, loaded: Any, name: str, column: str) -> list[float]:
    is_constant = column not in sheet.columns
    texts = (
        [column.removeprefix(_CONSTANT)] * len(loaded) if is_constant else texts_of(loaded[column])
    )
    values = number_columns(texts, decimal_comma=sheet.decimal_comma)
    if values is None:
        raise UserError(
            f"The {name} of a table of optima must be numbers, but {column!r} of {sheet.name} "
            "holds texts. Name another column for it."
        )
    return values


def _optimum_unit(columns: OptimaColumns, sheet: Sheet, values: Sequence[float]) -> str:
    """Return the logarithm that the values are, or "" for values of the hyperparameter itself.

    Raises:
        Unclear: logarithms of which nothing tells the base.
    """
    unit, column = columns.units["optimum"], columns.columns["optimum"]
    known = [value for value in values if not math.isnan(value)]
    if unit != "log" and (unit or not known or min(known) > 0):
        return unit
    low, high = min(known, default=0.0), max(known, default=0.0)
    told = _told(column)
    is_called_a_rate = hp_of(recognised(column)[0] or "") or (told is not None and told[2])
    if unit != "log" and not is_called_a_rate and (low < LEAST_LOG10 or high > 0):
        return "log2"
    clause, words = readings("optimum", low, high, lambda name: f"{name}={column}")
    raise Unclear(
        f"{column!r} of {sheet.name} holds logarithms, {low:g} to {high:g}, without telling their "
        f"base: {clause}.",
        [[word] for word in words],
        say="Say which, such as:",
    )


def place_of(optimum: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells an optimum from others of its folder."""
    return tuple(optimum.get(name) for name in _PLACE)
