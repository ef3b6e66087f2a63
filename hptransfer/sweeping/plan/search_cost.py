"""What a sweep costs against training its target, and against searching at the target."""

from __future__ import annotations

import pandas as pd

from hptransfer.analysis.answer.transferred import costs, points_of_width
from hptransfer.config import TrialConfig
from hptransfer.config.sweep import SweepConfig
from hptransfer.sweeping.design.points import points
from hptransfer.training.flops import trial_flops


def cost(
    sweep: SweepConfig, table: pd.DataFrame, target: TrialConfig, *, points: int
) -> dict[str, float | None]:
    """Return FLOPs of sweep and target, and three ratios in percent, each of its denominator.

    A direct search trains the target at as many `points`, every seed.
    """
    label, runs = target.parametrization.scaling.value, points * len(sweep.seeds)
    return costs(table, label, target_flops=trial_flops(target), direct_runs=runs)


def swept_points(sweep: SweepConfig, table: pd.DataFrame, target: TrialConfig) -> int:
    """Return how many points the design has at a width; of an adaptive one the most it asked."""
    if not sweep.is_adaptive:
        return len(points(sweep))
    return points_of_width(table, target.parametrization.scaling.value, sweep.axes)
