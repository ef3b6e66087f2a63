"""The cells of another program's table converted to numbers, labels and truth values."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from hptransfer.config.hyperparameters import LARGEST_LOG2
from hptransfer.errors import UserError, abbreviate
from hptransfer.results.importers.columns import hp_of

# Texts of a missing cell, in lower case.
EMPTY = frozenset({"", "nan", "na", "n/a", "null", "none", "-", "--", "#n/a", "<na>"})
ENDLESS = frozenset({"diverged", "∞"})  # texts of an infinite number, besides Python's own
# Texts of truth values, in lower case.
_TRUTH = {
    **dict.fromkeys(("true", "yes", "1", "y", "t", "1.0"), True),
    **dict.fromkeys(("false", "no", "0", "n", "f", "0.0", ""), False),
}
# Other programs' labels of an arm, in lower case and without blanks -> ours.
_ARMS = {
    **dict.fromkeys(("sp", "standard", "std", "standardparametrization"), "standard"),
    **dict.fromkeys(("mup", "μp"), "mup"),
    "shared": "shared",
}
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
LOG2_DECIMALS = 6  # of the log2 of a hyperparameter in the ledger
LONGEST_LABEL = 40  # characters of an arm's or a family's name


@dataclass
class Numbers:
    """The numbers of one table, all written with a decimal point or all with a decimal comma."""

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
            return math.inf
        if "_" in text:
            raise self._refused(text, ours, place)
        if self.decimal_comma and "." in text:
            self._seen(".", place)
        return value

    def _written(self, text: str, ours: str, place: str) -> float:
        """Read a text that Python does not take for a number: missing, infinite or with a comma."""
        lowered = text.lower()
        if lowered in EMPTY:
            return math.nan
        if lowered in ENDLESS:
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
            "Correct it, or "
            f"take another column with --columns {ours}=COLUMN"
        )

    def whole(self, cell: Any, ours: str, place: str, *, least: int) -> int:
        """Return a cell as a whole number."""
        value = self.number(cell, ours, place)
        if not math.isfinite(value) or value != round(value) or not least <= value < 2**53:
            given = "is empty" if math.isnan(value) else f"is {abbreviate(cell, 40)}"
            raise UserError(
                f"The {ours} must be a whole number, {least} or more, but in {place} of "
                f"{self.file} it {given}. Correct or remove that row."
            )
        return int(value)


def truth(cell: Any, ours: str, place: str, file: str) -> bool:
    """Return a cell as a truth value; a missing cell is false."""
    text = "" if cell is None else str(cell).strip().lower()
    if text not in _TRUTH:
        raise UserError(
            f"`{ours}` must be true or false, but is {abbreviate(cell, 40)} in {place} of {file}."
        )
    return _TRUTH[text]


def label(cell: Any, ours: str, place: str, file: str) -> str:
    """Return the label in a cell; a known arm in another spelling gets our name."""
    text = "" if cell is None else str(cell)
    found = _label(text, ours)
    if found is None:
        given = "is empty" if text.strip().lower() in EMPTY else f"is {abbreviate(text, 60)}"
        raise UserError(
            f"The {ours} must be a label of at most {LONGEST_LABEL} characters and no number, but "
            f"in {place} of {file} it {given}. Correct it, or leave the column out: {ours}="
        )
    return found


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


def scaling_label(cell: Any, column: str, place: str, file: str) -> str:
    """Return the arm in a cell; a column with the name `mup` may hold truth values."""
    if column in ("mup", "use_mup"):
        text = str(cell).strip().lower()
        if text and text in _TRUTH:
            return "mup" if _TRUTH[text] else "standard"
    return label(cell, "parametrization", place, file)


def log2_of(value: float, ours: str, place: str, file: str) -> float:
    """Return the log2 of a hyperparameter, rounded so that a printed 0.00024414062 is 2^-12.

    Raises:
        UserError: the value is missing, not positive, or far from what a hyperparameter may be.
    """
    hp = hp_of(ours) or ours
    if ours.startswith("log2_") or ours.startswith("log10_"):
        found = value if ours.startswith("log2_") else value * math.log2(10.0)
    elif not math.isfinite(value) or value <= 0:
        given = "is empty" if math.isnan(value) else f"is {value:g}"
        raise UserError(
            f"The {hp} must be positive, but in {place} of {file} it {given}. Correct or remove "
            f"that row; if the column holds logarithms, say --columns log2_{hp}=COLUMN or "
            f"log10_{hp}=COLUMN"
        )
    else:
        found = math.log2(value)
    if not math.isfinite(found) or abs(found) > LARGEST_LOG2:
        raise UserError(
            f"The log2 of {hp} must lie within ±{LARGEST_LOG2:g}, but in {place} of {file} it is "
            f"{found:g}. Check the column's unit."
        )
    return round(found, LOG2_DECIMALS) + 0.0


def require_plausible_unit(name: str, column: str, low: float, high: float, file: str) -> None:
    """Refuse a column whose values, from `low` to `high`, show that its unit is another."""
    hp = hp_of(name) or name
    if name.startswith("log") and low > 0 and high < 1 and high / low >= 4:
        raise UserError(
            f"{column!r} of {file} is read as {name}, but its values, {low:g} to {high:g}, look "
            f"like the {hp} itself. Say --columns '{hp}={column}' '{name}='"
        )
    if not name.startswith("log") and high < 0:
        base = "log10" if low >= -9 else "log2"
        raise UserError(
            f"{column!r} of {file} is read as {hp}, which must be positive, but its values, "
            f"{low:g} to {high:g}, look like {base}. Say --columns '{base}_{hp}={column}' (or "
            f"{'log2' if base == 'log10' else 'log10'}_{hp}, as they were taken)"
        )
