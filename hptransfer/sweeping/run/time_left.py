"""The estimate of the time that a running sweep still takes, from the packs that have finished."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Status
from hptransfer.config.external import ExternalTrial
from hptransfer.config.identity import arm_of
from hptransfer.results.sweep_file import SweepFacts
from hptransfer.results.trial_result import TrialResult
from hptransfer.system.text import duration

ArmAndWidth = tuple[str, int]
MARGIN_SDS = 1.645  # standard deviations from the middle of a 90 % interval to its end


def arm_and_width(config: TrialConfig | ExternalTrial) -> ArmAndWidth:
    """Return the arm and the width of a trial."""
    return arm_of(config), config.model.width


@dataclass
class TrialCounts:
    """The trials of one arm at one width, counted while they run."""

    left: int = 0  # trials to run, running ones included
    running: int = 0
    finished: int = 0
    diverged: int = 0
    stopped: int = 0
    failed: int = 0  # trials whose training raised
    seconds: float = 0.0  # sum over the finished trials
    packs: list[float] = field(default_factory=list)  # seconds per trial of each finished pack
    best: TrialResult | None = None  # the trial of least loss

    def add(self, result: TrialResult) -> None:
        """Count a finished trial."""
        self.finished += 1
        self.seconds += result.seconds
        self.diverged += result.status is Status.diverged
        self.stopped += result.status is Status.stopped
        if result.loss is not None and result.loss < self.best_loss:
            self.best = result

    @property
    def best_loss(self) -> float:
        """The least loss so far; infinite if no trial has completed."""
        return math.inf if self.best is None or self.best.loss is None else self.best.loss


class SecondsLeft(NamedTuple):
    """Seconds of compute that are left: the estimate and its 90 % interval."""

    low: float
    likely: float
    high: float

    def __str__(self) -> str:
        low, likely, high = (duration(max(round(seconds), 1)) for seconds in self)
        return f"about {likely} left" + (f" ({low} to {high})" if low != high else "")


def seconds_left(
    counts: Mapping[ArmAndWidth, TrialCounts], *, unplanned: int = 0
) -> SecondsLeft | None:
    """Estimate the compute of the trials left; None before any trial has finished.

    Seconds per trial are those measured at the same arm and width, else those of the nearest
    measured width, taken as proportional to the width. The interval has the spread of the packs
    measured so far. For a width that is not measured yet, it also reaches from no growth of the
    seconds with the width to growth with the width's square.

    Args:
        unplanned: trials of which neither arm nor width is known; they take the mean of all
            finished trials.
    """
    measured = {
        place: each.seconds / each.finished for place, each in counts.items() if each.finished
    }
    if not measured:
        return None
    finished = sum(each.finished for each in counts.values())
    low = likely = high = unplanned * sum(each.seconds for each in counts.values()) / finished
    variance, spread = 0.0, _relative_spread(counts)
    for place, each in counts.items():
        width = place[1]
        nearest = min(measured, key=lambda other: (other != place, abs(other[1] - width)))
        growth, work = width / nearest[1], each.left * measured[nearest]
        low += work * min(1.0, growth**2)
        likely += work * growth
        high += work * max(1.0, growth**2)
        packs = max(len(counts[nearest].packs), 1)
        packs_left = max(each.left * packs / counts[nearest].finished, 1.0)
        variance += (work * growth * spread) ** 2 * (1 / packs + 1 / packs_left)
    margin = MARGIN_SDS * math.sqrt(variance)
    return SecondsLeft(max(low - margin, 0.0), likely, high + margin)


def recorded_seconds_left(
    facts: SweepFacts, rows: Iterable[Mapping[str, Any]], packs_at_a_time: int
) -> SecondsLeft | None:
    """Estimate the wall time left of a running sweep from its recorded rows.

    None where every wanted trial has a row, or no row says how long its trial took.
    """
    counts = {
        place: TrialCounts(left=wanted)
        for place, wanted in facts.wanted_by_width().items()
        if wanted
    }
    packs: dict[ArmAndWidth, Counter[float]] = defaultdict(Counter)
    for row in rows:
        place, seconds = (row["parametrization"], row["width"]), row["cost"]["seconds"]
        if place in counts and facts.wants(row):
            counts[place].left -= 1
            if seconds is not None:
                counts[place].finished += 1
                counts[place].seconds += seconds
                packs[place][seconds] += 1  # the rows of a pack have the same seconds
    for place, seconds in packs.items():
        counts[place].packs = list(seconds)
    left = seconds_left(counts) if any(each.left > 0 for each in counts.values()) else None
    return left and SecondsLeft(*(seconds / max(packs_at_a_time, 1) for seconds in left))


def time_left_text(
    facts: SweepFacts, rows: Iterable[Mapping[str, Any]], packs_at_a_time: int
) -> str | None:
    """Return what `recorded_seconds_left` estimates in words."""
    left = recorded_seconds_left(facts, rows, packs_at_a_time)
    return None if left is None else str(left)


def _relative_spread(counts: Mapping[ArmAndWidth, TrialCounts]) -> float:
    """Pool the standard deviation of packs of one arm and width, as a share of their mean."""
    several = [each.packs for each in counts.values() if len(each.packs) > 1]
    if not several:
        return 0.0
    squares = (sum((x * len(p) / sum(p) - 1) ** 2 for x in p) for p in several if sum(p))
    return math.sqrt(sum(squares) / sum(len(p) - 1 for p in several))
