"""The optimum by two plain methods, as a check on the posterior: a cubic and an Akima spline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.grid import Grid

FINE = 400  # places across a window at which a spline or cubic is evaluated
CUBIC_POINTS = 4


def cross_checks(grid: Grid, window: NDArray[np.intp]) -> dict[str, float | None]:
    """Return where a cubic through the fitted points and an Akima spline have minima, in octaves.

    None where there are too few points, or where the minimum lies at the window's end.
    """
    theta, means = grid.theta[window], grid.losses[:, window].mean(axis=0)
    return {"cubic": local_cubic(theta, means), "akima": akima(theta, means)}


def local_cubic(theta: Floats, means: Floats) -> float | None:
    """Return the minimum of a least-squares cubic."""
    if len(theta) < CUBIC_POINTS:
        return None
    centre = theta.mean()
    fitted = np.polyfit(theta - centre, means, 3)
    fine = np.linspace(theta[0], theta[-1], FINE)
    return _inner_minimum(fine, np.polyval(fitted, fine - centre))


def akima(theta: Floats, means: Floats) -> float | None:
    """Return the minimum of the Akima spline through the points (Akima 1970, J. ACM 17, 589).

    It is scipy's `Akima1DInterpolator`, whose import would take half a second of every fit.
    """
    if len(theta) < 3:
        return None
    slopes = np.diff(means) / np.diff(theta)
    for _ in range(2):  # two slopes beyond each end, by Akima's rule
        slopes = np.concatenate(
            [[2 * slopes[0] - slopes[1]], slopes, [2 * slopes[-1] - slopes[-2]]]
        )
    change = np.abs(np.diff(slopes))
    left, right = change[2:], change[:-2]
    total = left + right
    even = (slopes[1:-2] + slopes[2:-1]) / 2.0
    mixed = left * slopes[1:-2] + right * slopes[2:-1]
    tangents = np.where(total > 0, mixed / np.where(total > 0, total, 1.0), even)
    fine = np.linspace(theta[0], theta[-1], FINE)
    return _inner_minimum(fine, _hermite(theta, means, tangents, fine))


def _hermite(theta: Floats, means: Floats, tangents: Floats, at: Floats) -> Floats:
    place = np.clip(np.searchsorted(theta, at, side="right") - 1, 0, len(theta) - 2)
    step = np.diff(theta)[place]
    t = (at - theta[place]) / step
    start, end = means[place], means[place + 1]
    rise = step * (tangents[place] * t * (1 - t) ** 2 - tangents[place + 1] * t * t * (1 - t))
    return start + (end - start) * t * t * (3 - 2 * t) + rise


def _inner_minimum(at: Floats, losses: Floats) -> float | None:
    lowest = int(losses.argmin())
    return float(at[lowest]) if 0 < lowest < len(at) - 1 else None
