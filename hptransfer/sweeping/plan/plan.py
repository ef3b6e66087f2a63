"""What a sweep will cost, reckoned before anything runs: trials, packs, FLOPs, hours and money."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hptransfer.config import ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.config.conditions import condition_of
from hptransfer.config.identity import arm_of, trial_key
from hptransfer.config.sweep import SweepConfig
from hptransfer.execution import measure_packs
from hptransfer.execution.pack_sizes import (
    Measurement,
    PackSize,
    Trials,
    by_shape,
    choose_sizes,
    makespan,
)
from hptransfer.sweeping.design.points import points
from hptransfer.sweeping.design.trials import pending, placeholder_trials, wanted
from hptransfer.sweeping.plan.costs import (
    NOTHING,
    Interval,
    Place,
    Rows,
    Work,
    added,
    cut,
    evaluation_share,
    factor,
    given,
    left,
    place,
    ratios_of,
    short,
    source,
)
from hptransfer.sweeping.plan.search_cost import cost as search_cost
from hptransfer.training.flops import trial_flops

Row = Mapping[str, Any]
HOUR = 3600.0


@dataclass(frozen=True)
class Shape:
    """The trials of one shape: an arm at a width."""

    trials: Trials
    recorded: int
    work: Work | None  # None: nothing is left to run

    @property
    def missing(self) -> int:
        """Trials without a row."""
        return len(self.trials) - self.recorded

    @property
    def flops(self) -> float:
        """The FLOPs of one trial, its evaluations included."""
        return trial_flops(self.trials[0])


def plan(
    sweep: SweepConfig,
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    rows: Rows,
    target_rows: Sequence[Row],
    sizes: Mapping[str, PackSize],
    workers: int | None,
) -> dict[str, Any]:
    """Return what `hptransfer plan --json` prints; shapes of unknown cost are measured.

    Args:
        rows: the sweep's recorded rows.
        target_rows: the target's own.
        sizes: the pack sizes that the sweep's folder records, by `shape_key`.
        workers: packs that run at a time; None: as many as there are places.

    Raises:
        UserError: resources or a device that are not there.
        MachineError: a single trial does not fit.
    """
    groups = by_shape(planned_trials(sweep))
    at_once = sweep.design.batch * len(sweep.seeds) if sweep.is_adaptive else None
    done = _stand_ins_done(groups, rows.values()) if sweep.is_adaptive else set(rows)
    open_groups = {key: group for key, group in groups.items() if pending([group], done)}
    kept = {} if runtime.pack_size else {key: sizes[key] for key in groups if key in sizes}
    known = {key: kept[key] for key in open_groups if key in kept}
    unknown = {key: group for key, group in open_groups.items() if key not in kept}
    if unknown or workers is None:
        found = measure_packs([group[:at_once] for group in unknown.values()], runtime, executor)
    else:
        found = Measurement([], workers)
    places = workers or found.workers
    costs = dict(zip(unknown, found.costs, strict=True))
    if runtime.pack_size:
        chosen = {
            key: given(unknown[key][:at_once], runtime.pack_size, costs[key]) for key in unknown
        }
    else:
        cuts = {key: cut(groups[key], choice, at_once) for key, choice in known.items()}
        others = [pack.seconds for packs in left(cuts, done).values() for pack in packs]
        together = {key: group[:at_once] for key, group in unknown.items()}
        chosen = {**kept, **choose_sizes(together, costs, places, others)}
    cuts = {key: cut(groups[key], choice, at_once) for key, choice in chosen.items()}
    ratios = {key: ratios_of(packs, rows, on_gpu=runtime.on_gpu) for key, packs in cuts.items()}
    works = {
        key: Work(
            packs=tuple(packs),
            source=source(costs.get(key)),
            bytes=costs[key].bytes(len(cuts[key][0].trials)) if key in costs else None,
            factor=factor(key, ratios, costs.get(key)),
        )
        for key, packs in left({key: cuts[key] for key in open_groups}, done).items()
    }
    shapes = [
        Shape(group, sum(trial_key(config) in done for config in group), works.get(key))
        for key, group in groups.items()
    ]
    occupied = place(runtime, executor)
    return {
        "schema": 1,
        "sweep": sweep.name,
        "shapes": [_entry(shape, occupied) for shape in shapes],
        "total": _total(shapes, occupied),
        "place": occupied.as_json(),
        "wall_seconds": {"workers": places, **_wall(works.values(), places).as_json()},
        "target": _target(sweep, shapes, rows.values(), target_rows, occupied),
        "search_over_target": _search_over_target(sweep, shapes),
        "notes": [*found.notes, *_notes(sweep)],
    }


def planned_trials(sweep: SweepConfig) -> list[TrialConfig]:
    """Return a sweep's trials; of one that asks in rounds as many stand-ins of the same shapes."""
    if not sweep.is_adaptive:
        return list(wanted(sweep).values())
    return placeholder_trials(sweep, sweep.design.total)


