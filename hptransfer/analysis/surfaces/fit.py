"""The surface of one width: its window, the weights of its priors, its error, and draws of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.noise import Noise, NoiseSource
from hptransfer.analysis.surfaces.points import SurfacePoints
from hptransfer.analysis.surfaces.quadratic import (
    FLAT,
    Basis,
    Quadratics,
    build_basis,
    is_determined,
)

FITS = 0.95  # a misfit beyond this quantile of what noise alone gives asks for a smaller window
NEXT_SHARE = 0.75  # share of a window's points that the next one has
# Weights of the prior on interactions, in units of points: 0 leaves them free, 1e6 forbids them.
RIDGES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 1e6)
RIDGE_GAIN = 0.05  # share by which a ridge must lower the cross-validated error to be taken
# Prior sd of a third derivative over the second, per octave: curve.py's two shapes have -0.17 and
# 0.87, and a basin is a mixture of them.
SKEW = 0.4
NO_SKEW = 1e12  # a weight that leaves the skew out


@dataclass(frozen=True)
class Window:
    """The points that are fitted, and what was found of them."""

    index: NDArray[np.intp]
    centre: Floats  # (hp,) of the points' box, log2
    half: Floats  # (hp,) octaves from the centre to the box's faces
    ridge: float
    basis: Basis
    surface: Quadratics  # one
    unskewed: Basis
    misfit: float  # residual variance of the points' means
    degrees: float  # of the misfit

    def scaled(self, positions: Floats) -> Floats:
        """Return positions in coordinates in which the box is [-1, 1]."""
        return (positions - self.centre) / self.half

    def positions(self, z: Floats) -> Floats:
        """Return where scaled points lie in log2 of the HPs."""
        return self.centre + self.half * z


def choose_window(points: SurfacePoints, noise: Noise | None) -> Window | None:
    """Return the largest window that a surface fits within noise; None if there is none to fit.

    Where none does, or a single seed leaves nothing to compare with, it is the window whose
    optimum has the smallest standard error by its own residuals.
    """
    tried: list[tuple[float, Window]] = []
    for index in _nested(points):
        window = _fitted(points, index, noise)
        if window is None:
            break
        if noise is not None and is_within_noise(window, noise, seeds=len(points.losses)):
            return window
        tried.append((_variance_of_optimum(window), window))
    return min(tried, key=lambda pair: pair[0])[1] if tried else None


def _nested(points: SurfacePoints) -> list[NDArray[np.intp]]:
    """Return sets of the lowest points, the largest first.

    Where the points below the ceiling do not determine a surface, more are taken.
    """
    order = np.argsort(points.means, kind="stable")
    most, sound = points.inside, int((~points.failed).sum())
    while most < sound and not is_determined(points.positions[order[:most]]):
        most = min(sound, math.ceil(most / NEXT_SHARE))
    sizes = [most]
    while sizes[-1] > points.needed:
        sizes.append(max(points.needed, math.floor(NEXT_SHARE * sizes[-1])))
    return [np.sort(order[:size]) for size in sizes]


def is_within_noise(window: Window, noise: Noise, *, seeds: int) -> bool:
    """Say whether seeds scatter enough to explain how far the points lie from the surface."""
    from scipy.special import fdtri  # slow to import, and sweeps of one HP need none of it

    limit = fdtri(window.degrees, noise.degrees, FITS)
    return bool(window.misfit <= limit * noise.sd**2 / seeds)


def is_shapeless(points: SurfacePoints, window: Window) -> bool:
    """Say whether the surface explains no more of the points' differences than noise would."""
    from scipy.special import fdtri

    means = points.means[window.index]
    fitted = len(means) - 1.0 - window.degrees
    explained = float(((means - means.mean()) ** 2).sum()) - window.misfit * window.degrees
    limit = fdtri(fitted, window.degrees, FITS)
    return bool(explained / fitted <= limit * window.misfit)


