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


def digits_for(*values: float | None) -> int:
    """Return 4 decimals, or up to 7 where the largest value would have fewer than two digits."""
    largest = max((abs(v) for v in values if v is not None), default=0.0)
    return next((digits for digits in range(4, 8) if largest >= 10.0 ** (1 - digits)), 4)


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
    """Return a regret with its 90 % interval, in as many decimals as it needs."""
    if record is None:
        return UNKNOWN
    return estimate_text(record, digits_for(record[center], record["low"], record["high"]), center)


def arm_and_hp(arm: Mapping[str, Any]) -> str:
    """Return the names of an arm and of the HP that its estimates are of."""
    return f"{arm_name(arm['parametrization'])}, {hp_label(arm['hp'])}"


def headline(arm: Mapping[str, Any]) -> str:
    """Return one sentence on an arm's verdict and what to do."""
    name = arm_name(arm["parametrization"])
    match arm.get("verdict"):
        case "transfers":
            return f"{name} transfers: {_advice(arm)}"
        case "drifts":
            return f"{name} drifts: {_drift(arm)}. {_fallback(arm)}"
        case "extend":
            return f"{name}: extend the sweep before you use it. {_first_reason(arm)}".rstrip()
        case "inconclusive":
            return f"{name}: inconclusive. {_first_reason(arm)}".rstrip()
    return f"{name}: no verdict."


def _advice(arm: Mapping[str, Any]) -> str:
    target = arm.get("target")
    hp = hp_label(arm["hp"])
    if target is None or target.get("emitted") is None:
        return f"one value of {hp} serves every width of the sweep, which names no target."
    sentence = f"train width {target['width']} at {hp} {hp_text(target['emitted'])}; "
    return sentence + f"expected regret {regret_text(target.get('expected_regret'), 'mean')}."


def _drift(arm: Mapping[str, Any]) -> str:
    """Return why a transfer fails: the optimum moves, or only its cost in loss is seen."""
    drift = arm.get("drift_octaves_per_doubling")
    moved = estimate_text(drift, 2)
    if drift is None or moved == UNKNOWN:
        return "one value for all widths costs more than the limit"
    if not excludes_zero(drift):
        return (
            "one value for all widths costs more than the limit, though its optimum is not seen "
            f"to move: {moved} octaves per doubling of the width"
        )
    return f"its optimum moves by {moved} octaves per doubling of the width"


def _fallback(arm: Mapping[str, Any]) -> str:
    target = arm.get("target")
    if target is None or target.get("emitted") is None:
        return "Sweep again at every width."
    value = hp_text(target["emitted"])
    expected = regret_text(target.get("expected_regret"), "mean")
    return (
        f"Its law would give width {target['width']} {hp_label(arm['hp'])} {value}, "
        f"expected regret {expected}."
    )


def _first_reason(arm: Mapping[str, Any]) -> str:
    return arm["reasons"][0] if arm.get("reasons") else ""


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
    """Return a percentage with three significant digits."""
    return UNKNOWN if value is None else f"{value:.3g} %".replace("-", "−")
