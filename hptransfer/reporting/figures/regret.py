"""The picture of regrets: what a value costs at the target, and both regrets against δ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures.style import (
    MUTED,
    SHADE,
    Mark,
    arm_colors,
    draw_interval,
    draw_transferred,
    ends_of,
    hp_label,
    key_line,
    name_rows,
)
from hptransfer.results.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID_POINTS = 121  # of the HP, at which regret is drawn
SHOWN_OCTAVES = 1.75  # shown on either side of the targets' optima
NAME_CLEARANCE = 0.35  # share of the width: closer names get lines of their own
FLOOR, CEILING = 1e-3, 1e3  # multiples of δ that the lower picture shows


class RegretCurve(NamedTuple):
    """Regret over θ at the target, `low` and `high` its ends while θ_T is in its interval."""

    name: str
    color: str
    theta: np.ndarray
    regret: np.ndarray  # ends at the cliff
    low: np.ndarray  # empty where the optimum has no interval, as `high` is
    high: np.ndarray  # +inf where the cliff may be passed
    emitted: float
    expected: tuple[float, float, float] | None  # mean, low, high
    delta: float | None


class RegretRow(NamedTuple):
    """One regret of an arm as multiples of its δ; an end that is not known is null."""

    name: str
    color: str
    estimate: float | None
    low: float | None
    high: float | None  # +inf past the cliff


class RegretData(NamedTuple):
    """The curves over θ, and the rows below them."""

    x_label: str
    curves: tuple[RegretCurve, ...]
    rows: tuple[RegretRow, ...]
    ceiling: float
    y_label: str


def regret_data(estimates: Mapping[str, Any], *, hp: str) -> RegretData:
    """Select what the arms that swept one HP say of regret at the target."""
    arms = [arm for arm in estimates["arms"] if arm["hp"] == hp]
    colors = arm_colors([arm["parametrization"] for arm in arms])
    coloured = list(zip(arms, colors, strict=True))
    centers = [
        t["optimum"] for arm in arms if (t := arm.get("target")) and t["optimum"] is not None
    ]
    span = (min(centers, default=0.0) - SHOWN_OCTAVES, max(centers, default=0.0) + SHOWN_OCTAVES)
    grid = np.linspace(*span, GRID_POINTS)
    curves = [curve for arm, color in coloured if (curve := _curve(arm, color, grid))]
    rows = [row for arm, color in coloured for row in _rows(arm, color)]
    y_label = f"regret at the target ({metric_of(estimates).label})"
    return RegretData(hp_label(hp), tuple(curves), tuple(rows), _ceiling(curves), y_label)


def _curve(arm: Mapping[str, Any], color: str, grid: np.ndarray) -> RegretCurve | None:
    target = arm.get("target")
    bent = [c for o in arm["optima"] if (c := o.get("curvature")) and c["low"] is not None]
    if target is None or None in (target["optimum"], target["emitted"]) or not bent:
        return None
    below = sum(c["low"] for c in bent) / len(bent)
    seen = [c["high"] for c in bent if c["high"] is not None]
    above = sum(seen) / len(seen) if seen else below
    cliff = min([o["cliff"] for o in arm["optima"] if o.get("cliff") is not None], default=math.inf)

    def regret(optimum: float | np.ndarray) -> np.ndarray:
        apart = grid - optimum
        return np.where(apart >= cliff, math.inf, np.where(apart < 0, below, above) * apart**2)

    low = high = np.array([])
    ends = ends_of(target)
    if ends is not None:
        low, high = regret(np.clip(grid, *ends)), np.maximum(*map(regret, ends))
    told = target.get("expected_regret") or {}
    mean, least, most = (told.get(name) for name in ("mean", "low", "high"))
    return RegretCurve(
        name=arm_name(arm["parametrization"]),
        color=color,
        theta=grid,
        regret=regret(target["optimum"])[grid - target["optimum"] < cliff],
        low=low,
        high=high,
        emitted=target["emitted"],
        expected=None if mean is None or least is None or most is None else (mean, least, most),
        delta=(arm.get("regret") or {}).get("delta"),
    )


def _rows(arm: Mapping[str, Any], color: str) -> list[RegretRow]:
    regret = arm.get("regret") or {}
    delta, name = regret.get("delta"), arm_name(arm["parametrization"])
    rows = []
    for key, what in (("held_out", "held out"), ("at_target", "at target")):
        entry = regret.get(key)
        if not delta or not entry or (entry["estimate"] is None and entry["low"] is None):
            continue
        low, high = entry["low"], entry["high"]
        # A lower end without an upper one: the rest of the draws are past the cliff.
        past = low is not None and high is None
        rows.append(
            RegretRow(
                name=f"{name}, {what}",
                color=color,
                estimate=None if entry["estimate"] is None else entry["estimate"] / delta,
                low=None if low is None else low / delta,
                high=math.inf if past else None if high is None else high / delta,
            )
        )
    return rows


def _ceiling(curves: list[RegretCurve]) -> float:
    """Show a few δ, and the expected regrets' upper ends where they are higher."""
    wanted = [3.2 * c.delta for c in curves if c.delta]
    wanted += [1.25 * c.expected[2] for c in curves if c.expected]
    lowest = [c.regret.max(initial=0.0) for c in curves]
    return float(max(wanted or lowest or [0.0])) or 1.0


