"""The steps after which a training run, a pack's or a target's, reports its mean loss."""

from __future__ import annotations

import math

CURVE_POINTS = 30  # points of a training curve, at most


def has_point(taken: int, steps: int) -> bool:
    """Whether the training curve of a run of `steps` steps has a point after `taken` of them."""
    return taken % math.ceil(steps / CURVE_POINTS) == 0 or taken >= steps
