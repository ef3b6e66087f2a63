"""The surface of one width: its window, the weights of its priors, its error, and draws of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
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
    quadratic_design,
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
LEAST_NOISE = 1e-6  # of the points' range: the priors still count where losses have no noise
EXACT = 1e-24  # variance of y that is rounding: losses without any noise


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

    Where none does, it is the window whose optimum has the smallest standard error by its own
    residuals.
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
    return bool(window.misfit <= limit * noise.sd**2 / seeds + EXACT)


def is_indifferent(points: SurfacePoints, window: Window, noise: Noise, hps: Iterable[int]) -> bool:
    """Say whether these HPs explain no more of the points' differences than noise would.

    A surface of the other HPs alone is fitted too: by how much it misses more is compared with the
    noise, never with the misfit of a surface that is wrong far from the optimum.
    """
    from scipy.special import fdtri

    means, z = points.means[window.index], window.basis.z
    others = np.delete(z, list(hps), axis=1)
    whole, part = quadratic_design(z), quadratic_design(others)
    missed = [float(((means - d @ np.linalg.pinv(d) @ means) ** 2).sum()) for d in (whole, part)]
    terms = whole.shape[1] - part.shape[1]
    limit = fdtri(terms, noise.degrees, FITS) * noise.sd**2 / len(points.losses)
    return bool((missed[1] - missed[0]) / terms <= limit + EXACT)


def is_shapeless(points: SurfacePoints, window: Window, noise: Noise) -> bool:
    """Say whether the points differ by no more than noise would make them."""
    return is_indifferent(points, window, noise, range(len(points.hps)))


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
    variance = max(variance, (LEAST_NOISE * float(np.ptp(means))) ** 2)
    if noise is not None:
        variance = max(variance, noise.sd**2 / len(points.losses))
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
        is_same = noise.source is NoiseSource.residuals  # of this window and the others
        squares = (0.0 if is_same else squares) + noise.degrees * noise.sd**2 / seeds
        degrees = (0.0 if is_same else degrees) + noise.degrees
    deviation = np.sqrt(squares / rng.chisquare(degrees, draws))[:, None]
    expected = window.basis.expected(window.surface)
    simulated = expected + deviation * rng.standard_normal((draws, expected.shape[1]))
    return window.basis.fit(simulated)


def residual_noise(every: Iterable[SurfacePoints]) -> Noise | None:
    """Return the noise of single runs: what surfaces of the lowest points leave unexplained.

    The windows grow, in all settings at once, for as long as they leave no more unexplained than
    chance makes of the noise found so far. What a quadratic misses on the walls is no noise.
    """
    from scipy.special import fdtri

    growing = []
    for points in every:
        found = [_fitted(points, index, None) for index in reversed(_nested(points))]
        growing.append([window for window in found if window is not None])
    growing = [windows for windows in growing if windows]
    noise: Noise | None = None
    for size in range(max(map(len, growing), default=0)):
        chosen = [windows[min(size, len(windows) - 1)] for windows in growing]
        degrees = sum(window.degrees for window in chosen)
        variance = sum(window.misfit * window.degrees for window in chosen) / degrees
        if noise is not None:
            limit = fdtri(degrees, noise.degrees, FITS)
            if variance > limit * noise.sd**2 + EXACT:
                break
        noise = Noise(float(np.sqrt(variance)), float(degrees), NoiseSource.residuals)
    return noise