def draw_regret(figure: Figure, data: RegretData) -> None:
    """Draw regret over θ at the target above, and regrets over δ below."""
    heights = [8.0] * bool(data.curves) + [1.4 + 0.8 * len(data.rows)] * bool(data.rows)
    axes = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    if data.curves:
        _draw_curves(axes[0], data)
    if data.rows:
        _draw_rows(axes[-1], data)


def _draw_curves(ax: Axes, data: RegretData) -> None:
    ceiling, theta = data.ceiling, data.curves[0].theta
    ax.set(xlim=(theta[0], theta[-1]), ylim=(-0.03 * ceiling, ceiling))
    ax.set(xlabel=data.x_label, ylabel=data.y_label)
    for curve in data.curves:
        _draw_curve(ax, curve, ceiling)
    for curve, line in zip(data.curves, name_lines(data.curves), strict=True):
        ax.annotate(
            curve.name, (curve.emitted, ceiling), (0, -4 - 12 * line), textcoords="offset points",
            ha="center", va="top", color=curve.color, fontweight="bold",
        )  # fmt: skip
    key_line(
        ax,
        "line: the optimum is where the law puts it\n"
        "shaded: it is anywhere in its 90 % interval\n"
        "□ value for the target   dashed: tolerance δ",
    )


def _draw_curve(ax: Axes, curve: RegretCurve, ceiling: float) -> None:
    color = curve.color
    if len(curve.low):
        low, high = (np.minimum(ends, 2 * ceiling) for ends in (curve.low, curve.high))
        ax.fill_between(curve.theta, low, high, color=color, alpha=0.15, lw=0)
    ax.plot(curve.theta[: len(curve.regret)], curve.regret, color=color, lw=1.8)
    if len(curve.regret) < len(curve.theta):
        x, y = curve.theta[len(curve.regret) - 1], curve.regret[-1]
        ax.plot([x, x], [y, 2 * ceiling], color=color, lw=1.2, ls=(0, (1, 1.5)))
    if curve.delta:
        ax.axhline(curve.delta, color=color, lw=1.1, ls=(0, (4, 3)))
    mean = 0.0
    if curve.expected is not None:
        mean, low, high = curve.expected
        # The mean of a long tail may lie outside of its interval.
        ends = (min(low, mean), max(high, mean))
        draw_interval(ax, Mark(curve.emitted, mean, ends, None), color)
    draw_transferred(ax, curve.emitted, mean, color)


def name_lines(curves: tuple[RegretCurve, ...]) -> list[int]:
    """Return the line from the top, from 0, where each name stands clear of its neighbours."""
    lines: list[int] = []
    for curve in curves:
        clear = NAME_CLEARANCE * (curve.theta[-1] - curve.theta[0])
        near = zip(curves, lines, strict=False)  # those that have a line
        taken = {line for other, line in near if abs(other.emitted - curve.emitted) < clear}
        lines.append(next(line for line in count() if line not in taken))
    return lines


def _draw_rows(ax: Axes, data: RegretData) -> None:
    shown = [v for r in data.rows for v in (r.estimate, r.low, r.high) if v and math.isfinite(v)]
    left = 10 ** math.floor(math.log10(max(min([0.1, *shown]), FLOOR)))
    right = 10 ** math.ceil(math.log10(min(max([10.0, *shown]), CEILING)))
    ax.set_xscale("log")
    ax.set(xlim=(left, right))
    ax.axvspan(left, 1, facecolor=SHADE, edgecolor="none", zorder=0)
    ax.axvline(1, color=MUTED, lw=1)
    for row, (_, color, estimate, low, high) in enumerate(data.rows):
        if low is not None and high is not None:
            ends = np.clip([low, high], left, right)
            ax.plot(ends, [row, row], color=color, lw=3, alpha=0.45, solid_capstyle="butt")
            if high > right:
                ax.plot([right], [row], ">", color=color, ms=6, mew=0, clip_on=False)
        if estimate is not None:
            out = "<" if estimate < left else ">" if estimate > right else "o"
            inside = np.clip(estimate, left, right)
            ax.plot([inside], [row], out, color=color, ms=6.5, mew=0, clip_on=False, zorder=5)
    name_rows(ax, [row.name for row in data.rows])
    ax.set_xlabel("regret as a multiple of δ")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_ticks([], minor=True)
