"""What the target's own sweep gave, beside what was predicted for the transferred value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.optimum_record import optimum_entry
from hptransfer.analysis.basins.basin import Basin, fit_basins, pool_noise
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import SAME_POINT, SCHEMA, interval, number, quantile
from hptransfer.analysis.basins.rows import hp_grid, read_rows
from hptransfer.analysis.basins.scale import Scale, scaled_rows
from hptransfer.errors import UserError
from hptransfer.system.random_streams import stream

DRAWS = 2000


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
    scale, rows = scaled_rows(rows.where(rows.width == width))
    grid = hp_grid(rows, hp) if len(rows.loss) else None
    if grid is None:
        raise UserError(
            f"The sweep of the target must hold finished trials of width {width}, but it has none "
            "that can be used. Run the target's sweep first, or check its width."
        )
    unit = rows.units[hp]
    noise = pool_noise([grid], least=scale.rounding)
    basin = fit_basins({width: grid}, noise)[width]
    loss, regret = _regret_at(transferred / unit, basin, scale, hp=hp, unit=unit)
    entry = interval(regret, noisy=noise is not None)
    limit = predicted.get("high")
    failed = regret is not None and not np.isfinite(quantile(regret, 0.5))
    exceeded = entry["low"] is not None and limit is not None and entry["low"] > limit
    return {
        "schema": SCHEMA,
        "width": width,
        "hp": hp,
        "transferred": number(transferred),
        "optimum": {"width": width, **optimum_entry(basin, scale, unit)},
        "loss_at_transferred": number(loss),
        "regret": entry,
        "predicted": {key: number(predicted.get(key)) for key in ("mean", "low", "high")},
        "missed": bool(failed or exceeded),
    }


def _regret_at(
    x: float, basin: Basin, scale: Scale, *, hp: str, unit: float
) -> tuple[float, Floats]:
    """Return the loss at x (infinite if it failed) and its regret, (draw,)."""
    grid = basin.grid
    found = np.flatnonzero(np.abs(grid.theta - x) < SAME_POINT)
    if len(found) and grid.failed[found[0]]:
        return np.inf, np.array([np.inf])
    sound = grid.theta[grid.sound]
    if not len(found) and not sound[0] <= x <= sound[-1]:
        raise UserError(
            "The sweep of the target must include the transferred value, but no point at "
            f"{hp}={unit * x:g} is complete, and the value lies outside the trained ones. Train "
            f"the target at {hp}={unit * x:g} with every seed."
        )
    rng = stream("realised", hp, "basin")
    drawn = basin.draws(rng, DRAWS)
    if not len(found):
        fitted = basin.curve.loss(np.array([x]))[0, 0]
        return float(scale.loss(fitted)), scale.loss_rise(drawn.level, drawn.cost(x))
    at = int(found[0])
    if grid.low[grid.sound.tolist().index(at)]:
        rise = drawn.cost(x)
    else:  # high in the basin the point itself tells more than the curve's shape
        runs = float(np.nansum(np.where(np.isnan(grid.losses[:, at]), 0.0, grid.runs[:, at])))
        sd = 0.0 if basin.noise is None else basin.noise.sd / np.sqrt(runs)
        rise = np.maximum(grid.means[at] - drawn.level + sd * rng.standard_normal(DRAWS), 0.0)
    return float(scale.loss(grid.means[at])), scale.loss_rise(drawn.level, rise)
