"""Rows whose hyperparameter is zero: a point of its own beside the basin.

Zero of an HP on a log scale (a weight decay of 0) has no logarithm: its rows say -inf. They are
left out of the basin, and compared with the best of the other rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.answer.settings import Layout
from hptransfer.analysis.basins.noise import Noise
from hptransfer.analysis.basins.rows import TrialArrays
from hptransfer.analysis.basins.scale import Scale
from hptransfer.config.hyperparameters import hp_words
from hptransfer.config.sweep import AXIS_WORDS

SURE = 2.0  # sds of the difference from which it is more than noise


def is_off(rows: TrialArrays) -> Mapping[str, NDArray[np.bool_]]:
    """Return which rows have an HP at zero, by HP; HPs that are zero everywhere do not vary."""
    found = {hp: np.isneginf(values) for hp, values in rows.hps.items()}
    return {hp: off for hp, off in found.items() if off.any() and not off.all()}


def without_off(rows: TrialArrays) -> TrialArrays:
    """Return the rows without an HP at zero."""
    off = is_off(rows)
    return rows.where(~np.logical_or.reduce(list(off.values()))) if off else rows


def off_notes(
    rows: TrialArrays, layout: Layout, scale: Scale, noise: Noise | None
) -> dict[str, list[str]]:
    """Return what switching an HP off costs or gains at every setting on the main axis, by HP.

    Args:
        rows: one arm's, those at zero among them, losses on the scale.
    """
    found: dict[str, list[str]] = {}
    for hp in is_off(rows):
        for setting in layout.on_main:
            there = layout.rows_of(rows, setting)
            off = np.isneginf(there.hps[hp])
            if off.any():
                best = _best(there.where(off)), _best(without_off(there.where(~off)))
                where = f"{AXIS_WORDS[layout.main]} {setting.value(layout.main):g}".capitalize()
                found.setdefault(hp, []).append(f"{where}: {_sentence(hp, *best, scale, noise)}")
    return found


def _best(rows: TrialArrays) -> tuple[float, int]:
    """Return the lowest mean y of a point, +inf where all failed, and its number of seeds."""
    points = np.unique(np.stack(list(rows.hps.values()), axis=1), axis=0, return_inverse=True)[1]
    points = points.reshape(-1)
    each = [rows.loss[points == at] for at in range(int(points.max()) + 1)]
    best = min(each, key=lambda losses: float(losses.mean()))
    return float(best.mean()), len(best)


def _sentence(
    hp: str, off: tuple[float, int], on: tuple[float, int], scale: Scale, noise: Noise | None
) -> str:
    words = f"{hp_words(hp)} off"
    if not np.isfinite(off[0]):
        return f"{words} fails."
    if not np.isfinite(on[0]):
        return f"only {words} does not fail."
    losses = f"a loss of {float(scale.loss(off[0])):.4g} at best, {float(scale.loss(on[0])):.4g} "
    losses += "with it"
    rise = off[0] - on[0]
    sd = 0.0 if noise is None else noise.sd * np.sqrt(1.0 / off[1] + 1.0 / on[1])
    if abs(rise) <= SURE * sd:
        return f"{words} gives the same loss, up to noise: {losses}."
    share = scale.percent(rise)
    size = f"{abs(rise):.2g}" if share is None else f"{abs(float(share)):.2g} %"
    verb = "costs" if rise > 0 else "gains"
    return f"{words} {verb} {size} of the loss: {losses}."
