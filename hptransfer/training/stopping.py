"""When a trial is given up: a function of its own training curve and nothing else.

A rate that is too high throws the loss far above where it began, and leaves it on a plateau a
little below, where it ends. A rate that is too low leaves it there as well, but never throws it up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Of 852 recorded trials (digits; DiT, MMDiT, PixArt and U-ViT, widths 24 to 192; 60 and 150 steps)
# 91 completed with a loss that the analysis counts as failed. Given up as below from a tenth of the
# steps on, 54 of these are (4.5 % of all FLOPs saved), from a fifth on 54 (4.0 %), from half on 50
# (2.3 %), and of the 761 others none, nor with any plateau from 0.75 to 0.9. Some of those others
# rise too, and recover: to 1.46 after a tenth of the steps, so that 1.25 would give up 8 of them.
RISEN = 1.5  # times the loss at init: the mean training loss has been above it at a report
PLATEAU = 0.85  # times the loss at init: it still is above this


def is_hopeless(losses: Sequence[float], loss_at_init: float) -> bool:
    """Whether a trial is given up whose mean training losses since the start are these.

    Its loss at init is held-out; both differ by noise and dropped conditions only.
    """
    return max(losses) > RISEN * loss_at_init and losses[-1] > PLATEAU * loss_at_init


def first_step(stop_after: float | None, steps: int) -> float:
    """Return after how many steps trials of a budget are given up; infinite: never."""
    return math.inf if stop_after is None else stop_after * steps
