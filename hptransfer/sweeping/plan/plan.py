"""What a sweep will cost, reckoned before anything runs: trials, packs, FLOPs, hours and money.

The cost of a shape's packs comes from the best source there is. A pack's predicted seconds are
multiplied by what recorded packs took over their prediction, whose spread is the interval.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.transferred import costs, points_of_width
from hptransfer.analysis.basins.numbers import number
from hptransfer.config import ExecutorConfig, PlanConfig, RuntimeConfig, TrialConfig
from hptransfer.config.identity import arm_of, trial_key
from hptransfer.config.runtime import GPU_PEAKS
from hptransfer.config.sweep import SweepConfig, condition_of
from hptransfer.execution import cached_packs, measure_packs
from hptransfer.execution.pack_sizes import (
    PLAN_LIMITS,
    MeasuredPack,
    PackCost,
    PackSize,
    TimedPack,
    Trials,
    by_shape,
    choose_sizes,
    even_parts,
    makespan,
    read_packs,
    timed_packs,
)
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.sweeping.design.trials import (
    pending,
    placeholder_trials,
    points,
    realised,
    wanted,
)
from hptransfer.system.text import percent_text
from hptransfer.training.flops import train_step_flops, trainable_parameters, trial_flops

Row = Mapping[str, Any]
Rows = Mapping[str, Row]  # a ledger's rows by trial_key


@dataclass(frozen=True)
class PlanInputs:
    """What a plan is made from: a sweep, where it runs, and what its folder records."""

    sweep: SweepConfig
    runtime: RuntimeConfig
    executor: ExecutorConfig
    rows: Rows  # the sweep's
    target_rows: Sequence[Row]
    sizes: Mapping[str, PackSize]  # the pack sizes that the folder records, by `shape_key`
    workers: int | None  # packs that run at a time; None: as many as there are places
    measure: bool  # whether costs that no file tells may be measured, within `PLAN_LIMITS`
    say: Callable[[str], None]  # is told how far a measurement is
    reckoning: PlanConfig  # how GPU-hours follow from FLOPs


def read_inputs(
    sweep: SweepConfig,
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    root: Path,
    workers: int | None,
    measure: bool,
    say: Callable[[str], None],
    reckoning: PlanConfig,
) -> PlanInputs:
    """Return the inputs of a plan, with what the sweep's folder under `root` records."""
    folder = ResultsFolder(root / sweep.name)
    return PlanInputs(
        sweep,
        runtime,
        executor,
        rows={row["trial_key"]: row for row in read_ledger_rows(folder.path)},
        target_rows=read_ledger_rows(folder.target),
        sizes=read_packs(folder.path),
        workers=workers or executor.workers,
        measure=measure,
        say=say,
        reckoning=reckoning,
    )


class KnownCost(NamedTuple):
    """What packs of a shape cost, and the source of that."""

    cost: PackCost
    source: str  # recorded (in packs.json), cached, measured, rows, or FLOPs (and another shape)


class Throughput(NamedTuple):
    """What packs cost, and how many run at a time."""

    costs: Mapping[str, KnownCost]  # by `shape_key`: of every shape that was asked for, or of none
    workers: int
    notes: tuple[str, ...]  # sentences for the user


def throughput(
    inputs: PlanInputs,
    groups: Mapping[str, Trials],
    asked: Collection[str],
    at_once: int | None = None,
) -> Throughput:
    """Return what packs of the shapes that are asked for cost.

    A cost is taken from the first of these that tells it: the pack sizes that the folder records,
    the cache, a measurement, the shape's own rows, and the FLOPs with the cost of another shape.

    Args:
        groups: trials by `shape_key`; also of shapes that may only tell of the others.
        asked: the keys of the shapes whose costs are needed.
        at_once: the most trials of a shape that run in one round; None: all.

    Raises:
        UserError: resources, a device or data that are not there, where packs are measured.
        MachineError: a single trial does not fit, where packs are measured.
    """
    runtime, executor = inputs.runtime, inputs.executor
    kept = {} if runtime.pack_size else inputs.sizes
    known = {key: KnownCost(kept[key].cost(), "recorded") for key in groups if key in kept}
    unknown = [key for key in asked if key not in known]
    together = [groups[key][:at_once] for key in unknown]
    if inputs.measure and (unknown or inputs.workers is None):
        found = measure_packs(together, runtime, executor, limits=PLAN_LIMITS, say=inputs.say)
    else:
        found = cached_packs(together, runtime, executor)
    for key, cost in found.by_key(unknown).items():
        known[key] = KnownCost(cost, "cached" if cost.cached else "measured")
    for key in groups.keys() - known.keys():
        if seconds := recorded_seconds(groups[key], inputs.rows, on_gpu=runtime.on_gpu):
            known[key] = KnownCost(_cost_of_rows(groups[key][0], seconds), "rows")
    notes, workers = found.notes, inputs.workers or found.workers
    if known and workers is None:
        notes = (
            *notes,
            "The cluster was not asked how much it can run, so the plan assumes one pack at a "
            "time. Say with --workers how many packs run at once.",
        )
    costs = {key: known.get(key) or _scaled(groups, key, known) for key in asked} if known else {}
    return Throughput(costs, workers or 1, notes)


