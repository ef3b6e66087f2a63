"""How the optimum follows width, depth, batch size and training time: one hierarchical model.

    θ(x) = level + Σ_a slope_a·x_a + walk(x) + scatter,    x_a = log2 of width, depth, ...

Each slope is exactly zero with chance SPIKE, else normal with sd SLAB. The walk is a random walk
along each axis, so that a law which bends costs width of the interval and not bias; the scatter is
each setting's own. Walk and scatter have a few sizes each (WALKS, SCATTERS), weighed by the data.
Products of two axes and the square of the batch size, small, come in where the data ask for them.

Given skew, slopes, sizes, everything is Gaussian but the settings' own posteriors (`basin.py`).
A narrow one is replaced by the normal of its mean and variance; a broad or one-sided one by
expectation propagation (Minka 2001, arXiv 1301.2294), which matches the moments it has together
with the others. The answer is the mixture over skews and sizes, each weighed by its evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.basin import Basin
from hptransfer.analysis.basins.curve import Floats

LEVEL_SD = 4.0  # octaves
SPIKE, SLAB = 0.35, 1.0  # octaves per doubling
WALKS = ((0.02, 0.42), (0.1, 0.30), (0.22, 0.20), (0.45, 0.08))  # octaves per √doubling, prior
SCATTERS = ((0.03, 0.7), (0.15, 0.3))  # octaves, prior
BENT, BENT_SD = 0.2, 0.1  # prior of products and squares, and their sd, octaves per doubling²
BENT_SETTINGS = 3  # settings beyond the number of axes, per product, from which they are tried
BROAD = 0.6  # octaves: a setting's posterior with a larger sd is not taken for normal
OPEN = 1e-3  # density at the outermost candidates, over the largest, from which it is one-sided
REACH, FINE = 4.0, 400  # sds and values between which quantiles are read
NORMAL_AT = np.linspace(-6.0, 6.0, 1201)
NORMAL_BELOW = np.array([NormalDist().cdf(x) for x in NORMAL_AT])
ROUNDS, DAMPING = 8, 0.6  # of expectation propagation
IMPLAUSIBLE = 15.0  # log odds by the settings alone at which a skew is left out
MANY_SETTINGS = 24  # beyond which no slope is tried at exactly zero: the data decide
KEPT = 1e-4  # share below which an explanation is dropped


@dataclass(frozen=True)
class Explanation:
    """One skew and one choice of slopes and sizes, with the settings' normal approximations."""

    weight: float
    skew: int  # index in the basins' skews
    slopes: tuple[bool, ...]  # per axis: whether it may differ from zero
    bent: bool
    walk: float
    scatter: float
    precision: Floats  # (setting,)
    shift: Floats  # (setting,) precision times mean, about the law's centre


@dataclass(frozen=True)
class Law:
    """The posterior of the optimum at every setting and anywhere else."""

    axes: Floats  # (setting, axis): log2 of what varies
    centre: float
    explanations: tuple[Explanation, ...]

    def draws(
        self, at: Floats, rng: np.random.Generator, count: int
    ) -> tuple[Floats, NDArray[np.intp]]:
        """Return optima at the settings and at further places, and each draw's skew.

        Args:
            at: log2 of the axes at the further places, (place, axis).

        Returns:
            Optima (draw, setting + place) and indices in the basins' skews (draw,).
        """
        weights = np.array([each.weight for each in self.explanations])
        counts = rng.multinomial(count, weights / weights.sum())
        places = np.vstack([self.axes, at])
        drawn, skews = [], []
        for each, times in zip(self.explanations, counts, strict=True):
            if times:
                mean, root = self._joint(each, places)
                normal = rng.standard_normal((times, len(places)))
                drawn.append(mean + normal @ root.T)
                skews.append(np.full(times, each.skew))
        order = rng.permutation(count)
        return np.concatenate(drawn)[order], np.concatenate(skews)[order]

    def quantiles(self, at: Floats, shares: Sequence[float]) -> Floats:
        """Return quantiles of the optimum at further places, (share, place), without drawing."""
        weights = np.array([each.weight for each in self.explanations])
        moments = [self._marginal(each, at) for each in self.explanations]
        means, sds = (np.array(part) for part in zip(*moments, strict=True))
        low, high = (means - REACH * sds).min(axis=0), (means + REACH * sds).max(axis=0)
        values = low + (high - low) * np.linspace(0.0, 1.0, FINE)[:, None]  # (value, place)
        scaled = (values[:, None] - means) / sds
        below = np.interp(scaled, NORMAL_AT, NORMAL_BELOW)
        mass = np.einsum("vep,e->vp", below, weights / weights.sum())
        return np.array(
            [
                [np.interp(share, m, v) for m, v in zip(mass.T, values.T, strict=True)]
                for share in shares
            ]
        )

    def _marginal(self, each: Explanation, at: Floats) -> tuple[Floats, Floats]:
        """Return mean and sd at further places."""
        count = len(self.axes)
        own = _covariance(np.vstack([self.axes, at]), count, each)[:, :count]
        inside = np.eye(count) + each.precision[:, None] * own[:count]
        mean = self.centre + own[count:] @ np.linalg.solve(inside, each.shift)
        variance = np.diagonal(posterior_covariance(self.axes, each, at))[count:]
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def _joint(self, each: Explanation, places: Floats) -> tuple[Floats, Floats]:
        """Return the mean at the places and a root of their covariance."""
        count = len(self.axes)
        own = _covariance(places, count, each)[:, :count]
        inside = np.eye(count) + each.precision[:, None] * own[:count]
        mean = self.centre + own @ np.linalg.solve(inside, each.shift)
        values, vectors = np.linalg.eigh(posterior_covariance(self.axes, each, places[count:]))
        return mean, vectors * np.sqrt(np.maximum(values, 0.0))


