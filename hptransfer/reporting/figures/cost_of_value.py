"""The picture of what a value costs where the answer holds: over the HP, for every arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.analysis.answer.text import arm_names
from hptransfer.config.sweep import AXIS_WORDS
from hptransfer.reporting.figures.style import (
    MUTED,
    OPTIMUM,
    PAPER,
    arm_colors,
    draw_transferred,
    hp_label,
    key_line,
)
from hptransfer.results.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME_CLEARANCE = 0.35  # share of the width: closer names get lines of their own
SHOWN_COSTS = 4.0  # the highest cost shown, in multiples of the dearest marked value's


class CostCurve(NamedTuple):
    """One arm: the cost of values at the destination, with a 90 % interval; inf past the cliff."""

    name: str
    color: str
    value: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    emitted: tuple[float, float]  # the value to use, and what it costs
    kept: tuple[float, float]  # the value that is kept if movement is ignored, and its cost


class CostData(NamedTuple):
    """All arms of one HP; costs are in % of the loss, or in its units."""

    x_label: str
    y_label: str
    kept_from: str  # the setting whose value is kept
    curves: tuple[CostCurve, ...]
    ceiling: float


def cost_data(estimates: Mapping[str, Any], *, hp: str) -> CostData | None:
    """Select the costs of the arms that swept one HP; None where nothing tells them."""
    arms = [arm for arm in estimates["arms"] if arm["hp"] == hp]
    names = arm_names(arms)
    told = [
        (arm, _curve(arm["cost"], name, color))
        for arm, name, color in zip(arms, names, arm_colors(names), strict=True)
        if arm["cost"] is not None and arm["cost"]["curve"] is not None
    ]
    if not told:
        return None
    first, curves = told[0][0], tuple(curve for _, curve in told)
    label = metric_of(estimates).label
    unit = f"in % of the {label}" if first["cost"]["curve"]["of"] == "percent" else f"in {label}"
    axis = AXIS_WORDS[first["axis"]]
    place, kept_from = (
        f"{axis} {told:g}"
        for told in (first["cost"]["curve"]["at"], first["cost"]["ignoring"]["kept_from"])
    )
    marked = [cost for curve in curves for _, cost in (curve.emitted, curve.kept)]
    sound = [cost for cost in marked if math.isfinite(cost)]
    least = min(max(curve.mean[0], 0.0) for curve in curves)
    ceiling = max(SHOWN_COSTS * min(sound, default=0.0), 1.25 * max(sound, default=0.0), least / 4)
    y_label = f"cost at {place}, {unit}"
    return CostData(hp_label(hp), y_label, kept_from, curves, ceiling or 1.0)


def _curve(cost: Mapping[str, Any], name: str, color: str) -> CostCurve:
    told = cost["curve"]
    mean, low, high = (
        tuple(math.inf if each is None else each for each in told[key])
        for key in ("mean", "low", "high")
    )
    emitted, kept = (
        math.inf if each["mean"] is None else each["mean"]
        for each in (cost["emitted"][told["of"]], cost["ignoring"][told["of"]])
    )
    return CostCurve(
        name=name,
        color=color,
        value=tuple(told["value"]),
        mean=mean,
        low=low,
        high=high,
        emitted=(told["emitted"], emitted),
        kept=(cost["ignoring"]["value"], kept),
    )


def draw_cost_of_value(ax: Axes, data: CostData) -> None:
    """Draw every arm's mean cost over the HP with its interval, and the two values."""
    ceiling = data.ceiling
    ends = [value for curve in data.curves for value in (curve.value[0], curve.value[-1])]
    ax.set(xlim=(min(ends), max(ends)), ylim=(-0.03 * ceiling, ceiling))
    ax.set(xlabel=data.x_label, ylabel=data.y_label)
    for curve in data.curves:
        # Costs are cut where the picture has long ended: infinite ones cannot be drawn.
        mean, low, high = (
            [min(cost, 2 * ceiling) for cost in costs]
            for costs in (curve.mean, curve.low, curve.high)
        )
        ax.fill_between(curve.value, low, high, color=curve.color, alpha=0.15, lw=0)
        ax.plot(curve.value, mean, color=curve.color, lw=1.8)
        kept = (curve.kept[0], min(curve.kept[1], ceiling))
        ax.plot(*[[v] for v in kept], "D", mfc=PAPER, mec=curve.color, clip_on=False, **OPTIMUM)
        draw_transferred(ax, curve.emitted[0], min(curve.emitted[1], ceiling), curve.color)
    for curve, line in zip(data.curves, name_lines(data.curves), strict=True):
        ax.annotate(
            curve.name, (curve.emitted[0], ceiling), (0, -4 - 12 * line),
            textcoords="offset points", ha="center", va="top", color=curve.color,
            fontweight="bold",
        )  # fmt: skip
    ax.axhline(0, color=MUTED, lw=0.8)
    key_line(
        ax,
        "line: expected cost   shaded: 90 % interval\n"
        f"□ the value to use   ◇ {data.kept_from}'s value, kept",
    )


def name_lines(curves: tuple[CostCurve, ...]) -> list[int]:
    """Return the line from the top, from 0, where each name stands clear of its neighbours."""
    lines: list[int] = []
    for curve in curves:
        clear = NAME_CLEARANCE * (curve.value[-1] - curve.value[0])
        near = zip(curves, lines, strict=False)  # those that have a line
        taken = {line for other, line in near if abs(other.emitted[0] - curve.emitted[0]) < clear}
        lines.append(next(line for line in count() if line not in taken))
    return lines