def recorded_seconds(group: Trials, rows: Rows, *, on_gpu: bool) -> list[float]:
    """Return the seconds of a shape's trials that were recorded on such a device."""
    recorded = [rows[key]["cost"] for config in group if (key := trial_key(config)) in rows]
    return [c["seconds"] for c in recorded if (c["device"] != "cpu") == on_gpu and c["seconds"] > 0]


def _cost_of_rows(config: TrialConfig, seconds: Sequence[float]) -> PackCost:
    """Return a cost by which each trial takes the median of the recorded seconds."""
    of_training = statistics.median(seconds) / (1.0 + evaluation_share(config))
    return PackCost((MeasuredPack(1, of_training / config.budget.steps, 0.0),))


def _scaled(groups: Mapping[str, Trials], key: str, known: Mapping[str, KnownCost]) -> KnownCost:
    """Return the cost of the shape of nearest FLOPs, in proportion to the FLOPs of a step."""
    flops = {other: flops_of_step(groups[other][0]) for other in {key, *known}}
    near = min(known, key=lambda other: abs(math.log(flops[other] / flops[key])))
    cost, steps = known[near].cost, groups[near][0].budget.steps
    size = cost.best_size(len(groups[near]), steps)
    seconds = cost.seconds(size) * flops[key] / flops[near]
    return KnownCost(PackCost((MeasuredPack(size, seconds, 0.0),), cost.warmup), "FLOPs")


def flops_of_step(config: TrialConfig) -> float:
    """Return the FLOPs of one training step of a trial."""
    return train_step_flops(config)


def evaluation_share(config: TrialConfig) -> float:
    """Return the FLOPs of a trial's evaluations over those of its training steps."""
    return trial_flops(config) / (config.budget.steps * flops_of_step(config)) - 1.0


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


def search_cost(
    sweep: SweepConfig, table: pd.DataFrame, target: TrialConfig, *, points: int
) -> dict[str, float | None]:
    """Return FLOPs of sweep and target, and three ratios in percent, each of its denominator.

    A direct search trains the target at as many `points`, every seed.
    """
    label, runs = target.parametrization.scaling.value, points * len(sweep.seeds)
    return costs(table, label, target_flops=trial_flops(target), direct_runs=runs)


def swept_points(sweep: SweepConfig, table: pd.DataFrame, target: TrialConfig) -> int:
    """Return how many points the design has at a width; of an adaptive one the most it asked."""
    if not sweep.is_adaptive:
        return len(points(sweep))
    return points_of_width(table, target.parametrization.scaling.value, sweep.axes)


@dataclass(frozen=True)
class PlannedShape:
    """The trials of one shape (an arm at a width), and what is left of them to run."""

    trials: Trials
    recorded: int  # trials that have a row
    work: ShapeWork | None  # None: nothing is left to run, or nothing tells how long packs take

    @property
    def missing(self) -> int:
        """Trials without a row."""
        return len(self.trials) - self.recorded

    @property
    def flops(self) -> float:
        """The FLOPs of one trial, its evaluations included."""
        return trial_flops(self.trials[0])


