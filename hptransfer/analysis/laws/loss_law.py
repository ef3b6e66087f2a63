"""The law of the loss: how the loss at the optimum falls along an axis, and what a rise is worth.

    L(n) = a + b·(n/n0)^-c

n is the width (depth, batch size, training time) and n0 the narrowest. The exponent is not fitted
but averaged over EXPONENTS, each weighed by how well its law holds. A loss is known to a thousandth
and no law of this kind is that exact: where it misses by more than noise, narrow settings are left
out and the errors widened by the Birge ratio √(χ²/ν) (Phys. Rev. 40, 207, 1932).

A rise of the loss is worth the compute that would bring the loss back down along this law. It is
priced at the widest n that was trained: beyond it the law is extrapolated, and its slope more so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.basins.curve import Floats

EXPONENTS = np.geomspace(0.03, 2.0, 200)
LEAST_ERROR = 1e-9  # of a loss, as a share of the largest
MISFIT = 1.5  # Birge ratio above which the narrowest setting is left out
FEWEST = 3  # settings from which narrow ones may be left out
SURE = 0.95  # share of draws in which the loss must fall for the law to price a rise
MOST_LOG_COMPUTE = 20.0  # log of a factor of compute beyond which none is told apart


@dataclass(frozen=True)
class LossLaw:
    """Draws of the law: arrays (draw,), but for the scalars."""

    first: float  # log2 n0
    last: float  # log2 of the widest n
    asymptote: Floats
    amplitude: Floats
    exponent: Floats
    left_out: int  # narrow settings that no law of this kind fits together with the others

    def loss(self, log2_n: float) -> Floats:
        """Return the loss at n."""
        return self.asymptote + self.amplitude * np.exp2(-self.exponent * (log2_n - self.first))

    def fall(self, log2_n: float) -> Floats:
        """Return by how much the loss falls per doubling of n, at n."""
        rate = np.log(2.0) * self.exponent * self.amplitude
        return rate * np.exp2(-self.exponent * (log2_n - self.first))

    @property
    def prices(self) -> bool:
        """Whether the loss falls surely enough to say what a rise is worth."""
        return bool((self.amplitude > 0).mean() >= SURE)

    def compute_percent(self, rise: Floats, doublings: float) -> Floats:
        """Return the compute that makes up for a rise of the loss, in percent, at the widest n.

        Args:
            rise: of the loss, (draw,).
            doublings: of compute for one doubling of n.
        """
        fall = float(np.median(self.fall(self.last))) / doublings
        return 100.0 * np.expm1(np.minimum(np.log(2.0) * rise / fall, MOST_LOG_COMPUTE))


def fit_loss_law(log2_n: Floats, losses: Floats, rng: np.random.Generator) -> LossLaw | None:
    """Fit the law to draws of the loss at the optimum.

    Args:
        log2_n: (setting,) ascending, all different.
        losses: (draw, setting).

    Returns:
        None for fewer than two settings.
    """
    if len(log2_n) < 2:
        return None
    kept, fits = 0, _fits(log2_n, losses)
    while fits.ratio > MISFIT and len(log2_n) - kept > FEWEST:
        kept += 1
        fits = _fits(log2_n[kept:], losses[:, kept:])
    chosen = rng.choice(len(EXPONENTS), size=len(losses), p=fits.weights)
    coefficients = fits.middle[chosen] + fits.ratio * (
        fits.draws[chosen, np.arange(len(losses))] - fits.middle[chosen]
    )
    return LossLaw(
        first=float(log2_n[kept]),
        last=float(log2_n[-1]),
        asymptote=coefficients[:, 0],
        amplitude=coefficients[:, 1],
        exponent=EXPONENTS[chosen],
        left_out=kept,
    )


@dataclass(frozen=True)
class _Fits:
    middle: Floats  # (exponent, 2): a and b through the mean losses
    draws: Floats  # (exponent, draw, 2)
    weights: Floats  # (exponent,)
    ratio: float  # Birge's, at least one


def _fits(log2_n: Floats, losses: Floats) -> _Fits:
    mean = losses.mean(axis=0)
    least = (LEAST_ERROR * np.abs(mean).max()) ** 2 + 1e-300
    variance = np.maximum(losses.var(axis=0), least)
    middle, draws, chi2 = [], [], []
    for exponent in EXPONENTS:
        falling = np.exp2(-exponent * (log2_n - log2_n[0]))
        design = np.stack([np.ones_like(falling), falling], axis=1)
        weighted = design / variance[:, None]
        solve = np.linalg.solve(design.T @ weighted, weighted.T)
        middle.append(solve @ mean)
        draws.append(losses @ solve.T)
        chi2.append(float(((mean - design @ middle[-1]) ** 2 / variance).sum()))
    chi2_ = np.array(chi2)
    freedom = len(log2_n) - 3
    ratio = max(1.0, float(np.sqrt(chi2_.min() / freedom))) if freedom > 0 else 1.0
    weights = np.exp(-0.5 * (chi2_ - chi2_.min()) / ratio**2)
    return _Fits(np.array(middle), np.array(draws), weights / weights.sum(), ratio)
