"""The packs that are still to run, the seconds that each takes, and how sure those are."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hptransfer.analysis.basins.numbers import number
from hptransfer.config import ExecutorConfig, RuntimeConfig
from hptransfer.execution.pack_sizes import (
    PackCost,
    PackSize,
    TimedPack,
    Trials,
    even_parts,
    timed_packs,
)
from hptransfer.sweeping.design.trials import pending
from hptransfer.sweeping.plan.throughput import (
    KnownCost,
    Rows,
    evaluation_share,
    recorded_seconds,
)

LOW, HIGH = 0.05, 0.95  # the shares of recorded packs that lie below the ends of an interval
HOUR = 3600.0  # seconds


class Interval(NamedTuple):
    """An estimate and what it may lie between; an infinite end where nothing tells it."""

    estimate: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """Return the interval scaled."""
        return Interval(self.estimate * factor, self.low * factor, self.high * factor)

    def as_json(self) -> dict[str, float | None]:
        """Return the interval for JSON; the ends are null where nothing tells them."""
        ends = (self.low, self.high) if math.isfinite(self.high) else (None, None)
        return {
            "estimate": number(self.estimate),
            "low": number(ends[0]),
            "high": number(ends[1]),
        }


NOTHING = Interval(0.0, 0.0, 0.0)


def sum_intervals(intervals: Iterable[Interval]) -> Interval:
    """Return the sum of intervals as if all came out low, or all high."""
    found = list(intervals)
    return Interval(*(sum(values) for values in zip(*found, strict=True))) if found else NOTHING


class Correction(NamedTuple):
    """The measured over the predicted seconds of packs, and where that ratio is from."""

    ratio: Interval
    basis: str  # rows, rows of other shapes, probe, or none
    packs: int = 0  # recorded packs that the ratio is from


@dataclass(frozen=True)
class ShapeWork:
    """The packs of a shape that are still to run."""

    packs: tuple[TimedPack, ...]
    source: str  # of the seconds, as `KnownCost` has it
    bytes: float | None  # of the largest pack; None: its memory was not measured
    correction: Correction

    @property
    def size(self) -> int:
        """Return the trials of the largest pack."""
        return max(len(pack.trials) for pack in self.packs)

    def seconds(self) -> list[Interval]:
        """Return the seconds of each pack, its evaluations included."""
        return [self.correction.ratio.times(pack.seconds) for pack in self.packs]


@dataclass(frozen=True)
class Occupancy:
    """The part of the machine that one pack occupies while it runs."""

    unit: str  # GPU or core
    count: float
    price_per_hour: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the occupancy for the plan's JSON."""
        return dataclasses.asdict(self)


def occupancy(runtime: RuntimeConfig, executor: ExecutorConfig) -> Occupancy:
    """Return what a pack occupies: GPUs where it runs on one, else the cores that it asks for."""
    if runtime.on_gpu:
        return Occupancy("GPU", executor.gpus or 1.0, executor.price_per_hour)
    cores = float(runtime.threads) if executor.name == "local" else executor.cpus
    return Occupancy("core", cores, executor.price_per_hour)


def with_size_set_by_user(group: Trials, size: int, cost: PackCost) -> PackSize:
    """Return the pack size that the config sets, as if it had been chosen."""
    part = len(even_parts(group, size)[0])
    return PackSize(group[0].model.width, part, cost.seconds(part), cost.warmup)


def cut_into_packs(group: Trials, size: PackSize, at_once: int | None) -> list[TimedPack]:
    """Cut a shape's trials into packs, and those of each round of `at_once` trials by themselves.

    The seconds of a pack's steps are those of `size`; its evaluations take what their FLOPs say.
    """
    with_evaluations = 1.0 + evaluation_share(group[0])
    round_size = at_once or len(group)
    rounds = [group[first : first + round_size] for first in range(0, len(group), round_size)]
    packs = [pack for trials in rounds for pack in timed_packs(trials, size.size, size.cost())]
    return [TimedPack(pack.trials, pack.seconds * with_evaluations) for pack in packs]


def packs_to_run(packs: Iterable[TimedPack], done: Collection[str]) -> tuple[TimedPack, ...]:
    """Return the packs of which a trial is not in `done`."""
    return tuple(pack for pack in packs if pending([pack.trials], done))


def measured_over_predicted(packs: Iterable[TimedPack], rows: Rows, *, on_gpu: bool) -> list[float]:
    """Return the recorded over the predicted seconds of each pack with rows of such a device."""
    found = ((pack, recorded_seconds(pack.trials, rows, on_gpu=on_gpu)) for pack in packs)
    return [
        statistics.fmean(seconds) * len(pack.trials) / pack.seconds
        for pack, seconds in found
        if seconds
    ]


def correction(key: str, ratios: Mapping[str, Sequence[float]], known: KnownCost) -> Correction:
    """Return what a shape's predicted seconds are multiplied by.

    Args:
        key: the shape's.
        ratios: `measured_over_predicted` of every shape, by key.
        known: the shape's cost.
    """
    own, of_all = ratios.get(key), [ratio for found in ratios.values() for ratio in found]
    if own:
        return Correction(_spread(own), "rows", len(own))
    if known.source == "FLOPs":
        return Correction(Interval(1.0, 0.0, math.inf), "none")
    if of_all:
        return Correction(_spread(of_all), "rows of other shapes", len(of_all))
    if known.cost.spread is not None:
        low, high = max(1.0 - known.cost.spread, 0.0), 1.0 + known.cost.spread
        return Correction(Interval(1.0, low, high), "probe")
    return Correction(Interval(1.0, 0.0, math.inf), "none")


def _spread(values: Sequence[float]) -> Interval:
    low, middle, high = np.quantile(values, (LOW, 0.5, HIGH))
    return Interval(float(middle), float(low), float(high))
