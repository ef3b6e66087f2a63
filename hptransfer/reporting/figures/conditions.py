"""The picture of a varied condition: optimum and drift over steps, batch size or depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures.style import (
    INK,
    MUTED,
    Mark,
    draw_mark,
    ends_of,
    hp_label,
    limits_of,
    name_at_right,
    width_colors,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"steps": "training steps", "batch_size": "batch size", "depth": "depth"}


class WidthLine(NamedTuple):
    """One width's optimum over the condition."""

    width: int
    color: str
    points: tuple[Mark, ...]


class ConditionData(NamedTuple):
    """One arm over one condition, the others as they are where the width answer is read."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[WidthLine, ...]
    drift: tuple[Mark, ...]
    read_at: float | None


def condition_data(arm: Mapping[str, Any], over: Mapping[str, Any]) -> ConditionData:
    """Select one condition's optima by width, and the drift at each of its values."""
    axis, told = over["axis"], arm["conditions"]
    at = arm.get("at") or {}
    others = [name for name in told["varied"] if name not in (axis, "width")]
    rows = [
        row for row in told["optima"] if all(row.get(n) == at.get(n, row.get(n)) for n in others)
    ]
    rows.sort(key=lambda row: row[axis])
    lines = []
    for width, color in width_colors([row["width"] for row in rows]).items():
        points = [
            Mark(row[axis], row["optimum"], ends_of(row), row["censored"])
            for row in rows
            if row["width"] == width
        ]
        lines.append(WidthLine(width, color, tuple(points)))
    drifts = [(entry["value"], entry["drift"]) for entry in over["values"] if entry["drift"]]
    moves = {True: "still moves", False: "has settled", None: "cannot be told"}
    return ConditionData(
        title=f"{arm_name(arm['parametrization'])}: {moves[over['still_moves']]}",
        x_label=NAMES[axis],
        y_label=f"optimal {hp_label(arm['hp'])}",
        lines=tuple(lines),
        drift=tuple(
            Mark(value, drift["estimate"], ends_of(drift), None)
            for value, drift in drifts
            if drift["estimate"] is not None
        ),
        read_at=at.get(axis),
    )


def draw_condition(figure: Figure, data: ConditionData) -> None:
    """Draw the optima of every width above, the drift over width below."""
    if data.drift:
        upper, bottom = figure.subplots(2, height_ratios=(2, 1), sharex=True)
        _draw_drift(bottom, data)
    else:
        upper = bottom = figure.subplots()
    _draw_optima(upper, data)
    values = sorted({mark.at for line in data.lines for mark in line.points})
    bottom.set_xscale("log", base=2)
    bottom.set(xlabel=data.x_label, xlim=(values[0] / 1.25, values[-1] * 1.25))
    bottom.set_xticks(values, [f"{value:g}" for value in values])
    bottom.set_xticks([], minor=True)


def _draw_optima(ax: Axes, data: ConditionData) -> None:
    ax.set_title(data.title)
    ax.set_ylabel(data.y_label)
    _mark_read_at(ax, data)
    for index, line in enumerate(data.lines):
        nudge = 1 + 0.03 * (index - (len(data.lines) - 1) / 2)
        points = [mark._replace(at=mark.at * nudge) for mark in line.points]
        _draw_line(ax, points, line.color)
    ax.set_ylim(*limits_of([mark for line in data.lines for mark in line.points], least=3.0))
    names = [f"d = {line.width}" for line in data.lines]
    ends = [line.points[-1].value for line in data.lines]
    name_at_right(ax, names, [line.color for line in data.lines], ends, gap=0.075)


def _draw_drift(ax: Axes, data: ConditionData) -> None:
    ax.axhline(0, color=MUTED, lw=1)
    _mark_read_at(ax, data)
    _draw_line(ax, data.drift, INK)
    ax.set_ylim(*limits_of([*data.drift, Mark(0, 0.0, None, None)], least=0.5))
    ax.set_ylabel("drift, octaves\nper doubling")
    ax.locator_params(axis="y", nbins=5)


def _draw_line(ax: Axes, marks: Sequence[Mark], color: str) -> None:
    ax.plot([mark.at for mark in marks], [mark.value for mark in marks], color=color, lw=1.4)
    for mark in marks:
        draw_mark(ax, mark, color)


def _mark_read_at(ax: Axes, data: ConditionData) -> None:
    if data.read_at is not None:
        ax.axvline(data.read_at, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)
