"""What a design costs: seconds of its packs and FLOPs, from probes at a few widths."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from hptransfer.config import ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Scaling
from hptransfer.config.identity import arm_of, with_scaling, with_width
from hptransfer.config.sweep import Axis, SweepConfig
from hptransfer.execution import measure_packs
from hptransfer.execution.pack_cost import MeasuredPack, PackCost, even_parts
from hptransfer.execution.pack_sizes import PackSize, makespan, shape_key
from hptransfer.sweeping.plan.budget.design import Design
from hptransfer.sweeping.plan.budget.units import Work
from hptransfer.sweeping.plan.costs import evaluation_share
from hptransfer.training.flops import step_flops, trial_flops

PROBED_TRIALS = 32  # the largest pack that a probe tries
HALVINGS = 4  # of the best pack size, to fill idle workers

Recorded = Collection[tuple[str, int, int, float]]  # arm, width, seed, log2 of the HP


class Shape:
    """What trials of one arm, width and length cost."""

    def __init__(self, proxy: TrialConfig, cost: PackCost, size: int | None) -> None:
        self.arm, self.width, self.steps = arm_of(proxy), proxy.model.width, proxy.budget.steps
        self.flops = trial_flops(proxy)
        self._cost, self._size = cost, size
        self._factor = 1.0 + evaluation_share(proxy)
        self._best: dict[int, int] = {}

    def size(self, count: int, divisor: int = 1) -> int:
        """Return the pack size of so many trials: as it is given, else the best over a divisor."""
        if self._size is not None:
            return self._size
        if count not in self._best:
            self._best[count] = self._cost.best_size(count, self.steps)
        return math.ceil(self._best[count] / divisor)

    def seconds(self, size: int) -> float:
        """Return the seconds of a pack of that size, evaluations included."""
        return self._factor * (self._cost.warmup + self.steps * self._cost.seconds(size))


class Part(NamedTuple):
    """What a design has to run of one shape."""

    cuts: tuple[tuple[float, ...], ...]  # the packs' seconds, for each way to cut them
    missing: int  # trials
    flops: float


class Costs:
    """Reckons designs of a sweep.

    Args:
        sweep: whose base trial, arms and length of training hold.
        probed: costs by width.
        workers: packs that run at a time.
        pack_size: as the config gives it.
        sizes: the pack sizes that the sweep's folder records, by `shape_key`.
        recorded: trials that have rows.
    """

    def __init__(
        self,
        sweep: SweepConfig,
        probed: Mapping[int, PackCost],
        workers: int,
        *,
        pack_size: int | None = None,
        sizes: Mapping[str, PackSize] | None = None,
        recorded: Recorded = (),
    ) -> None:
        self.workers = workers
        self._sweep, self._probed, self._recorded = sweep, dict(sorted(probed.items())), recorded
        self._pack_size, self._sizes = pack_size, sizes or {}
        self._shapes: dict[tuple[Scaling, int, int], Shape] = {}
        self._parts: dict[tuple[Shape, Axis, tuple[int, ...]], Part] = {}
        self._divisors = [2**k for k in range(HALVINGS + 1)] if workers > 1 else [1]

    def work(self, design: Design) -> Work:
        """Return what the design still has to run: recorded trials are free, packs run whole."""
        parts = [self._part(shape, design) for shape in self._of(design)]
        cuts = [sum(choices, ()) for choices in zip(*(part.cuts for part in parts), strict=True)]
        return Work(
            seconds=min(cuts, key=lambda seconds: makespan(seconds, self.workers)),
            trials=sum(part.missing for part in parts),
            flops=sum(part.flops for part in parts),
        )

    def _part(self, shape: Shape, design: Design) -> Part:
        """Return one shape's part of a design; many designs share it."""
        key = (shape, design.axis, design.seeds)
        if key not in self._parts:
            flags = self._missing(design, shape)
            sizes = [shape.size(len(flags), divisor) for divisor in self._divisors]
            cuts = [[part for part in even_parts(flags, size) if any(part)] for size in sizes]
            self._parts[key] = Part(
                cuts=tuple(tuple(shape.seconds(len(pack)) for pack in cut) for cut in cuts),
                missing=sum(flags),
                flops=sum(flags) * shape.flops,
            )
        return self._parts[key]

    def pilot(self, trials: Sequence[TrialConfig]) -> tuple[Work, list[Sequence[TrialConfig]]]:
        """Return what trials of one shape cost, and the packs that they run in."""
        first = trials[0]
        shape = self.shape(first.parametrization.scaling, first.model.width, first.budget.steps)
        packs = even_parts(trials, shape.size(len(trials)))
        seconds = tuple(shape.seconds(len(pack)) for pack in packs)
        return Work(seconds, len(trials), len(trials) * shape.flops), packs

    def shape(self, scaling: Scaling, width: int, steps: int) -> Shape:
        """Return what trials of an arm, width and length cost."""
        key = (scaling, width, steps)
        if key not in self._shapes:
            proxy = proxy_of(self._sweep, scaling, width, steps)
            kept = self._sizes.get(shape_key(proxy))
            size = self._pack_size or (None if kept is None else kept.size)
            self._shapes[key] = Shape(proxy, self._cost(proxy), size)
        return self._shapes[key]

    def _of(self, design: Design) -> list[Shape]:
        """Return the shapes of a design; its arms share one at base width."""
        found: dict[tuple[str, int], Shape] = {}
        for scaling, width in itertools.product(self._sweep.parametrizations, design.widths):
            shape = self.shape(scaling, width, design.steps)
            found.setdefault((shape.arm, width), shape)
        return list(found.values())

    def _missing(self, design: Design, shape: Shape) -> tuple[bool, ...]:
        """Say of each trial, in the order in which they are packed, whether it has to run."""
        if not self._recorded or design.steps != self._sweep.base.budget.steps:
            return (True,) * design.trials_of_a_width
        places = itertools.product(design.seeds, design.axis.points)
        return tuple(
            (shape.arm, shape.width, seed, value) not in self._recorded for seed, value in places
        )

    def _cost(self, proxy: TrialConfig) -> PackCost:
        """Return the cost at a width, between those of the nearest probed ones by FLOPs."""
        widths, width = list(self._probed), proxy.model.width
        at = min(bisect.bisect_left(widths, width), len(widths) - 1)
        if widths[at] == width or at == 0:
            return self._probed[widths[at]]
        ends = [math.log(_flops(with_width(proxy, w))) for w in (widths[at - 1], widths[at])]
        share = (math.log(_flops(proxy)) - ends[0]) / (ends[1] - ends[0])
        return between(self._probed[widths[at - 1]], self._probed[widths[at]], share)


