"""The picture of a varied condition: optimum and drift over steps, batch size or depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures.basins import BARS, OPTIMUM
from hptransfer.reporting.figures.style import (
    INK,
    MUTED,
    PAPER,
    hp_label,
    spread,
    width_colors,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"steps": "training steps", "batch_size": "batch size", "depth": "depth"}


class ConditionPoint(NamedTuple):
    """A number with its 90 % interval at one value of the condition."""

    value: float
    estimate: float
    interval: tuple[float, float] | None
    censored: str | None


class WidthLine(NamedTuple):
    """One width's optimum over the condition."""

    width: int
    color: str
    points: tuple[ConditionPoint, ...]


class ConditionData(NamedTuple):
    """One arm over one condition, the others as they are where the width answer is read."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[WidthLine, ...]
    drift: tuple[ConditionPoint, ...]
    read_at: float | None


def condition_data(arm: dict[str, Any], over: dict[str, Any]) -> ConditionData:
    """Select one condition's optima by width, and the drift at each of its values."""
    axis, told = over["axis"], arm["conditions"]
    at = arm.get("at") or {}
    others = [name for name in told["varied"] if name not in (axis, "width")]
    rows = [
        row for row in told["optima"] if all(row.get(n) == at.get(n, row.get(n)) for n in others)
    ]
    colors = width_colors([row["width"] for row in rows])
    lines = [
        WidthLine(
            width,
            color,
            tuple(
                _point(row[axis], {**row, "estimate": row["optimum"]}, row["censored"])
                for row in sorted(rows, key=lambda row: row[axis])
                if row["width"] == width
            ),
        )
        for width, color in colors.items()
    ]
    drifts = [
        _point(entry["value"], entry["drift"])
        for entry in over["values"]
        if entry["drift"] and entry["drift"]["estimate"] is not None
    ]
    moves = {True: "still moves", False: "has settled", None: "cannot be told"}
    return ConditionData(
        title=f"{arm_name(arm['parametrization'])}: {moves[over['still_moves']]}",
        x_label=NAMES[axis],
        y_label=f"optimal {hp_label(arm['hp'])}",
        lines=tuple(lines),
        drift=tuple(drifts),
        read_at=at.get(axis),
    )


def _point(value: float, told: dict[str, Any], censored: str | None = None) -> ConditionPoint:
    ends = (told["low"], told["high"])
    return ConditionPoint(value, told["estimate"], None if None in ends else ends, censored)


def draw_condition(figure: Figure, data: ConditionData) -> None:
    """Draw the optima of every width above, the drift over width below."""
    if not data.drift:
        upper, lower = figure.subplots(), None
    else:
        upper, lower = figure.subplots(2, height_ratios=(2, 1), sharex=True)
    _draw_optima(upper, data)
    if lower is not None:
        _draw_drift(lower, data)
    bottom = upper if lower is None else lower
    values = sorted({s.value for line in data.lines for s in line.points})
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
        at = [s.value * nudge for s in line.points]
        ax.plot(at, [s.estimate for s in line.points], color=line.color, lw=1.4)
        for x, point in zip(at, line.points, strict=True):
            _draw_point(ax, x, point, line.color)
    low, high = _limits([s for line in data.lines for s in line.points], least=3.0)
    ax.set_ylim(low, high)
    drawn = [line for line in data.lines if line.points]
    places = spread([line.points[-1].estimate for line in drawn], 0.075 * (high - low), (low, high))
    for line, place in zip(drawn, places, strict=True):
        ax.annotate(
            f"d = {line.width}", (1, place), (5, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", color=line.color, va="center", fontsize=9,
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def _draw_drift(ax: Axes, data: ConditionData) -> None:
    ax.axhline(0, color=MUTED, lw=1)
    _mark_read_at(ax, data)
    ax.plot([s.value for s in data.drift], [s.estimate for s in data.drift], color=INK, lw=1.2)
    for point in data.drift:
        _draw_point(ax, point.value, point, INK)
    ax.set_ylim(*_limits([*data.drift, ConditionPoint(0, 0.0, None, None)], least=0.5))
    ax.set_ylabel("drift, octaves\nper doubling")
    ax.locator_params(axis="y", nbins=5)


def _mark_read_at(ax: Axes, data: ConditionData) -> None:
    if data.read_at is not None:
        ax.axvline(data.read_at, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)


def _draw_point(ax: Axes, x: float, point: ConditionPoint, color: str) -> None:
    if point.interval is not None:
        low, high = point.interval
        ends = [[point.estimate - low], [high - point.estimate]]
        ax.errorbar([x], [point.estimate], ends, fmt="none", color=color, **BARS)
    shape, face = ("o", color) if point.censored is None else ("D", PAPER)
    ax.plot([x], [point.estimate], shape, mfc=face, mec=color, **OPTIMUM)


def _limits(points: list[ConditionPoint], least: float) -> tuple[float, float]:
    """Hold every estimate and at least `least`; long intervals are cut."""
    values = [s.estimate for s in points]
    ends = [end for s in points if s.interval for end in s.interval]
    reach = max(least / 2, max(values) - min(values))
    low = max(min([*values, *ends]), min(values) - reach)
    high = min(max([*values, *ends]), max(values) + reach)
    lack = max(0.0, least - (high - low)) / 2
    return low - lack - 0.05 * least, high + lack + 0.05 * least
