"""The verdict on a transfer: does the optimum move on the way, and does ignoring that matter?

*Moves*: the optimum at the destination lies more than `max_octaves` from the origin's. *Matters*:
keeping the origin's value at the destination costs more than `max_compute_percent` of the
destination's compute, by the law of the loss; `max_loss_percent` of the loss where no such law is
known; or `max_regret` in units of the loss where that is set. Each is `yes` where the quantity is
above its limit with a probability of at least `sure`; `no` where it is above twice the cost's limit
(the movement's own limit) with a probability of at most 1 - sure; else `unclear`. Where the optimum
does not move and following the law would save a fifth of the limit at most, a `no` on the cost
needs a probability of SURE_ENOUGH only.

The way leads from the widest proxy to the target; without a target, from the narrowest width to the
widest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

import numpy as np

from hptransfer.analysis.answer.fitted_arm import FittedArm
from hptransfer.analysis.answer.settings import Setting
from hptransfer.analysis.basins.basin import Basin
from hptransfer.analysis.basins.curve import Curves, Floats
from hptransfer.analysis.basins.numbers import quantile
from hptransfer.analysis.laws.loss_law import LossLaw
from hptransfer.config.sweep import VerdictConfig

SPARE = 2.0  # limits that a cost may reach where it is said not to matter
LITTLE = 0.2  # share of the limit; a cost of which the law would save less is unavoidable
SURE_ENOUGH = 0.75  # probability of a `no` in that case
MORE_LIKELY = 0.5
TRIED_VALUES = 81  # values among which the one of least expected cost is taken


class Said(Enum):
    """The answer to one of the two questions."""

    yes = "yes"
    no = "no"
    unclear = "unclear"

    @classmethod
    def of(cls, size: Floats, limit: float, sure: float, *, spare: float = 1.0) -> Said:
        """Return whether a quantity (draw,) exceeds a limit; a `no` tolerates `spare` limits."""
        if (size > limit).mean() >= sure:
            return cls.yes
        return cls.no if (size > spare * limit).mean() <= 1.0 - sure else cls.unclear


class Gap(Enum):
    """What keeps an arm from an answer."""

    one_setting = "one_setting"  # along the main axis
    no_noise = "no_noise"
    constant = "constant"  # all losses are the same
    lost = "lost"  # every point failed at the last setting
    beyond = "beyond"  # the optimum lies beyond the swept values, more likely than not


class Verdict(Enum):
    """Both answers in one word."""

    transfers = "transfers"  # ignoring the movement does not matter
    drifts = "drifts"  # the optimum moves, and ignoring that matters
    inconclusive = "inconclusive"


@dataclass(frozen=True)
class Cost:
    """What one value costs at the destination, (draw,) each."""

    rise: Floats  # of y (scale.py), +inf past the cliff
    loss: Floats  # the rise in units of the loss
    percent: Floats | None  # of the loss; None where losses are not all positive
    compute_percent: Floats | None  # None where no law prices a loss
    typical_compute_percent: float | None  # of the mean loss: draws far up a wall do not decide

    @property
    def mean_loss(self) -> float:
        """The mean rise of the loss, of draws that do not fail."""
        return _finite_mean(self.loss)

    @property
    def mean_percent(self) -> float | None:
        """The mean rise in percent of the loss, of draws that do not fail."""
        return None if self.percent is None else _finite_mean(self.percent)


# The mean of each field of `Cost` that a limit may be of.
MEAN_OF = {
    "loss": "mean_loss",
    "percent": "mean_percent",
    "compute_percent": "typical_compute_percent",
}


@dataclass(frozen=True)
class Judged:
    """One arm's answer: the value for the destination, what it costs, and the verdict."""

    arm: FittedArm
    price_law: LossLaw | None  # that prices a loss: the arm's own, or another arm's of its family
    joint: float | None = None  # the value beside those of the other hyperparameters, if several

    @cached_property
    def emitted(self) -> float:
        """The value of least expected cost at the destination, short of the cliff.

        Of several hyperparameters that are searched together it is this one's part of the joint
        value.
        """
        if self.joint is not None:
            return self.joint
        return min(best_value(self.arm.at_destination), self.arm.highest_for_destination)

    @cached_property
    def kept(self) -> float:
        """The origin's own best value: what one would use if movement were ignored."""
        there = self.arm.at_destination
        here = replace(there, optimum=self.arm.optimum_draws(self.arm.origin))
        return min(best_value(here), self.arm.highest_at(self.arm.origin))

    @cached_property
    def emitted_cost(self) -> Cost:
        """What the emitted value costs."""
        return self.cost_of(self.emitted)

    @cached_property
    def ignoring_cost(self) -> Cost:
        """What keeping the origin's value costs."""
        return self.cost_of(self.kept)

    def cost_of(self, value: float) -> Cost:
        """Return what a value costs at the destination."""
        there = self.arm.priced_at_destination
        past = value - there.optimum >= self.arm.cliff
        rise = np.where(past, np.inf, np.minimum(there.cost(value), self.arm.worst_rise))
        loss = self.arm.scale.loss_rise(there.level, rise)
        percent = self.arm.scale.percent(rise)
        compute = typical = None
        if self.price_law is not None:
            doublings = self.arm.compute_doublings
            compute = self.price_law.compute_percent(loss, doublings)
            mean = np.array([_finite_mean(loss)])
            typical = float(self.price_law.compute_percent(mean, doublings)[0])
        return Cost(rise, loss, percent, compute, typical)

    @property
    def moves(self) -> Said:
        """Whether the optimum moves on the way."""
        if not self.is_supported:
            return Said.unclear
        rule = self.arm.request.rule
        return Said.of(np.abs(self.arm.movement), rule.max_octaves, rule.sure)

    @property
    def matters(self) -> Said:
        """Whether ignoring the movement matters."""
        limit, sure = self.limit, self.arm.request.rule.sure
        if not self.is_supported or limit is None:
            return Said.unclear
        name, most = limit
        cost: Floats = getattr(self.ignoring_cost, name)
        said = Said.of(cost, most, sure, spare=SPARE)
        if said is Said.unclear and self.moves is Said.no and self._is_unavoidable(name, most):
            return Said.of(cost, most, min(sure, SURE_ENOUGH), spare=SPARE)
        return said

    def _is_unavoidable(self, name: str, most: float) -> bool:
        """Say whether following the law would save little of what ignoring the movement costs.

        What is left is how optima scatter between settings, which no rule foresees.
        """
        mean = MEAN_OF[name]
        saved = getattr(self.ignoring_cost, mean) - getattr(self.emitted_cost, mean)
        return bool(saved <= LITTLE * most)

    @property
    def is_supported(self) -> bool:
        """Whether the rows can answer the two questions."""
        return self.gap is None

    @cached_property
    def gap(self) -> Gap | None:
        """What keeps the two questions from an answer, or None."""
        arm = self.arm
        if len(arm.on_main) < 2:
            return Gap.one_setting
        if arm.noise is None:
            return Gap.no_noise
        finite = arm.arm.rows.loss[np.isfinite(arm.arm.rows.loss)]
        if len(finite) and np.ptp(finite) == 0.0:
            return Gap.constant
        last = arm.on_main[-1].value(arm.layout.main)
        if any(lost.value(arm.layout.main) > last for lost in self.lost):
            return Gap.lost
        return Gap.beyond if self.beyond is not None else None

    @property
    def _main_basins(self) -> list[Basin]:
        return [self.arm.basins[setting] for setting in self.arm.on_main]

    @property
    def lost(self) -> list[Setting]:
        """The settings along the main axis at which every point failed."""
        return [setting for setting in self.arm.layout.on_main if setting in self.arm.lost]

    @cached_property
    def beyond(self) -> tuple[str, float] | None:
        """The side and end of the swept values beyond which the optimum at the destination lies.

        None where that is not more likely than not, or costs little, or where two settings or more
        have their own optimum within their grids, so that the law leads there.
        """
        inside = [basin for basin in self._main_basins if max(basin.beyond) <= MORE_LIKELY]
        if len(inside) > 1:
            return None
        grids = [basin.grid for basin in self.arm.basins.values()]
        there = self.arm.destination_draws
        low = min(float(grid.theta[0]) for grid in grids)
        high = max(float(grid.theta[-1]) for grid in grids)
        is_open = all(grid.cliff is None for grid in grids)
        limit = self.limit
        if limit is not None:
            cost: Floats = getattr(self.emitted_cost, limit[0])
            if Said.of(cost, limit[1], self.arm.request.rule.sure, spare=SPARE) is Said.no:
                return None
        if (there < low).mean() > MORE_LIKELY:
            return "low", low
        return ("high", high) if is_open and (there > high).mean() > MORE_LIKELY else None

    @property
    def limit(self) -> tuple[str, float] | None:
        """The field of `Cost` that decides whether it matters, and its limit; None: neither."""
        rule: VerdictConfig = self.arm.request.rule
        if rule.max_regret is not None:
            return "loss", rule.max_regret
        if self.price_law is not None:
            return "compute_percent", rule.max_compute_percent
        return ("percent", rule.max_loss_percent) if self.arm.scale.is_log else None

    @property
    def verdict(self) -> Verdict:
        """Both answers in one word."""
        if self.matters is Said.no:
            return Verdict.transfers
        if self.matters is Said.yes and self.moves is Said.yes:
            return Verdict.drifts
        return Verdict.inconclusive


def _finite_mean(draws: Floats) -> float:
    """Return the mean of the draws that do not fail; infinite where all fail."""
    finite = draws[np.isfinite(draws)]
    return float(finite.mean()) if len(finite) else np.inf


def best_value(there: Curves) -> float:
    """Return the value of least expected cost."""
    low, high = quantile(there.optimum, 0.02), quantile(there.optimum, 0.98)
    values = np.linspace(low, high, TRIED_VALUES) if high > low else np.array([low])
    expected = [float(there.cost(value).mean()) for value in values]
    return float(values[int(np.argmin(expected))])


def judge(arms: list[FittedArm]) -> list[Judged]:
    """Return the answers of the arms of one family, which share the law that prices a loss.

    An arm whose own loss does not surely fall along the axis takes the law of the arm whose loss is
    the lowest: the same target would be trained with it.
    """
    priced = [arm for arm in arms if _prices(arm)]
    fallback = min(priced, key=lambda arm: float(np.median(arm.levels[:, -1])), default=None)
    found = []
    for arm in arms:
        lender = arm if _prices(arm) else fallback
        found.append(Judged(arm, None if lender is None else lender.price_law))
    return found


def _prices(arm: FittedArm) -> bool:
    return arm.price_law is not None and arm.price_law.prices
