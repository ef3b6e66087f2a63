"""How a quantity follows the width: four laws, their weights, and their mixture.

constant a (the µP prediction); linear a + b·log2 n; inverse a + b·n0/n with n0 the narrowest width
(a quantity that converges, arXiv 2511.01734); power a + b·(n0/n)^c, from five widths on. Each is
fitted by least squares with weights 1/variance; a law with k coefficients gets a share in
proportion to exp(-(χ² + 2k)/2). The quantity is an optimum in log2 of the HP, elsewhere a loss or
log2 of a curvature. Arrays have the axes (draw, width).

Widths' draws are independent: on planted arms the drift's 90 % interval then covers 90 to 100 % per
cell; with draws paired by rank over widths, since shape errors are common, 65 to 92 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.curve import Floats

MIN_WIDTHS = 3  # below this no law is chosen
POWER_WIDTHS = 5  # below this an exponent is not fitted
EXPONENTS = np.geomspace(0.0625, 4.0, 37)  # from almost log2 n to gone within a doubling


class LawName(Enum):
    """The laws that compete."""

    constant = "constant"
    linear = "linear"
    inverse = "inverse"
    power = "power"


@dataclass(frozen=True)
class Optima:
    """Optima over width (ascending) whose variances are known."""

    widths: Floats  # (width,)
    optima: Floats  # (width,)
    variances: Floats  # (width,)
    theta_draws: Floats  # (draw, width)

    def at(self, chosen: NDArray[np.bool_]) -> Optima:
        """Return the chosen widths alone; `chosen` has shape (width,)."""
        return Optima(
            self.widths[chosen],
            self.optima[chosen],
            self.variances[chosen],
            self.theta_draws[:, chosen],
        )

    def without_widest(self) -> Optima:
        """Return all but the widest width."""
        return self.at(self.widths < self.widths[-1])


@dataclass(frozen=True)
class Law:
    """One fitted law: a, and b and c for the laws that have them, once and per draw."""

    name: LawName
    narrowest: float
    coefficients: Floats  # (coefficient,)
    coefficient_draws: Floats  # (draw, coefficient)
    chi2: float
    chi2_draws: Floats  # (draw,)

    def at(self, widths: Floats) -> Floats:
        """Return the law's optimum at `widths`, shape (width,)."""
        return self._predicted(self.coefficients[None, :], widths)[0]

    def draws_at(self, widths: Floats) -> Floats:
        """Return every draw's optimum at `widths`, shape (draw, width)."""
        return self._predicted(self.coefficient_draws, widths)

    def _predicted(self, coefficients: Floats, widths: Floats) -> Floats:
        if self.name is LawName.power:
            a, b, c = (coefficients[:, [i]] for i in range(3))
            return a + b * (self.narrowest / np.asarray(widths, dtype=float)) ** c
        return coefficients @ regressors(self.name, widths, self.narrowest).T


@dataclass(frozen=True)
class Mixture:
    """The competing laws, their weights, and which law each draw follows."""

    widest: float
    laws: tuple[Law, ...]
    weights: Floats  # (law,)
    choice: NDArray[np.intp]  # (draw,)
    common: Floats  # (draw,): an error that all widths share

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
        return predicted[self.choice, np.arange(len(self.choice))] + self.common[:, None]


def regressors(name: LawName, widths: Floats, narrowest: float, *, exponent: float = 1.0) -> Floats:
    """Return what multiplies a law's a and b, shape (width, 1 or 2); `exponent` is the power's."""
    widths = np.asarray(widths, dtype=float)
    one = np.ones_like(widths)
    match name:
        case LawName.constant:
            return one[:, None]
        case LawName.linear:
            return np.stack([one, np.log2(widths)], axis=1)
        case LawName.inverse:
            return np.stack([one, narrowest / widths], axis=1)
        case LawName.power:
            return np.stack([one, (narrowest / widths) ** exponent], axis=1)


def fit_law(name: LawName, optima: Optima) -> Law:
    """Fit one law to the optima and to every draw of them."""
    narrowest = float(np.min(optima.widths))
    rows = np.vstack([optima.optima, optima.theta_draws])  # the fit itself, then its draws
    if name is LawName.power:
        coefficients, chi2 = _fit_power(rows, optima, narrowest)
    else:
        design = regressors(name, optima.widths, narrowest)
        coefficients, chi2 = _least_squares(design, rows, optima.variances)
    return Law(name, narrowest, coefficients[0], coefficients[1:], float(chi2[0]), chi2[1:])


def _least_squares(design: Floats, rows: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """Return every row's coefficients (row, coefficient) and χ² (row,)."""
    weighted = design / variances[:, None]
    solve = np.linalg.solve(design.T @ weighted, weighted.T)  # (coefficient, width)
    coefficients = rows @ solve.T
    return coefficients, ((rows - coefficients @ design.T) ** 2 / variances).sum(axis=1)


def _fit_power(rows: Floats, optima: Optima, narrowest: float) -> tuple[Floats, Floats]:
    """Fit a and b at each exponent and keep, row by row, the exponent of least χ²."""
    designs = [
        regressors(LawName.power, optima.widths, narrowest, exponent=exponent)
        for exponent in EXPONENTS
    ]
    fits = [_least_squares(design, rows, optima.variances) for design in designs]
    chi2 = np.stack([fit[1] for fit in fits])  # (exponent, row)
    best, row = chi2.argmin(axis=0), np.arange(len(rows))
    linear = np.stack([fit[0] for fit in fits])[best, row]
    return np.column_stack([linear, EXPONENTS[best]]), chi2[best, row]


def law_weights(chi2: Floats, counts: Floats) -> Floats:
    """Return shares in proportion to exp(-(χ² + 2k)/2), which sum to one over the laws.

    Args:
        chi2: the laws' χ², (law,) or (law, draw).
        counts: their numbers of coefficients k, (law,) or (law, 1).
    """
    score = -(chi2 + 2.0 * counts) / 2.0
    share = np.exp(score - score.max(axis=0))
    return share / share.sum(axis=0)


def fit_laws(optima: Optima) -> tuple[Law, ...]:
    """Fit all laws that the number of widths allows."""
    free = len(optima.widths) >= POWER_WIDTHS
    return tuple(fit_law(name, optima) for name in LawName if free or name is not LawName.power)


def fit_drift(optima: Optima) -> Law | None:
    """Fit the linear law, whose b is the drift in octaves per doubling; None below two widths."""
    return fit_law(LawName.linear, optima) if len(optima.widths) > 1 else None


def mix_laws(optima: Optima, *, rng: np.random.Generator, common_sd: float = 0.0) -> Mixture | None:
    """Fit the laws that the number of widths allows and let every draw follow one of them.

    Args:
        common_sd: of an error that is the same at every width, hence in no law's χ².

    Returns:
        None below three widths.
    """
    draws = len(optima.theta_draws)
    if len(optima.widths) < MIN_WIDTHS:
        return None
    laws = fit_laws(optima)
    chi2 = np.array([law.chi2 for law in laws])
    weights = law_weights(chi2, np.array([law.coefficients.size for law in laws], dtype=float))
    choice = rng.choice(len(laws), size=draws, p=weights)
    common = common_sd * rng.standard_normal(draws)
    return Mixture(float(np.max(optima.widths)), laws, weights, choice, common)
