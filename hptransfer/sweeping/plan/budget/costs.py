"""What a candidate costs: seconds of its packs and FLOPs, from pack costs at a few widths."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Scaling
from hptransfer.config.identity import arm_of, with_scaling, with_width
from hptransfer.config.sweep import Axis, SweepConfig
from hptransfer.errors import UserError
from hptransfer.execution.pack_sizes import (
    MeasuredPack,
    PackCost,
    PackSize,
    Trials,
    by_shape,
    even_parts,
    makespan,
    shape_key,
)
from hptransfer.sweeping.design.trials import wanted
from hptransfer.sweeping.plan.budget.candidates import Candidate
from hptransfer.sweeping.plan.budget.units import Workload
from hptransfer.sweeping.plan.plan import (
    PlanInputs,
    evaluation_share,
    flops_of_step,
    throughput,
)
from hptransfer.training.flops import trial_flops

PROBED_TRIALS = 32  # trials of a shape that is measured, hence its largest pack
HALVINGS = 4  # of the best pack size that are tried, so that no worker is idle

# Arm, width, seed and log2 of the HP of the trials that have rows.
Recorded = Collection[tuple[str, int, int, float]]


class ShapeCost:
    """What trials of one arm, width and length of training cost."""

    def __init__(self, proxy: TrialConfig, cost: PackCost, size: int | None) -> None:
        self.arm, self.width, self.steps = arm_of(proxy), proxy.model.width, proxy.budget.steps
        self.flops = trial_flops(proxy)
        self._cost, self._size = cost, size
        self._factor = 1.0 + evaluation_share(proxy)
        self._best: dict[int, int] = {}

    def size(self, count: int, divisor: int = 1) -> int:
        """Return the pack size of `count` trials: the user's, else the best over a divisor."""
        if self._size is not None:
            return self._size
        if count not in self._best:
            self._best[count] = self._cost.best_size(count, self.steps)
        return math.ceil(self._best[count] / divisor)

    def seconds(self, size: int) -> float:
        """Return the seconds of a pack of that size, evaluations included."""
        return self._factor * (self._cost.warmup + self.steps * self._cost.seconds(size))


class ShapeLoad(NamedTuple):
    """What a candidate still has to run of one shape."""

    cuts: tuple[tuple[float, ...], ...]  # seconds of the packs, for each way to cut them
    missing: int  # trials without a row
    flops: float  # of those trials


class CandidateCosts:
    """What the candidates of a sweep cost.

    Args:
        sweep: gives the base trial, the arms and the length of training.
        by_width: costs of packs at a few widths.
        workers: packs that run at a time.
        pack_size: the size that the config sets, if it does.
        sizes: the pack sizes that the sweep's folder records, by `shape_key`.
        recorded: trials that have rows, which cost nothing.
    """

    def __init__(
        self,
        sweep: SweepConfig,
        by_width: Mapping[int, PackCost],
        workers: int,
        *,
        pack_size: int | None = None,
        sizes: Mapping[str, PackSize] | None = None,
        recorded: Recorded = (),
    ) -> None:
        self.workers = workers
        self._sweep, self._recorded = sweep, recorded
        self._by_width = dict(sorted(by_width.items()))
        self._pack_size, self._sizes = pack_size, sizes or {}
        self._shapes: dict[tuple[Scaling, int, int], ShapeCost] = {}
        self._loads: dict[tuple[ShapeCost, Axis, tuple[int, ...]], ShapeLoad] = {}
        self._divisors = [2**k for k in range(HALVINGS + 1)] if workers > 1 else [1]

    def work(self, candidate: Candidate) -> Workload:
        """Return what a candidate still has to run: recorded trials are free, packs run whole."""
        loads = [self._load(shape, candidate) for shape in self._of(candidate)]
        cuts = [sum(choices, ()) for choices in zip(*(load.cuts for load in loads), strict=True)]
        return Workload(
            seconds=min(cuts, key=lambda seconds: makespan(seconds, self.workers)),
            trials=sum(load.missing for load in loads),
            flops=sum(load.flops for load in loads),
        )

    def _load(self, shape: ShapeCost, candidate: Candidate) -> ShapeLoad:
        """Return a candidate's load of one shape, which many candidates share."""
        key = (shape, candidate.axis, candidate.seeds)
        if key not in self._loads:
            flags = self._missing(candidate, shape)
            sizes = [shape.size(len(flags), divisor) for divisor in self._divisors]
            cuts = [[part for part in even_parts(flags, size) if any(part)] for size in sizes]
            self._loads[key] = ShapeLoad(
                cuts=tuple(tuple(shape.seconds(len(pack)) for pack in cut) for cut in cuts),
                missing=sum(flags),
                flops=sum(flags) * shape.flops,
            )
        return self._loads[key]

    def pilot(self, trials: Trials) -> tuple[Workload, list[Trials]]:
        """Return the workload of trials of one shape, and the packs that they run in."""
        first = trials[0]
        shape = self.shape(first.parametrization.scaling, first.model.width, first.budget.steps)
        packs = [tuple(part) for part in even_parts(trials, shape.size(len(trials)))]
        seconds = tuple(shape.seconds(len(pack)) for pack in packs)
        return Workload(seconds, len(trials), len(trials) * shape.flops), packs

    def shape(self, scaling: Scaling, width: int, steps: int) -> ShapeCost:
        """Return what trials of an arm, width and length cost."""
        key = (scaling, width, steps)
        if key not in self._shapes:
            proxy = proxy_of(self._sweep, scaling, width, steps)
            kept = self._sizes.get(shape_key(proxy))
            size = self._pack_size or (None if kept is None else kept.size)
            self._shapes[key] = ShapeCost(proxy, self._cost(proxy), size)
        return self._shapes[key]

    def _of(self, candidate: Candidate) -> list[ShapeCost]:
        """Return the shapes of a candidate; its arms share one at base width."""
        found: dict[tuple[str, int], ShapeCost] = {}
        for scaling, width in itertools.product(self._sweep.parametrizations, candidate.widths):
            shape = self.shape(scaling, width, candidate.steps)
            found.setdefault((shape.arm, width), shape)
        return list(found.values())

    def _missing(self, candidate: Candidate, shape: ShapeCost) -> tuple[bool, ...]:
        """Say of each trial, in the order in which they are packed, whether it has to run."""
        if not self._recorded or candidate.steps != self._sweep.base.budget.steps:
            return (True,) * candidate.trials_of_a_width
        places = itertools.product(candidate.seeds, candidate.axis.points)
        return tuple(
            (shape.arm, shape.width, seed, value) not in self._recorded for seed, value in places
        )

    def _cost(self, proxy: TrialConfig) -> PackCost:
        """Return the cost at a width, between those of the nearest known widths by FLOPs."""
        widths, width = list(self._by_width), proxy.model.width
        at = min(bisect.bisect_left(widths, width), len(widths) - 1)
        if widths[at] == width or at == 0:
            return self._by_width[widths[at]]
        ends = [math.log(flops_of_step(with_width(proxy, w))) for w in (widths[at - 1], widths[at])]
        share = (math.log(flops_of_step(proxy)) - ends[0]) / (ends[1] - ends[0])
        return between(self._by_width[widths[at - 1]], self._by_width[widths[at]], share)


