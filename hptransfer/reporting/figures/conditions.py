"""The picture of a varied condition: optimum and drift over steps, batch size or depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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


def condition_title(arm: Mapping[str, Any], over: Mapping[str, Any]) -> str:
    """Say of an arm whether the condition still moves its optimum."""
    moves = {True: "still moves", False: "has settled", None: "cannot be told"}
    return f"{arm_name(arm['parametrization'])}: {moves[over['still_moves']]}"


def condition_optima(arm: Mapping[str, Any], axis: str) -> dict[int, list[Mark]]:
    """Return each width's optima over a condition, the others as where the arm's answer is read."""
    told, at = arm["conditions"], arm.get("at") or {}
    others = [name for name in told["varied"] if name not in (axis, "width")]
    found: dict[int, list[Mark]] = {}
    for row in sorted(told["optima"], key=lambda row: (row["width"], row[axis])):
        if all(row.get(name) == at.get(name, row.get(name)) for name in others):
            mark = Mark(row[axis], row["optimum"], ends_of(row), row["censored"])
            found.setdefault(row["width"], []).append(mark)
    return found


def draw_condition(figure: Figure, arm: Mapping[str, Any], over: Mapping[str, Any]) -> None:
    """Draw the optima of every width above, the drift over width below."""
    axis, optima = over["axis"], condition_optima(arm, over["axis"])
    drifts = [
        Mark(entry["value"], entry["drift"]["estimate"], ends_of(entry["drift"]), None)
        for entry in over["values"]
        if entry["drift"] and entry["drift"]["estimate"] is not None
    ]
    heights = (2, 1) if drifts else (1,)
    axes = figure.subplots(len(heights), height_ratios=heights, sharex=True, squeeze=False)[:, 0]
    axes[0].set(title=condition_title(arm, over), ylabel=f"optimal {hp_label(arm['hp'])}")
    _draw_optima(axes[0], optima)
    if drifts:
        axes[1].axhline(0, color=MUTED, lw=1)
        _draw_line(axes[1], drifts, INK)
        axes[1].set_ylim(*limits_of([*drifts, Mark(0, 0.0, None, None)], least=0.5))
        axes[1].set_ylabel("drift, octaves\nper doubling")
        axes[1].locator_params(axis="y", nbins=5)
    read_at = (arm.get("at") or {}).get(axis)
    for ax in axes if read_at is not None else ():
        ax.axvline(read_at, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)
    values = sorted({mark.at for marks in optima.values() for mark in marks})
    axes[-1].set_xscale("log", base=2)
    axes[-1].set(xlabel=NAMES[axis], xlim=(values[0] / 1.25, values[-1] * 1.25))
    axes[-1].set_xticks(values, [f"{value:g}" for value in values])
    axes[-1].set_xticks([], minor=True)


def _draw_optima(ax: Axes, optima: Mapping[int, Sequence[Mark]]) -> None:
    colors = width_colors(list(optima))
    for index, (width, marks) in enumerate(optima.items()):
        nudge = 1 + 0.03 * (index - (len(optima) - 1) / 2)
        _draw_line(ax, [mark._replace(at=mark.at * nudge) for mark in marks], colors[width])
    ax.set_ylim(*limits_of([mark for marks in optima.values() for mark in marks], least=3.0))
    ends = [marks[-1].value for marks in optima.values()]
    name_at_right(ax, [f"d = {width}" for width in optima], list(colors.values()), ends, gap=0.075)


def _draw_line(ax: Axes, marks: Sequence[Mark], color: str) -> None:
    ax.plot([mark.at for mark in marks], [mark.value for mark in marks], color=color, lw=1.4)
    for mark in marks:
        draw_mark(ax, mark, color)
