"""Strict-JSON parts of the answers: numbers without NaN, intervals, one optimum's entry."""

from __future__ import annotations

from typing import Any

import numpy as np

from hptransfer.analysis.basins.basin import Basin, Noise
from hptransfer.analysis.basins.cross_checks import cross_checks
from hptransfer.analysis.basins.numbers import interval, number, numbers, quantile

FITTED_CURVE_POINTS = 60
SIDES = np.array([-1.0, 1.0])  # octaves from the optimum at which a basin's rise is its curvature
NORMAL_NINETY = 1.645  # sds from the middle to the ends of a normal 90 % interval


def optimum_entry(width: int, basin: Basin, noise: Noise | None) -> dict[str, Any]:
    """Return one width's optimum, as estimates and realised results hold it."""
    checks = cross_checks(basin.grid, basin.window)
    return {
        "width": width,
        "optimum": number(basin.optimum),
        "low": number(basin.low),
        "high": number(basin.high),
        "loss": number(basin.loss),
        "n_seeds": int(basin.grid.losses.shape[0]),
        "n_points": len(basin.window),
        "censored": None if basin.censored is None else basin.censored.value,
        "loss_at_optimum": _loss_at_optimum(basin, noisy=noise is not None),
        "curvature": _curvature(basin),
        "curvature_interval": _curvature_interval(basin, noisy=noise is not None),
        "cliff": number(basin.cliff_distance),
        "edge": {"low": number(basin.edge_low), "high": number(basin.edge_high)},
        "isolated_failures": basin.grid.isolated_failures,
        "cross_checks": {name: number(value) for name, value in checks.items()},
        "noise": {
            "fit_sd": number(basin.fit_sd),
            "model_sd": number(basin.model_sd),
            "loss_sd": None if noise is None else number(noise.sd),
            "source": None if noise is None else noise.source.value,
        },
        "basin": _basin_points(basin),
    }


def _curvature(basin: Basin) -> dict[str, Any] | None:
    if basin.curve is None:
        return None
    low, high = basin.curve.rise(SIDES)[0]
    return {"low": number(float(low)), "high": number(float(high))}


def _curvature_interval(basin: Basin, *, noisy: bool) -> dict[str, Any] | None:
    if basin.curve is None or basin.curve_draws is None:
        return None
    estimates = basin.curve.rise(SIDES)[0]
    draws = basin.curve_draws.rise(SIDES)
    return {
        side: interval(draws[:, at], estimate=float(estimates[at]), noisy=noisy)
        for at, side in enumerate(("low", "high"))
    }


def _loss_at_optimum(basin: Basin, *, noisy: bool) -> dict[str, Any] | None:
    """Return the mean loss over runs at the optimum: a seed's own shift is part of its error."""
    if basin.curve_draws is None:
        return None
    draws = basin.curve_draws.level
    shift = 0.0 if basin.run_sd is None else basin.run_sd / np.sqrt(len(basin.grid.losses))
    middle = float(np.median(draws))
    spread = np.hypot(
        np.array([quantile(draws, q) for q in (0.05, 0.95)]) - middle, NORMAL_NINETY * shift
    )
    low, high = (basin.loss - spread[0], basin.loss + spread[1]) if noisy else (None, None)
    return {"estimate": number(basin.loss), "low": number(low), "high": number(high)}


def _basin_points(basin: Basin) -> dict[str, Any]:
    grid = basin.grid
    edges = grid.theta[basin.window[[0, -1]]]
    fit_theta = np.linspace(edges[0], edges[1], FITTED_CURVE_POINTS)
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
