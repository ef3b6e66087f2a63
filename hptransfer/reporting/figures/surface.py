"""Pictures of several HPs: slices and contours of the loss, and how much each HP matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures.style import (
    ARMS,
    INK,
    MUTED,
    PAPER,
    WIDTHS,
    Mark,
    draw_mark,
    ends_of,
    hp_label,
    hp_name,
    key_line,
    name_at_right,
    name_rows,
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
METHODS = {"surface": "response surface", "ped_anova": "PED-ANOVA (Optuna)"}


class Slice(NamedTuple):
    """One width's loss along one HP, the others at their optimum."""

    width: int
    color: str
    theta: np.ndarray
    loss: np.ndarray
    optimum: float
    interval: tuple[float, float] | None


class Contours(NamedTuple):
    """The widest width's loss above its optimum over a pair of HPs, rows along the second."""

    first: int
    second: int
    excess: np.ndarray
    levels: tuple[float, ...]
    optimum: tuple[float, float]
    region: list[tuple[float, float]]  # outline of the joint 90 % interval
    flat: tuple[tuple[float, float], tuple[float, float]] | None  # ends of the flattest direction


class SurfaceData(NamedTuple):
    """One arm: a slice per HP and width on the diagonal, contours of its pairs below."""

    arm: str
    width: int
    labels: tuple[str, ...]
    axes: list[np.ndarray]  # a grid per HP
    slices: list[list[Slice]]  # per HP
    contours: list[Contours]


def drawable(surface: Mapping[str, Any]) -> bool:
    """Return whether any width of an arm has a fitted surface."""
    return any(_fitted(entry) for entry in surface["widths"])


def _fitted(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("interactions")) and entry.get("loss") is not None


def surface_data(surface: Mapping[str, Any]) -> SurfaceData:
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
        [_slice(entry, hp, every.index(hp), axis, colors[entry["width"]]) for entry in told]
        for hp, axis in zip(hps, axes, strict=True)
    ]
    return SurfaceData(
        arm=arm_name(surface["parametrization"]),
        width=widest["width"],
        labels=tuple(hp_label(hp) for hp in hps),
        axes=axes,
        slices=slices,
        contours=[
            _contours(widest, every, hps, pair, axes) for pair in combinations(range(len(hps)), 2)
        ],
    )


def _axis(entries: Sequence[Mapping[str, Any]], hp: str) -> np.ndarray:
    """Span the points that any width was fitted to."""
    ends = [end for entry in entries for end in entry["box"][hp]]
    return np.linspace(min(ends), max(ends), AXIS_POINTS)


def _slice(entry: Mapping[str, Any], hp: str, at: int, axis: np.ndarray, color: str) -> Slice:
    best, (first, last) = entry["optimum"][hp], entry["box"][hp]
    theta = axis[(axis >= first - 1e-9) & (axis <= last + 1e-9)]
    return Slice(
        width=entry["width"],
        color=color,
        theta=theta,
        loss=entry["loss"] + _excess(entry, {at: theta - best["value"]}),
        optimum=best["value"],
        interval=ends_of(best),
    )


