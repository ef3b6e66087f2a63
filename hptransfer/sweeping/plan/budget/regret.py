"""What a design's transferred value is expected to cost at the target: a simulation.

Draws of a truth (the optimum, its drift with width, how it moves with the length of training) are
met by draws of what the design would measure. Each width's optimum has the error of the real curve
fit on noisy points of the design's grid, and the analysis's model error; the three laws are fitted
and mixed as `fit` does, and their value at the target pays the known basin's rise. The draws are
the same for every design, so that designs differ by what they are and not by luck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.basin import BASIN_RISE, FLAT_RANGE, MODEL_ERROR_STEPS
from hptransfer.analysis.basins.curve import Floats, fit_curves
from hptransfer.analysis.laws.regret import COMMON
from hptransfer.sweeping.plan.budget.candidates import Candidate
from hptransfer.sweeping.plan.budget.knowledge import STEPS_SD, Knowledge
from hptransfer.sweeping.plan.budget.units import Workload
from hptransfer.system.random_streams import stream

DRAWS = 400
MOST_WIDTHS = 6
PHASES = 5  # of the grid against the optimum
FIT_DRAWS = 80  # of the noise, for each phase
REACH = 4  # grid steps that a fit is shown on each side of the optimum
WINDOW = 2  # grid steps that the analysis fits on each side of the best point
LEAST_OPTIMA = 3  # for a law
CLIFF_QUANTILE = 2.33  # of a normal: at most 1 % of draws past the cliff


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
class Fit:
    """How well one width's optimum would be found."""

    sd: float  # octaves, of the fit alone
    lost: float  # share of fits that resolve no optimum


class Predictor:
    """Predicts regret at a target of so many steps."""

    def __init__(self, knowledge: Knowledge, *, target_width: int, target_steps: int) -> None:
        self._known = knowledge
        self._target_width, self._target_steps = target_width, target_steps
        rng = stream("budget", "truth")
        self._place = rng.standard_normal(DRAWS)
        self._drift = rng.standard_normal(DRAWS)
        self._steps = rng.standard_normal(DRAWS)
        self._converges = rng.random(DRAWS) < 0.5
        self._errors = rng.standard_normal((DRAWS, MOST_WIDTHS))
        self._shared = rng.standard_normal(DRAWS)
        self._luck = rng.random((DRAWS, MOST_WIDTHS))
        self._fits: dict[tuple[float, int], Fit] = {}

    def predict(self, candidate: Candidate) -> PredictedRegret:
        """Return the regret that the value transferred by a design would have."""
        widths = np.array(candidate.widths, dtype=float)
        optima = self._optima(widths, candidate.steps)
        step, fit = candidate.axis.step, self.fit(candidate.axis.step, len(candidate.seeds))
        model = MODEL_ERROR_STEPS * step
        sd = float(np.hypot(fit.sd, model))
        inside = (optima >= candidate.axis.low + step) & (optima <= candidate.axis.high - step)
        count = len(widths)
        usable = inside & (self._luck[:, :count] >= fit.lost)
        measured = np.clip(optima, candidate.axis.low, candidate.axis.high)
        own = float(np.hypot(fit.sd, np.sqrt(1.0 - COMMON) * model))
        measured = measured + own * self._errors[:, :count]
        measured += np.sqrt(COMMON) * model * self._shared[:, None]
        value, value_sd = transferred(widths, measured, usable, sd, float(self._target_width))
        value = np.minimum(value, value - CLIFF_QUANTILE * value_sd + self._known.cliff)
        target = self._optima(np.array([self._target_width]), self._target_steps)[:, 0]
        regret = self._rise(value - target)
        low, high = np.quantile(regret, (0.05, 0.95))
        return PredictedRegret(float(regret.mean()), float(low), float(high))

    def fit(self, step: float, seeds: int) -> Fit:
        """Return how well a width's optimum is found on a grid with so many seeds."""
        if (step, seeds) not in self._fits:
            self._fits[step, seeds] = simulated_fit(self._known, step, seeds)
        return self._fits[step, seeds]

    def _optima(self, widths: Floats, steps: int) -> Floats:
        """Return true optima (draw, width): half of them drift for ever, half converge."""
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


