"""What a candidate's transferred value is expected to cost at the target: a simulation.

Draws of a truth (the optimum, its drift with width, how it moves with the length of training) are
met by draws of what the candidate's sweep would find. The analysis itself fits simulated basins of
the known shape and noise, which gives the error of a width's optimum; it fits the laws to the
drawn optima and weighs them; and the weighted laws' value at the target pays the known basin's
rise. The draws are the same for every candidate, so that candidates differ by what they are and
not by luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.basin import build_grid, fit_basin
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.noise import Noise
from hptransfer.analysis.laws.law import (
    MIN_WIDTHS,
    LawName,
    Optima,
    fit_law,
    fit_laws,
    law_weights,
)
from hptransfer.analysis.laws.regret import CLIFF_RISK, COMMON
from hptransfer.sweeping.plan.budget.candidates import SEED_COUNTS, WIDTH_COUNTS, Candidate
from hptransfer.sweeping.plan.budget.knowledge import STEPS_SD, Knowledge
from hptransfer.sweeping.plan.budget.units import Workload
from hptransfer.system.random_streams import stream

DRAWS = 200  # of the truth, each met by a sweep
SPREAD_DRAWS = 50  # of the error of a law's value at the target
PHASES = 5  # places of a simulated grid against the optimum
FIT_DRAWS = 6  # of the noise, at each place
POSTERIOR_DRAWS = 100  # of the optimum, in each simulated fit
REACH = 4  # grid steps on each side of the optimum, of a simulated grid
# Sds by which a value must stay below the cliff, so that it passes it with the analysis's risk.
CLIFF_SDS = NormalDist().inv_cdf(1.0 - CLIFF_RISK)


@dataclass(frozen=True)
class PredictedRegret:
    """The target's predicted regret, in units of the loss: the mean, and 5 % and 95 %."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Proposal:
    """A candidate with its cost in the budget's unit and the regret that it would leave."""

    candidate: Candidate
    work: Workload
    spent: float
    regret: PredictedRegret


@dataclass(frozen=True)
class OptimumError:
    """The error with which a width's optimum would be found, in octaves."""

    fit_sd: float  # from noise
    shape_sd: float  # from the basin's unknown shape
    lost: float  # share of fits that resolve no optimum

    @property
    def sd(self) -> float:
        """The sd that the analysis would give the optimum."""
        return float(np.hypot(self.fit_sd, self.shape_sd))

    @property
    def common_sd(self) -> float:
        """The sd of the part that all widths of a sweep share."""
        return float(np.sqrt(COMMON)) * self.shape_sd

    @property
    def own_sd(self) -> float:
        """The sd of the part that is each width's own."""
        return float(np.sqrt(self.sd**2 - self.common_sd**2))


class Predictor:
    """Predicts the regret at a target of some width and length of training."""

    def __init__(self, knowledge: Knowledge, *, target_width: int, target_steps: int) -> None:
        self._known = knowledge
        self._target_width, self._target_steps = target_width, target_steps
        rng, widths = stream("budget", "truth"), max(WIDTH_COUNTS)
        self._place = rng.standard_normal(DRAWS)
        self._drift = rng.standard_normal(DRAWS)
        self._steps = rng.standard_normal(DRAWS)
        self._converges = rng.random(DRAWS) < 0.5
        self._errors = rng.standard_normal((DRAWS, widths))
        self._common = rng.standard_normal((DRAWS, 1))
        self._luck = rng.random((DRAWS, widths))
        self._optimum_errors: dict[tuple[float, int], OptimumError] = {}
        self._regrets: dict[tuple[object, ...], PredictedRegret] = {}

    def predict(self, candidate: Candidate) -> PredictedRegret:
        """Return the regret of the value that a candidate's sweep would transfer."""
        widths, axis = np.array(candidate.widths, dtype=float), candidate.axis
        optima = self._optima(widths, candidate.steps)
        error = self.optimum_error(axis.step, len(candidate.seeds))
        inside = (optima >= axis.low + axis.step) & (optima <= axis.high - axis.step)
        usable = inside & (self._luck[:, : len(widths)] >= error.lost)
        clipped = np.clip(optima, axis.low, axis.high)
        # Grids that hold all of the optima predict the same, whatever their ends.
        key = (candidate.widths, candidate.steps, error, usable.tobytes(), clipped.tobytes())
        if key not in self._regrets:
            self._regrets[key] = self._regret(widths, clipped, usable, error)
        return self._regrets[key]

    def _regret(
        self, widths: Floats, optima: Floats, usable: NDArray[np.bool_], error: OptimumError
    ) -> PredictedRegret:
        found = optima + error.common_sd * self._common
        found = found + error.own_sd * self._errors[:, : len(widths)]
        value, sd = law_values(widths, found, usable, error.sd, float(self._target_width))
        value = np.minimum(value, value - CLIFF_SDS * sd + self._known.cliff)
        target = self._optima(np.array([self._target_width]), self._target_steps)[:, 0]
        regret = self._rise(value - target)
        low, high = np.quantile(regret, (0.05, 0.95))
        return PredictedRegret(float(regret.mean()), float(low), float(high))

    def optimum_error(self, step: float, seeds: int) -> OptimumError:
        """Return the error of a width's optimum on a grid of so many octaves and seeds."""
        if (step, seeds) not in self._optimum_errors:
            self._optimum_errors[step, seeds] = simulated_error(self._known, step, seeds)
        return self._optimum_errors[step, seeds]

    def _optima(self, widths: Floats, steps: int) -> Floats:
        """Return true optima (draw, width): half of the draws drift for ever, half converge."""
        known = self._known
        place = known.optimum + known.optimum_sd * self._place
        moved = STEPS_SD * self._steps * np.log2(steps / known.steps)
        drift = known.drift + known.drift_sd * self._drift
        ratio = widths / known.width
        ways = np.where(self._converges[:, None], 2.0 * (1.0 - 1.0 / ratio), np.log2(ratio))
        return (place + moved)[:, None] + drift[:, None] * ways

    def _rise(self, offset: Floats) -> Floats:
        """Return the loss above the optimum: of a failed run all that training gains."""
        known = self._known
        most = known.loss_at_init - known.level
        rise = np.minimum(known.shape.rise(offset)[0], most)
        return np.where(offset >= known.cliff, most, rise)


