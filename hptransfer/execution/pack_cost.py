"""What a pack of one shape costs on one device, computed from measurements at a few sizes.

The measurements themselves are made by `hptransfer.execution.measure`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

T = TypeVar("T")

# The gain in trial-steps per second, as a share, from which a larger pack is worth it.
LEAST_GAIN = 0.05


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


class Line(NamedTuple):
    """A cost that is linear in a pack's trials: `fixed` + `each` per trial."""

    fixed: float
    each: float


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

    @property
    def step_line(self) -> Line:
        """The fit seconds(T) = a + b*T."""
        return _fitted([(point.size, point.seconds) for point in self.points])

    @property
    def memory_line(self) -> Line:
        """The fit bytes(T) = c + d*T."""
        return _fitted([(point.size, point.bytes) for point in self.points])

    def seconds(self, size: int) -> float:
        """Return the seconds of one step of a pack of `size` trials."""
        known = [(point.size, point.seconds) for point in self.points]
        return _between(known, size, self.step_line)

    def bytes(self, size: int) -> float:
        """Return the memory that a pack of `size` trials takes."""
        known = [(point.size, point.bytes) for point in self.points]
        return _between(known, size, self.memory_line)

    def rate(self, size: int) -> float:
        """Return the trial-steps per second of a pack of `size` trials."""
        return size / self.seconds(size)

    def run_seconds(self, count: int, size: int, steps: int) -> list[float]:
        """Return the seconds of each pack of `count` trials cut by `size`, evaluation left out."""
        parts = [len(part) for part in even_parts(range(count), size)]
        taken = {part: self.warmup + steps * self.seconds(part) for part in {*parts}}
        return [taken[part] for part in parts]

    def sizes(self, count: int) -> list[int]:
        """Return the sizes in which `count` trials may be packed."""
        largest = min(self._largest(), count)
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
        size = min(2 * last.size, count)
        fits = self.fits(size) and self.bytes(size) + last.bytes <= self.capacity
        return size if size > last.size and self._pays() and fits else None

    def _pays(self) -> bool:
        """Whether the last size measured was worth it."""
        if len(self.points) < 2:
            return True
        before, last = (self.rate(point.size) for point in self.points[-2:])
        return last >= (1 + LEAST_GAIN) * before

    def _largest(self) -> int:
        measured = self.points[-1].size
        beyond = self.extrapolates and len(self.points) > 1 and self._pays()
        return 2 * measured if beyond else measured


class Measurement(NamedTuple):
    """What is known before packs are cut: a cost per group, and the packs that run at a time."""

    costs: list[PackCost | None]  # None: above the limits of the measurement
    workers: int | None  # None: a cluster's, which was not asked
    notes: tuple[str, ...] = ()  # sentences for the user

    def by_key(self, keys: Iterable[str]) -> dict[str, PackCost]:
        """Return the costs that are known, by the keys of their groups."""
        return {key: cost for key, cost in zip(keys, self.costs, strict=True) if cost is not None}


def _fitted(known: Sequence[tuple[int, float]]) -> Line:
    """Fit a line of least squared relative errors; proportional through a single point."""
    if len(known) == 1:
        ((size, value),) = known
        return Line(0.0, value / size)
    weights = [1.0 / max(value, 1e-30) ** 2 for _, value in known]
    total = sum(weights)
    x = sum(w * size for w, (size, _) in zip(weights, known, strict=True)) / total
    y = sum(w * value for w, (_, value) in zip(weights, known, strict=True)) / total
    spread = sum(w * (size - x) ** 2 for w, (size, _) in zip(weights, known, strict=True))
    both = sum(w * (s - x) * (v - y) for w, (s, v) in zip(weights, known, strict=True))
    return Line(y - both / spread * x, both / spread)


def _between(known: Sequence[tuple[int, float]], size: int, line: Line) -> float:
    """Interpolate between sizes; below the least go to zero, beyond the largest along the line."""
    (least, first), (largest, last) = known[0], known[-1]
    if size <= least:
        return first * size / least
    if size >= largest:
        return last + max(line.each, 0.0) * (size - largest)
    right = next(i for i, (measured, _) in enumerate(known) if measured >= size)
    (low, before), (high, after) = known[right - 1], known[right]
    return before + (after - before) * (size - low) / (high - low)


def even_parts(group: Sequence[T], size: int) -> list[Sequence[T]]:
    """Cut trials of one shape into parts of near-equal size, at most `size`.

    Cutting again by the largest part's size gives the same parts.
    """
    part = math.ceil(len(group) / math.ceil(len(group) / size))
    return [group[start : start + part] for start in range(0, len(group), part)]
