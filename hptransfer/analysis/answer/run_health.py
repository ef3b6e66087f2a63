"""What the rows say of the runs themselves: the train-validation gap, and how much was clipped.

Both are read at each width's sound point that is nearest to the transferred values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import SAME_POINT, number
from hptransfer.system.text import percent_text

LARGE_GAP = 0.1  # share of the held-out loss above which a gap is warned of
GROWING_GAP = 0.05  # growth from the narrowest width to the widest, as a share of the held-out loss
CLIPPED_APART = 0.1  # difference of two widths' shares of clipped steps that is warned of
ERRORS = 2.0  # standard errors over seeds that a gap must exceed to be warned of


@dataclass(frozen=True)
class RunsNearValue:
    """Each width's completed runs that are nearest to the transferred values; fields are (run,)."""

    width: NDArray[np.int64]
    loss: Floats
    train_loss: Floats  # NaN where a row does not say, as below
    clipped_share: Floats


def runs_near_value(table: pd.DataFrame, values: Mapping[str, float]) -> RunsNearValue:
    """Return each width's completed runs at the point nearest to `values` by HP, in octaves."""
    sound = (table["status"].to_numpy() == "completed") & table["loss"].notna().to_numpy()
    width = table["width"].to_numpy(dtype=np.int64)
    apart = np.zeros(len(table))
    for hp, value in values.items():
        apart += (table[hp].to_numpy(dtype=np.float64) - value) ** 2
    apart = np.sqrt(apart)
    keep = np.zeros(len(table), dtype=np.bool_)
    for each in np.unique(width[sound]):
        of_width = sound & (width == each)
        keep |= of_width & (apart <= apart[of_width].min() + SAME_POINT)
    loss, train_loss, clipped = (
        table[name].to_numpy(dtype=np.float64)[keep]
        for name in ("loss", "train_loss", "clipped_share")
    )
    return RunsNearValue(width[keep], loss, train_loss, clipped)


def train_validation_gap(near: RunsNearValue) -> dict[str, Any] | None:
    """Return held-out minus training loss by width, and at the widest its share of the loss.

    None where no row holds a training loss; `error` is the mean's, null for a single seed.
    """
    gaps = near.loss - near.train_loss
    widths = np.unique(near.width[np.isfinite(gaps)])
    if not len(widths):
        return None
    entries = [_gap_entry(int(width), gaps[near.width == width]) for width in widths]
    loss = float(near.loss[near.width == widths[-1]].mean())
    mean = entries[-1]["mean"]
    return {"mean": mean, "share_of_loss": _share(mean, loss), "widths": entries}


def _gap_entry(width: int, gaps: Floats) -> dict[str, Any]:
    there = gaps[np.isfinite(gaps)]
    error = float(there.std(ddof=1) / len(there) ** 0.5) if len(there) > 1 else None
    return {"width": width, "mean": number(float(there.mean())), "error": number(error)}


def _share(mean: float, loss: float) -> float | None:
    return number(mean / loss) if loss > 0 else None


def gap_warnings(gap: Mapping[str, Any] | None) -> list[str]:
    """Say where the gap is large, or grows with width, beyond its own noise."""
    if gap is None or not gap["share_of_loss"]:
        return []
    narrow, wide, share = gap["widths"][0], gap["widths"][-1], gap["share_of_loss"]
    errors = [narrow["error"] or 0.0, wide["error"] or 0.0]
    warnings = []
    if share > LARGE_GAP and gap["mean"] > ERRORS * errors[1]:
        warnings.append(
            f"At width {wide['width']} the training loss is {percent_text(100 * share)} below the "
            "held-out loss: these runs memorise their data, so the best value found there may be "
            "one that works against that. Use more data or fewer steps."
        )
    growth, loss = wide["mean"] - narrow["mean"], gap["mean"] / share
    if growth > GROWING_GAP * loss and growth > ERRORS * math.hypot(*errors):
        warnings.append(
            "The gap between held-out and training loss grows with the width, from "
            f"{narrow['mean']:.4g} at width {narrow['width']} to {wide['mean']:.4g} at width "
            f"{wide['width']}, so the target will overfit more than the swept models did. Use "
            "more data or fewer steps."
        )
    return warnings


def clipping_warnings(near: RunsNearValue, *, searched: bool) -> list[str]:
    """Say where the share of clipped steps differs between widths, unless the norm is searched."""
    if searched:
        return []
    known = np.isfinite(near.clipped_share)
    shares = {
        int(width): float(near.clipped_share[known & (near.width == width)].mean())
        for width in np.unique(near.width[known])
    }
    if not shares or max(shares.values()) - min(shares.values()) <= CLIPPED_APART:
        return []
    low, high = min(shares, key=lambda w: shares[w]), max(shares, key=lambda w: shares[w])
    return [
        f"Gradients were clipped in {percent_text(100 * shares[low])} of the steps at width {low} "
        f"and in {percent_text(100 * shares[high])} at width {high}. The same clip norm therefore "
        "acts differently at each width, and the optimum may depend on it. Set "
        "optimizer.clip_norm higher or to null, or search it."
    ]
