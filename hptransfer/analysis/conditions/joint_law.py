"""Least squares over optima of several settings, once and for every draw of them.

    θ = a + b·log2 width + c·log2 batch + d·log2 steps + e·log2 depth

with weights 1/variance, and the terms of what varies alone. Where χ² exceeds its degrees of freedom
the law does not hold to within the optima's errors; the spread of the coefficients then grows by
√(χ²/degrees), as the Particle Data Group scales averages of measurements that disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.basins.curve import Floats


@dataclass(frozen=True)
class Estimates:
    """Estimated quantities, such as the optima of several settings, and draws of their errors."""

    values: Floats  # (setting,)
    draws: Floats  # (draw, setting)

    def where(self, keep: list[int]) -> Estimates:
        """Return some settings."""
        return Estimates(self.values[keep], self.draws[:, keep])


@dataclass(frozen=True)
class JointLaw:
    """Coefficients by name, once and per draw, and how well they hold."""

    coefficients: dict[str, float]
    draws: dict[str, Floats]  # each (draw,)
    chi2: float
    degrees: int
    settings: int


def fit_joint(terms: Mapping[str, Floats], estimates: Estimates) -> JointLaw | None:
    """Fit the coefficients of `terms` (each of shape (setting,)).

    Returns None where the settings do not tell the coefficients apart.
    """
    design = np.stack(list(terms.values()), axis=1)
    count, wanted = design.shape
    if np.linalg.matrix_rank(design) < wanted:
        return None
    variances = estimates.draws.var(axis=0)
    weighted = design / variances[:, None]
    solve = np.linalg.solve(design.T @ weighted, weighted.T)  # (coefficient, setting)
    found = solve @ estimates.values
    chi2 = float(((estimates.values - design @ found) ** 2 / variances).sum())
    degrees = count - wanted
    spread = max(1.0, np.sqrt(chi2 / degrees)) if degrees else 1.0
    drawn = found + spread * (estimates.draws - estimates.values) @ solve.T
    return JointLaw(
        coefficients=dict(zip(terms, found.tolist(), strict=True)),
        draws=dict(zip(terms, drawn.T, strict=True)),
        chi2=chi2,
        degrees=degrees,
        settings=count,
    )