def posterior_covariance(axes: Floats, each: Explanation, at: Floats) -> Floats:
    """Return the covariance of the optima at the settings and at further places."""
    places, count = np.vstack([axes, at]), len(axes)
    prior = _covariance(places, count, each)
    own = prior[:, :count]
    inside = np.eye(count) + each.precision[:, None] * own[:count]
    covariance = prior - own @ np.linalg.solve(inside, each.precision[:, None] * own.T)
    return (covariance + covariance.T) / 2.0


def fit_law(axes: Floats, basins: Sequence[Basin]) -> Law:
    """Fit the law to the basins of an arm; `axes` (setting, axis) is log2 of what varies."""
    density = np.stack([basin.density for basin in basins], axis=1)  # (skew, setting, candidate)
    return fit_densities(axes, density, basins[0].candidates, basins[0].log_prior)


def fit_densities(axes: Floats, density: Floats, candidates: Floats, log_prior: Floats) -> Law:
    """Fit the law to posteriors of the optimum.

    Args:
        axes: (setting, axis) log2 of what varies.
        density: (shape, setting, candidate), each setting's sum is one; shapes are common to all
            settings, and one has the index that `Explanation.skew` holds.
        candidates: (candidate,) evenly spaced.
        log_prior: of the shapes, (shape,).
    """
    assert len(axes) == density.shape[1] > 0, "a law needs a setting"
    centre = float(candidates.mean())
    alone = np.log(density.sum(axis=-1) + 1e-300).sum(axis=-1) + log_prior
    plausible = np.flatnonzero(alone > alone.max() - IMPLAUSIBLE)
    density, log_prior = density[plausible], log_prior[plausible]
    choices = _choices(axes)
    priors = np.stack([_covariance(axes, len(axes), each) for each in choices])
    sites = _Sites.of(density, candidates - centre)
    precision, shift, evidence = sites.fitted(priors)
    weights = evidence + np.log([each.weight for each in choices]) + log_prior[:, None]
    weights = np.exp(weights - weights.max())
    weights /= weights.sum()
    kept = [
        Explanation(
            weight=float(weights[shape, choice]),
            skew=int(plausible[shape]),
            slopes=choices[choice].slopes,
            bent=choices[choice].bent,
            walk=choices[choice].walk,
            scatter=choices[choice].scatter,
            precision=precision[shape, choice],
            shift=shift[shape, choice],
        )
        for shape, choice in zip(*np.nonzero(weights > KEPT), strict=True)
    ]
    return Law(axes, centre, tuple(kept))


