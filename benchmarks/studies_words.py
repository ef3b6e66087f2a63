"""Figures of a study's records in words: drifts, verdicts, costs, ratios and ranges."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.studies_read import NOT_RUN, Record, Study

UNKNOWN = "–"
DIGITS = 4  # of costs in loss: the losses lie near 0.5


def signed(record: Record | None) -> str:
    """Write an estimate with its sign and its interval, as `+0.05 (−0.32 to +0.23)`."""
    if record is None or record["estimate"] is None:
        return UNKNOWN
    center = sign(record["estimate"])
    if record["low"] is None or record["high"] is None:
        return f"{center} (no interval)"
    return f"{center} ({sign(record['low'])} to {sign(record['high'])})"


def sign(value: float) -> str:
    """Write a number with its sign and two decimals; zero has none."""
    text = f"{value:+.2f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def drift(arm: Record | None) -> str:
    """Write how far the optimum moves when the width doubles, in octaves."""
    return UNKNOWN if arm is None else signed(arm["drift_octaves_per_doubling"])


def judged(arm: Record | None) -> str:
    """Write the drift with the verdict."""
    return UNKNOWN if arm is None else f"{drift(arm)}, {arm['verdict']}"


def cost(record: Mapping[str, Any] | None, center: str = "estimate", digits: int = DIGITS) -> str:
    """Write a cost with its interval, as `0.0006 (below 0.0024)` where that starts at zero."""
    if record is None or record[center] is None:
        return UNKNOWN
    told, low, high = (
        None if record[end] is None else f"{record[end]:.{digits}f}"
        for end in (center, "low", "high")
    )
    if low is None and high is None:
        return f"{told} (no interval)"
    if high is None:
        return f"{told} (no upper bound)"
    if float(told or 0) == 0:
        return f"below {high}"
    return f"{told} (below {high})" if float(low or 0) == 0 else f"{told} ({low} to {high})"


def predicted(study: Study) -> str:
    """Write what the transferred value was predicted to cost at the target, in loss."""
    return UNKNOWN if study.transfer is None else cost(study.transfer["expected_regret"], "mean")


def measured(study: Study) -> str:
    """Write what it did cost there, by the target's own rows."""
    return NOT_RUN if study.realised is None else cost(study.realised["regret"])


def ratio(told: Record | None) -> str:
    """Write a ratio in two digits with its interval, as `4.5 (4.4 to 4.6)`; `> 3` is a bound."""
    if told is None or told["estimate"] is None:
        return UNKNOWN
    bound = "" if told["relation"] == "=" else f"{told['relation']} "
    center = f"{bound}{two_digits(told['estimate'])}"
    if told["low"] is None and told["high"] is None:
        return f"{center} (no interval)"
    ends = (two_digits(told[end]) if told[end] is not None else "open" for end in ("low", "high"))
    return f"{center} ({' to '.join(ends)})"


def two_digits(value: float) -> str:
    """Write a positive number in about two digits, without an exponent."""
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def percent(value: float) -> str:
    """Write a percentage in two digits."""
    return f"{two_digits(value)} %"


def change(log2: float) -> str:
    """Write a change in octaves as a percentage with its sign, as `−41 %`."""
    text = f"{100 * (2**log2 - 1):+.0f} %"
    return "0 %" if text[1:] == "0 %" else text.replace("-", "−")


def span(values: Sequence[float], write: Callable[[float], str]) -> str:
    """Write the range of some values, or the one where all are written alike."""
    low, high = write(min(values)), write(max(values))
    return low if low == high else f"{low} to {high}"


def listed(names: Sequence[str]) -> str:
    """Join names, the last two by `and`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def typeset(sentence: str) -> str:
    """Give a sentence of the analysis true minus signs."""
    return re.sub(r"(?<![\w^])-(?=\d)", "−", sentence)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
