"""Numbers of pictures and report, written for readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hptransfer.config.hyperparameters import axis_digits, hp_value
from hptransfer.system import text as plain

UNKNOWN = "not known"


def number_text(value: float | None, digits: int) -> str:
    """Return a number with a true minus sign; None is `not known`, and zero has no sign."""
    if value is None:
        return UNKNOWN
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def hp_text(axis: str, point: float | None) -> str:
    """Return a point of an HP's axis; one in log2 with the HP's own value in brackets."""
    told = number_text(point, axis_digits(axis))
    if point is None or not axis.startswith("log2_"):
        return told
    return f"{told} ({hp_value(axis, point):.3g})"


def estimate_text(record: Mapping[str, Any] | None, digits: int, center: str = "estimate") -> str:
    """Return an estimate, at the key `center`, with its 90 % interval."""
    if record is None or (record[center] is None and record["low"] is None):
        return UNKNOWN
    if record[center] is None:
        return f"at least {number_text(record['low'], digits)}"  # most draws are past the cliff
    return number_text(record[center], digits) + interval_text(
        record["low"], record["high"], digits
    )


def interval_text(low: float | None, high: float | None, digits: int) -> str:
    """Return an interval in brackets; an end that is not known lies past the grid or the cliff."""
    if low is None:
        return " (no interval)" if high is None else f" (up to {number_text(high, digits)})"
    if high is None:
        return f" ({number_text(low, digits)} or more)"
    return f" ({number_text(low, digits)} to {number_text(high, digits)})"


def regret_text(record: Mapping[str, Any] | None, center: str = "estimate") -> str:
    """Return a cost with its 90 % interval, in two digits; an end that is nothing is left out."""
    return UNKNOWN if record is None else plain.cost_text(record, center)


def flops_text(value: float | None) -> str:
    """Return FLOPs with an SI prefix, in three digits."""
    if value is None:
        return UNKNOWN
    for size, prefix in (
        (1e21, "Z"),
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
    ):
        if value >= size:
            return f"{value / size:.3g} {prefix}FLOP"
    return f"{value:.3g} FLOP"


def percent_text(value: float | None) -> str:
    """Return a percentage to two significant digits, with a true minus sign."""
    return UNKNOWN if value is None else plain.percent_text(value).replace("-", "−")