@dataclass(frozen=True)
class Prior:
    """What the law says of settings and one further place before a basin is seen.

    It is a mixture of normals; with normal posteriors of the settings, what it says of the place
    has a closed form, which designs are planned by.
    """

    log_weights: Floats  # (choice,)
    own: Floats  # (choice, setting, setting) covariance of the settings' optima
    across: Floats  # (choice, setting) their covariance with the optimum at the place
    there: Floats  # (choice,) variance at the place

    @classmethod
    def of(cls, axes: Floats, at: Floats) -> Prior:
        """Return the prior of settings (setting, axis) and a place (axis,), log2 of what varies."""
        choices, places = _choices(axes), np.vstack([axes, at])
        every = np.stack([_covariance(places, len(axes), each) for each in choices])
        log_weights = np.log([each.weight for each in choices])
        return cls(log_weights, every[:, :-1, :-1], every[:, -1, :-1], every[:, -1, -1])

    def given(self, means: Floats, variances: Floats) -> tuple[Floats, Floats]:
        """Return mean and variance of the optimum at the place, (draw,).

        Args:
            means: of the settings' own posteriors, (draw, setting).
            variances: of the same.
        """
        centre = means.mean(axis=1, keepdims=True)
        offset = means - centre
        kinds, kind = np.unique(variances, axis=0, return_inverse=True)
        kind = kind.reshape(-1)
        covariance = self.own + kinds[:, None, :, None] * np.eye(means.shape[1])
        inverse, determinant = np.linalg.inv(covariance), np.linalg.slogdet(covariance)[1]
        gain = np.einsum("cs,kcst->kct", self.across, inverse)
        left = self.there - np.einsum("kcs,cs->kc", gain, self.across)
        chi2 = np.einsum("ds,dcst,dt->dc", offset, inverse[kind], offset)
        weights = self.log_weights - 0.5 * (chi2 + determinant[kind])
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        found = np.einsum("dcs,ds->dc", gain[kind], offset)
        mean = (weights * found).sum(axis=1)
        variance = (weights * (left[kind] + (found - mean[:, None]) ** 2)).sum(axis=1)
        return centre[:, 0] + mean, variance


def _choices(axes: Floats) -> list[Explanation]:
    """Return every choice of slopes and sizes with its prior as weight."""
    count = axes.shape[1]
    products = count * (count - 1) // 2 + 1
    is_tried = count > 1 and len(axes) >= count + 1 + BENT_SETTINGS * products
    bends = (False, True) if is_tried else (False,)
    none = np.zeros(0)
    found = []
    free_or_not = (True,) if len(axes) > MANY_SETTINGS else (False, True)
    for slopes in product(free_or_not, repeat=count):
        chance = float(np.prod([1.0 - SPIKE if free else SPIKE for free in slopes]))
        for bent, (walk, p_walk), (scatter, p_scatter) in product(bends, WALKS, SCATTERS):
            p_bent = 1.0 if len(bends) == 1 else BENT if bent else 1.0 - BENT
            weight = chance * p_bent * p_walk * p_scatter
            found.append(Explanation(weight, 0, slopes, bent, walk, scatter, none, none))
    return found


def _covariance(places: Floats, settings: int, choice: Explanation) -> Floats:
    """Return the prior covariance of the optimum at places, of which the first are settings."""
    x = places - places[:settings].mean(axis=0)
    covariance = np.full((len(x), len(x)), LEVEL_SD**2) + choice.scatter**2 * np.eye(len(x))
    for axis, free in enumerate(choice.slopes):
        if free:
            covariance += SLAB**2 * np.outer(x[:, axis], x[:, axis])
        way = places[:, axis] - places[:settings, axis].min()
        same_side = np.sign(way)[:, None] == np.sign(way)[None, :]
        common = np.minimum(np.abs(way)[:, None], np.abs(way)[None, :])
        covariance += choice.walk**2 * np.where(same_side, common, 0.0)
    if choice.bent:
        pairs = [x[:, a] * x[:, b] for a, b in combinations(range(x.shape[1]), 2)]
        for term in (*pairs, x[:, -1] ** 2):
            covariance += BENT_SD**2 * np.outer(term, term)
    return covariance


