"""Where to look: the points of a sweep's axes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hptransfer.questions import Axis


def grid(search: Sequence[tuple[str, Axis]]) -> list[dict[str, float]]:
    """Return the full grid of the axes, each point as {`log2_<hp>`: value}, last axis fastest."""
    names = [f"log2_{name}" for name, _ in search]
    points = itertools.product(*(axis.points for _, axis in search))
    return [dict(zip(names, point, strict=True)) for point in points]
