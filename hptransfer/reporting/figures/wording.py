"""Numbers and sentences of pictures and report; what a verdict means, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hptransfer.analysis.answer.warnings import excludes_zero
from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures.style import hp_label

UNKNOWN = "not known"

CENSORED = {
    "grid_low": "on the grid's lower edge",
    "grid_high": "on the grid's upper edge",
    "divergence": "next to a failed point",
    "flat": "flat: no clear minimum",
    "too_few": "too few points",
}


def number_text(value: float | None, digits: int) -> str:
    """Return a number with a true minus sign; None is `not known`, and zero has no sign."""
    if value is None:
        return UNKNOWN
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def hp_text(theta: float | None) -> str:
    """Return log2 of an HP with the HP's own value in brackets."""
    return UNKNOWN if theta is None else f"{number_text(theta, 2)} ({2.0**theta:.3g})"


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
    """Return an interval in brackets; one without an upper end reaches past the cliff."""
    if low is None:
        return " (no interval)"
    if high is None:
        return f" ({number_text(low, digits)} or more)"
    return f" ({number_text(low, digits)} to {number_text(high, digits)})"


def regret_text(record: Mapping[str, Any] | None, center: str = "estimate") -> str:
    """Return a regret with its 90 % interval, in as many decimals as it needs.

    They are 4, or up to 7 where the largest of its values would have fewer than two digits.
    """
    if record is None:
        return UNKNOWN
    values = (record[center], record["low"], record["high"])
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    digits = next((digits for digits in range(4, 8) if largest >= 10.0 ** (1 - digits)), 4)
    return estimate_text(record, digits, center)


def arm_and_hp(arm: Mapping[str, Any]) -> str:
    """Return the names of an arm and of the HP that its estimates are of."""
    return f"{arm_name(arm['parametrization'])}, {hp_label(arm['hp'])}"


def headline(arm: Mapping[str, Any]) -> str:
    """Return one sentence on an arm's verdict and what to do."""
    name, hp = arm_name(arm["parametrization"]), hp_label(arm["hp"])
    reason, target = (arm.get("reasons") or [""])[0], arm.get("target") or {}
    named = target.get("emitted") is not None
    value = hp_text(target.get("emitted"))
    expected = f"expected regret {regret_text(target.get('expected_regret'), 'mean')}."
    match arm.get("verdict"):
        case "transfers" if named:
            return f"{name} transfers: train width {target['width']} at {hp} {value}; {expected}"
        case "transfers":
            return (
                f"{name} transfers: one value of {hp} serves every width of the sweep, which names "
                "no target."
            )
        case "drifts" if named:
            fallback = f"Its law would give width {target['width']} {hp} {value}, {expected}"
            return f"{name} drifts: {_drift(arm)}. {fallback}"
        case "drifts":
            return f"{name} drifts: {_drift(arm)}. Sweep again at every width."
        case "extend":
            return f"{name}: extend the sweep before you use it. {reason}".rstrip()
        case "inconclusive":
            return f"{name}: inconclusive. {reason}".rstrip()
    return f"{name}: no verdict."


def _drift(arm: Mapping[str, Any]) -> str:
    """Return why a transfer fails: the optimum moves, or only its cost in loss is seen."""
    drift = arm.get("drift_octaves_per_doubling")
    moved = f"{estimate_text(drift, 2)} octaves per doubling of the width"
    if drift is not None and excludes_zero(drift):
        return f"its optimum moves by {moved}"
    costly = "one value for all widths costs more than the limit"
    if estimate_text(drift, 2) == UNKNOWN:
        return costly
    return f"{costly}, though its optimum is not seen to move: {moved}"


def flops_text(value: float | None) -> str:
    """Return FLOPs with an SI prefix, in three digits."""
    if value is None:
        return UNKNOWN
    for power, prefix in zip(range(21, 3, -3), "ZEPTGM", strict=True):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}FLOP"
    return f"{value:.3g} FLOP"


def percent_text(value: float | None) -> str:
    """Return a percentage with three significant digits."""
    return UNKNOWN if value is None else f"{value:.3g} %".replace("-", "−")
