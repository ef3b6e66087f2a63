"""Pictures of several HPs: slices and contours of the loss, and how much each HP matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

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
_KEY = (
    "slices: loss over one HP,\nthe others at their optimum\nbars: 90 % intervals\n\n"
    "contours, width {width}: loss\nabove the optimum, doubling\nfrom line to line\n"
    "dotted: joint 90 % interval\ndashed: a nearly flat direction"
)

Entry = Mapping[str, Any]  # one width of an arm's surface


def fitted_widths(surface: Mapping[str, Any]) -> list[Entry]:
    """Return the widths of an arm that have a fitted surface; none of them may."""
    told = surface["widths"]
    return [entry for entry in told if entry.get("interactions") and entry.get("loss") is not None]


def shown_hps(surface: Mapping[str, Any]) -> list[str]:
    """Return an arm's HPs by falling importance, as many as a page has room for."""
    shares = (surface.get("importance") or {}).get("surface") or {}
    return sorted(surface["hps"], key=lambda hp: -(shares.get(hp) or 0.0))[:MOST_HPS]


def excess_loss(entry: Entry, apart: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return the loss above the optimum's, at octaves from it by the HP's place."""
    bend, skew = entry["interactions"], entry["skew"]
    squares = sum(bend[i][j] * x * y for i, x in apart.items() for j, y in apart.items())
    return np.asarray(squares / 2 + sum(skew[i] * x**3 for i, x in apart.items()) / 6)


def joint_region(entry: Entry, first: int, second: int, hps: Sequence[str]) -> np.ndarray | None:
    """Return the outline (2, point) of the normal joint 90 % region of two HPs' optima.

    It is None where an optimum has no interval.
    """
    best, correlation = [entry["optimum"][hps[i]] for i in (first, second)], entry["correlation"]
    if not all(map(ends_of, best)) or not correlation:
        return None
    rho = correlation[first][second]
    middles = [(hp["low"] + hp["high"]) / 2 for hp in best]
    reach = [JOINT90 * (hp["high"] - hp["low"]) / (2 * Z90) for hp in best]
    turn = np.linspace(0, 2 * math.pi, 61)
    along, across = np.cos(turn), math.sqrt(max(1 - rho**2, 0.0)) * np.sin(turn)
    return np.stack([middles[0] + reach[0] * along, middles[1] + reach[1] * (rho * along + across)])


def draw_surface(figure: Figure, surface: Mapping[str, Any], *, name: str) -> None:
    """Draw every width's slices on the diagonal, and the widest's contours of each pair below."""
    told, every, hps = fitted_widths(surface), surface["hps"], shown_hps(surface)
    axes = figure.subplots(len(hps), len(hps), squeeze=False)
    grids = []  # of each HP over all points that any width was fitted to
    for hp in hps:
        ends = [end for entry in told for end in entry["box"][hp]]
        grids.append(np.linspace(min(ends), max(ends), AXIS_POINTS))
    for place, hp in enumerate(hps):
        _draw_slices(axes[place][place], told, hp, every.index(hp), grids[place])
        axes[-1][place].set_xlabel(hp_label(hp))
    for column, row in combinations(range(len(hps)), 2):
        axes[column][row].set_axis_off()
        ax, pair = axes[row][column], (every.index(hps[column]), every.index(hps[row]))
        _draw_contours(ax, told[-1], every, pair, grids[column], grids[row])
        if column == 0:
            ax.set_ylabel(hp_label(hps[row]))
    axes[0][0].set_title(name)
    # The corner above the diagonal is free.
    axes[0][1].text(
        0, 1, _KEY.format(width=told[-1]["width"]), transform=axes[0][1].transAxes, va="top",
        fontsize=8.5, color=MUTED, linespacing=1.4,
    )  # fmt: skip


def _draw_slices(ax: Axes, told: Sequence[Entry], hp: str, place: int, grid: np.ndarray) -> None:
    """Draw the loss along one HP, the others at their optimum, where each width was fitted."""
    colors = width_colors([entry["width"] for entry in told])
    bottoms, tops, marks = [], [], []
    for entry in told:
        best, (first, last) = entry["optimum"][hp], entry["box"][hp]
        theta = grid[(grid >= first - 1e-9) & (grid <= last + 1e-9)]
        loss = entry["loss"] + excess_loss(entry, {place: theta - best["value"]})
        ax.plot(theta, loss, color=colors[entry["width"]], lw=1.8)
        bottoms.append(float(loss.min()))
        tops.append(float(max(loss[0], loss[-1])))
        marks.append(Mark(bottoms[-1], best["value"], ends_of(best), None))
    # A shoulder of the flattest slice, so that none is a needle at the picture's edge.
    reach = max(max(bottoms) - min(bottoms), 1e-12)
    ceiling = min(max(tops), max(bottoms) + 2.5 * max(reach, min(tops) - min(bottoms)))
    floor = min(bottoms) - 0.1 * (ceiling - min(bottoms))
    ax.set(xlim=(grid[0], grid[-1]), ylim=(floor, ceiling), ylabel="loss")
    for mark, color in zip(marks, colors.values(), strict=True):
        draw_mark(ax, mark, color, sideways=True)
    name_at_right(ax, [f"d = {width}" for width in colors], list(colors.values()), bottoms, 0.08)


def _draw_contours(
    ax: Axes, entry: Entry, every: Sequence[str], pair: tuple[int, int], *grids: np.ndarray
) -> None:
    """Draw a width's loss above its optimum over two HPs, the others at their optimum."""
    x, y = grids
    i, j = pair
    a, b = (entry["optimum"][every[place]]["value"] for place in pair)
    excess = excess_loss(entry, {i: x - a, j: y[:, None] - b})
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    ax.grid(visible=False)
    top = float(excess.max())
    if top > 0:
        # The highest loss halved again and again, to two digits.
        levels = [float(f"{top / 2**k:.1e}") for k in range(CONTOUR_LINES, 0, -1)]
        colors = WIDTHS[:CONTOUR_LINES]
        lines = ax.contour(x, y, excess, levels=levels, colors=colors, linewidths=1.2)
        # The inner lines have no room for a number.
        ax.clabel(lines, levels[-2:], fmt="%.2g", fontsize=7.5)
    for flat in entry["principal_axes"]:
        dx, dy = (flat["direction"].get(every[place], 0.0) for place in pair)
        length = math.hypot(dx, dy)
        if flat["sentence"] and length > 0.9:  # it lies in this pair: drawn an octave to each side
            xs, ys = ([v - d / length, v + d / length] for v, d in ((a, dx), (b, dy)))
            ax.plot(xs, ys, color=INK, lw=1.4, ls=(0, (4, 2)), zorder=4)
            break
    region = joint_region(entry, i, j, every)
    if region is not None:
        ax.plot(*region, color=MUTED, lw=1.4, ls=(0, (1, 1)), zorder=4)
    ax.plot([a], [b], "o", ms=6.5, mfc=INK, mec=PAPER, mew=1.2, zorder=5)


def draw_importance(ax: Axes, surface: Mapping[str, Any], *, name: str) -> None:
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
    key_line(ax, f"{name}.  {', '.join(said)}")
