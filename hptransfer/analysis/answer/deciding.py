"""What would decide an unclear verdict at the least compute.

Each further experiment narrows the posteriors of the settings' optima. By how much is reckoned from
the law's own normal approximation, without new losses: twice the seeds halve the noise's variance,
a grid of half the step halves the shape's error, a further setting adds a posterior like the last
one's. The experiment is worth its compute if the two answers would then probably be yes or no.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from hptransfer.analysis.answer.verdict import SPARE, Gap, Judged, Said
from hptransfer.analysis.basins.basin import NUDGE, NUDGE_STEPS
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.laws.hierarchy import Explanation, posterior_covariance
from hptransfer.config.sweep import AXIS_WORDS
from hptransfer.system.text import percent_text

MIDDLES = 41  # values of the movement that an experiment may find
LIKELY = 0.5  # probability to decide from which an experiment is proposed for its compute alone
HOPELESS = 0.1  # probability below which none is proposed


@dataclass(frozen=True)
class Experiment:
    """What to do, its compute over the sweep's, and the optima's variances after it."""

    sentence: str
    compute: float
    variances: Floats  # (setting,), with a further setting last where there is one
    further: float | None = None  # log2 of the main axis of the further setting


def deciding_sentence(judged: Judged) -> str | None:
    """Return the cheapest experiment that would probably decide; None where nothing is unclear."""
    arm = judged.arm
    if not judged.is_supported:
        if judged.gap is Gap.one_setting:
            return f"Next: sweep a second value of the {AXIS_WORDS[arm.layout.main]}."
        return "Next: train a second seed." if judged.gap is Gap.no_noise else None
    if Said.unclear not in (judged.moves, judged.matters):
        return None
    found = [(each, _chance(judged, each)) for each in _experiments(judged)]
    likely = [pair for pair in found if pair[1] >= LIKELY]
    if not likely:
        best, chance = max(found, key=lambda pair: pair[1])
        if chance < HOPELESS:
            return (
                "Neither more seeds nor a finer grid nor a further "
                f"{AXIS_WORDS[arm.layout.main]} would probably decide, because the optimum "
                "scatters too much. Next: use the value above if its cost is acceptable, or sweep "
                "the target itself around it."
            )
    else:
        best, chance = min(likely, key=lambda pair: pair[0].compute)
    return (
        f"Next: {best.sentence}. That takes about {percent_text(100 * best.compute)} of the "
        f"sweep's compute and decides with a probability of {percent_text(100 * chance)}."
    )


def _experiments(judged: Judged) -> list[Experiment]:
    arm = judged.arm
    settings, basins = list(arm.basins), list(arm.basins.values())
    explained = _likeliest(judged)
    now = 1.0 / explained.precision
    shape = np.array([NUDGE**2 + (NUDGE_STEPS * b.grid.step) ** 2 for b in basins])
    noise = np.maximum(now - shape, 0.0)
    seeds = max(len(basin.grid.losses) for basin in basins)
    axis = arm.layout.log2(arm.on_main)[:, 0]
    last = settings.index(arm.on_main[-1])
    gap = float(np.median(np.diff(axis)))
    doublings = arm.compute_doublings
    each = np.exp2(doublings * (axis - axis[-1]))
    further = float(axis[-1] + gap)
    if arm.has_target:
        further = min(further, float(arm.destination[0] + axis[-1]) / 2.0)
    word = AXIS_WORDS[arm.layout.main]
    return [
        Experiment(f"train {seeds} more seed{'' if seeds == 1 else 's'}", 1.0, shape + noise / 2.0),
        Experiment("halve the grid's step near the optima", 0.5, shape / 2.0 + noise / 2.0),
        Experiment(
            f"add {word} {_round(2.0**further)}",
            float(np.exp2(doublings * (further - axis[-1])) / each.sum()),
            np.append(now, now[last]),
            further,
        ),
    ]


def _round(value: float) -> str:
    return f"{round(value / 8) * 8 if value >= 64 else round(value)}"


def _likeliest(judged: Judged) -> Explanation:
    return max(judged.arm.law.explanations, key=lambda each: each.weight)


def _chance(judged: Judged, experiment: Experiment) -> float:
    """Return the probability that both answers would be yes or no after the experiment."""
    now = judged.arm.movement
    middle, sd = float(np.median(now)), float(np.std(now))
    ratio = _narrowing(judged, experiment)
    after = sd * ratio
    spread = sd * np.sqrt(max(1.0 - ratio**2, 0.0))
    quantiles = (np.arange(MIDDLES) + 0.5) / MIDDLES
    normal = np.array([NormalDist().inv_cdf(share) for share in quantiles])
    sure = judged.arm.request.rule.sure
    costly, decided = _costly(judged), 0.0
    for found in middle + spread * normal:
        moved = found + after * normal
        moves = Said.of(np.abs(moved), judged.arm.request.rule.max_octaves, sure)
        matters = Said.of(np.abs(moved), costly, sure, spare=np.sqrt(SPARE))
        is_clear = matters is Said.no or (matters is Said.yes and moves is not Said.unclear)
        decided += is_clear / MIDDLES
    return decided


def _costly(judged: Judged) -> float:
    """Return the movement, octaves, whose cost reaches the limit."""
    limit = judged.limit
    if limit is None:
        return np.inf
    name, most = limit
    size = np.abs(judged.arm.movement)
    cost = getattr(judged.ignoring_cost, name)
    usable = np.isfinite(cost) & (cost > 0) & (size > 0)
    if not usable.any():
        return np.inf
    return float(np.median(size[usable] * np.sqrt(most / cost[usable])))


def _narrowing(judged: Judged, experiment: Experiment) -> float:
    """Return the movement's sd after the experiment over the one before."""
    arm = judged.arm
    explained, settings = _likeliest(judged), list(arm.basins)
    axes = arm.layout.log2(settings)
    origin = settings.index(arm.origin)
    before = _movement_sd(axes, explained, arm.destination, origin)
    places = axes
    if experiment.further is not None:
        row = axes[settings.index(arm.on_main[-1])].copy()
        row[0] = experiment.further
        places = np.vstack([axes, row])
    precise = replace(explained, precision=1.0 / np.maximum(experiment.variances, 1e-6))
    after = _movement_sd(places, precise, arm.destination, origin)
    return min(after / before, 1.0) if before > 0 else 1.0


def _movement_sd(axes: Floats, explained: Explanation, there: Floats, origin: int) -> float:
    covariance = posterior_covariance(axes, explained, there[None, :])
    way = np.zeros(len(covariance))
    way[-1] += 1.0
    way[origin] -= 1.0
    return float(np.sqrt(max(way @ covariance @ way, 0.0)))
