"""The picture of several HPs: slices through the joint optimum, and contours of every pair."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures.style import (
    INK,
    MUTED,
    PAPER,
    WIDTHS,
    hp_label,
    spread,
    width_colors,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_HPS = 4  # in one picture; the most important ones are drawn
AXIS_POINTS = 61  # of each HP, at which the surface is evaluated
CONTOUR_LINES = 6  # each at twice the excess loss of the one within
Z90 = 1.645  # normal sds from the middle to an end of a 90 % interval
JOINT90 = 2.146  # sds to the edge of a 90 % region of two, sqrt(chi2)


class Slice(NamedTuple):
    """One width's loss along one HP, the others at their optimum."""

    width: int
    color: str
    theta: tuple[float, ...]
    loss: tuple[float, ...]
    optimum: float
    interval: tuple[float, float] | None


class Contours(NamedTuple):
    """The widest width's loss above its optimum over a pair of HPs, rows along the second."""

    first: int
    second: int
    excess: tuple[tuple[float, ...], ...]
    levels: tuple[float, ...]
    optimum: tuple[float, float]
    region: tuple[tuple[float, float], ...]  # outline of the joint 90 % interval
    flat: tuple[tuple[float, float], tuple[float, float]] | None  # ends of the flattest direction


class SurfaceData(NamedTuple):
    """One arm: a slice per HP and width on the diagonal, contours of its pairs below."""

    arm: str
    width: int
    labels: tuple[str, ...]
    axes: tuple[tuple[float, ...], ...]  # a grid per HP
    slices: tuple[tuple[Slice, ...], ...]  # per HP
    contours: tuple[Contours, ...]


def drawable(surface: dict[str, Any]) -> bool:
    """Return whether any width of an arm has a fitted surface."""
    return any(_fitted(entry) for entry in surface["widths"])


def _fitted(entry: dict[str, Any]) -> bool:
    return bool(entry.get("interactions")) and entry.get("loss") is not None


def surface_data(surface: dict[str, Any]) -> SurfaceData:
    """Evaluate the fitted surfaces of one arm around their optima."""
    told = [entry for entry in surface["widths"] if _fitted(entry)]
    widest = told[-1]
    every = surface["hps"]
    # The first ones in the order of importance; a page has no room for more.
    shares = (surface.get("importance") or {}).get("surface") or {}
    hps = sorted(every, key=lambda hp: -(shares.get(hp) or 0.0))[:MOST_HPS]
    axes = [_axis(told, hp) for hp in hps]
    colors = width_colors([entry["width"] for entry in told])
    slices = [
        tuple(_slice(entry, hp, every.index(hp), axis, colors[entry["width"]]) for entry in told)
        for hp, axis in zip(hps, axes, strict=True)
    ]
    contours = [
        _contours(widest, every, hps, pair, axes) for pair in combinations(range(len(hps)), 2)
    ]
    return SurfaceData(
        arm=arm_name(surface["parametrization"]),
        width=widest["width"],
        labels=tuple(hp_label(hp) for hp in hps),
        axes=tuple(axes),
        slices=tuple(slices),
        contours=tuple(contours),
    )


def _axis(entries: list[dict[str, Any]], hp: str) -> tuple[float, ...]:
    """Span the points that any width was fitted to."""
    ends = [end for entry in entries for end in entry["box"][hp]]
    low, high = min(ends), max(ends)
    return tuple(low + (high - low) * i / (AXIS_POINTS - 1) for i in range(AXIS_POINTS))


def _slice(entry: dict[str, Any], hp: str, at: int, axis: tuple[float, ...], color: str) -> Slice:
    best, (first, last) = entry["optimum"][hp], entry["box"][hp]
    theta = tuple(x for x in axis if first - 1e-9 <= x <= last + 1e-9)
    ends = (best["low"], best["high"])
    return Slice(
        width=entry["width"],
        color=color,
        theta=theta,
        loss=tuple(entry["loss"] + _excess(entry, {at: x - best["value"]}) for x in theta),
        optimum=best["value"],
        interval=None if None in ends else ends,
    )


def _excess(entry: dict[str, Any], apart: dict[int, float]) -> float:
    """Return the loss above the optimum's, at octaves from it by the HP's place."""
    bend, skew = entry["interactions"], entry["skew"]
    squares = sum(bend[i][j] * x * y for i, x in apart.items() for j, y in apart.items())
    return squares / 2 + sum(skew[i] * x**3 for i, x in apart.items()) / 6


def _contours(
    entry: dict[str, Any],
    every: list[str],
    hps: list[str],
    pair: tuple[int, int],
    axes: list[tuple[float, ...]],
) -> Contours:
    first, second = pair
    i, j = every.index(hps[first]), every.index(hps[second])
    best = (entry["optimum"][hps[first]], entry["optimum"][hps[second]])
    a, b = best[0]["value"], best[1]["value"]
    rows = tuple(
        tuple(_excess(entry, {i: x - a, j: y - b}) for x in axes[first]) for y in axes[second]
    )
    return Contours(
        first=first,
        second=second,
        excess=rows,
        levels=_levels(max(max(row) for row in rows)),
        optimum=(a, b),
        region=_region(best, entry.get("correlation"), (i, j)),
        flat=_flat(entry, hps[first], hps[second], (a, b)),
    )


def _levels(top: float) -> tuple[float, ...]:
    """Halve the highest loss again and again, to two digits."""
    halves = [float(f"{top / 2**k:.1e}") for k in range(CONTOUR_LINES, 0, -1)]
    return tuple(halves) if top > 0 else ()


