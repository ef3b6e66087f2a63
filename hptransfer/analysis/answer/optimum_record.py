"""One setting's optimum and basin as strict JSON, as estimates and realised results hold it."""

from __future__ import annotations

from typing import Any

import numpy as np

from hptransfer.analysis.basins.basin import Basin
from hptransfer.analysis.basins.numbers import number, numbers
from hptransfer.analysis.basins.scale import Scale
from hptransfer.analysis.basins.units import in_own_units

CURVE_POINTS = 60
SIDES = np.array([-1.0, 1.0])  # octaves from the optimum at which the curve's rise is told
HIGH_RISE = 0.5  # share of the points' highest rise above which the curve is not drawn
NORMAL_NINETY = 1.645  # sds from the middle to the ends of a normal 90 % interval


def resolved_entry(basin: Basin) -> dict[str, Any]:
    """Return an optimum with its 90 % interval, and what keeps it from being resolved, if any."""
    low, high = basin.interval
    return {
        "optimum": number(basin.optimum),
        "low": number(low),
        "high": number(high),
        "censored": None if basin.censored is None else basin.censored.value,
    }


def optimum_entry(basin: Basin, scale: Scale, unit: float) -> dict[str, Any]:
    """Return one setting's optimum by its own rows alone; losses are in units of the loss.

    Args:
        unit: of the HP's axis (`basins/units.py`); values are the HP's own.
    """
    grid, noise = basin.grid, basin.noise
    low, high = basin.interval
    beyond = basin.beyond
    rises = basin.curve.rise(SIDES)[0]
    level = float(basin.curve.level[0])
    told = {
        "optimum": number(basin.optimum),
        "low": number(low),
        "high": number(high),
        "loss": number(float(scale.loss(level))),
        "n_seeds": len(grid.losses),
        "n_points": len(grid.sound),
        "censored": None if basin.censored is None else basin.censored.value,
        "loss_at_optimum": _level(basin, scale),
        "curvature": {
            side: number(float(scale.loss_rise(level, rise)))
            for side, rise in zip(("low", "high"), rises, strict=True)
        },
        "cliff": number(basin.cliff_distance),
        "edge": {"low": number(beyond[0]), "high": number(beyond[1])},
        "isolated_failures": grid.isolated_failures,
        "missing_runs": grid.missing,
        "noise": {
            "sd": None if noise is None else number(noise.sd),
            "source": None if noise is None else noise.source.value,
        },
        "basin": in_own_units(_points(basin, scale), unit, "theta", "window", "fit_theta"),
    }
    return in_own_units(told, unit, "optimum", "low", "high", "cliff")


def _level(basin: Basin, scale: Scale) -> dict[str, Any]:
    """Return the mean loss over runs at the optimum: a seed's own shift is part of its error."""
    level = float(basin.curve.level[0])
    error = np.hypot(basin.level_sd, basin.run_sd / np.sqrt(len(basin.grid.losses)))
    ends = [level - NORMAL_NINETY * error, level + NORMAL_NINETY * error]
    low, high = (None, None) if basin.noise is None else (float(scale.loss(e)) for e in ends)
    return {"estimate": number(float(scale.loss(level))), "low": number(low), "high": number(high)}


def _points(basin: Basin, scale: Scale) -> dict[str, Any]:
    grid = basin.grid
    losses, every = (
        np.where(grid.failed, np.inf, scale.loss(np.where(grid.failed, 0.0, y)))
        for y in (grid.losses, grid.means)
    )
    fit_theta = np.linspace(grid.theta[grid.sound[0]], grid.theta[grid.sound[-1]], CURVE_POINTS)
    fitted = basin.curve.loss(fit_theta)[0]
    means = grid.means[grid.sound]
    drawn = fitted - means.min() <= max(HIGH_RISE * float(np.ptp(means)), 1e-12)
    return {
        "theta": numbers(grid.theta),
        "mean": numbers(every),
        "low": numbers(np.nanmin(losses, axis=0)),
        "high": numbers(np.nanmax(losses, axis=0)),
        "failed": [bool(flag) for flag in grid.failed],
        "window": numbers(fit_theta[drawn][[0, -1]]) if drawn.any() else [None, None],
        "fit_theta": numbers(fit_theta[drawn]),
        "fit_loss": numbers(scale.loss(fitted[drawn])),
    }
