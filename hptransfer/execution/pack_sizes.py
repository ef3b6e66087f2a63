"""How trials are cut into packs that end together, from what packs of each shape cost.

What packs cost is measured by `hptransfer.execution.measure`. The sizes that were chosen for a
folder's trials are kept in its `packs.json`.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from hptransfer.config import TrialConfig
from hptransfer.config.identity import shape_signature, trial_key
from hptransfer.errors import UserError
from hptransfer.results.folder import read_json, write_json
from hptransfer.results.trial_result import TrialResult

T = TypeVar("T")
Trials = tuple[TrialConfig, ...]

# The gain in trial-steps per second, as a share, from which a larger pack is worth it.
LEAST_GAIN = 0.05
# How many times as large the next measured size is: the first of these that fits. A GPU compiles
# and captures each size, so it skips some.
CPU_STEPS, GPU_STEPS = (2,), (4, 2)


class MeasuredPack(NamedTuple):
    """A measured pack: its trials, the seconds of one step of them all, and its memory."""

    size: int
    seconds: float
    bytes: float


class MeasureLimits(NamedTuple):
    """How much of the machine a measurement may take, all of its shapes together."""

    memory_share: float  # of the free memory
    seconds: float


# What a plan may take; what would take more is reckoned from shapes.
PLAN_LIMITS = MeasureLimits(memory_share=0.25, seconds=60.0)


@dataclass(frozen=True)
class PackCost:
    """What packs of one shape cost on one device, from measurements at a few sizes.

    Costs of sizes between measured ones are interpolated. Larger sizes than the measured ones are
    chosen only where `extrapolates`, and their costs follow the fitted line; on a CPU they are not,
    because large packs lose to cache misses.
    """

    points: tuple[MeasuredPack, ...]  # in order of size
    warmup: float = 0.0  # seconds before a pack's first steady step: capture, first reads
    capacity: float = math.inf  # bytes that a pack may take
    extrapolates: bool = False  # whether sizes beyond the measured ones may be chosen
    too_large: int | None = None  # the least size that ran out of memory
    spread: float | None = None  # half the range of the measurements over their median
    cached: bool = field(default=False, compare=False)  # read from the cache, not measured now

    def __post_init__(self) -> None:
        sizes = [point.size for point in self.points]
        if not sizes or sizes != sorted({*sizes}) or sizes[0] < 1:
            raise ValueError(f"measured pack sizes must be positive and rise, but got {sizes}")
        if any(not 0 < p.seconds < math.inf or not 0 <= p.bytes < math.inf for p in self.points):
            raise ValueError(f"measured costs must be finite and positive, but got {self.points}")

    def seconds(self, size: int) -> float:
        """Return the seconds of one step of a pack of `size` trials."""
        return self._at(size, [point.seconds for point in self.points])

    def bytes(self, size: int) -> float:
        """Return the memory that a pack of `size` trials takes."""
        return self._at(size, [point.bytes for point in self.points])

    def _at(self, size: int, values: list[float]) -> float:
        """Interpolate from zero over the measured sizes, beyond them along the fitted line."""
        sizes = [point.size for point in self.points]
        if size <= sizes[-1]:
            return float(np.interp(size, [0, *sizes], [0.0, *values]))
        slope = values[0] / sizes[0]
        if len(sizes) > 1:  # least squared relative errors
            slope = float(np.polyfit(sizes, values, 1, w=1.0 / np.maximum(values, 1e-30))[0])
        return values[-1] + max(slope, 0.0) * (size - sizes[-1])

    def run_seconds(self, count: int, size: int, steps: int) -> list[float]:
        """Return the seconds of each pack of `count` trials cut by `size`, evaluation left out."""
        parts = [len(part) for part in even_parts(range(count), size)]
        taken = {part: self.warmup + steps * self.seconds(part) for part in {*parts}}
        return [taken[part] for part in parts]

    def sizes(self, count: int) -> list[int]:
        """Return the sizes in which `count` trials may be packed."""
        largest = self.points[-1].size
        if self.extrapolates and len(self.points) > 1 and self._pays():
            largest *= 2
        largest = min(largest, count)
        parts = {len(even_parts(range(count), size)[0]) for size in range(1, largest + 1)}
        return sorted(size for size in parts if size == 1 or self.fits(size))

    def best_size(self, count: int, steps: int) -> int:
        """Return the smallest pack size that is good enough.

        Good enough means that all `count` trials, one pack after another, take at most 5 % longer
        than with the best size. A size that was measured slower than one trial at a time is not.
        """
        work = {size: sum(self.run_seconds(count, size, steps)) for size in self.sizes(count)}
        enough = min(work.values()) / (1 - LEAST_GAIN)
        return next(size for size, seconds in work.items() if seconds <= enough)

    def fits(self, size: int) -> bool:
        """Whether a pack of that size fits, as far as is known."""
        small = self.too_large is None or size < self.too_large
        return small and self.bytes(size) <= self.capacity

    def next_size(self, count: int) -> int | None:
        """Return the pack size to measure next, of at most `count` trials; None: nothing is left.

        That size is measured in turns with the last one, so both must fit into memory together.
        """
        last = self.points[-1]
        if not self._pays():
            return None
        for times in GPU_STEPS if self.extrapolates else CPU_STEPS:
            size = min(times * last.size, count)
            fits = self.fits(size) and self.bytes(size) + last.bytes <= self.capacity
            if size > last.size and fits:
                return size
        return None

    def _pays(self) -> bool:
        """Whether the last size measured was worth it."""
        if len(self.points) < 2:
            return True
        before, last = (point.size / point.seconds for point in self.points[-2:])
        return last >= (1 + LEAST_GAIN) * before


class Measurement(NamedTuple):
    """What is known before packs are cut: a cost per group, and the packs that run at a time."""

    costs: list[PackCost | None]  # None: above the limits of the measurement, or a trial raised
    workers: int | None  # None: a cluster's, which was not asked
    notes: tuple[str, ...] = ()  # sentences for the user

    def by_key(self, keys: Iterable[str]) -> dict[str, PackCost]:
        """Return the costs that are known, by the keys of their groups."""
        return {key: cost for key, cost in zip(keys, self.costs, strict=True) if cost is not None}


def even_parts(group: Sequence[T], size: int) -> list[Sequence[T]]:
    """Cut trials of one shape into parts of near-equal size, at most `size`.

    Cutting again by the largest part's size gives the same parts.
    """
    part = math.ceil(len(group) / math.ceil(len(group) / size))
    return [group[start : start + part] for start in range(0, len(group), part)]


PACKS_FILE = "packs.json"  # beside a ledger

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
        sizes = {
            key: max((size for size, taken in option.items() if max(taken) <= limit), default=1)
            for key, option in options.items()
        }
        seconds = [*others, *(t for key, size in sizes.items() for t in options[key][size])]
        if lower_bound(seconds, workers) < best_end:
            end = makespan(seconds, workers)
            if end < best_end:
                best, best_end = sizes, end
    return {
        key: PackSize(groups[key][0].model.width, size, costs[key].seconds(size), costs[key].warmup)
        for key, size in best.items()
    }


def _options(group: Trials, cost: PackCost) -> dict[int, list[float]]:
    """Return the seconds of the packs that each size up to the best one gives."""
    steps, count = group[0].budget.steps, len(group)
    best = cost.best_size(count, steps)
    return {s: cost.run_seconds(count, s, steps) for s in cost.sizes(count) if s <= best}


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
        f"the pack of {len(finished)} trials at width {finished[0].config.model.width} did not "
        f"fit into memory, so it ran as packs of {' + '.join(map(str, parts))}"
    )


def read_packs(folder: Path) -> dict[str, PackSize]:
    """Read the pack sizes that were chosen before, by `shape_key`."""
    path = folder / PACKS_FILE
    found = read_json(path, "packs") or {"packs": {}}
    try:
        return {key: PackSize(**entry) for key, entry in found["packs"].items()}
    except (TypeError, ValueError, AttributeError):
        raise UserError(
            f"{path} is not as hptransfer wrote it (width, size, seconds and warmup of each "
            "shape). Restore it, or delete it to measure again; finished trials are not affected."
        ) from None


def write_packs(folder: Path, packs: Mapping[str, PackSize]) -> None:
    """Keep the pack sizes, so that a continued sweep has the same packs."""
    ordered = sorted(packs.items(), key=lambda item: (item[1].width, item[0]))
    write_json(
        folder / PACKS_FILE, {"packs": {key: dataclasses.asdict(chosen) for key, chosen in ordered}}
    )