def plan(inputs: PlanInputs) -> dict[str, Any]:
    """Return what `hptransfer plan --json` prints.

    FLOPs, parameters and ratios follow from shapes alone. Hours and money are null where neither
    the inputs nor the cache of packs tell how long packs take, and nothing may be measured.

    Raises:
        UserError: resources, a device or data that are not there, where packs are measured.
        MachineError: a single trial does not fit, where packs are measured.
    """
    sweep = inputs.sweep
    groups = by_shape(planned_trials(sweep))
    rows = rows_of_placeholders(groups, inputs.rows.values()) if sweep.is_adaptive else inputs.rows
    open_keys = [key for key, group in groups.items() if pending([group], rows)]
    at_once = sweep.design.batch * len(sweep.seeds) if sweep.is_adaptive else None
    inputs = dataclasses.replace(inputs, rows=rows)
    known = throughput(inputs, groups, open_keys, at_once)
    works = shape_works(inputs, groups, known, at_once)
    shapes = [
        PlannedShape(group, sum(trial_key(config) in rows for config in group), works.get(key))
        for key, group in groups.items()
    ]
    occupied = occupancy(inputs.runtime, inputs.executor)
    return {
        "schema": 1,
        "sweep": sweep.name,
        "shapes": [_entry(shape, occupied) for shape in shapes],
        "total": _total(shapes, occupied),
        "place": occupied.as_json(),
        "wall_seconds": {"workers": known.workers, **_wall(shapes, known.workers)},
        "target": _target(inputs, shapes, occupied),
        "reckoned": _reckoned(inputs, shapes),
        "search_over_target": _search_over_target(sweep, shapes),
        "search_over_target_by_size": _search_over_target_by_size(sweep, shapes),
        "notes": [*known.notes, *_notes(inputs, shapes)],
    }


def planned_trials(sweep: SweepConfig) -> list[TrialConfig]:
    """Return the trials of a sweep, or placeholders of the same shapes and number.

    A design that asks in rounds has placeholders, since its later points are not known yet.
    """
    if not sweep.is_adaptive:
        return list(wanted(sweep).values())
    return placeholder_trials(sweep, sweep.design.total)


def rows_of_placeholders(groups: Mapping[str, Trials], rows: Iterable[Row]) -> dict[str, Row]:
    """Return each recorded row under the key of a placeholder trial of its arm and width."""
    recorded: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        recorded[row["parametrization"], row["width"]].append(row)
    return {
        trial_key(config): row
        for group in groups.values()
        for config, row in zip(
            group, recorded[arm_of(group[0]), group[0].model.width], strict=False
        )
    }


def shape_works(
    inputs: PlanInputs, groups: Mapping[str, Trials], known: Throughput, at_once: int | None
) -> dict[str, ShapeWork]:
    """Return the packs that are still to run of each shape of known cost.

    Args:
        groups: trials by `shape_key`, also of shapes that are done.
        known: what packs of the shapes that are not done cost; empty where nothing tells.
        at_once: the most trials of a shape that run in one round; None: all.
    """
    sizes = _sizes(inputs, groups, known, at_once)
    cuts = {key: cut_into_packs(groups[key], size, at_once) for key, size in sizes.items()}
    on_gpu = inputs.runtime.on_gpu
    ratios = {
        key: measured_over_predicted(packs, inputs.rows, on_gpu=on_gpu)
        for key, packs in cuts.items()
    }
    return {
        key: ShapeWork(
            packs=packs_to_run(cuts[key], inputs.rows),
            source=cost.source,
            bytes=cost.cost.bytes(len(cuts[key][0].trials)) or None,
            correction=correction(key, ratios, cost),
        )
        for key, cost in known.costs.items()
    }


def _sizes(
    inputs: PlanInputs, groups: Mapping[str, Trials], known: Throughput, at_once: int | None
) -> dict[str, PackSize]:
    """Return the pack size of each shape: the user's, the recorded one, or the best."""
    costs = {key: found.cost for key, found in known.costs.items()}
    together = {key: groups[key][:at_once] for key in costs}
    if size := inputs.runtime.pack_size:
        return {key: with_size_set_by_user(together[key], size, costs[key]) for key in costs}
    kept = {key: inputs.sizes[key] for key in groups if key in inputs.sizes}
    others = [
        pack.seconds
        for key in kept.keys() & costs.keys()
        for pack in packs_to_run(cut_into_packs(groups[key], kept[key], at_once), inputs.rows)
    ]
    new = {key: group for key, group in together.items() if key not in kept}
    return {**kept, **choose_sizes(new, costs, known.workers, others)}


def _entry(shape: PlannedShape, occupied: Occupancy) -> dict[str, Any]:
    work, config = shape.work, shape.trials[0]
    entry: dict[str, Any] = {
        "parametrization": arm_of(config),
        "width": config.model.width,
        **condition_of(config),
        "parameters": trainable_parameters(config.model, config.layout),
        "trials": _counts([shape]),
        "flops": _flops([shape]),
        "evaluation_share": number(evaluation_share(config)),
    }
    if work is None:
        return {**entry, "packs": None, "hours": None}
    full = max(work.seconds(), key=lambda interval: interval.estimate)
    packs = {
        "to_run": len(work.packs),
        "size": work.size,
        "seconds": full.as_json(),
        "bytes": work.bytes,
        "source": work.source,
        "interval_from": {"basis": work.correction.basis, "packs": work.correction.packs},
    }
    return {**entry, "packs": packs, "hours": _hours([work], occupied).as_json()}


