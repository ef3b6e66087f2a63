"""Other ways to predict the next width's optimum: what `benchmarks.leave_widest_out` compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np

from hptransfer.analysis.basins.curve import Floats

Points = tuple[Floats, Floats]  # theta ascending and the log of the loss, (point,)
Told = tuple[float, float | None, float | None]  # value, and the ends of a 90 % interval
Rival = Callable[[Mapping[int, Points], int], Told]

WINDOW = np.log(1.02)  # rise of log loss above a width's lowest point up to which points are read
FEWEST = 4  # lowest points of a width that are read whatever their rise
LENGTHS = ((0.7, 1.4, 2.8, 5.6), (0.7, 1.4, 2.8, 5.6))  # octaves of theta, doublings of the width
NOISES = (1e-4, 1e-3, 1e-2, 0.1, 1.0)  # variance of the noise over that of the process
FINE = 161  # candidate values, from an octave below the known points to an octave above
DRAWS = 400


def parabola(theta: Floats, y: Floats) -> float:
    """Return the minimum of the parabola through the lowest point and its neighbours.

    It is the lowest point itself where that is the outermost one.
    """
    i = int(np.argmin(y))
    if not 0 < i < len(y) - 1:
        return float(theta[i])
    a, b, _ = np.polyfit(theta[i - 1 : i + 2] - theta[i], y[i - 1 : i + 2], 2)
    return float(theta[i] - b / (2.0 * a))


def best_point_of_widest(points: Mapping[int, Points], held_out: int) -> Told:
    """Return the lowest point of the widest known width."""
    theta, y = points[max(points)]
    return float(theta[np.argmin(y)]), None, None


def parabola_at_widest(points: Mapping[int, Points], held_out: int) -> Told:
    """Return the parabola's minimum at the widest known width."""
    return parabola(*points[max(points)]), None, None


def line_through_parabolas(points: Mapping[int, Points], held_out: int) -> Told:
    """Return where a straight line in log2 width through all parabolas' minima leads."""
    optima = [parabola(*found) for found in points.values()]
    line = np.polyfit(np.log2(list(points)), optima, 1)
    return float(np.polyval(line, np.log2(held_out))), None, None


def gaussian_process(points: Mapping[int, Points], held_out: int) -> Told:
    """Return the minimum at the next width of a Gaussian process over theta and log2 width.

    A quadratic in theta whose minimum moves straight with log2 width, plus a process with a squared
    exponential kernel that has a length for each axis. Lengths and noise maximise the restricted
    likelihood, in which coefficients and variance are integrated out. The interval is that of the
    minima of draws.
    """
    low = [_near(theta, y) for theta, y in points.values()]
    theta = np.concatenate([t for t, _ in low])
    y = np.concatenate([values for _, values in low])
    x = np.repeat(np.log2(list(points)), [len(t) for t, _ in low])
    middle, first = theta.mean(), x.mean()
    known = np.stack([theta - middle, x - first], axis=1)
    fine = np.linspace(theta.min() - 1.0, theta.max() + 1.0, FINE)
    there = np.stack([fine - middle, np.full(FINE, np.log2(held_out) - first)], axis=1)

    best: tuple[float, Floats, Floats] | None = None
    for *lengths, noise in product(*LENGTHS, NOISES):
        found = _regression(known, y, there, np.array(lengths), noise)
        if found is not None and (best is None or found[0] > best[0]):
            best = found
    assert best is not None, "some lengths give a matrix that can be inverted"
    _, mean, covariance = best
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    normal = np.random.default_rng(0).standard_normal((DRAWS, FINE))
    minima = fine[np.argmin(mean + normal @ root.T, axis=1)]
    low_end, high_end = np.quantile(minima, [0.05, 0.95])
    return float(fine[np.argmin(mean)]), float(low_end), float(high_end)


def _near(theta: Floats, y: Floats) -> Points:
    """Return the points near the lowest: walls are no sample of a smooth process."""
    order = np.argsort(np.argsort(y))
    kept = (y <= y.min() + WINDOW) | (order < FEWEST)
    return theta[kept], y[kept]


def _basis(at: Floats) -> Floats:
    theta, x = at.T
    return np.stack([np.ones_like(theta), theta, theta**2, x, theta * x], axis=1)


def _kernel(one: Floats, other: Floats, lengths: Floats) -> Floats:
    apart = (one[:, None] - other[None]) / lengths
    return np.exp(-0.5 * (apart**2).sum(axis=-1))


def _regression(
    known: Floats, y: Floats, there: Floats, lengths: Floats, noise: float
) -> tuple[float, Floats, Floats] | None:
    """Return the restricted log likelihood, and mean and covariance at other places."""
    basis, free = _basis(known), len(y) - 5
    if free < 1:
        return None
    covariance = _kernel(known, known, lengths) + noise * np.eye(len(y))
    inverse = np.linalg.inv(covariance)
    weights = basis.T @ inverse @ basis
    coefficients = np.linalg.solve(weights, basis.T @ inverse @ y)
    rest = y - basis @ coefficients
    variance = max(float(rest @ inverse @ rest) / free, 1e-16)
    determinants = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(weights)[1]
    likelihood = -0.5 * (free * np.log(variance) + determinants)
    across = _kernel(there, known, lengths) @ inverse
    left = _basis(there) - across @ basis
    mean = _basis(there) @ coefficients + across @ rest
    own = _kernel(there, there, lengths) - across @ _kernel(known, there, lengths)
    return float(likelihood), mean, variance * (own + left @ np.linalg.solve(weights, left.T))


RIVALS: Mapping[str, Rival] = {
    "widest's best point": best_point_of_widest,
    "parabola at the widest": parabola_at_widest,
    "line through parabolas": line_through_parabolas,
    "Gaussian process": gaussian_process,
}
