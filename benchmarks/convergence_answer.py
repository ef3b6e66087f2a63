"""Steps to equal loss: two runs of a seed compared, seeds taken together, tuning counted.

Pure functions of recorded losses. The rules, and why they are these, are in
docs/evidence/convergence.md; `sweeps/convergence.yaml` states them before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

LEVEL = 0.9  # of the intervals
RISEN = 0.05  # of what a run had gained: it may end so far above its lowest loss unmentioned


class Relation(Enum):
    """What a ratio says of the truth."""

    equal = "="
    above = ">"  # the truth is larger
    below = "<"
    unknown = "?"


@dataclass(frozen=True)
class Run:
    """One seed's run: `curve` holds (step, held-out loss), the last point what it ended with."""

    seed: int
    steps: int  # of its budget
    loss_at_init: float
    loss: float | None  # held-out, at the end; None where it did not complete
    curve: tuple[tuple[int, float], ...]

    @property
    def trained(self) -> bool:
        """Whether it ended, and below where it began."""
        return self.loss is not None and self.loss < self.loss_at_init

    @property
    def lowest(self) -> tuple[int, float]:
        """The step and the loss where it was lowest."""
        return min(self.curve, key=lambda point: point[1])

    @property
    def has_risen(self) -> bool:
        """Whether it ended well above its lowest loss, as one that overfits does."""
        if self.loss is None or not self.trained:
            return False
        _, lowest = self.lowest
        return self.loss - lowest > RISEN * (self.loss_at_init - lowest)


@dataclass(frozen=True)
class Pair:
    """The steps that µP's run and the baseline's of one seed needed for one loss."""

    seed: int
    level: float | None  # the loss: what the slower ended with, None where neither trained
    mup: float | None
    baseline: float | None
    relation: Relation  # of baseline/mup to the truth

    @property
    def ratio(self) -> float | None:
        """How many times fewer steps µP needed."""
        if self.mup is None or self.baseline is None:
            return None
        return self.baseline / self.mup

    def with_tuning(self, steps: int, tuning: tuple[float, float]) -> float | None:
        """The same with tuning counted: runs of `steps` at the target, µP's and the baseline's."""
        if self.mup is None or self.baseline is None:
            return None
        return (self.baseline / steps + tuning[1]) / (self.mup / steps + tuning[0])


def compared(mup: Run, baseline: Run) -> Pair:
    """Compare two runs of one seed and budget at the loss that the slower one ended with."""
    steps = mup.steps
    if not mup.trained and not baseline.trained:
        return Pair(mup.seed, None, None, None, Relation.unknown)
    if not baseline.trained:
        return Pair(mup.seed, mup.loss, steps, steps, Relation.above)
    if not mup.trained:
        return Pair(mup.seed, baseline.loss, steps, steps, Relation.below)
    ours, theirs = mup.curve[-1][1], baseline.curve[-1][1]
    faster = mup if ours <= theirs else baseline
    level = max(ours, theirs)
    step, reached = first_at(faster.curve, level)
    if faster is mup:
        relation = Relation.equal if reached else Relation.above
        return Pair(mup.seed, level, step, steps, relation)
    relation = Relation.equal if reached else Relation.below
    return Pair(mup.seed, level, steps, step, relation)


def first_at(curve: Sequence[tuple[int, float]], level: float) -> tuple[float, bool]:
    """Return the first step with a loss of at most `level`, linear in log2 of the step between
    points, and True; the first point's step and False where it was there before.
    """
    index = next(i for i, (_, loss) in enumerate(curve) if loss <= level)
    if index == 0:
        return float(curve[0][0]), False
    (before, above), (after, below) = curve[index - 1 : index + 1]
    share = (above - level) / (above - below)
    return before * (after / before) ** share, True


def over_seeds(ratios: Sequence[float | None], relations: Sequence[Relation]) -> dict[str, Any]:
    """Return the geometric mean of the seeds' ratios, its relation to the truth and its interval.

    Bounds count with their value; the interval is open on their side. Bounds to both sides, or a
    seed that says nothing, leave no estimate.
    """
    found = [ratio for ratio in ratios if ratio is not None]
    kinds = {relation for relation in relations if relation is not Relation.equal}
    answer: dict[str, Any] = {"estimate": None, "low": None, "high": None, "relation": "?"}
    if len(kinds) > 1 or Relation.unknown in kinds or not found:
        return {**answer, "n_seeds": len(ratios), "verdict": "undecided"}
    relation = kinds.pop() if kinds else Relation.equal
    octaves = np.log2(found)
    low = high = None
    if len(found) > 1:
        from scipy.stats import t

        error = float(octaves.std(ddof=1)) / math.sqrt(len(found))
        half = float(t.ppf((1 + LEVEL) / 2, len(found) - 1)) * error
        low = None if relation is Relation.below else _power(octaves.mean() - half)
        high = None if relation is Relation.above else _power(octaves.mean() + half)
    return {
        "estimate": _power(octaves.mean()),
        "low": low,
        "high": high,
        "relation": relation.value,
        "n_seeds": len(found),
        "verdict": _verdict(low, high),
    }


def _power(octaves: float) -> float:
    return float(f"{2.0**octaves:.6g}")


def _verdict(low: float | None, high: float | None) -> str:
    """Say which side of 1 the interval lies on."""
    if low is not None and low > 1:
        return "faster"
    if high is not None and high < 1:
        return "slower"
    return "undecided"


def speed_up(
    mup: Sequence[Run], baseline: Sequence[Run], tuning: tuple[float, float]
) -> dict[str, Any]:
    """Return the speed-up over a baseline, seeds as pairs; `tuning` holds what choosing µP's rate
    and the baseline's cost, in target runs.
    """
    pairs = [compared(*both) for both in zip(mup, baseline, strict=True)]
    relations = [pair.relation for pair in pairs]
    steps = mup[0].steps
    return {
        "speed_up": over_seeds([pair.ratio for pair in pairs], relations),
        "speed_up_with_tuning": over_seeds(
            [pair.with_tuning(steps, tuning) for pair in pairs], relations
        ),
        "pairs": [
            {
                "seed": pair.seed,
                "level": pair.level,
                "mup_steps": _rounded(pair.mup),
                "baseline_steps": _rounded(pair.baseline),
                "ratio": _rounded(pair.ratio),
                "relation": pair.relation.value,
            }
            for pair in pairs
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def mean_loss(runs: Iterable[Run]) -> float | None:
    """Return the mean loss at the end; None where a seed did not complete: survivors alone would
    flatter.
    """
    losses = [run.loss for run in runs]
    if None in losses:
        return None
    return float(np.mean([loss for loss in losses if loss is not None]))


def risen(name: str, runs: Iterable[Run]) -> list[str]:
    """Say which runs ended above their lowest loss: for them the level is a lenient one."""
    return [
        f"{name}, seed {run.seed}: the loss was lowest ({run.lowest[1]:.4f}) at step "
        f"{run.lowest[0]} of {run.steps} and ended at {run.loss:.4f}; all steps are counted."
        for run in runs
        if run.has_risen and run.loss is not None
    ]


def band(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Return the seeds' mean loss and its range at the steps that all of them reached."""
    shared = set.intersection(*({step for step, _ in run.curve} for run in runs))
    steps = sorted(shared)
    losses = np.array([[dict(run.curve)[step] for step in steps] for run in runs])
    ends = {"mean": losses.mean(axis=0), "low": losses.min(axis=0), "high": losses.max(axis=0)}
    return {"step": list(steps), **{k: [round(v, 6) for v in e.tolist()] for k, e in ends.items()}}
