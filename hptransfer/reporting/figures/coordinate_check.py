"""The coordinate check's pictures: each module's slope over width, and the RMS behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

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


class Slope(NamedTuple):
    """The slope of log2 RMS over log2 width of one module at one step."""

    row: int
    slope: float
    step: int
    quantity: str
    ok: bool


class CoordinateCheckData(NamedTuple):
    """One row per module, in the order of the check."""

    title: str
    modules: tuple[str, ...]
    slopes: tuple[Slope, ...]
    steps: tuple[int, ...]
    limit: float


class RmsLine(NamedTuple):
    """One module's RMS over width at the last step."""

    module: str
    width: tuple[int, ...]
    rms: tuple[float, ...]
    ok: bool


class CoordinateRmsData(NamedTuple):
    """The change of each module's output after the last step."""

    step: int
    widths: tuple[int, ...]
    lines: tuple[RmsLine, ...]


def coordinate_check_data(check: Mapping[str, Any]) -> CoordinateCheckData:
    """Select the slopes that were measured, by module."""
    measured = [s for s in check["slopes"] if s["slope"] is not None]
    modules = tuple(dict.fromkeys(s["module"] for s in measured))
    rows = {module: row for row, module in enumerate(modules)}
    return CoordinateCheckData(
        title="coordinate check: " + {"pass": "passes", "fail": "fails"}[check["verdict"]],
        modules=modules,
        slopes=tuple(
            Slope(rows[s["module"]], s["slope"], s["step"], s["quantity"], s["ok"])
            for s in measured
        ),
        steps=tuple(sorted({s["step"] for s in measured if s["quantity"] == "update"})),
        limit=check["limit"],
    )


def coordinate_rms_data(check: Mapping[str, Any]) -> CoordinateRmsData:
    """Select each module's update at the last step; a module with a zero has no line."""
    updates = [r for r in check["rms"] if r["quantity"] == "update"]
    step = max((r["step"] for r in updates), default=0)
    last = [r for r in updates if r["step"] == step]
    bad = {s["module"] for s in check["slopes"] if s["quantity"] == "update" and not s["ok"]}
    lines = []
    for module in dict.fromkeys(r["module"] for r in last):
        rows = sorted((r["width"], r["rms"]) for r in last if r["module"] == module)
        if all(rms is not None and rms > 0 for _, rms in rows):
            widths, values = zip(*rows, strict=True)
            lines.append(RmsLine(module, widths, values, module not in bad))
    return CoordinateRmsData(step, tuple(sorted({r["width"] for r in last})), tuple(lines))


def draw_coordinate_check(ax: Axes, data: CoordinateCheckData) -> None:
    """Draw one row per module: its slopes at init and after each step, and the allowed band."""
    reach = max([2.5 * data.limit, *(1.12 * abs(s.slope) for s in data.slopes)])
    ax.axvspan(-data.limit, data.limit, facecolor=SHADE, edgecolor="none", zorder=0)
    ax.axvline(0, color=MUTED, lw=0.8)
    for edge in (-data.limit, data.limit):
        ax.axvline(edge, color=MUTED, lw=0.8, ls=(0, (1, 2)))
    for quantity, marker, shift, size in (("init", "D", -0.16, 20), ("update", "o", 0.16, 30)):
        shown = [s for s in data.slopes if s.quantity == quantity]
        colors = [_color(s, data.steps) for s in shown]
        rows = [s.row + shift for s in shown]
        ax.scatter([s.slope for s in shown], rows, size, colors, marker=marker, lw=0, zorder=3)
    ax.set(xlim=(-reach, reach), xlabel="slope of log2 RMS over log2 width")
    name_rows(ax, data.modules)
    ax.set_title(data.title, pad=22)
    _draw_key(ax, data)


def _color(slope: Slope, steps: tuple[int, ...]) -> str:
    if not slope.ok:
        return FAIL
    if slope.quantity == "init":
        return MUTED
    span = max(len(steps) - 1, 1)
    return WIDTHS[round((len(WIDTHS) - 2) * steps.index(slope.step) / span)]


def _draw_key(ax: Axes, data: CoordinateCheckData) -> None:
    init = ax.plot([], [], "D", color=MUTED, ms=4.5, mew=0, label="init")
    handles = init if any(s.quantity == "init" for s in data.slopes) else []
    for name, step in zip(
        ("update, step", "step"), sorted({*data.steps[:1], *data.steps[-1:]}), strict=False
    ):
        sample = Slope(0, 0.0, step, "update", True)
        color = _color(sample, data.steps)
        handles += ax.plot([], [], "o", color=color, mew=0, ms=5.5, label=f"{name} {step}")
    if any(not s.ok for s in data.slopes):
        handles += ax.plot([], [], "o", color=FAIL, mew=0, ms=5.5, label="outside")
    ax.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False,
        fontsize=8.5, borderaxespad=0.2, borderpad=0, handletextpad=0, columnspacing=0.8,
        handlelength=1.4,
    )  # fmt: skip


def draw_coordinate_rms(ax: Axes, data: CoordinateRmsData) -> None:
    """Draw RMS over width; modules outside the limit are coloured and named."""
    from matplotlib.ticker import LogLocator

    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=10)
    for line in data.lines:
        color, layer = (MUTED, 2) if line.ok else (FAIL, 3)
        ax.plot(line.width, line.rms, "-o", color=color, lw=1.2, ms=3.5, zorder=layer, mew=0)
    _name_outside(ax, data)
    ax.set_title(f"change of each output after step {data.step}")
    ax.set(xlabel="width d", ylabel="RMS of the change")
    ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.tick_params(axis="y", which="minor", labelsize=9)
    ax.set_xticks(data.widths, [str(w) for w in data.widths])
    ax.set_xticks([], minor=True)
    ax.grid(axis="y", which="major", color=GRID)
    ax.tick_params(axis="x", labelcolor=INK)


def _name_outside(ax: Axes, data: CoordinateRmsData) -> None:
    outside = [line for line in data.lines if not line.ok]
    ends = [math.log10(rms) for line in data.lines for rms in line.rms]
    low, high = min(ends), max(ends)
    wanted = [math.log10(line.rms[-1]) for line in outside]
    places = spread(wanted, 0.05 * (high - low), (low, high))
    for line, place in zip(outside, places, strict=True):
        ax.annotate(
            line.module, (line.width[-1], 10**place), (6, 0), textcoords="offset points",
            color=FAIL, fontsize=8.5, va="center", annotation_clip=False,
        )  # fmt: skip