def _excess(entry: Mapping[str, Any], apart: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return the loss above the optimum's, at octaves from it by the HP's place."""
    bend, skew = entry["interactions"], entry["skew"]
    squares = sum(bend[i][j] * x * y for i, x in apart.items() for j, y in apart.items())
    return np.asarray(squares / 2 + sum(skew[i] * x**3 for i, x in apart.items()) / 6)


def _contours(
    entry: Mapping[str, Any],
    every: Sequence[str],
    hps: Sequence[str],
    pair: tuple[int, int],
    axes: Sequence[np.ndarray],
) -> Contours:
    first, second = pair
    i, j = every.index(hps[first]), every.index(hps[second])
    best = (entry["optimum"][hps[first]], entry["optimum"][hps[second]])
    a, b = best[0]["value"], best[1]["value"]
    excess = _excess(entry, {i: axes[first] - a, j: axes[second][:, None] - b})
    return Contours(
        first=first,
        second=second,
        excess=excess,
        levels=_levels(float(excess.max())),
        optimum=(a, b),
        region=_region(best, entry.get("correlation"), (i, j)),
        flat=_flat(entry, hps[first], hps[second], (a, b)),
    )


def _levels(top: float) -> tuple[float, ...]:
    """Halve the highest loss again and again, to two digits."""
    halves = [float(f"{top / 2**k:.1e}") for k in range(CONTOUR_LINES, 0, -1)]
    return tuple(halves) if top > 0 else ()


def _region(
    best: tuple[Mapping[str, Any], Mapping[str, Any]], correlation: Any, pair: tuple[int, int]
) -> list[tuple[float, float]]:
    """Outline the normal joint 90 % region of two optima; empty where there is no interval."""
    if not all(map(ends_of, best)) or not correlation:
        return []
    rho = correlation[pair[0]][pair[1]]
    middles = [(hp["low"] + hp["high"]) / 2 for hp in best]
    reach = [JOINT90 * (hp["high"] - hp["low"]) / (2 * Z90) for hp in best]
    turn = np.linspace(0, 2 * math.pi, 61)
    along, across = np.cos(turn), math.sqrt(max(1 - rho**2, 0.0)) * np.sin(turn)
    xs = middles[0] + reach[0] * along
    ys = middles[1] + reach[1] * (rho * along + across)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def _flat(
    entry: Mapping[str, Any], first: str, second: str, best: tuple[float, float]
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


def _draw_slices(ax: Axes, data: SurfaceData, hp: int, slices: Sequence[Slice]) -> None:
    bottoms = [float(cut.loss.min()) for cut in slices]
    # A shoulder of the flattest slice, so that none is a needle at the picture's edge.
    reach = max(max(bottoms) - min(bottoms), 1e-12)
    tops = [max(cut.loss[0], cut.loss[-1]) for cut in slices]
    ceiling = min(max(tops), max(bottoms) + 2.5 * max(reach, min(tops) - min(bottoms)))
    span = ceiling - min(bottoms)
    low = min(bottoms) - 0.1 * span
    ax.set(xlim=(data.axes[hp][0], data.axes[hp][-1]), ylim=(low, ceiling), ylabel="loss")
    for cut, bottom in zip(slices, bottoms, strict=True):
        ax.plot(cut.theta, cut.loss, color=cut.color, lw=1.8)
        draw_mark(ax, Mark(bottom, cut.optimum, cut.interval, None), cut.color, sideways=True)
    names = [f"d = {cut.width}" for cut in slices]
    name_at_right(ax, names, [cut.color for cut in slices], bottoms, gap=0.08)


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


def draw_importance(ax: Axes, surface: Mapping[str, Any]) -> None:
    """Draw a group of bars for each HP, by falling share: what each method gives to it."""
    told = surface["importance"]
    methods = [key for key in METHODS if told.get(key)]
    hps = sorted(surface["hps"], key=lambda hp: -max(told[m].get(hp) or 0 for m in methods))
    height = 0.72 / len(methods)
    for row, hp in enumerate(hps):
        for place, method in enumerate(methods):
            share = told[method].get(hp)
            if share is None:
                continue
            level = row + (place - (len(methods) - 1) / 2) * height
            color = (ARMS[0], MUTED)[place]
            ax.barh([level], [100 * share], height=0.86 * height, color=color)
            ax.annotate(
                f"{100 * share:.0f} %", (100 * share, level), (4, 0), color=color,
                textcoords="offset points", va="center", fontsize=8.5, fontweight="bold",
            )  # fmt: skip
    name_rows(ax, [hp_name(hp) for hp in hps])
    ax.set(xlim=(0, 112), xlabel="share of importance (%)")
    ax.set_xticks(range(0, 101, 25))
    said = (f"{c}: {METHODS[m]}" for c, m in zip(("blue", "grey"), methods, strict=False))
    key_line(ax, f"{arm_name(surface['parametrization'])}.  {', '.join(said)}")
