"""Whether another measure of the same runs puts the optimum where the loss puts it.

Both basins come from the same runs, so their errors may share a part: a run that is lucky by one
measure may be by the other, and basins may have the same unknown shape. How large that part is
is not known, and errors are drawn independently. Shared luck makes an interval wider than need
be; it can still be too narrow, where a basin's own is (docs/how_to/quality_of_samples.md says how
often).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.fitted_arm import FittedArm, Request, fit_arm
from hptransfer.analysis.answer.optimum_record import resolved_entry
from hptransfer.analysis.answer.settings import Setting
from hptransfer.analysis.basins.basin import Basin, Censoring
from hptransfer.analysis.basins.curve import Curves, Floats
from hptransfer.analysis.basins.numbers import interval, number, quantile
from hptransfer.analysis.basins.rows import read_rows, split_arms
from hptransfer.analysis.basins.scale import Scale
from hptransfer.analysis.basins.units import in_own_units
from hptransfer.config.sweep import VerdictConfig
from hptransfer.system.random_streams import stream

# Two measures' basins differ in shape, alike at all settings: sd of the difference of their optima
# that comes of it, in grid steps.
SHAPE_STEPS = 0.2


def agreement(
    by_loss: pd.DataFrame,
    by_metric: pd.DataFrame,
    *,
    axes: Iterable[str],
    rule: VerdictConfig = VerdictConfig(),
    at: Mapping[str, float | None] | None = None,
    draws: int = 2000,
) -> list[dict[str, Any]]:
    """Return how far apart the optima by two measures are, per arm and HP; of strict JSON.

    `difference` is the metric's optimum minus the loss's in octaves, `mean_difference` its mean
    over the settings. `loss_regret` is what the metric's optimum costs in loss, `metric_regret`
    what the loss's optimum costs in the metric.

    Args:
        by_loss: the rows.
        by_metric: the same rows, the metric in place of the loss.
        axes: the swept HP columns.
        rule: the verdict's.
        at: depth, batch size and steps of the rows that are compared.
        draws: of the posteriors.
    """
    names, request = list(axes), Request(None, rule, draws, at, None)
    pairs = zip(_found(by_loss, names, request), _found(by_metric, names, request), strict=True)
    return [_compared(loss, metric, draws) for loss, metric in pairs]


def _found(table: pd.DataFrame, axes: Sequence[str], request: Request) -> list[FittedArm]:
    return [each for arm in split_arms(read_rows(table, axes)) for each in fit_arm(arm, request)[0]]


def _compared(loss: FittedArm, metric: FittedArm, draws: int) -> dict[str, Any]:
    noisy = loss.noise is not None and metric.noise is not None
    shared = [setting for setting in loss.on_main if setting in metric.basins]
    drawn = {
        setting: (
            _drawn(loss, setting, "loss", draws),
            _drawn(metric, setting, "metric", draws),
        )
        for setting in shared
    }
    shapes = SHAPE_STEPS * stream(*loss.names, "agreement", "shapes").standard_normal(draws)
    apart = {
        setting: by_metric.optimum - by_loss.optimum + shapes * loss.basins[setting].grid.step
        for setting, (by_loss, by_metric) in drawn.items()
        if _is_resolved(loss.basins[setting]) and _is_resolved(metric.basins[setting])
    }
    mean = np.mean(list(apart.values()), axis=0) if apart else None
    unit = loss.unit
    return {
        "family": loss.arm.family,
        "parametrization": loss.arm.parametrization,
        "hp": loss.hp,
        "mean_difference": {
            **in_own_units(interval(mean, noisy=noisy), unit),
            "widths": len(apart),
        },
        "widths": [
            {
                "width": setting.width,
                "by_loss": in_own_units(resolved_entry(loss.basins[setting]), unit),
                "by_metric": in_own_units(resolved_entry(metric.basins[setting]), unit),
                "difference": in_own_units(interval(apart.get(setting), noisy=noisy), unit),
                "loss_regret": _regret(
                    metric.basins[setting].optimum, loss.basins[setting], by_loss, loss.scale
                ),
                "metric_regret": _regret(
                    loss.basins[setting].optimum, metric.basins[setting], by_metric, metric.scale
                ),
            }
            for setting, (by_loss, by_metric) in drawn.items()
        ],
    }


def _is_resolved(basin: Basin) -> bool:
    return basin.censored in (None, Censoring.divergence)


def _drawn(found: FittedArm, setting: Setting, measure: str, draws: int) -> Curves:
    rng = stream(*found.names, setting, "agreement", measure)
    return found.basins[setting].draws(rng, draws)


def _regret(x: float, basin: Basin, drawn: Curves, scale: Scale) -> dict[str, Any]:
    """Return the rise from a basin's optimum to x; beyond the sound points only the least."""
    sound = basin.grid.theta[basin.grid.sound]
    rise: Floats = scale.loss_rise(drawn.level, drawn.cost(float(np.clip(x, sound[0], sound[-1]))))
    noisy = basin.noise is not None
    if sound[0] <= x <= sound[-1]:
        return interval(rise, noisy=noisy)
    return {"estimate": None, "low": number(quantile(rise, 0.05)) if noisy else None, "high": None}