def _fitted(points: SurfacePoints, index: NDArray[np.intp], noise: Noise | None) -> Window | None:
    chosen = points.positions[index]
    if not is_determined(chosen):
        return None
    low, high = chosen.min(axis=0), chosen.max(axis=0)
    centre, half = (low + high) / 2.0, (high - low) / 2.0
    z, means = (chosen - centre) / half, points.means[index]
    unskewed = build_basis(z, ridge=0.0, skewness=np.full(z.shape[1], NO_SKEW))
    plain = unskewed.fit(unskewed.observed(means[None, :]))
    variance, _ = _misfit(unskewed, plain, means)
    if noise is not None:
        variance = noise.sd**2 / len(points.losses)
    bends = np.maximum(np.diagonal(plain.hessian[0]), max(math.sqrt(variance), FLAT))
    skewness = variance / (SKEW * bends * half) ** 2
    bases = {ridge: build_basis(z, ridge=ridge, skewness=skewness) for ridge in RIDGES}
    errors = {ridge: basis.left_out_error(means) for ridge, basis in bases.items()}
    best = min(RIDGES, key=lambda ridge: errors[ridge])
    ridge = best if errors[best] < (1.0 - RIDGE_GAIN) * errors[0.0] else 0.0
    surface = bases[ridge].fit(bases[ridge].observed(means[None, :]))
    misfit, degrees = _misfit(bases[ridge], surface, means)
    return Window(index, centre, half, ridge, bases[ridge], surface, unskewed, misfit, degrees)


def _misfit(basis: Basis, surface: Quadratics, means: Floats) -> tuple[float, float]:
    """Return the residual variance of the means and its degrees of freedom."""
    squares = float(((means - surface.loss(basis.z)[0]) ** 2).sum())
    return squares / basis.spare_degrees, basis.spare_degrees


def _variance_of_optimum(window: Window) -> float:
    """Return the optimum's summed variance in octaves², to first order in the losses."""
    count = window.basis.z.shape[1]
    at = window.surface.minima()
    unit = window.basis.fit_free(np.eye(len(window.basis.design)))
    gradient = unit.slope + np.einsum("dhg,g->dh", unit.bends(np.zeros_like(unit.slope)), at[0])
    gradient = gradient + unit.skew * at**2 / 2.0
    inverse = np.linalg.pinv(window.surface.bends(at)[0], hermitian=True)
    response = window.half[None, :] * (gradient.reshape(-1, count) @ inverse)
    return float(window.misfit * (response**2).sum())


def draw_surfaces(
    points: SurfacePoints,
    window: Window,
    noise: Noise | None,
    *,
    rng: np.random.Generator,
    draws: int,
) -> Quadratics:
    """Return surfaces fitted to losses and priors simulated around the fitted one.

    The variance of a mean is drawn from the residuals' and the seeds' squares together, or from
    the residuals' alone where the seeds scatter too little to explain them.
    """
    seeds = len(points.losses)
    squares, degrees = window.misfit * window.degrees, window.degrees
    if noise is not None and is_within_noise(window, noise, seeds=seeds):
        squares += noise.degrees * noise.sd**2 / seeds
        degrees += noise.degrees
    deviation = np.sqrt(squares / rng.chisquare(degrees, draws))[:, None]
    expected = window.basis.expected(window.surface)
    simulated = expected + deviation * rng.standard_normal((draws, expected.shape[1]))
    return window.basis.fit(simulated)


def residual_noise(
    found: Sequence[Window], *, rng: np.random.Generator, draws: int
) -> Noise | None:
    """Pool the windows' misfits into a noise: what a single seed gives."""
    degrees = sum(window.degrees for window in found)
    if not degrees:
        return None
    squares = sum(window.misfit * window.degrees for window in found)
    variances = squares / rng.chisquare(degrees, draws)
    return Noise(np.sqrt(squares / degrees), round(degrees), variances, NoiseSource.residuals)
