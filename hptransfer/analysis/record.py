"""Strict-JSON parts of the answers: numbers without NaN, intervals, one optimum's entry."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hptransfer.analysis.basin import Basin, Noise
from hptransfer.analysis.curve import Floats
from hptransfer.analysis.transfer import quantile

SCHEMA = 1
DIGITS = 7
CURVE_POINTS = 60


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


def optimum_entry(width: int, basin: Basin, noise: Noise | None) -> dict[str, Any]:
    """Return one width's optimum, as estimates and realised results hold it."""
    return {
        "width": width,
        "optimum": number(basin.optimum),
        "low": number(basin.low),
        "high": number(basin.high),
        "loss": number(basin.loss),
        "n_seeds": int(basin.grid.losses.shape[0]),
        "n_points": len(basin.grid.window),
        "censored": None if basin.censored is None else basin.censored.value,
        "curvature": _curvature(basin),
        "cliff": number(basin.cliff_distance),
        "noise": {
            "fit_sd": number(basin.fit_sd),
            "model_sd": number(basin.model_sd),
            "loss_sd": None if noise is None else number(noise.sd),
        },
        "basin": _basin_points(basin),
    }


def _curvature(basin: Basin) -> dict[str, Any] | None:
    if basin.curve is None:
        return None
    low, high = basin.curve.rise(np.array([-1.0, 1.0]))[0]
    return {"low": number(float(low)), "high": number(float(high))}


def _basin_points(basin: Basin) -> dict[str, Any]:
    grid = basin.grid
    edges = grid.theta[grid.window[[0, -1]]]
    fit_theta = np.linspace(edges[0], edges[1], CURVE_POINTS)
    fitted = None if basin.curve is None else basin.curve.loss(fit_theta)[0]
    return {
        "theta": numbers(grid.theta),
        "mean": numbers(grid.losses.mean(axis=0)),
        "low": numbers(np.where(grid.failed, np.inf, grid.losses.min(axis=0))),
        "high": numbers(grid.losses.max(axis=0)),
        "failed": [bool(flag) for flag in grid.failed],
        "window": numbers(edges),
        "fit_theta": [] if fitted is None else numbers(fit_theta),
        "fit_loss": [] if fitted is None else numbers(fitted),
    }