def transferred(
    widths: Floats, optima: Floats, usable: NDArray[np.bool_], sd: float, target: float
) -> tuple[Floats, Floats]:
    """Return the laws' mixed value at the target and its sd, per draw.

    Optima have the axes (draw, width) and equal sds. Below three usable ones the constant counts
    alone, and without any the mean of all.
    """
    some = usable.any(axis=1, keepdims=True)
    weight = np.where(some, usable, True).astype(float)
    total, lawful = weight.sum(axis=1), usable.sum(axis=1) >= LEAST_OPTIMA
    mean = (weight * optima).sum(axis=1) / total
    centred = weight * (optima - mean[:, None])
    values, variances, scores = [mean], [sd**2 / total], [_score(centred, sd, 1)]
    for regressor, at in ((np.log2(widths), np.log2(target)), (1 / widths, 1 / target)):
        centre = (weight * regressor).sum(axis=1) / total
        place = weight * (regressor - centre[:, None])
        spread = np.where(lawful, (place**2).sum(axis=1), np.inf)
        slope = (place * optima).sum(axis=1) / spread
        values.append(mean + slope * (at - centre))
        variances.append(sd**2 / total + sd**2 * (at - centre) ** 2 / spread)
        scores.append(_score(centred - slope[:, None] * place, sd, 2))
    score = np.where(lawful, np.stack(scores), -np.inf)
    score[0] = scores[0]
    shares = np.exp(score - score.max(axis=0))
    shares /= shares.sum(axis=0)
    value = (shares * values).sum(axis=0)
    between = (shares * (np.stack(values) - value) ** 2).sum(axis=0)
    return value, np.sqrt((shares * variances).sum(axis=0) + between)


def _score(residual: Floats, sd: float, coefficients: int) -> Floats:
    """Return a law's log weight, -(χ² + 2k)/2."""
    return -((residual**2).sum(axis=1) / sd**2 + 2 * coefficients) / 2


def simulated_fit(known: Knowledge, step: float, seeds: int) -> Fit:
    """Fit noisy points of grids that lie in several ways about an optimum at 0."""
    rng = stream("budget", "fit")  # the same noise for every grid and number of seeds
    errors, lost = [], 0
    for phase in (np.arange(PHASES) + 0.5) / PHASES - 0.5:
        theta = step * (np.arange(-REACH, REACH + 1) + phase)
        noise = rng.standard_normal((FIT_DRAWS, len(theta)))
        found = _phase_errors(known, theta, noise * known.noise / np.sqrt(seeds), seeds)
        errors.append(found)
        lost += FIT_DRAWS - len(found)
    every = np.concatenate(errors)
    sd = float(np.sqrt((every**2).mean())) if len(every) else step
    return Fit(sd, lost / (PHASES * FIT_DRAWS))


def _phase_errors(known: Knowledge, theta: Floats, noise: Floats, seeds: int) -> Floats:
    """Return the errors (draw,) of the optima that one grid resolves."""
    sound = theta < known.cliff
    theta, noise = theta[sound], noise[:, sound]
    rise = known.shape.rise(theta)[0]
    means = rise + noise
    best, errors = means.argmin(axis=1), []
    for index in np.unique(best):
        drawn = means[best == index]
        if index == len(theta) - 1 and not sound.all():
            bracket = (theta[index - 1] + theta[index] + (theta[1] - theta[0])) / 2
            errors.append(np.full(len(drawn), bracket))
            continue
        near = np.abs(np.arange(len(theta)) - index) <= WINDOW
        low = rise <= rise.min() + BASIN_RISE * (known.loss_at_init - known.level)
        window = (near & low) | (np.abs(np.arange(len(theta)) - index) <= 1)
        points = drawn[:, window]
        flat = np.ptp(points, axis=1) <= FLAT_RANGE * known.noise / np.sqrt(seeds)
        clear = points[~flat]
        if len(clear) and window.sum() >= LEAST_OPTIMA and 0 < index < len(theta) - 1:
            errors.append(fit_curves(theta[window], clear).optimum)
    return np.concatenate(errors) if errors else np.zeros(0)