def _counts(shapes: Sequence[PlannedShape]) -> dict[str, int]:
    recorded, missing = (sum(getattr(s, n) for s in shapes) for n in ("recorded", "missing"))
    return {"wanted": recorded + missing, "recorded": recorded, "to_run": missing}


def _flops(shapes: Sequence[PlannedShape]) -> dict[str, float]:
    return {
        "wanted": sum(shape.flops * len(shape.trials) for shape in shapes),
        "to_run": sum(shape.flops * shape.missing for shape in shapes),
    }


def _works(shapes: Sequence[PlannedShape]) -> list[ShapeWork] | None:
    """Return what is left to run of all shapes; None where nothing tells how long that takes."""
    works = [shape.work for shape in shapes if shape.work is not None]
    return works if len(works) == sum(shape.missing > 0 for shape in shapes) else None


def _hours(works: Iterable[ShapeWork], occupied: Occupancy) -> Interval:
    """Return the hours of the unit that packs occupy: GPU-hours, or core-hours."""
    seconds = sum_intervals(interval for work in works for interval in work.seconds())
    return seconds.times(occupied.count / HOUR)


def _total(shapes: Sequence[PlannedShape], occupied: Occupancy) -> dict[str, Any]:
    works, price = _works(shapes), occupied.price_per_hour
    total = {"trials": _counts(shapes), "flops": _flops(shapes)}
    if works is None:
        return {**total, "packs_to_run": None, "hours": None, "money": None}
    hours = _hours(works, occupied)
    return {
        **total,
        "packs_to_run": sum(len(work.packs) for work in works),
        "hours": hours.as_json(),
        "money": None if price is None else hours.times(price / occupied.count).as_json(),
    }


def _wall(shapes: Sequence[PlannedShape], places: int) -> dict[str, float | None]:
    """Return when the last pack ends, where each place takes the longest pack that is left."""
    works = _works(shapes)
    if works is None:
        return dict.fromkeys(Interval._fields)
    seconds = [interval for work in works for interval in work.seconds()]
    ends = [makespan(values, places) for values in zip(*seconds, strict=True)]
    return (Interval(*ends) if ends else NOTHING).as_json()


def _target(
    inputs: PlanInputs, shapes: Sequence[PlannedShape], occupied: Occupancy
) -> dict[str, Any] | None:
    """Return what the target run takes: as recorded, else by FLOPs from the widest proxies."""
    target = inputs.sweep.target
    if target is None:
        return None
    flops, width = trial_flops(target), target.model.width
    own = [row["cost"]["seconds"] for row in inputs.target_rows if row["width"] == width]
    widest = max(shape.trials[0].model.width for shape in shapes)
    costs = [row["cost"] for row in inputs.rows.values() if row["width"] == widest]
    rates = [cost["seconds"] / cost["flops"] for cost in costs]
    works = [s.work for s in shapes if s.work is not None and s.trials[0].model.width == widest]
    if own:
        seconds, basis = statistics.median(own), "recorded"
    elif rates:
        seconds, basis = (
            flops * statistics.median(rates),
            f"scaled by FLOPs from trials of width {widest}",
        )
    elif works:
        pack = works[0].packs[0]
        rate = pack.seconds / len(pack.trials) / trial_flops(pack.trials[0])
        seconds, basis = flops * rate, f"scaled by FLOPs from packs of width {widest}"
    else:
        seconds, basis = None, "nothing of the widest width was run or measured"
    price = occupied.price_per_hour
    return {
        "width": width,
        "parameters": trainable_parameters(target.model, target.layout),
        "flops": flops,
        "hours": None if seconds is None else number(seconds * occupied.count / HOUR),
        "money": None if seconds is None or price is None else number(seconds / HOUR * price),
        "hours_from": basis,
    }


def _search_over_target(
    sweep: SweepConfig, shapes: Sequence[PlannedShape]
) -> dict[str, float | None] | None:
    """Return the FLOPs of the search over those of the target, as `transfer` will."""
    if sweep.target is None:
        return None
    table = pd.DataFrame(
        {
            "parametrization": arm_of(shape.trials[0]),
            "width": shape.trials[0].model.width,
            "flops": shape.flops * len(shape.trials),
        }
        for shape in shapes
    )
    count = sweep.design.total if sweep.is_adaptive else len(points(sweep))
    return search_cost(sweep, table, sweep.target, points=count)