def law_values(
    widths: Floats, optima: Floats, usable: NDArray[np.bool_], sd: float, target: float
) -> tuple[Floats, Floats]:
    """Return the weighted laws' value at the target and its sd, for each simulated sweep.

    A sweep with fewer than three usable optima follows the constant law, one with none the mean of
    them all.

    Args:
        widths: of the proxies, (width,).
        optima: found by each sweep, (sweep, width).
        usable: whether an optimum is resolved, (sweep, width).
        sd: of each optimum, as the analysis gives it.
        target: width.
    """
    value, spread = np.empty(len(optima)), np.empty(len(optima))
    errors = sd * _unit_errors()[:, : len(widths)]
    for pattern in np.unique(usable, axis=0):
        sweeps = (usable == pattern).all(axis=1)
        chosen = pattern if pattern.any() else ~pattern
        drawn, count = optima[sweeps][:, chosen], int(sweeps.sum())
        # The laws of every sweep, and after them those of errors alone: they tell the value's sd.
        fitted = Optima(
            widths[chosen],
            drawn.mean(axis=0),
            np.full(int(chosen.sum()), sd**2),
            np.vstack([drawn, errors[:, chosen]]),
        )
        is_lawful = pattern.sum() >= MIN_WIDTHS
        laws = fit_laws(fitted) if is_lawful else (fit_law(LawName.constant, fitted),)
        at = np.stack([law.draws_at(np.array([target]))[:, 0] for law in laws])
        chi2 = np.stack([law.chi2_draws for law in laws])
        counts = np.array([law.coefficients.size for law in laws], dtype=float)
        weights = law_weights(chi2[:, :count], counts[:, None])
        mean = (weights * at[:, :count]).sum(axis=0)
        variance = at[:, count:].var(axis=1)[:, None] + (at[:, :count] - mean) ** 2
        value[sweeps], spread[sweeps] = mean, np.sqrt((weights * variance).sum(axis=0))
    return value, spread


@cache
def _unit_errors() -> Floats:
    return stream("budget", "laws").standard_normal((SPREAD_DRAWS, max(WIDTH_COUNTS)))


def simulated_error(known: Knowledge, step: float, seeds: int) -> OptimumError:
    """Return the error that the analysis gives the optima of simulated basins.

    The optimum of the basins is at 0; their grids lie in several ways about it.
    """
    rng = stream("budget", "fit")  # the same noise for every grid and number of seeds
    degrees = (seeds - 1) * 2 * REACH * MIN_WIDTHS  # noise is pooled over the widths
    variances = known.noise**2 * degrees / rng.chisquare(degrees, POSTERIOR_DRAWS)
    noise, found, count = Noise(known.noise, degrees, variances), [], PHASES * FIT_DRAWS
    for phase in (np.arange(PHASES) + 0.5) / PHASES - 0.5:
        theta = step * (np.arange(-REACH, REACH + 1) + phase)
        rise = np.where(theta < known.cliff, known.shape.rise(theta)[0], np.inf)
        errors = known.noise * rng.standard_normal((FIT_DRAWS, max(SEED_COUNTS), len(theta)))
        for error in errors[:, :seeds]:
            losses = known.level + rise + error
            grid = build_grid(theta, losses, loss_at_init=known.loss_at_init)
            basin = grid and fit_basin(grid, noise, rng=rng, draws=POSTERIOR_DRAWS)
            if basin and basin.theta_draws is not None:
                # Beside a cliff no curve is fitted, and the optimum is drawn between two points.
                is_fitted = basin.fit_sd is not None
                sds = (basin.fit_sd, basin.model_sd) if is_fitted else (basin.theta_draws.std(), 0)
                found.append(sds)
    if not found:
        return OptimumError(step, 0.0, 1.0)
    fit_sd, shape_sd = np.sqrt(np.mean(np.square(found), axis=0))
    return OptimumError(float(fit_sd), float(shape_sd), 1.0 - len(found) / count)
