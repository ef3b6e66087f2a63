"""Which moving average of the weights is best: judged horizons beside the weights that decide.

A measure under one horizon is, at each width, the lowest of the means over the seeds at the swept
points: each horizon chooses its own point, as in a sweep of its own. Two horizons are averages of
the same runs, so the noise of their difference is that of its values seed by seed. EDM2 also
chooses among averages once a run has ended (arXiv 2312.02696, Section 3); it makes any from
snapshots, where here a few are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import number
from hptransfer.analysis.basins.rows import TrialArrays, by_seed, read_rows, split_arms
from hptransfer.config import BudgetConfig
from hptransfer.config.choices import Weights
from hptransfer.results.metrics import (
    LOSS,
    METRICS,
    Metric,
    ema_metric,
    judged_fractions,
    metrics_of_all,
)
from hptransfer.results.table import rows_table

Row = Mapping[str, Any]
MEASURES = (LOSS, METRICS["frechet_distance"])  # by which horizons are compared


class Best(NamedTuple):
    """The best point of one width by a measure under one horizon."""

    horizon: float | None  # share of the steps; None: the weights that decide
    value: float  # mean over the seeds; infinite where no point has all of them
    point: dict[str, float | None]  # by axis; None where an HP on a log scale is zero
    by_seed: Floats  # (seed,)


def compared_averages(
    rows: Sequence[Row], axes: Sequence[str], at: Mapping[str, float | None] | None
) -> list[dict[str, Any]]:
    """Return the best value under each horizon, per arm and measure; of strict JSON.

    It is empty unless every completed row holds a horizon.

    Args:
        axes: the swept HP columns.
        at: depth, batch size and steps of the rows that are compared.
    """
    fractions = judged_fractions(rows)
    if not fractions:
        return []
    held = metrics_of_all(rows)
    decides = any(_deciding_fraction(row) not in fractions for row in rows)
    horizons = [*([None] if decides else []), *fractions]
    compared = []
    for measure in MEASURES:
        if measure not in held:
            continue
        arms = zip(*(_arms(rows, measure, f, axes, at) for f in horizons), strict=True)
        compared += [_compared(measure, arm) for arm in arms]
    return [each for each in compared if each["widths"]]


def _deciding_fraction(row: Row) -> float | None:
    """Return the horizon of a row's deciding weights; None where they are no average."""
    budget = row["config"].get("budget", {})
    if budget.get("weights") != Weights.ema.value:
        return None
    return budget.get("ema_fraction", BudgetConfig.ema_fraction)


class _Arm(NamedTuple):
    family: str
    parametrization: str
    best: dict[int, Best]  # by width


def _arms(
    rows: Sequence[Row],
    measure: Metric,
    horizon: float | None,
    axes: Sequence[str],
    at: Mapping[str, float | None] | None,
) -> list[_Arm]:
    metric = measure if horizon is None else ema_metric(measure, horizon)
    found = []
    for arm in split_arms(read_rows(rows_table(rows, metric), axes)):
        own = _under(arm.rows, at or {})
        widths = np.unique(own.width).tolist()
        best = {width: _best(own.where(own.width == width), horizon) for width in widths}
        found.append(_Arm(arm.family, arm.parametrization, best))
    return found


def _under(rows: TrialArrays, at: Mapping[str, float | None]) -> TrialArrays:
    keep = np.ones(len(rows.width), dtype=np.bool_)
    for name, value in at.items():
        if value is not None:
            keep &= rows.conditions[name] == value
    return rows.where(keep)


def _best(rows: TrialArrays, horizon: float | None) -> Best:
    axes = list(rows.hps)
    stacked = np.stack([rows.hps[axis] for axis in axes], axis=1)
    points, place = np.unique(stacked, axis=0, return_inverse=True)
    (values,) = by_seed(rows, place.reshape(-1), rows.loss, what="point")
    means = np.where(np.isfinite(values).all(axis=0), values.mean(axis=0), np.inf)
    lowest = int(means.argmin())
    found = zip(axes, points[lowest], strict=True)
    point = {axis: number(float(value) * rows.units[axis]) for axis, value in found}
    return Best(horizon, float(means[lowest]), point, values[:, lowest])


def _compared(measure: Metric, arms: Sequence[_Arm]) -> dict[str, Any]:
    """Return the record of one arm, of which `arms` holds the best points under each horizon."""
    first = arms[0]
    return {
        "family": first.family,
        "parametrization": first.parametrization,
        "measure": measure.name,
        "widths": [_at_width(width, [arm.best[width] for arm in arms]) for width in first.best],
    }


def _at_width(width: int, found: Sequence[Best]) -> dict[str, Any]:
    ranked = sorted((each for each in found if math.isfinite(each.value)), key=lambda b: b.value)
    margin = _difference(ranked[1].by_seed - ranked[0].by_seed) if len(ranked) > 1 else None
    return {
        "width": width,
        "n_seeds": len(found[0].by_seed),
        "horizons": [
            {
                "horizon": each.horizon,
                "value": number(each.value),
                "point": each.point if math.isfinite(each.value) else None,
            }
            for each in found
        ],
        "lowest": ranked[0].horizon if ranked else None,
        "margin": margin,
    }


def _difference(by_seed: Floats) -> dict[str, float | None]:
    """Return the mean of a difference over seeds, with its 90 % interval by Student's t."""
    from scipy.special import stdtrit  # slow to import

    mean, count = float(by_seed.mean()), len(by_seed)
    if count < 2:
        return {"estimate": number(mean), "low": None, "high": None}
    reach = float(stdtrit(count - 1, 0.95) * by_seed.std(ddof=1)) / math.sqrt(count)
    ends = {"low": number(mean - reach), "high": number(mean + reach)}
    return {"estimate": number(mean), **ends}
