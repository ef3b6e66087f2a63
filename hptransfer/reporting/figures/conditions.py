"""The picture of a varied condition: the optimum over steps, batch size or depth, by width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.config.sweep import AXIS_WORDS
from hptransfer.reporting.figures.style import (
    MUTED,
    Mark,
    draw_mark,
    ends_of,
    hp_label,
    limits_of,
    name_at_right,
    setting_name,
    width_colors,
)
from hptransfer.reporting.figures.wording import estimate_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class WidthLine(NamedTuple):
    """One width's optimum over the condition."""

    name: str
    color: str
    points: tuple[Mark, ...]


class ConditionData(NamedTuple):
    """One arm over one condition, the others as they are where the answer is read."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[WidthLine, ...]
    read_at: float | None


def condition_data(arm: Mapping[str, Any], axis: str, name: str) -> ConditionData:
    """Select the optima over one condition, a line per value of the main axis."""
    told, at, main = arm["conditions"], arm["at"], arm["axis"]
    others = [each for each in told["axes"] if each not in (axis, main)]
    rows = [row for row in told["optima"] if all(row[n] in (at.get(n), None) for n in others)]
    rows.sort(key=lambda row: row[axis])
    lines = []
    for value, color in width_colors([row[main] for row in rows]).items():
        points = [
            Mark(row[axis], row["optimum"], ends_of(row), row["censored"])
            for row in rows
            if row[main] == value
        ]
        lines.append(WidthLine(setting_name(main, value), color, tuple(points)))
    octaves = estimate_text(told["octaves_per_doubling"].get(axis), 2)
    return ConditionData(
        title=f"{name}: {octaves} octaves per doubling",
        x_label=AXIS_WORDS[axis],
        y_label=f"optimal {hp_label(arm['hp'])}",
        lines=tuple(lines),
        read_at=at.get(axis),
    )


def draw_condition(ax: Axes, data: ConditionData) -> None:
    """Draw the optima of every width over the condition, which has a logarithmic axis."""
    ax.set_title(data.title, fontsize=10)
    ax.set_ylabel(data.y_label)
    if data.read_at is not None:
        ax.axvline(data.read_at, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)
    for index, line in enumerate(data.lines):
        nudge = 1 + 0.03 * (index - (len(data.lines) - 1) / 2)
        points = [mark._replace(at=mark.at * nudge) for mark in line.points]
        ax.plot([m.at for m in points], [m.value for m in points], color=line.color, lw=1.4)
        for mark in points:
            draw_mark(ax, mark, line.color)
    ax.set_ylim(*limits_of([mark for line in data.lines for mark in line.points], least=3.0))
    names, colors = [line.name for line in data.lines], [line.color for line in data.lines]
    name_at_right(ax, names, colors, [line.points[-1].value for line in data.lines], gap=0.075)
    values = sorted({mark.at for line in data.lines for mark in line.points})
    ax.set_xscale("log", base=2)
    ax.set(xlabel=data.x_label, xlim=(values[0] / 1.25, values[-1] * 1.25))
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.set_xticks([], minor=True)
