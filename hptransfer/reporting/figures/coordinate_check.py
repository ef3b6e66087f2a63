"""The coordinate check's pictures: each module's slope over width, and the RMS behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hptransfer.reporting.figures.style import (
    FAIL,
    GRID,
    INK,
    MUTED,
    SHADE,
    WIDTHS,
    name_rows,
    spread,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Records = Sequence[Mapping[str, Any]]


def measured_slopes(check: Mapping[str, Any]) -> dict[str, Records]:
    """Return the slopes that were measured, by module, in the order of the check."""
    measured = [slope for slope in check["slopes"] if slope["slope"] is not None]
    modules = dict.fromkeys(slope["module"] for slope in measured)
    return {name: [slope for slope in measured if slope["module"] == name] for name in modules}


def draw_coordinate_check(ax: Axes, check: Mapping[str, Any]) -> None:
    """Draw one row per module: its slopes at init and after each step, and the allowed band."""
    modules, limit = measured_slopes(check), check["limit"]
    slopes = [{**slope, "row": row} for row, of in enumerate(modules.values()) for slope in of]
    steps = sorted({slope["step"] for slope in slopes if slope["quantity"] == "update"})
    reach = max([2.5 * limit, *(1.12 * abs(slope["slope"]) for slope in slopes)])
    ax.axvspan(-limit, limit, facecolor=SHADE, edgecolor="none", zorder=0)
    ax.axvline(0, color=MUTED, lw=0.8)
    for edge in (-limit, limit):
        ax.axvline(edge, color=MUTED, lw=0.8, ls=(0, (1, 2)))
    for quantity, marker, shift, size in (("init", "D", -0.16, 20), ("update", "o", 0.16, 30)):
        shown = [slope for slope in slopes if slope["quantity"] == quantity]
        colors = [_step_color(s["step"], steps) if quantity == "update" else MUTED for s in shown]
        colors = [color if s["ok"] else FAIL for color, s in zip(colors, shown, strict=True)]
        rows = [slope["row"] + shift for slope in shown]
        values = [slope["slope"] for slope in shown]
        ax.scatter(values, rows, size, colors, marker=marker, lw=0, zorder=3)
    ax.set(xlim=(-reach, reach), xlabel=f"slope of log2 RMS over log2 {axis_of(check)}")
    name_rows(ax, list(modules))
    ax.set_title(check_title(check), pad=22)
    _draw_key(ax, slopes, steps)


def axis_of(check: Mapping[str, Any]) -> str:
    """Return what grows in a check: width or depth."""
    return check.get("axis", "width")


def check_title(check: Mapping[str, Any]) -> str:
    """Return the verdict of a coordinate check as a title."""
    said = {"pass": "passes", "fail": "fails", "inconclusive": "cannot tell"}
    return f"coordinate check: {said[check['verdict']]}"


def _step_color(step: int, steps: Sequence[int]) -> str:
    return WIDTHS[round((len(WIDTHS) - 2) * steps.index(step) / max(len(steps) - 1, 1))]


def _draw_key(ax: Axes, slopes: Records, steps: Sequence[int]) -> None:
    handles = []
    if any(slope["quantity"] == "init" for slope in slopes):
        handles += ax.plot([], [], "D", color=MUTED, ms=4.5, mew=0, label="init")
    ends = sorted({*steps[:1], *steps[-1:]})
    for name, step in zip(("update, step", "step"), ends, strict=False):
        color = _step_color(step, steps)
        handles += ax.plot([], [], "o", color=color, mew=0, ms=5.5, label=f"{name} {step}")
    if any(not slope["ok"] for slope in slopes):
        handles += ax.plot([], [], "o", color=FAIL, mew=0, ms=5.5, label="outside")
    ax.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False,
        fontsize=8.5, borderaxespad=0.2, borderpad=0, handletextpad=0, columnspacing=0.8,
        handlelength=1.4,
    )  # fmt: skip


def last_updates(check: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Return the RMS by width of each module's change after the last step.

    A module with a zero is left out, since the axis is logarithmic.
    """
    updates = [entry for entry in check["rms"] if entry["quantity"] == "update"]
    last = max((entry["step"] for entry in updates), default=0)
    found: dict[str, dict[int, float]] = {}
    axis = axis_of(check)
    for entry in sorted(updates, key=lambda entry: entry[axis]):
        if entry["step"] == last:
            found.setdefault(entry["module"], {})[entry[axis]] = entry["rms"]
    return {name: rms for name, rms in found.items() if all(rms.values())}


def draw_coordinate_rms(ax: Axes, check: Mapping[str, Any]) -> None:
    """Draw RMS over width; modules outside the limit are coloured and named."""
    from matplotlib.ticker import LogLocator

    slopes = [slope for slope in check["slopes"] if slope["quantity"] == "update"]
    bad = {slope["module"] for slope in slopes if not slope["ok"]}
    lines = last_updates(check)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=10)
    for module, rms in lines.items():
        color, layer = (FAIL, 3) if module in bad else (MUTED, 2)
        ax.plot(
            list(rms), list(rms.values()), "-o", color=color, lw=1.2, ms=3.5, zorder=layer, mew=0
        )
    _name_outside(ax, lines, bad)
    step = max(entry["step"] for entry in check["rms"])
    ax.set_title(f"change of each output after step {step}")
    axis = axis_of(check)
    ax.set(xlabel="width d" if axis == "width" else "blocks", ylabel="RMS of the change")
    ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.tick_params(axis="y", which="minor", labelsize=9)
    ax.set_xticks(check[f"{axis}s"], [str(size) for size in check[f"{axis}s"]])
    ax.set_xticks([], minor=True)
    ax.grid(axis="y", which="major", color=GRID)
    ax.tick_params(axis="x", labelcolor=INK)


def _name_outside(ax: Axes, lines: Mapping[str, Mapping[int, float]], bad: set[str]) -> None:
    outside = [module for module in lines if module in bad]
    levels = [math.log10(value) for rms in lines.values() for value in rms.values()]
    low, high = min(levels), max(levels)
    ends = [math.log10(lines[module][max(lines[module])]) for module in outside]
    places = spread(ends, 0.05 * (high - low), (low, high))
    for module, place in zip(outside, places, strict=True):
        ax.annotate(
            module, (max(lines[module]), 10**place), (6, 0), textcoords="offset points",
            color=FAIL, fontsize=8.5, va="center", annotation_clip=False,
        )  # fmt: skip
