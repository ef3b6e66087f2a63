"""Which HPs matter, by PED-ANOVA (arXiv 2304.10255), beside the surface's own answer.

It compares where the best points lie with where all points lie, so it needs no model of the loss,
and says nothing of interactions. The numbers are those of Optuna's evaluator, whose import takes
several seconds; a test holds them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.answer.reference import rows_at_condition
from hptransfer.analysis.answer.switched_off import without_off
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.rows import TrialArrays, read_rows, split_arms
from hptransfer.analysis.surfaces.points import point_array

if TYPE_CHECKING:
    import pandas as pd

SHARE = 0.1  # of the points that count as the best ones: Optuna's default
TOP_POINTS = 5  # of which Optuna's documentation asks for this many at least
FEWEST = 10  # sound points, so that the best ones are no more than half of them
PLACES = 50  # of each HP's range, as in Optuna
SCOTT = 1.059  # Scott's rule for the width of a kernel, in sds of the points
IQR_SDS = 1.34  # the interquartile range of a normal, in sds
LEAST_WIDTH = 0.5 / 1.64  # of a kernel, in places: 90 % of it within one
LEAST_SHARE = 1e-12  # of a place, which is divided by


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
    most = math.ceil(max(SHARE, TOP_POINTS / len(means)) * len(means))
    is_top = means <= np.sort(means)[most - 1]
    found = np.array([_divergence(values, is_top) for values in positions.T])
    shares = found / found.sum() if found.sum() > 0.0 else np.full(len(axes), 1.0 / len(axes))
    return dict(zip(axes, map(float, shares), strict=True))


def _divergence(values: Floats, is_top: NDArray[np.bool_]) -> float:
    """Return Pearson's divergence of where the best points lie from where all points lie."""
    low, high = values.min(), values.max()
    places = np.ceil((values - low) / ((high - low) / (PLACES - 1)) - 0.5).astype(int)
    places = np.clip(places, 0, PLACES - 1)
    top, every = (_density(chosen) + LEAST_SHARE for chosen in (places[is_top], places))
    return float(every @ (top / every - 1.0) ** 2)


def _density(places: NDArray[np.intp]) -> Floats:
    """Return the share of each place by a kernel at every point and a broad one in the middle."""
    from scipy.special import ndtr  # slow to import, and sweeps of one HP need none of it

    counts = np.bincount(places, minlength=PLACES)
    at = np.flatnonzero(counts)
    weights = counts[at]
    below, total = np.cumsum(weights), int(weights.sum())
    sd = math.sqrt(((at - at @ weights / total) ** 2 @ weights) / max(1, total - 1))
    quarters = np.searchsorted(below, total // 4), np.searchsorted(below, total * 3 // 4, "right")
    iqr = float(at[min(len(at) - 1, int(quarters[1]))] - at[int(quarters[0])])
    width = max(SCOTT * min(iqr / IQR_SDS, sd) * total**-0.2, LEAST_WIDTH)
    middles = np.append(at, (PLACES - 1) / 2.0)[:, None]
    widths = np.append(np.full(len(at), width), PLACES)[:, None]
    edges = ndtr((np.arange(PLACES + 1) - 0.5 - middles) / widths)
    kernels = np.diff(edges, axis=1) / (edges[:, -1:] - edges[:, :1])
    return np.append(weights, 1.0) / (total + 1.0) @ kernels


def add_ped_anova(estimates: dict[str, Any], table: pd.DataFrame, axes: Sequence[str]) -> None:
    """Add Optuna's shares to every surface of the estimates, from the rows that it is fitted to."""
    arms = {(arm.family, arm.parametrization): arm for arm in split_arms(read_rows(table, axes))}
    read_at = {(arm["family"], arm["parametrization"]): arm["at"] for arm in estimates["arms"]}
    for entry in estimates["surfaces"]:
        name = (entry["family"], entry["parametrization"])
        rows = without_off(arms[name].rows)
        shares = ped_anova(rows_at_condition(rows, read_at[name]), entry["hps"])
        entry["importance"]["ped_anova"] = shares and {
            hp: round(share, 4) for hp, share in shares.items()
        }
