"""Numbers as the estimates write them: quantiles, intervals, rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hptransfer.analysis.basins.curve import Floats

SCHEMA = 2  # of estimates.json and realised.json: 2 since verdicts say moves and matters
DIGITS = 7  # significant digits of a number in them
SAME_POINT = 1e-6  # octaves within which two values of an HP are the same


def quantile(draws: Floats, share: float) -> float:
    """Return an observed draw, never an interpolation: regrets may be infinite."""
    return float(np.quantile(draws, share, method="inverted_cdf"))


def number(value: float | None) -> float | None:
    """Return the value to seven significant digits; None if it is missing or not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def numbers(values: Floats) -> list[float | None]:
    """Return a list of JSON numbers."""
    return [number(float(value)) for value in values]


def interval(
    draws: Floats | None, *, estimate: float | None = None, noisy: bool = True
) -> dict[str, Any]:
    """Return estimate (the median of draws unless given) with its 5 % and 95 % quantiles."""
    if draws is None:
        return {"estimate": number(estimate), "low": None, "high": None}
    middle = quantile(draws, 0.5) if estimate is None else estimate
    ends = (quantile(draws, 0.05), quantile(draws, 0.95)) if noisy else (None, None)
    return {"estimate": number(middle), "low": number(ends[0]), "high": number(ends[1])}


def scaled(entry: dict[str, Any], factor: float) -> dict[str, Any]:
    """Return an interval times a factor."""
    return {key: None if value is None else number(value * factor) for key, value in entry.items()}