def _search_over_target_by_size(
    sweep: SweepConfig, shapes: Sequence[PlannedShape]
) -> dict[str, float] | None:
    """Return the search's parameters x samples over the target's, in percent, as papers count.

    Counts are exact and of trainable parameters. FLOPs also hold what grows otherwise than they do.
    """
    if sweep.target is None:
        return None
    label = arm_of(sweep.target)
    of_arm = [shape for shape in shapes if arm_of(shape.trials[0]) in (label, "shared")]
    narrowest = min(shape.trials[0].model.width for shape in of_arm)
    sizes = [
        (
            shape.trials[0].model.width,
            len(shape.trials) * _parameters_times_samples(shape.trials[0]),
        )
        for shape in of_arm
    ]
    target = _parameters_times_samples(sweep.target)
    return {
        "arm_percent": round(100 * sum(size for _, size in sizes) / target, 3),
        "narrowest_percent": round(
            100 * sum(size for width, size in sizes if width == narrowest) / target, 3
        ),
    }


def _parameters_times_samples(config: TrialConfig) -> float:
    samples = float(config.budget.steps * config.budget.batch_size)
    return samples * trainable_parameters(config.model, config.layout)


def _reckoned(inputs: PlanInputs, shapes: Sequence[PlannedShape]) -> dict[str, Any] | None:
    """Return GPU-hours by FLOPs and an assumed speed; None where trials do not run on a GPU."""
    if not inputs.runtime.on_gpu:
        return None
    plan, target, precision = inputs.reckoning, inputs.sweep.target, inputs.sweep.base.precision
    of_target = None
    if target is not None:
        of_target = number(plan.gpu_hours(trial_flops(target), target.precision))
    return {
        "gpu": plan.gpu,
        "peak_tflops": GPU_PEAKS[plan.gpu][precision],
        "precision": precision.value,
        "utilisation": plan.utilisation,
        "gpu_hours_to_run": number(plan.gpu_hours(_flops(shapes)["to_run"], precision)),
        "target_gpu_hours": of_target,
    }


def gpu_hours_ahead(inputs: PlanInputs, *, with_target: bool) -> float:
    """Return the GPU-hours that a sweep's missing trials take, reckoned from FLOPs.

    Args:
        with_target: whether the target's own trials, which `run` trains, count too.
    """
    sweep, plan = inputs.sweep, inputs.reckoning
    groups = by_shape(planned_trials(sweep))
    rows = rows_of_placeholders(groups, inputs.rows.values()) if sweep.is_adaptive else inputs.rows
    ahead = [
        trial_flops(group[0]) * sum(trial_key(config) not in rows for config in group)
        for group in groups.values()
    ]
    hours = plan.gpu_hours(sum(ahead), sweep.base.precision)
    if with_target and sweep.target is not None:
        middle = {f"log2_{name}": (axis.low + axis.high) / 2 for name, axis in sweep.search}
        count = max(len(realised(sweep, sweep.target, middle)) - len(inputs.target_rows), 0)
        hours += plan.gpu_hours(count * trial_flops(sweep.target), sweep.target.precision)
    return hours


def data_notes(inputs: PlanInputs) -> list[str]:
    """Say that the sweep's data are not there, which a plan does not need; else nothing."""
    from hptransfer.training.batches import missing_data

    missing = missing_data(inputs.sweep.base, inputs.runtime)
    return [] if missing is None else [f"This sweep cannot be run yet: {missing}"]


def _notes(inputs: PlanInputs, shapes: Sequence[PlannedShape]) -> list[str]:
    sweep, notes = inputs.sweep, []
    if _works(shapes) is None and not inputs.measure:
        notes.append(
            "Hours are not known, because nothing tells how long trials take. Add --measure, "
            f"which trains a few steps on this machine for at most {PLAN_LIMITS.seconds:.0f} s "
            f"and {percent_text(100 * PLAN_LIMITS.memory_share)} of the free memory."
        )
    if sweep.is_adaptive:
        notes.append(
            f"{sweep.design.method.value} chooses its points in rounds of {sweep.design.batch}, "
            f"up to {sweep.design.total} per parametrization and width. Each round waits for the "
            "one before, so the sweep takes longer than the wall time given here."
        )
    return notes + data_notes(inputs)
