"""Packs that are still to run, what each takes, and how sure that is."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hptransfer.config import ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.config.identity import trial_key
from hptransfer.execution.pack_cost import PackCost, even_parts
from hptransfer.execution.pack_sizes import PackSize, TimedPack, Trials, timed_packs
from hptransfer.sweeping.design.trials import pending
from hptransfer.training.flops import step_flops, trial_flops

Rows = Mapping[str, Mapping[str, Any]]  # a ledger's rows by trial_key
LOW, HIGH = 0.05, 0.95  # the shares of recorded packs below the ends of an interval


class Interval(NamedTuple):
    """An estimate and what it may lie between; an infinite end where nothing says."""

    estimate: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """Return it scaled."""
        return Interval(self.estimate * factor, self.low * factor, self.high * factor)

    def as_json(self) -> dict[str, float | None]:
        """Return it with six digits; ends that nothing says are null."""
        known = math.isfinite(self.high)
        return {
            "estimate": short(self.estimate),
            "low": short(self.low) if known else None,
            "high": short(self.high) if known else None,
        }


NOTHING = Interval(0.0, 0.0, 0.0)


class Factor(NamedTuple):
    """What reckoned seconds are multiplied by, and where that is from."""

    value: Interval
    basis: str  # rows, rows of other shapes, probe, or none
    packs: int = 0  # recorded packs that it is from


@dataclass(frozen=True)
class Work:
    """The packs of a shape that are still to run."""

    packs: tuple[TimedPack, ...]
    source: str  # of the seconds: recorded, cached or measured
    bytes: float | None  # of the largest; None: recorded sizes do not hold it
    factor: Factor

    @property
    def size(self) -> int:
        """Return the trials of the largest pack."""
        return max(len(pack.trials) for pack in self.packs)

    def seconds(self) -> list[Interval]:
        """Return what each pack takes, evaluation included."""
        return [self.factor.value.times(pack.seconds) for pack in self.packs]


@dataclass(frozen=True)
class Place:
    """What one pack occupies while it runs."""

    unit: str  # GPU or core
    count: float
    price_per_hour: float | None

    def as_json(self) -> dict[str, Any]:
        """Return it for the plan's JSON."""
        return dataclasses.asdict(self)


def place(runtime: RuntimeConfig, executor: ExecutorConfig) -> Place:
    """Return what a pack occupies: GPUs where it runs on one, else the cores that it asks for."""
    if runtime.on_gpu:
        return Place("GPU", executor.gpus or 1.0, executor.price_per_hour)
    cores = float(runtime.threads) if executor.name == "local" else executor.cpus
    return Place("core", cores, executor.price_per_hour)


def given(group: Trials, size: int, cost: PackCost) -> PackSize:
    """Return a pack size that the config gives as if it had been chosen."""
    part = len(even_parts(group, size)[0])
    return PackSize(group[0].model.width, part, cost.seconds(part), cost.warmup)


def left(
    cuts: Mapping[str, Sequence[TimedPack]], done: Collection[str]
) -> dict[str, list[TimedPack]]:
    """Return of each shape the packs of which a row is missing."""
    return {
        key: [pack for pack in packs if pending([pack.trials], done)] for key, packs in cuts.items()
    }


def source(cost: PackCost | None) -> str:
    """Say where a cost is from; the folder's recorded sizes come without one."""
    if cost is None:
        return "recorded"
    return "cached" if cost.cached else "measured"


def cut(group: Trials, chosen: PackSize, at_once: int | None) -> list[TimedPack]:
    """Cut a group into packs, each so many trials that are asked at once (None: all) by itself.

    A pack's seconds are the probe's for its steps, and for its evaluations what FLOPs say.
    """
    factor = 1.0 + evaluation_share(group[0])
    rounds = range(0, len(group), at_once or len(group))
    parts = [group[first : first + (at_once or len(group))] for first in rounds]
    packs = [p for part in parts for p in timed_packs(part, chosen.size, chosen.cost())]
    return [TimedPack(pack.trials, pack.seconds * factor) for pack in packs]


def evaluation_share(config: TrialConfig) -> float:
    """Return the FLOPs of a trial's evaluations over those of its training steps."""
    budget = config.budget
    _, step = step_flops(config.model, config.data.layout, budget.batch_size)
    return trial_flops(config) / (budget.steps * step) - 1.0


def ratios_of(packs: Iterable[TimedPack], rows: Rows, *, on_gpu: bool) -> list[float]:
    """Return recorded over reckoned seconds of each pack that has rows of such a device."""
    ratios = []
    for pack in packs:
        recorded = [rows[key]["cost"] for c in pack.trials if (key := trial_key(c)) in rows]
        taken = [cost["seconds"] for cost in recorded if (cost["device"] != "cpu") == on_gpu]
        if taken:
            ratios.append(statistics.fmean(taken) * len(pack.trials) / pack.seconds)
    return ratios


def factor(key: str, ratios: Mapping[str, Sequence[float]], cost: PackCost | None) -> Factor:
    """Return what a shape's seconds are multiplied by: as its own rows say, else all rows."""
    own, all_of_them = ratios[key], [ratio for found in ratios.values() for ratio in found]
    if own:
        return Factor(_spread(own), "rows", len(own))
    if all_of_them:
        return Factor(_spread(all_of_them), "rows of other shapes", len(all_of_them))
    if cost is not None and cost.spread is not None:
        low, high = max(1.0 - cost.spread, 0.0), 1.0 + cost.spread
        return Factor(Interval(1.0, low, high), "probe")
    return Factor(Interval(1.0, 0.0, math.inf), "none")


def _spread(values: Sequence[float]) -> Interval:
    low, middle, high = np.quantile(values, (LOW, 0.5, HIGH))
    return Interval(float(middle), float(low), float(high))


def added(intervals: Iterable[Interval]) -> Interval:
    """Add intervals up as if all came out low, or all high."""
    found = list(intervals)
    return Interval(*(sum(values) for values in zip(*found, strict=True))) if found else NOTHING


def short(value: float) -> float:
    return float(f"{value:.6g}")
