"""How trials are cut into packs that end together, from what packs of each shape cost."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from hptransfer.config import TrialConfig
from hptransfer.config.identity import shape_signature, trial_key
from hptransfer.execution.pack_cost import MeasuredPack, PackCost, even_parts
from hptransfer.results.trial_result import TrialResult

Trials = tuple[TrialConfig, ...]


# Returns the parts of a trial that may decide its shapes: all but those that `shape_signature`
# replaces whole.
_shaping = attrgetter(
    *(f.name for f in dataclasses.fields(TrialConfig) if f.name not in ("optimizer", "seed"))
)


class TimedPack(NamedTuple):
    """A pack and the seconds that it is expected to take."""

    trials: Trials
    seconds: float


@dataclass(frozen=True)
class PackSize:
    """The size in which trials of one shape are packed, and what such a pack costs."""

    width: int
    size: int
    seconds: float  # of one step
    warmup: float  # seconds before the first steady step

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a pack size must be positive, but got {self.size}")
        self.cost()  # raises ValueError where the seconds are not positive

    def cost(self) -> PackCost:
        """Return the cost of packs of this size and smaller ones."""
        return PackCost((MeasuredPack(self.size, self.seconds, 0.0),), self.warmup)


def shape_key(config: TrialConfig) -> str:
    """Return the key of a trial's shape, which the trials of a pack share: 12 hex digits."""
    return trial_key(shape_signature(config))


def by_shape(trials: Iterable[TrialConfig]) -> dict[str, Trials]:
    """Group trials that could share a pack, by `shape_key`, in their order."""
    keys: dict[tuple[int, ...], str] = {}  # by identity: the trials of a sweep share their parts
    groups: dict[str, list[TrialConfig]] = {}
    for config in trials:
        parts = tuple(map(id, _shaping(config)))
        if parts not in keys:
            keys[parts] = shape_key(config)
        groups.setdefault(keys[parts], []).append(config)
    return {key: tuple(group) for key, group in groups.items()}


def timed_packs(group: Trials, size: int, cost: PackCost) -> list[TimedPack]:
    """Cut trials of one shape into packs, each with the seconds that it will take."""
    seconds = cost.run_seconds(len(group), size, group[0].budget.steps)
    packs = [tuple(part) for part in even_parts(group, size)]
    return [TimedPack(pack, taken) for pack, taken in zip(packs, seconds, strict=True)]


def longest_first(packs: Iterable[TimedPack]) -> list[TimedPack]:
    """Return packs by falling seconds, so that no long pack starts last."""
    return sorted(packs, key=lambda pack: (-pack.seconds, -pack.trials[0].model.width))


def makespan(seconds: Iterable[float], workers: int) -> float:
    """Return the seconds until the last pack ends; each worker takes the longest one left."""
    ends: list[float] = []
    for taken in sorted(seconds, reverse=True):
        if len(ends) < workers:
            heapq.heappush(ends, taken)
        else:
            heapq.heapreplace(ends, ends[0] + taken)
    return max(ends, default=0.0)


def lower_bound(seconds: Sequence[float], workers: int) -> float:
    """Return the least seconds of any schedule: total over workers, or the longest pack's."""
    return max(sum(seconds) / workers, max(seconds, default=0.0))


def choose_sizes(
    groups: Mapping[str, Trials],
    costs: Mapping[str, PackCost],
    workers: int,
    others: Sequence[float] = (),
) -> dict[str, PackSize]:
    """Choose each group's pack size so that all packs together end soonest.

    Limits on a pack's seconds are tried from the longest down. Under a limit each group takes its
    largest size that keeps within it. Of limits that end the sweep equally soon the longest wins.

    Args:
        groups: trials by `shape_key`.
        costs: what packs of each group cost.
        workers: packs that run at a time.
        others: seconds of packs that are cut already and run at the same time.
    """
    options = {key: _options(group, costs[key]) for key, group in groups.items()}
    limits = sorted({max(taken) for option in options.values() for taken in option.values()})
    best, best_end = {}, math.inf
    for limit in reversed(limits):
        sizes = {key: _largest_within(option, limit) for key, option in options.items()}
        seconds = [*others, *(t for key, size in sizes.items() for t in options[key][size])]
        if lower_bound(seconds, workers) < best_end:
            end = makespan(seconds, workers)
            if end < best_end:
                best, best_end = sizes, end
    return {key: _chosen(groups[key], size, costs[key]) for key, size in best.items()}


def _options(group: Trials, cost: PackCost) -> dict[int, list[float]]:
    """Return the seconds of the packs that each size up to the best one gives."""
    steps, count = group[0].budget.steps, len(group)
    best = cost.best_size(count, steps)
    return {s: cost.run_seconds(count, s, steps) for s in cost.sizes(count) if s <= best}


def _largest_within(option: Mapping[int, list[float]], limit: float) -> int:
    within = (size for size, taken in option.items() if max(taken) <= limit)
    return max(within, default=min(option))


def _chosen(group: Trials, size: int, cost: PackCost) -> PackSize:
    return PackSize(group[0].model.width, size, cost.seconds(size), cost.warmup)


def sizes_text(chosen: Iterable[PackSize]) -> str:
    """Return the sizes in which a sweep is packed, such as "packs of 8 at width 24, 1 at 96"."""
    found = sorted({(choice.width, choice.size) for choice in chosen})
    first, *rest = [f"{size} at width {width}" for width, size in found]
    return ", ".join([f"packs of {first}", *(text.replace("width ", "") for text in rest)])


def halved_text(finished: Sequence[TrialResult]) -> str | None:
    """Say that a pack did not fit and how it ran instead, or None where it ran whole."""
    parts: list[int] = []
    while (start := sum(parts)) < len(finished):
        parts.append(finished[start].pack_size)
    if len(parts) == 1:
        return None
    return (
        f"the pack of {len(finished)} at width {finished[0].config.model.width} did not fit: ran "
        f"as {' + '.join(map(str, parts))}"
    )