def _region(
    best: tuple[dict[str, Any], dict[str, Any]], correlation: Any, pair: tuple[int, int]
) -> tuple[tuple[float, float], ...]:
    """Outline the normal joint 90 % region of two optima; empty where there is no interval."""
    if any(end is None for hp in best for end in (hp["low"], hp["high"])) or not correlation:
        return ()
    rho = correlation[pair[0]][pair[1]]
    middles = [(hp["low"] + hp["high"]) / 2 for hp in best]
    sds = [(hp["high"] - hp["low"]) / (2 * Z90) for hp in best]
    across = math.sqrt(max(1 - rho**2, 0.0))
    turns = [2 * math.pi * k / 60 for k in range(61)]
    return tuple(
        (
            middles[0] + JOINT90 * sds[0] * math.cos(t),
            middles[1] + JOINT90 * sds[1] * (rho * math.cos(t) + across * math.sin(t)),
        )
        for t in turns
    )


def _flat(
    entry: dict[str, Any], first: str, second: str, best: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Return the ends, an octave to each side, of the flattest direction within this pair."""
    for told in entry.get("flat_directions") or []:
        x, y = told["direction"].get(first, 0.0), told["direction"].get(second, 0.0)
        length = math.hypot(x, y)
        if length > 0.9:  # it lies in this pair
            dx, dy = x / length, y / length
            return (best[0] - dx, best[1] - dy), (best[0] + dx, best[1] + dy)
    return None


def draw_surface(figure: Figure, data: SurfaceData) -> None:
    """Draw slices on the diagonal and contours below it."""
    count = len(data.labels)
    axes = figure.subplots(count, count, squeeze=False)
    for row in range(count):
        for column in range(row + 1, count):
            axes[row][column].set_axis_off()
    for hp, slices in enumerate(data.slices):
        _draw_slices(axes[hp][hp], data, hp, slices)
    for pair in data.contours:
        _draw_contours(axes[pair.second][pair.first], data, pair)
    for ax, label in zip(axes[-1], data.labels, strict=True):
        ax.set_xlabel(label)
    axes[0][0].set_title(data.arm)
    # The corner above the diagonal is free.
    axes[0][1].text(
        0, 1, _KEY.format(width=data.width), transform=axes[0][1].transAxes, va="top",
        fontsize=8.5, color=MUTED, linespacing=1.4,
    )  # fmt: skip


_KEY = (
    "slices: loss over one HP,\nthe others at their optimum\nbars: 90 % intervals\n\n"
    "contours, width {width}: loss\nabove the optimum, doubling\nfrom line to line\n"
    "dotted: joint 90 % interval\ndashed: a nearly flat direction"
)


def _draw_slices(ax: Axes, data: SurfaceData, hp: int, slices: tuple[Slice, ...]) -> None:
    bottoms = [min(s.loss) for s in slices]
    # A shoulder of the flattest slice, so that none is a needle at the picture's edge.
    reach = max(max(bottoms) - min(bottoms), 1e-12)
    tops = [max(s.loss[0], s.loss[-1]) for s in slices]
    ceiling = min(max(tops), max(bottoms) + 2.5 * max(reach, min(tops) - min(bottoms)))
    span = ceiling - min(bottoms)
    low = min(bottoms) - 0.1 * span
    ax.set(xlim=(data.axes[hp][0], data.axes[hp][-1]), ylim=(low, ceiling), ylabel="loss")
    for cut in slices:
        ax.plot(cut.theta, cut.loss, color=cut.color, lw=1.8)
        bottom = min(cut.loss)
        if cut.interval is not None:
            ends = [[cut.optimum - cut.interval[0]], [cut.interval[1] - cut.optimum]]
            ax.errorbar(
                [cut.optimum], [bottom], xerr=ends, fmt="none", color=cut.color, elinewidth=1.6,
                capsize=3.5,
            )  # fmt: skip
        ax.plot([cut.optimum], [bottom], "o", ms=5.5, mfc=cut.color, mec=PAPER, mew=1)
    places = spread(bottoms, 0.08 * (ceiling - low), (low + 0.04 * span, ceiling))
    for cut, place in zip(slices, places, strict=True):
        ax.annotate(
            f"d = {cut.width}", (1, place), (4, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", color=cut.color, va="center", fontsize=8.5,
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def _draw_contours(ax: Axes, data: SurfaceData, pair: Contours) -> None:
    x, y = data.axes[pair.first], data.axes[pair.second]
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    if pair.first == 0:
        ax.set_ylabel(data.labels[pair.second])
    ax.grid(visible=False)
    if pair.levels:
        colors = [WIDTHS[min(k, len(WIDTHS) - 1)] for k in range(len(pair.levels))]
        lines = ax.contour(x, y, pair.excess, levels=pair.levels, colors=colors, linewidths=1.2)
        # The inner lines have no room for a number.
        ax.clabel(lines, pair.levels[-2:], fmt="%.2g", fontsize=7.5)
    if pair.flat is not None:
        (x0, y0), (x1, y1) = pair.flat
        ax.plot([x0, x1], [y0, y1], color=INK, lw=1.4, ls=(0, (4, 2)), zorder=4)
    if pair.region:
        ax.plot(*zip(*pair.region, strict=True), color=MUTED, lw=1.4, ls=(0, (1, 1)), zorder=4)
    ax.plot(*[[v] for v in pair.optimum], "o", ms=6.5, mfc=INK, mec=PAPER, mew=1.2, zorder=5)
