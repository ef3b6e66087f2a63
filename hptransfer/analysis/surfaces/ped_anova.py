"""Which HPs matter, by Optuna's PED-ANOVA (arXiv 2304.10255), beside the surface's own answer.

It compares where the best points lie with where all points lie, so it needs no model of the loss,
and says nothing of interactions. The study is in memory.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from hptransfer.analysis.basins.rows import TrialArrays, read_rows, split_arms
from hptransfer.analysis.conditions.reference import rows_at_condition
from hptransfer.analysis.surfaces.points import point_array

if TYPE_CHECKING:
    import pandas as pd

SHARE = 0.1  # of the points that count as the best ones: Optuna's default
TOP_POINTS = 5  # of which Optuna's documentation asks for this many at least
FEWEST = 10  # sound points, so that the best ones are no more than half of them


def ped_anova(rows: TrialArrays, axes: Sequence[str]) -> dict[str, float] | None:
    """Return each axis's share at the widest width; None for too few points to tell.

    `rows` are one arm's. Losses are means over seeds; failed points are left out, as they tell how
    far a box reaches and not what matters inside a basin.
    """
    members = rows.where(rows.width == rows.width.max())
    positions, losses = point_array(members, tuple(axes))
    means = losses.mean(axis=0)
    sound = np.isfinite(means)
    positions, means = positions[sound], means[sound]
    if len(means) < FEWEST:
        return None
    low, high = positions.min(axis=0), positions.max(axis=0)
    box = {
        axis: FloatDistribution(float(a), float(b))
        for axis, a, b in zip(axes, low, high, strict=True)
    }
    best = max(SHARE, TOP_POINTS / len(means))
    with quiet():
        study = optuna.create_study()
        study.add_trials(
            [
                create_trial(
                    params=dict(zip(axes, map(float, position), strict=True)),
                    distributions=dict(box),
                    value=float(mean),
                )
                for position, mean in zip(positions, means, strict=True)
            ]
        )
        evaluator = PedAnovaImportanceEvaluator(target_quantile=best)
        shares = get_param_importances(study, evaluator=evaluator)
    return {axis: float(shares[axis]) for axis in axes}


def add_ped_anova(estimates: dict[str, Any], table: pd.DataFrame, axes: Sequence[str]) -> None:
    """Add Optuna's shares to every surface of the estimates, from the rows that it is fitted to."""
    arms = {(arm.family, arm.parametrization): arm for arm in split_arms(read_rows(table, axes))}
    read_at = {(arm["family"], arm["parametrization"]): arm["at"] for arm in estimates["arms"]}
    for entry in estimates["surfaces"]:
        name = (entry["family"], entry["parametrization"])
        shares = ped_anova(rows_at_condition(arms[name].rows, read_at[name]), entry["hps"])
        entry["importance"]["ped_anova"] = shares and {
            hp: round(share, 4) for hp, share in shares.items()
        }


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's log lines and warnings of its experimental parts from the terminal."""
    log = logging.getLogger("optuna")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
