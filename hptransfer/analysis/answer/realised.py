"""What the target's own sweep gave, beside what was predicted for the transferred value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.optimum_record import optimum_entry
from hptransfer.analysis.basins.basin import Basin, Noise, fit_basin, pool_noise
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import SAME_POINT, SCHEMA, interval, number, quantile
from hptransfer.analysis.basins.rows import read_rows, width_grids
from hptransfer.errors import UserError
from hptransfer.system.random_streams import stream


def realised_regret(
    table: pd.DataFrame,
    *,
    transferred: float,
    predicted: Mapping[str, float | None],
    hp: str,
    width: int,
) -> dict[str, Any]:
    """Return what the target's own sweep says about the transferred value.

    `table` holds the target's rows, those at `transferred` among them.

    Raises:
        UserError: no row of this width is usable, or none lies at a value outside the window.
    """
    rows = read_rows(table, [hp])
    grid = width_grids(rows.where(rows.width == width), hp).get(width)
    if grid is None:
        raise UserError(
            f"The target's sweep must hold finished trials of width {width}, but none is usable. "
            "Run the target sweep first, or check its width."
        )
    noise = pool_noise([grid], rng=stream("realised", hp, width, "noise"))
    basin = fit_basin(grid, noise, rng=stream("realised", hp, width))
    loss, regret = _regret_at(transferred, basin, noise, hp=hp)
    entry = interval(regret, noisy=noise is not None)
    limit = predicted.get("high")
    failed = regret is not None and not np.isfinite(quantile(regret, 0.5))
    exceeded = entry["low"] is not None and limit is not None and entry["low"] > limit
    return {
        "schema": SCHEMA,
        "width": width,
        "hp": hp,
        "transferred": number(transferred),
        "optimum": optimum_entry(width, basin, noise),
        "loss_at_transferred": number(loss),
        "regret": entry,
        "predicted": {key: number(predicted.get(key)) for key in ("mean", "low", "high")},
        "missed": bool(failed or exceeded),
    }


def _regret_at(x: float, basin: Basin, noise: Noise | None, *, hp: str) -> tuple[float, Floats]:
    """Return the loss at x (infinite if it failed) and its regret per draw."""
    grid = basin.grid
    found = np.flatnonzero(np.abs(grid.theta - x) < SAME_POINT)
    if len(found) and grid.failed[found[0]]:
        return np.inf, np.array([np.inf])
    low, high = grid.theta[basin.window[[0, -1]]]
    curve, draws, theta = basin.curve, basin.curve_draws, basin.theta_draws
    if curve is not None and draws is not None and theta is not None and low <= x <= high:
        fitted = float(curve.loss(np.array([x]))[0, 0])
        loss = float(grid.losses[:, found[0]].mean()) if len(found) else fitted
        return loss, draws.rise(x - theta[:, None])[:, 0]
    if not len(found):
        raise UserError(
            f"The target's sweep must hold the transferred value, but {hp}={x:g} has no complete "
            f"point and lies outside the fitted window. Train the target at {hp}={x:g}, every seed."
        )
    at = grid.losses[:, found[0]]
    paired = float((at - grid.losses[:, grid.minimum]).mean())
    if noise is None:
        return float(at.mean()), np.array([paired])
    rng = stream("realised", hp, "paired")
    spread = np.sqrt(2.0 * noise.variances / len(at)) * rng.standard_normal(len(noise.variances))
    return float(at.mean()), np.maximum(paired + spread, 0.0)
