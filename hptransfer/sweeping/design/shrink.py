"""Trials that a folder's sweep asked for before and a new command does not ask for any more."""

from __future__ import annotations

from collections.abc import Iterable

from hptransfer.config.choices import Method
from hptransfer.config.conditions import CONDITIONS
from hptransfer.config.identity import trial_key
from hptransfer.config.sweep import Axis, SweepConfig
from hptransfer.sweeping.design.history import Rows
from hptransfer.sweeping.design.trials import wanted


def overrides_to_keep(recorded: SweepConfig, asked: SweepConfig) -> list[str]:
    """Return the overrides with which a command also asks for all that its folder records.

    The list is empty where the command asks for all of that already.
    """
    lists = {
        "sweep.widths": (recorded.widths, asked.widths),
        "sweep.seeds": (recorded.seeds, asked.seeds),
        "sweep.parametrizations": tuple(
            tuple(scaling.value for scaling in sweep.parametrizations)
            for sweep in (recorded, asked)
        ),
    }
    if any(condition not in asked.conditions for condition in recorded.conditions):
        lists |= {
            f"sweep.vary.{name}": (getattr(recorded.vary, name), getattr(asked.vary, name))
            for name in CONDITIONS
        }
    overrides = [
        f"{key}=[{','.join(map(str, _union(before, now)))}]"
        for key, (before, now) in lists.items()
        if not set(before) <= set(now)
    ]
    if recorded.design.method is not Method.grid:
        if recorded.design.total > asked.design.total:
            overrides.append(f"sweep.design.points={recorded.design.total}")
        return overrides
    now = dict(asked.search)
    for name, axis in recorded.search:
        overrides += _axis_overrides(f"search.{name}", axis, now[name])
    return overrides


def _union(before: Iterable, now: Iterable) -> list:
    both = dict.fromkeys((*before, *now))
    return list(both) if any(isinstance(value, str) for value in both) else sorted(both)


def _axis_overrides(key: str, before: Axis, now: Axis) -> list[str]:
    if set(before.points) <= set(now.points):
        return []
    if before.listed or now.listed:
        points = ", ".join(repr(point) for point in _union(before.points, now.points))
        return [f"{key}={{points: [{points}]}}"]
    both = {
        "low": min(before.low, now.low),
        "high": max(before.high, now.high),
        "step": min(before.step, now.step),
    }
    return [f"{key}.{end}={value:g}" for end, value in both.items() if value != getattr(now, end)]


def left_out(recorded: SweepConfig, asked: SweepConfig, rows: Rows) -> set[str]:
    """Return the keys of the rows that the recorded sweep asks for and the other one does not."""
    return rows.keys() & (_asked_keys(recorded, rows) - _asked_keys(asked, rows))


def _asked_keys(sweep: SweepConfig, rows: Rows) -> set[str]:
    if not sweep.is_adaptive:
        return set(wanted(sweep))
    from hptransfer.sweeping.design.rounds import asked

    return {trial_key(config) for trials in asked(sweep, rows) for config in trials}
