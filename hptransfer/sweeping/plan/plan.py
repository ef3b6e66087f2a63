"""What a sweep will cost, reckoned before anything runs: trials, packs, FLOPs, hours and money."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hptransfer.analysis.basins.numbers import number
from hptransfer.config import TrialConfig
from hptransfer.config.conditions import condition_of
from hptransfer.config.identity import arm_of, trial_key
from hptransfer.config.sweep import SweepConfig
from hptransfer.execution.pack_sizes import (
    PLAN_LIMITS,
    PackSize,
    Trials,
    by_shape,
    choose_sizes,
    makespan,
)
from hptransfer.sweeping.design.points import points
from hptransfer.sweeping.design.trials import pending, placeholder_trials, wanted
from hptransfer.sweeping.plan.costs import (
    HOUR,
    NOTHING,
    Interval,
    Occupancy,
    ShapeWork,
    correction,
    cut_into_packs,
    measured_over_predicted,
    occupancy,
    packs_to_run,
    sum_intervals,
    with_size_set_by_user,
)
from hptransfer.sweeping.plan.search_cost import cost as search_cost
from hptransfer.sweeping.plan.throughput import (
    PlanInputs,
    Row,
    Throughput,
    evaluation_share,
    throughput,
)
from hptransfer.training.flops import trainable_parameters, trial_flops


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
        "search_over_target": _search_over_target(sweep, shapes),
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
        "parameters": trainable_parameters(config.model, config.data.layout),
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
        seconds, basis = flops * statistics.median(rates), f"FLOPs, from rows of width {widest}"
    elif works:
        pack = works[0].packs[0]
        rate = pack.seconds / len(pack.trials) / trial_flops(pack.trials[0])
        seconds, basis = flops * rate, f"FLOPs, from packs of width {widest}"
    else:
        seconds, basis = None, "no row and no pack of the widest width"
    price = occupied.price_per_hour
    return {
        "width": width,
        "parameters": trainable_parameters(target.model, target.data.layout),
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


def _notes(inputs: PlanInputs, shapes: Sequence[PlannedShape]) -> list[str]:
    sweep, notes = inputs.sweep, []
    if _works(shapes) is None and not inputs.measure:
        notes.append(
            "No hours: nothing recorded or cached tells how long packs take. --measure trains a "
            f"few steps here, for at most {PLAN_LIMITS.seconds:.0f} s and "
            f"{PLAN_LIMITS.memory_share:.0%} of the free memory."
        )
    if sweep.is_adaptive:
        notes.append(
            f"{sweep.design.method.value} asks in rounds of {sweep.design.batch} points, up to "
            f"{sweep.design.total} of an arm at a width; each waits for the one before, which "
            "takes longer than the wall time said here."
        )
    return notes
