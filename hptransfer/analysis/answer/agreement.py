"""Whether another measure of the same runs puts the optimum where the loss puts it.

Both basins come from the same runs, so their errors may share a part: a run that is lucky by one
measure may be by the other, and basins may have the same unknown shape. How large that part is
is not known, and errors are drawn independently. Shared luck makes an interval wider than need
be; it can still be too narrow, where a basin's own is (docs/quality.md says how often).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.arm_answer import Request, tolerance_of
from hptransfer.analysis.answer.estimates import FittedArm, fit_basins_of_arm
from hptransfer.analysis.basins.basin import Basin
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import interval, number, quantile
from hptransfer.analysis.basins.rows import read_rows, split_arms
from hptransfer.config.sweep import VerdictConfig
from hptransfer.system.random_streams import stream


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
    over the widths where both are known. `loss_regret` is what the metric's optimum costs in loss,
    `metric_regret` what the loss's optimum costs in the metric; δ is each measure's own tolerance.

    Args:
        by_loss: the rows.
        by_metric: the same rows, the metric in place of the loss.
        axes: the swept HP columns.
        rule: the verdict's, for the tolerances.
        at: depth, batch size and steps of the rows that are compared.
        draws: of noise.
    """
    names, request = list(axes), Request(None, rule, draws, at, None)
    pairs = zip(_found(by_loss, names, request), _found(by_metric, names, request), strict=True)
    return [_compared(loss, metric, request) for loss, metric in pairs]


def _found(table: pd.DataFrame, axes: Sequence[str], request: Request) -> list[FittedArm]:
    return [
        each
        for arm in split_arms(read_rows(table, axes))
        for each in fit_basins_of_arm(arm, request)[0]
    ]


def _compared(loss: FittedArm, metric: FittedArm, request: Request) -> dict[str, Any]:
    noisy = loss.noise is not None and metric.noise is not None
    shared = {w: (loss.basins[w], metric.basins[w]) for w in loss.basins if w in metric.basins}
    apart = {
        width: _difference(*pair, rng=stream(*loss.names, width, "agreement"))
        for width, pair in shared.items()
    }
    known = {width: draws for width, draws in apart.items() if draws is not None}
    mean = _mean(known, loss, metric, stream(*loss.names, "agreement"))
    return {
        "family": loss.arm.family,
        "parametrization": loss.arm.parametrization,
        "hp": loss.hp,
        "mean_difference": {**interval(mean, noisy=noisy), "widths": len(known)},
        "loss_tolerance": number(tolerance_of(loss.basins, request.rule)[1]),
        "metric_tolerance": number(tolerance_of(metric.basins, request.rule)[1]),
        "widths": [
            {
                "width": width,
                "by_loss": _optimum(pair[0]),
                "by_metric": _optimum(pair[1]),
                "difference": interval(apart[width], noisy=noisy),
                "loss_regret": _regret(pair[1].optimum, pair[0], noisy=loss.noise is not None),
                "metric_regret": _regret(pair[0].optimum, pair[1], noisy=metric.noise is not None),
            }
            for width, pair in shared.items()
        ],
    }


def _mean(
    apart: Mapping[int, Floats], loss: FittedArm, metric: FittedArm, rng: np.random.Generator
) -> Floats | None:
    """Return the mean over widths, (draw,). A basin's unknown shape is the same at all widths, and
    so is the error that comes of it: it does not average out.
    """
    if not apart:
        return None
    averaged = np.mean(list(apart.values()), axis=0)
    sds = [[each.basins[width].model_sd for width in apart] for each in (loss, metric)]
    lost = (1.0 - 1.0 / len(apart)) * np.mean(np.square(sds), axis=1).sum()
    return averaged + np.sqrt(lost) * rng.standard_normal(len(averaged))


def _optimum(basin: Basin) -> dict[str, Any]:
    return {
        "optimum": number(basin.optimum),
        "low": number(basin.low),
        "high": number(basin.high),
        "censored": None if basin.censored is None else basin.censored.value,
    }


def _difference(loss: Basin, metric: Basin, *, rng: np.random.Generator) -> Floats | None:
    """Return the metric's optimum minus the loss's, (draw,); None where either is not resolved."""
    if loss.theta_draws is None or metric.theta_draws is None:
        return None
    # Both were drawn from the stream that the width names: shuffled, they are independent.
    return rng.permutation(metric.theta_draws) - loss.theta_draws


def _regret(x: float, basin: Basin, *, noisy: bool) -> dict[str, Any]:
    """Return the rise from a basin's optimum to x; beyond the fitted window only the least."""
    draws, theta = basin.curve_draws, basin.theta_draws
    if draws is None or theta is None:
        return interval(None)
    low, high = basin.grid.theta[basin.window[[0, -1]]]
    rise = draws.rise(np.clip(x, low, high) - theta[:, None])[:, 0]
    if low <= x <= high:
        return interval(rise, noisy=noisy)
    return {"estimate": None, "low": number(quantile(rise, 0.05)) if noisy else None, "high": None}
