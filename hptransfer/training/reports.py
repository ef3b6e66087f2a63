"""At which steps a training run reports."""

from __future__ import annotations

import math

CURVE_POINTS = 30  # points of a training curve


def has_point(taken: int, steps: int) -> bool:
    """Whether a training curve has a point after so many of all steps."""
    return taken % math.ceil(steps / CURVE_POINTS) == 0 or taken >= steps