def between(narrow: PackCost, wide: PackCost, share: float) -> PackCost:
    """Return the cost of packs between two widths, in sizes up to the largest that both have.

    Args:
        share: of the way from `narrow` to `wide`, on a log scale of FLOPs.
    """
    largest = min(narrow.points[-1].size, wide.points[-1].size)
    sizes = {point.size for point in (*narrow.points, *wide.points) if point.size <= largest}
    points = tuple(
        MeasuredPack(
            size,
            narrow.seconds(size) ** (1 - share) * wide.seconds(size) ** share,
            narrow.bytes(size) * (1 - share) + wide.bytes(size) * share,
        )
        for size in sorted(sizes)
    )
    return PackCost(
        points,
        warmup=narrow.warmup * (1 - share) + wide.warmup * share,
        capacity=min(narrow.capacity, wide.capacity),
        extrapolates=narrow.extrapolates and wide.extrapolates,
        too_large=wide.too_large,
    )


def costs_by_width(
    inputs: PlanInputs, widths: Sequence[int]
) -> tuple[dict[int, PackCost], int, tuple[str, ...]]:
    """Return the costs at the ends and the middle of some widths, the packs at a time, and notes.

    Raises:
        UserError: nothing tells how long packs take, or what is measured cannot be.
        MachineError: a single trial does not fit, where packs are measured.
    """
    sweep, steps = inputs.sweep, inputs.sweep.base.budget.steps
    ordered = sorted(widths)
    chosen = {ordered[0], ordered[len(ordered) // 2], ordered[-1]}
    proxies = [proxy_of(sweep, sweep.parametrizations[0], width, steps) for width in sorted(chosen)]
    asked = by_shape(replace(p, seed=seed) for p in proxies for seed in range(PROBED_TRIALS))
    own = by_shape(wanted(sweep).values())  # whose rows and recorded sizes may tell of the others
    every = {key: own.get(key, ()) + asked.get(key, ()) for key in {**own, **asked}}
    looked_up = asked if inputs.measure else every
    found = throughput(inputs, every, looked_up, at_once=PROBED_TRIALS)
    if not found.costs:
        raise UserError(
            "A plan for a budget must know how long trials take, but no finished trial in "
            f"results/{sweep.name} and no earlier measurement tells it. Add --measure, which "
            "trains a few steps on this machine."
        )
    by_width = {every[key][0].model.width: known.cost for key, known in found.costs.items()}
    return by_width, found.workers, found.notes


def proxy_of(sweep: SweepConfig, scaling: Scaling, width: int, steps: int) -> TrialConfig:
    """Return a trial of an arm, width and length."""
    proxy = with_scaling(with_width(sweep.base, width), scaling)
    return replace(proxy, budget=replace(proxy.budget, steps=steps))
