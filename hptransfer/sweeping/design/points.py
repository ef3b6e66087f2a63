"""The points of designs that do not depend on losses: grids and Sobol sequences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from hptransfer.config.choices import Method
from hptransfer.config.sweep import Axis, SweepConfig

DECIMALS = 9  # of a point in log2, as a row keeps it


def points(sweep: SweepConfig) -> list[dict[str, float]]:
    """Return the points of a grid or Sobol sweep, each as {`log2_<hp>`: value}."""
    if sweep.design.method is Method.grid:
        return grid(sweep.search)
    assert sweep.design.method is Method.sobol, "adaptive points follow from losses"
    return sobol(sweep.search, count=sweep.design.total, seed=sweep.design.seed)


def grid(search: Sequence[tuple[str, Axis]]) -> list[dict[str, float]]:
    """Return the full grid of the axes, last axis fastest."""
    names = [f"log2_{name}" for name, _ in search]
    points = itertools.product(*(axis.points for _, axis in search))
    return [dict(zip(names, point, strict=True)) for point in points]


def sobol(search: Sequence[tuple[str, Axis]], *, count: int, seed: int) -> list[dict[str, float]]:
    """Return the first `count` points of the seed's scrambled Sobol sequence in the axes' box."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(search), scramble=True, rng=seed)
    unit = sequence.random_base2(math.ceil(math.log2(count)))[:count]
    return [in_box(search, point) for point in unit.tolist()]


def in_box(search: Sequence[tuple[str, Axis]], unit: Sequence[float]) -> dict[str, float]:
    """Return the point at shares in [0, 1] of the axes, in log2."""
    return {
        f"log2_{name}": round(axis.low + share * (axis.high - axis.low), DECIMALS)
        for (name, axis), share in zip(search, unit, strict=True)
    }
