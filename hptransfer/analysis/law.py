"""How the optimum follows the width: three laws, their weights, and their mixture.

constant a (the µP prediction); linear a + b·log2 n (a power law); inverse a + b·n0/n with n0 the
narrowest width (an optimum that converges, arXiv 2511.01734). Each is fitted by least squares with
weights 1/variance; a law with k coefficients gets a share in proportion to exp(-(χ² + 2k)/2).
Arrays have the axes (draw, width).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.curve import Floats

MIN_WIDTHS = 3  # below this no law is chosen


class LawName(Enum):
    """The laws that compete."""

    constant = "constant"
    linear = "linear"
    inverse = "inverse"


@dataclass(frozen=True)
class Optima:
    """Optima over width (ascending) whose variances are known."""

    widths: Floats  # (width,)
    optima: Floats  # (width,)
    variances: Floats  # (width,)
    theta_draws: Floats  # (draw, width)

    def without_widest(self) -> Optima:
        """Return all but the widest width."""
        return Optima(
            self.widths[:-1], self.optima[:-1], self.variances[:-1], self.theta_draws[:, :-1]
        )


@dataclass(frozen=True)
class Law:
    """One fitted law: a, and b for the laws that have it, once and per draw."""

    name: LawName
    narrowest: float
    coefficients: Floats  # (coefficient,)
    coefficient_draws: Floats  # (draw, coefficient)
    chi2: float

    def at(self, widths: Floats) -> Floats:
        """Return the law's optimum at `widths`, shape (width,)."""
        return regressors(self.name, widths, self.narrowest) @ self.coefficients

    def draws_at(self, widths: Floats) -> Floats:
        """Return every draw's optimum at `widths`, shape (draw, width)."""
        return self.coefficient_draws @ regressors(self.name, widths, self.narrowest).T


@dataclass(frozen=True)
class Mixture:
    """The competing laws, their weights, and which law each draw follows."""

    laws: tuple[Law, ...]
    weights: Floats  # (law,)
    choice: NDArray[np.intp]  # (draw,)

    @property
    def favourite(self) -> Law:
        """The law of largest weight."""
        return self.laws[int(np.argmax(self.weights))]

    def at(self, widths: Floats) -> Floats:
        """Return the weighted mean of the laws' optima, shape (width,)."""
        return self.weights @ np.stack([law.at(widths) for law in self.laws])

    def draws_at(self, widths: Floats) -> Floats:
        """Return each draw's optimum under its own law, shape (draw, width)."""
        predicted = np.stack([law.draws_at(widths) for law in self.laws])
        return predicted[self.choice, np.arange(len(self.choice))]


def regressors(name: LawName, widths: Floats, narrowest: float) -> Floats:
    """Return what multiplies a law's coefficients, shape (width, coefficient)."""
    widths = np.asarray(widths, dtype=float)
    one = np.ones_like(widths)
    match name:
        case LawName.constant:
            return one[:, None]
        case LawName.linear:
            return np.stack([one, np.log2(widths)], axis=1)
        case LawName.inverse:
            return np.stack([one, narrowest / widths], axis=1)


def fit_law(name: LawName, optima: Optima) -> Law:
    """Fit one law to the optima and to every draw of them."""
    widths, variances = optima.widths, optima.variances
    narrowest = float(np.min(widths))
    design = regressors(name, widths, narrowest)
    weighted = design / variances[:, None]
    solve = np.linalg.solve(design.T @ weighted, weighted.T)  # (coefficient, width)
    coefficients = solve @ optima.optima
    chi2 = float(((optima.optima - design @ coefficients) ** 2 / variances).sum())
    return Law(name, narrowest, coefficients, optima.theta_draws @ solve.T, chi2)


def law_weights(chi2: Floats, counts: Floats) -> Floats:
    """Return shares in proportion to exp(-(χ² + 2k)/2), which sum to one."""
    score = -(chi2 + 2.0 * counts) / 2.0
    share = np.exp(score - score.max())
    return share / share.sum()


def fit_drift(optima: Optima) -> Law | None:
    """Fit the linear law, whose b is the drift in octaves per doubling; None below two widths."""
    return fit_law(LawName.linear, optima) if len(optima.widths) > 1 else None


def mix_laws(optima: Optima, *, rng: np.random.Generator) -> Mixture | None:
    """Fit all laws; None below three widths."""
    if len(optima.widths) < MIN_WIDTHS:
        return None
    laws = tuple(fit_law(name, optima) for name in LawName)
    chi2 = np.array([law.chi2 for law in laws])
    weights = law_weights(chi2, np.array([len(law.coefficients) for law in laws], dtype=float))
    draws = len(optima.theta_draws)
    return Mixture(laws, weights, rng.choice(len(laws), size=draws, p=weights))