def _stand_ins_done(groups: Mapping[str, Trials], rows: Iterable[Row]) -> set[str]:
    """Return stand-ins for the recorded trials: as many of each arm and width."""
    counts = Counter((row["parametrization"], row["width"]) for row in rows)
    return {
        trial_key(config)
        for group in groups.values()
        for config in group[: counts[arm_of(group[0]), group[0].model.width]]
    }


def _entry(shape: Shape, occupied: Place) -> dict[str, Any]:
    work, config = shape.work, shape.trials[0]
    entry: dict[str, Any] = {
        "parametrization": arm_of(config),
        "width": config.model.width,
        **condition_of(config),
        "trials": _counts([shape]),
        "flops": _flops([shape]),
        "evaluation_share": short(evaluation_share(config)),
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
        "interval_from": {"basis": work.factor.basis, "packs": work.factor.packs},
    }
    return {**entry, "packs": packs, "hours": _hours([work], occupied).as_json()}


def _counts(shapes: Sequence[Shape]) -> dict[str, int]:
    recorded, missing = (sum(getattr(s, n) for s in shapes) for n in ("recorded", "missing"))
    return {"wanted": recorded + missing, "recorded": recorded, "to_run": missing}


def _flops(shapes: Sequence[Shape]) -> dict[str, float]:
    return {
        "wanted": sum(shape.flops * len(shape.trials) for shape in shapes),
        "to_run": sum(shape.flops * shape.missing for shape in shapes),
    }


def _hours(works: Iterable[Work], occupied: Place) -> Interval:
    """Return the hours of the unit that packs occupy: GPU-hours, or core-hours."""
    seconds = added(interval for work in works for interval in work.seconds())
    return seconds.times(occupied.count / HOUR)


def _total(shapes: Sequence[Shape], occupied: Place) -> dict[str, Any]:
    works = [shape.work for shape in shapes if shape.work is not None]
    hours, price = _hours(works, occupied), occupied.price_per_hour
    return {
        "trials": _counts(shapes),
        "flops": _flops(shapes),
        "packs_to_run": sum(len(work.packs) for work in works),
        "hours": hours.as_json(),
        "money": None if price is None else hours.times(price / occupied.count).as_json(),
    }


def _wall(works: Iterable[Work], places: int) -> Interval:
    """Return when the last pack ends, where places take the longest that is left."""
    seconds = [interval for work in works for interval in work.seconds()]
    ends = [makespan(values, places) for values in zip(*seconds, strict=True)]
    return Interval(*ends) if ends else NOTHING


def _target(
    sweep: SweepConfig,
    shapes: Sequence[Shape],
    rows: Iterable[Row],
    target_rows: Sequence[Row],
    occupied: Place,
) -> dict[str, Any] | None:
    """Return what the target run takes: as recorded, else by FLOPs from the widest proxies."""
    if sweep.target is None:
        return None
    flops, width = trial_flops(sweep.target), sweep.target.model.width
    own = [row["cost"]["seconds"] for row in target_rows if row["width"] == width]
    widest = max(shape.trials[0].model.width for shape in shapes)
    rates = [r["cost"]["seconds"] / r["cost"]["flops"] for r in rows if r["width"] == widest]
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
        seconds, basis = None, "nothing: no row and no pack of the widest width"
    hours = None if seconds is None else short(seconds * occupied.count / HOUR)
    price = occupied.price_per_hour
    money = None if seconds is None or price is None else short(seconds / HOUR * price)
    return {"width": width, "flops": flops, "hours": hours, "money": money, "hours_from": basis}


def _search_over_target(
    sweep: SweepConfig, shapes: Sequence[Shape]
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


def _notes(sweep: SweepConfig) -> list[str]:
    if not sweep.is_adaptive:
        return []
    return [
        f"{sweep.design.method.value} asks in rounds of {sweep.design.batch} points, up to "
        f"{sweep.design.total} of an arm at a width; each waits for the one before, which takes "
        "longer than the wall time said here."
    ]
