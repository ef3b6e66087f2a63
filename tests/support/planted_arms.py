"""Arms whose optimum follows a known law, analysed as `hptransfer fit` does, beside the truth.

An arm is a planted sweep of five widths, 32 to 512. Its optimum follows one of the four laws, each
equally often: constant, linear in log2 n, inverse, power (exponent 0.3 to 3). The target has two or
four times the widest width. How far the optimum moves is drawn so that what the constant value
costs at the target lies evenly between 0 and 4 δ, on either side, but no optimum lies more than 2.5
octaves from the grid's middle (the grid reaches 4); under the constant law the cost is zero.

True regret is what the arm's own constant value costs at the target by the planted shape. Its
classes: `low` at most δ/2, `high` at least 2 δ, `between` the rest. It counts as covered within the
ends of its interval, both included; one of at most NOTHING·δ also where the lower end is at most
NEARLY_NOTHING·δ, since the lower quantile of a regret, which is never negative, lies above zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hptransfer.analysis.answer.arm_answer import ArmAnswer, Request, answer_of, decision_of
from hptransfer.analysis.answer.verdict import Verdict
from hptransfer.analysis.basins.basin import build_grid, fit_basin, pool_noise
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import quantile
from hptransfer.analysis.conditions.conditions import Shift
from hptransfer.analysis.laws.law import LawName
from hptransfer.analysis.laws.regret import constant_value
from hptransfer.config.sweep import VerdictConfig
from tests.support import planted

DRAWS = 400
FARTHEST = 4.0  # the largest planted regret, in δ
HALF_RANGE = 2.5  # octaves from the grid's middle within which optima lie
NOTHING, NEARLY_NOTHING = 0.02, 0.05  # of δ
SLOWEST, FASTEST = 0.3, 3.0  # exponents of the planted power laws
RULE = VerdictConfig()
CLASSES = ("low", "between", "high")

Ends = tuple[float, float]


@dataclass(frozen=True)
class Arm:
    """How a planted arm's optimum follows the width, and the target that is asked of it."""

    truth: planted.Truth
    target: int

    @property
    def limit(self) -> float:
        """The true δ."""
        cell = self.truth.cell
        before, last = (planted.level(cell, width) for width in cell.widths[-2:])
        run_sd = cell.noise * float(np.hypot(1.0, planted.SEED_EFFECT)) * last
        return max(run_sd, RULE.gain_share * (before - last))  # the widths double


@dataclass(frozen=True)
class Outcome:
    """What the analysis of one arm said, and the truth."""

    law: LawName
    verdict: Verdict
    limit: float  # the fitted δ
    true_limit: float
    regret: float  # true, at the target
    theta: float  # true, at the target
    regret_ends: Ends | None  # 90 % interval over δ; None below three usable widths
    theta_ends: Ends | None

    @property
    def group(self) -> str:
        """The class of the true regret by the fitted δ."""
        return group(self.regret / self.limit)

    @property
    def true_group(self) -> str:
        """The class of the true regret by the true δ."""
        return group(self.regret / self.true_limit)


def group(ratio: float) -> str:
    """Return the class of a true regret over δ."""
    return "low" if ratio <= 0.5 else "high" if ratio >= 2.0 else "between"


def outcomes(cell: planted.Cell, repeats: int, *, seed: int = 0) -> list[Outcome]:
    """Plant, draw and analyse `repeats` arms, the laws in turn."""
    rng = np.random.default_rng([seed, cell.seeds, round(8 * cell.step), *cell.shape.encode()])
    laws = tuple(LawName)
    return [_outcome(cell, laws[index % len(laws)], rng) for index in range(repeats)]


def _outcome(cell: planted.Cell, law: LawName, rng: np.random.Generator) -> Outcome:
    arm = plant(cell, law, rng)
    optima = {width: arm.truth.optimum(width) for width in cell.widths}
    answer = analysed(planted.draw(cell, optima, rng), arm.target, rng)
    if answer.arm_optima is None:
        x = float(np.mean(list(optima.values())))
    else:
        x = constant_value(answer.arm_optima)
    limit = arm.limit if answer.limit is None else answer.limit
    return Outcome(
        law=law,
        verdict=decision_of(answer, RULE, hp="log2_lr").verdict,
        limit=limit,
        true_limit=arm.limit,
        regret=arm.truth.regret(arm.target, x),
        theta=arm.truth.optimum(arm.target),
        regret_ends=_ends(None if answer.at_target is None else answer.at_target / limit),
        theta_ends=_ends(answer.theta_target),
    )


def _ends(draws: Floats | None) -> Ends | None:
    return None if draws is None else (quantile(draws, 0.05), quantile(draws, 0.95))


