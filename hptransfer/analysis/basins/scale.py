"""The scale on which losses are compared: their logarithm where all are positive.

On the log scale a rise of 0.01 is 1 % of the loss at any width, noise is a share of the loss, and
no prediction is negative. Losses that are not all positive are compared as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.rows import TrialArrays

MOST_DIGITS = 9  # after the first, beyond which recorded losses count as not rounded
LARGEST_LOG = 600.0  # log of a loss beyond which it is not told apart
ROUNDED = 0.29  # sd of a rounding error, in units of the last digit


@dataclass(frozen=True)
class Scale:
    """How a loss becomes y, the quantity that is fitted, and back."""

    is_log: bool
    rounding: float = 0.0  # sd of the rounding of recorded losses, in y

    def loss(self, y: Floats | float) -> Floats:
        """Return the loss at y."""
        y = np.asarray(y, dtype=np.float64)
        return np.exp(np.clip(y, -LARGEST_LOG, LARGEST_LOG)) if self.is_log else y

    def loss_rise(self, level: Floats | float, rise: Floats | float) -> Floats:
        """Return by how much the loss rises above the one at `level` where y rises by `rise`."""
        rise = np.asarray(rise, dtype=np.float64)
        return self.loss(level) * np.expm1(rise) if self.is_log else rise

    def percent(self, rise: Floats | float) -> Floats | None:
        """Return a rise of y in percent of the loss; None where losses are not all positive."""
        return 100.0 * np.expm1(np.asarray(rise, dtype=np.float64)) if self.is_log else None


def scaled_rows(rows: TrialArrays) -> tuple[Scale, TrialArrays]:
    """Return the scale of an arm's losses, and its rows with losses on that scale.

    A failed trial stays at +inf. The deviation between runs is divided by the loss.
    """
    finite = np.isfinite(rows.loss)
    if not finite.any() or rows.loss[finite].min() <= 0.0:
        return Scale(is_log=False, rounding=_rounding(rows.loss[finite])), rows
    start = rows.loss_at_init
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = replace(
            rows,
            loss=np.where(finite, np.log(rows.loss), np.inf),
            loss_at_init=np.where(start > 0.0, np.log(start), np.nan),
            loss_sd=np.where(finite, rows.loss_sd / rows.loss, np.nan),
        )
    rounding = _rounding(rows.loss[finite]) / float(np.median(rows.loss[finite]))
    return Scale(is_log=True, rounding=rounding), scaled


def _rounding(losses: Floats) -> float:
    """Return the sd of an error that rounding to the recorded digits makes."""
    usual = float(np.median(np.abs(losses))) if len(losses) else 0.0
    if usual == 0.0:
        return 0.0
    unit = 10.0 ** np.floor(np.log10(usual))
    digits = next((d for d in range(MOST_DIGITS) if _is_rounded(losses / unit, d)), MOST_DIGITS)
    return ROUNDED * float(unit) * 10.0**-digits


def _is_rounded(losses: Floats, digits: int) -> bool:
    return bool(np.allclose(np.round(losses, digits), losses, rtol=0.0, atol=1e-12))
