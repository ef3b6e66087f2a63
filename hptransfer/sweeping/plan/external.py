"""What a sweep of a trainer that is not ours will cost: hours, from the seconds of its own trials.

hptransfer knows no FLOPs of such a trainer. Trials of widths that have none recorded are taken from
a power law of the seconds over the widths that have.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from hptransfer.config import ExecutorConfig
from hptransfer.config.external import ExternalTrial
from hptransfer.config.identity import arm_of, trial_key
from hptransfer.config.sweep import ExternalSweep
from hptransfer.execution.resources import usable_cpus
from hptransfer.sweeping.design.trials import placeholder_trials, wanted

STEEPEST = 3.0  # the largest power of the width that the seconds of a trial are taken to go with


def plan_external(
    sweep: ExternalSweep,
    executor: ExecutorConfig,
    rows: Mapping[str, Mapping[str, Any]],
    workers: int | None,
) -> dict[str, Any]:
    """Return the plan of a sweep of a trainer that is not ours, as `hptransfer plan --json` has it.

    Args:
        rows: the recorded rows by trial key.
        workers: trials that run at a time; None: those that the executor's resources allow here.
    """
    trials = list(wanted(sweep).values()) if not sweep.is_adaptive else _of_rounds(sweep)
    groups: dict[tuple[str, int], list[ExternalTrial]] = defaultdict(list)
    for trial in trials:
        assert isinstance(trial, ExternalTrial)
        groups[arm_of(trial), trial.model.width].append(trial)
    seconds = _seconds_by_width(rows.values())
    shapes = [
        _shape(arm, width, group, rows, _expected(seconds, width), sweep.is_adaptive)
        for (arm, width), group in sorted(groups.items())
    ]
    at_once, notes = workers or executor.workers, []
    if at_once is None and executor.is_here:
        at_once = 1 if executor.name == "local" else max(int(usable_cpus() // executor.cpus), 1)
    if at_once is None:
        at_once = 1
        notes.append(
            "The cluster was not asked how much it can run, so the plan assumes one trial at a "
            "time. Say with --workers how many trials run at once."
        )
    if not seconds:
        notes.append(
            "No trial is recorded yet, so nothing tells how long one takes. Run a few, for example "
            f"with sweep.widths=[{sweep.widths[0]}] sweep.seeds=1, and plan again."
        )
    elif len(seconds) == 1:
        notes.append(
            "Trials of one width are recorded. Those of other widths are taken to last as much "
            "longer as they are wider."
        )
    known = all(shape["hours"] is not None for shape in shapes)
    hours = math.fsum(shape["hours"] for shape in shapes) if known else None
    left = [s["seconds"] for s in shapes if s["trials"]["to_run"]]
    wall = None if hours is None else max(hours * 3600 / at_once, max(left, default=0.0))
    return {
        "sweep": sweep.name,
        "shapes": shapes,
        "total": {
            "trials": {
                name: sum(shape["trials"][name] for shape in shapes)
                for name in ("wanted", "recorded", "to_run")
            },
            "hours": hours,
            "money": None
            if hours is None or executor.price_per_hour is None
            else hours * executor.price_per_hour,
        },
        "workers": at_once,
        "wall_seconds": wall,
        "notes": notes,
    }


def _of_rounds(sweep: ExternalSweep) -> list[Any]:
    """Return as many trials as an adaptive design asks for at most, at the middle of its axes."""
    return placeholder_trials(sweep, sweep.design.total)


def _seconds_by_width(rows: Any) -> dict[int, float]:
    """Return the median seconds of the recorded trials of each width."""
    found: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row["cost"]["seconds"] and row["status"] == "completed":
            found[row["width"]].append(row["cost"]["seconds"])
    return {width: statistics.median(values) for width, values in sorted(found.items())}


def _expected(seconds: Mapping[int, float], width: int) -> tuple[float | None, str]:
    """Return the seconds of a trial at a width, and what tells them."""
    if width in seconds:
        return seconds[width], "trials of this width"
    if not seconds:
        return None, "nothing"
    near = min(seconds, key=lambda other: abs(math.log(other / width)))
    power = 1.0
    if len(seconds) > 1:
        first, last = min(seconds), max(seconds)
        power = math.log(seconds[last] / seconds[first]) / math.log(last / first)
        power = min(max(power, 0.0), STEEPEST)
    return seconds[near] * (width / near) ** power, "trials of other widths"


def _shape(
    arm: str,
    width: int,
    group: Sequence[ExternalTrial],
    rows: Mapping[str, Any],
    expected: tuple[float | None, str],
    is_adaptive: bool,
) -> dict[str, Any]:
    seconds, source = expected
    recorded = sum(trial_key(trial) in rows for trial in group)
    if is_adaptive:  # the points are not known yet, but the rows of this arm and width are
        of_place = (row for row in rows.values() if row["width"] == width)
        recorded = min(sum(row["parametrization"] == arm for row in of_place), len(group))
    to_run = len(group) - recorded
    return {
        "parametrization": arm,
        "width": width,
        "trials": {"wanted": len(group), "recorded": recorded, "to_run": to_run},
        "seconds": seconds,
        "source": source,
        "hours": None if seconds is None else to_run * seconds / 3600,
    }
