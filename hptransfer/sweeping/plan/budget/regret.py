"""What a candidate's transferred value is expected to cost at the target: a simulation.

Draws of a truth (the optimum, its drift with width, how it moves with the length of training) are
met by draws of what the candidate's sweep would find. The analysis itself fits simulated basins of
the known shape and noise, which gives the error of a width's optimum; the drawn optima go to the
target by the analysis's law; and the value of least expected cost there pays the known basin's
rise. The draws are the same for every candidate, so that candidates differ by what they are and
not by luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.basin import NUDGE, NUDGE_STEPS, Censoring, build_grid, fit_basins
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.grid import LOW_POINTS
from hptransfer.analysis.basins.noise import Noise
from hptransfer.analysis.laws.hierarchy import Prior
from hptransfer.analysis.surfaces.joint_regret import CLIFF_RISK
from hptransfer.sweeping.plan.budget.candidates import SEED_COUNTS, WIDTH_COUNTS, Candidate
from hptransfer.sweeping.plan.budget.knowledge import STEPS_SD, Knowledge
from hptransfer.sweeping.plan.budget.units import Workload
from hptransfer.system.random_streams import stream

DRAWS = 200  # of the truth, each met by a sweep
PHASES = 4  # places of a simulated grid against the optimum
FIT_DRAWS = 4  # of the noise, at each place
REACH = 4  # grid steps on each side of the optimum, of a simulated grid
FINENESS = 1 / 16  # grid steps between candidate minima of simulated basins
UNRESOLVED_SD = 1.0  # octaves: the posterior's, of an optimum beyond the grid or lost in noise
# Sds of the optimum by which a value must stay below the cliff, so that the share is no larger.
CLIFF_SDS = NormalDist().inv_cdf(1.0 - CLIFF_RISK)


@dataclass(frozen=True)
class PredictedRegret:
    """The target's predicted regret: the mean, and 5 % and 95 %, in units of the loss."""

    mean: float
    low: float
    high: float
    percent: float | None  # the mean in % of the loss; None where losses are not all positive


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

    sd: float  # of a fit that resolves it, as the analysis gives it
    shape_sd: float  # the part of it that all widths share, from the basin's unknown shape
    lost: float  # share of fits that resolve no optimum

    @property
    def own_sd(self) -> float:
        """The sd of the part that is each width's own."""
        return float(np.sqrt(max(self.sd**2 - self.shape_sd**2, 0.0)))


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
        is_lost = self._luck[:, : len(widths)] < error.lost
        own_sd = np.where(is_lost, UNRESOLVED_SD, error.own_sd)
        found = optima + error.shape_sd * self._common
        found = found + own_sd * self._errors[:, : len(widths)]
        variances = np.where(usable, error.sd, UNRESOLVED_SD) ** 2
        mean, variance = _law(tuple(widths), self._target_width).given(found, variances)
        value = value_of(self._known, mean, variance)
        target = self._optima(np.array([self._target_width]), self._target_steps)[:, 0]
        rise = self._rise(value - target)
        scale = self._known.scale
        regret, percent = scale.loss_rise(self._known.level, rise), scale.percent(rise)
        low, high = np.quantile(regret, (0.05, 0.95))
        return PredictedRegret(
            mean=float(regret.mean()),
            low=float(low),
            high=float(high),
            percent=None if percent is None else float(percent.mean()),
        )

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
        """Return y above the optimum: of a failed run all that training gains."""
        known = self._known
        most = known.start - known.level
        rise = np.minimum(known.shape.rise(offset)[0], most)
        return np.where(offset >= known.cliff, most, rise)


@lru_cache
def _law(widths: tuple[float, ...], target: int) -> Prior:
    return Prior.of(np.log2(widths)[:, None], np.log2([target]))


def value_of(known: Knowledge, mean: Floats, variance: Floats) -> Floats:
    """Return the value of least expected cost, short of the cliff, for a normal optimum.

    Where the basin has the skew c, the expected cost is least c/2 of the variance below the mean.
    """
    value = mean - known.shape.skew * variance / 2.0
    return np.minimum(value, mean - CLIFF_SDS * np.sqrt(variance) + known.cliff)


def simulated_error(known: Knowledge, step: float, seeds: int) -> OptimumError:
    """Return the error that the analysis gives the optima of simulated basins.

    The optimum of the basins is at 0; their grids lie in several ways about it.
    """
    rng = stream("budget", "fit")  # the same noise for every grid and number of seeds
    noise = Noise(known.noise, (seeds - 1) * (LOW_POINTS - 1) * min(WIDTH_COUNTS))
    grids = {}
    for phase in (np.arange(PHASES) + 0.5) / PHASES - 0.5:
        theta = step * (np.arange(-REACH, REACH + 1) + phase)
        rise = np.where(theta < known.cliff, known.shape.rise(theta)[0], np.inf)
        errors = known.noise * rng.standard_normal((FIT_DRAWS, max(SEED_COUNTS), len(theta)))
        for draw, error in enumerate(errors[:, :seeds]):
            y = known.level + rise + error
            grids[phase, draw] = build_grid(theta, y, loss_at_init=known.start)
    there = {key: grid for key, grid in grids.items() if grid is not None}
    ends = (REACH + 1) * step
    candidates = np.arange(-ends, ends + 1e-9, FINENESS * step)
    basins = fit_basins(there, noise, candidates).values()
    found = [b.moments[1] for b in basins if b.censored in (None, Censoring.divergence)]
    if not found:
        return OptimumError(step, 0.0, 1.0)
    sd, shape_sd = float(np.sqrt(np.mean(found))), float(np.hypot(NUDGE, NUDGE_STEPS * step))
    return OptimumError(sd, min(shape_sd, sd), 1.0 - len(found) / len(grids))