def plant(cell: planted.Cell, law: LawName, rng: np.random.Generator) -> Arm:
    """Draw an arm of this law."""
    widths = np.array(cell.widths, dtype=float)
    target = int(widths[-1] * rng.choice([2, 4]))
    exponent = float(np.exp(rng.uniform(np.log(SLOWEST), np.log(FASTEST))))
    every = _moved(law, np.append(widths, target), widths[0], exponent)
    swept = every[:-1]
    gap = float(swept.mean() - every[-1])  # from the target's optimum up to the constant value
    ratio, side = FARTHEST * rng.uniform(), rng.choice([-1.0, 1.0])
    at_rest = Arm(planted.Truth(cell, lambda _: planted.CENTRE), target)
    scale = 0.0 if gap == 0.0 else _offset(at_rest, ratio, side=side) / gap
    if abs(scale) * np.ptp(swept) > 2.0 * HALF_RANGE:
        scale = float(np.sign(scale)) * 2.0 * HALF_RANGE / float(np.ptp(swept))
    middle = float(swept.max() + swept.min()) / 2.0

    def optimum(width: float) -> float:
        moved = _moved(law, np.array([width]), widths[0], exponent)
        return planted.CENTRE + scale * (float(moved[0]) - middle)

    return Arm(planted.Truth(cell, optimum), target)


def _moved(law: LawName, widths: Floats, narrowest: float, exponent: float) -> Floats:
    """Return the law's shape over width, its amplitude one."""
    match law:
        case LawName.constant:
            return np.zeros_like(widths)
        case LawName.linear:
            return np.log2(widths)
        case LawName.inverse:
            return narrowest / widths
        case LawName.power:
            return (narrowest / widths) ** exponent


def _offset(arm: Arm, ratio: float, *, side: float) -> float:
    """Return how far on `side` of the target's optimum a value costs `ratio` times δ."""
    distances = side * np.linspace(0.0, 2.0 * planted.REACH, 801)
    costs = planted.level(arm.truth.cell, arm.target) * arm.truth.rise(distances)
    return float(distances[np.searchsorted(costs, ratio * arm.limit)])


def analysed(drawn: planted.Drawn, target: int, rng: np.random.Generator) -> ArmAnswer:
    """Fit one arm."""
    built = {
        width: build_grid(theta, losses, loss_at_init=planted.LOSS_AT_INIT)
        for width, (theta, losses) in drawn.items()
    }
    grids = {width: grid for width, grid in built.items() if grid is not None}
    noise = pool_noise(grids.values(), rng=rng, draws=DRAWS)
    basins = {width: fit_basin(grid, noise, rng=rng, draws=DRAWS) for width, grid in grids.items()}
    request = Request(target, RULE, DRAWS, None, None)
    return answer_of(basins, noise, request, shift=Shift(), rng=rng)


def summary(found: Sequence[Outcome]) -> dict[str, Any]:
    """Return the shares of verdicts by class, and coverage and width of the intervals."""
    clear = [outcome for outcome in found if outcome.group != "between"]
    truly = [outcome for outcome in found if outcome.true_group != "between"]
    undecided = Verdict.inconclusive
    return {
        "n": len(found),
        "verdicts": {name: _shares(o for o in found if o.group == name) for name in CLASSES},
        "by_true_limit": {
            name: _shares(o for o in found if o.true_group == name) for name in CLASSES
        },
        "inconclusive": _share([outcome.verdict is undecided for outcome in clear]),
        "inconclusive_by_true_limit": _share([o.verdict is undecided for o in truly]),
        "regret": _coverage([(o.regret / o.limit, o.regret_ends) for o in found], floor=True),
        "theta": _coverage([(o.theta, o.theta_ends) for o in found]),
    }


def _shares(found: Iterable[Outcome]) -> dict[str, Any]:
    counts = Counter(outcome.verdict for outcome in found)
    total = sum(counts.values())
    shares = {v.value: round(counts[v] / total, 4) if total else None for v in Verdict}
    return {"n": total, **shares}


def _share(hits: Sequence[bool]) -> float | None:
    return round(float(np.mean(hits)), 4) if hits else None


def _coverage(
    values: Sequence[tuple[float, Ends | None]], *, floor: bool = False
) -> dict[str, Any]:
    """Return how many true values their ends hold, and the median width.

    `strictly` counts nothing but values within their ends; `floor` allows for regrets near zero.
    """
    known = [(true, *ends) for true, ends in values if ends is not None]
    widths = [high - low for _, low, high in known if np.isfinite(high)]
    within = [low <= true <= high for true, low, high in known]
    nearly = [floor and true <= NOTHING and low <= NEARLY_NOTHING for true, low, _ in known]
    held = [a or b for a, b in zip(within, nearly, strict=True)]
    below = [true < low for true, low, _ in known]
    return {
        "n": len(known),
        "coverage": _share(held),
        "strictly": _share(within),
        "below": _share([low and not hit for low, hit in zip(below, held, strict=True)]),
        "above": _share([true > high for true, _, high in known]),
        "median_width": round(float(np.median(widths)), 3) if widths else None,
        "unbounded": _share([not np.isfinite(high) for *_, high in known]),
    }