def between(narrow: PackCost, wide: PackCost, share: float) -> PackCost:
    """Return the cost of packs at a share of the way, in the sizes that both were measured in."""
    both = {point.size for point in narrow.points} & {point.size for point in wide.points}
    points = tuple(
        MeasuredPack(
            size,
            narrow.seconds(size) ** (1 - share) * wide.seconds(size) ** share,
            narrow.bytes(size) * (1 - share) + wide.bytes(size) * share,
        )
        for size in sorted(both)
    )
    return PackCost(
        points,
        warmup=narrow.warmup * (1 - share) + wide.warmup * share,
        capacity=min(narrow.capacity, wide.capacity),
        extrapolates=narrow.extrapolates and wide.extrapolates,
        too_large=wide.too_large,
    )


def probe(
    sweep: SweepConfig,
    widths: Sequence[int],
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
) -> tuple[dict[int, PackCost], int, tuple[str, ...]]:
    """Measure packs at the ends and the middle of some widths; return costs, workers and notes.

    Raises:
        UserError: resources or a device that are not there.
        MachineError: a single trial does not fit.
    """
    ordered = sorted(widths)
    chosen = sorted({ordered[0], ordered[len(ordered) // 2], ordered[-1]})
    groups = [
        [dataclasses.replace(proxy, seed=seed) for seed in range(PROBED_TRIALS)]
        for width in chosen
        for proxy in [proxy_of(sweep, sweep.parametrizations[0], width, sweep.base.budget.steps)]
    ]
    found = measure_packs(groups, runtime, executor)
    return dict(zip(chosen, found.costs, strict=True)), found.workers, found.notes


def proxy_of(sweep: SweepConfig, scaling: Scaling, width: int, steps: int) -> TrialConfig:
    """Return a trial of an arm, width and length."""
    proxy = with_scaling(with_width(sweep.base, width), scaling)
    return dataclasses.replace(proxy, budget=dataclasses.replace(proxy.budget, steps=steps))


def _flops(config: TrialConfig) -> float:
    return step_flops(config.model, config.data.layout, config.budget.batch_size)[1]