@dataclass(frozen=True)
class _Sites:
    """The settings' posteriors on a grid, with what a normal approximation needs.

    Arrays have the axes (shape, setting), and (shape, choice, setting) in `fitted`.
    """

    density: Floats  # (shape, setting, candidate)
    u: Floats  # (candidate,) candidates about the centre
    mass: Floats
    mean: Floats
    variance: Floats
    open_ended: NDArray[np.bool_]  # broad or one-sided

    @classmethod
    def of(cls, density: Floats, u: Floats) -> _Sites:
        spacing = u[1] - u[0]
        mass = density.sum(axis=-1) * spacing + 1e-300
        mean = density @ u * spacing / mass
        variance = np.maximum(density @ (u * u) * spacing / mass - mean**2, (spacing / 2.0) ** 2)
        ends = (density[..., 0] + density[..., -1]) / density.max(axis=-1)
        return cls(density, u, mass, mean, variance, (ends > OPEN) | (variance > BROAD**2))

    def fitted(self, priors: Floats) -> tuple[Floats, Floats, Floats]:
        """Return precision, shift (shape, choice, setting) and log evidence (shape, choice)."""
        shape = (len(self.mass), len(priors), self.mass.shape[1])
        own = np.broadcast_to((1.0 / self.variance)[:, None], shape)
        broad = np.broadcast_to(self.open_ended[:, None], shape)
        precision = np.where(broad, DAMPING / 2.0 * own, own)
        shift = precision * self.mean[:, None]
        for _ in range(ROUNDS if broad.any() else 0):
            cavity_mean, cavity_variance = self._cavity(priors, precision, shift)
            _, mean, variance = self._tilted(cavity_mean, cavity_variance)
            found = np.clip(1.0 / variance - 1.0 / cavity_variance, 1e-4, 1e6)
            moved = mean * (found + 1.0 / cavity_variance) - cavity_mean / cavity_variance
            precision = np.where(broad, precision + DAMPING * (found - precision), precision)
            shift = np.where(broad, shift + DAMPING * (moved - shift), shift)
        return precision, shift, self._evidence(priors, precision, shift, broad)

    def _posterior(
        self, priors: Floats, precision: Floats, shift: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Return covariance, mean and the matrix 1 + precision·prior."""
        inside = np.eye(priors.shape[-1]) + precision[..., :, None] * priors[None]
        covariance = priors[None] @ np.linalg.inv(inside)
        return covariance, np.einsum("shij,shj->shi", covariance, shift), inside

    def _cavity(self, priors: Floats, precision: Floats, shift: Floats) -> tuple[Floats, Floats]:
        """Return each setting's mean and variance by all the others."""
        covariance, mean, _ = self._posterior(priors, precision, shift)
        variance = np.einsum("shii->shi", covariance)
        least = ((self.u[1] - self.u[0]) / 2.0) ** 2
        without = np.maximum(1.0 / np.maximum(1.0 / variance - precision, 1e-3), least)
        return (mean / variance - shift) * without, without

    def _tilted(self, mean: Floats, variance: Floats) -> tuple[Floats, Floats, Floats]:
        """Return mass, mean and variance of each posterior times a normal."""
        spacing = self.u[1] - self.u[0]
        distance = (self.u - mean[..., None]) ** 2 / variance[..., None]
        product_ = self.density[:, None] * np.exp(-0.5 * distance)
        mass = product_.sum(axis=-1) + 1e-300
        middle = product_ @ self.u / mass
        spread = np.maximum(product_ @ (self.u * self.u) / mass - middle**2, (spacing / 2.0) ** 2)
        return mass * spacing / np.sqrt(2.0 * np.pi * variance), middle, spread

    def _evidence(
        self, priors: Floats, precision: Floats, shift: Floats, broad: NDArray[np.bool_]
    ) -> Floats:
        covariance, _, inside = self._posterior(priors, precision, shift)
        cavity_mean, cavity_variance = self._cavity(priors, precision, shift)
        mass = self._tilted(cavity_mean, cavity_variance)[0]
        exponent = cavity_mean / cavity_variance + shift
        normal = (
            exponent**2 / (1.0 / cavity_variance + precision) - cavity_mean**2 / cavity_variance
        )
        matched = np.log(mass) + 0.5 * np.log1p(precision * cavity_variance) - 0.5 * normal
        plain = (
            np.log(self.mass)[:, None]
            - 0.5 * np.log(2.0 * np.pi / precision)
            - shift**2 / (2.0 * precision)
        )
        bound = np.einsum("shi,shij,shj->sh", shift, covariance, shift)
        determinant = np.linalg.slogdet(inside)[1]
        return np.where(broad, matched, plain).sum(axis=-1) + 0.5 * (bound - determinant)
