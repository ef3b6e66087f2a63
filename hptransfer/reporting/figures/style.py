"""Colours, names and marks that figures share (arms: Okabe and Ito; widths: viridis).

Colours are constants, not a colour map, so that the report can give each its dark counterpart
and needs no plotting library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.config.hyperparameters import HYPERPARAMETERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1f2328"
MUTED = "#6b7280"
GRID = "#e5e7eb"
PAPER = "#ffffff"
SHADE = "#eef1f4"

# viridis from 0.02 to 0.80: its light end is too faint for lines on white paper.
WIDTHS = (
    "#45085a", "#472f7d", "#3c508b", "#2f6c8e", "#25858e", "#1e9d89", "#34b679", "#6ccd5a",
)  # fmt: skip
ARMS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#9a7d0a", "#56b4e9")
_KNOWN_ARMS = ("µP", "standard", "standard_embed")
FAIL = ARMS[1]

_DARK_WIDTHS = (
    "#8f84d8", "#7593d9", "#52a3d4", "#35b0bd", "#32bd9b", "#5bc96f", "#a3d84a", "#f1e04a",
)  # fmt: skip
_DARK_ARMS = ("#58b5ec", "#f58a45", "#2fc79c", "#e0a0c5", "#d9b83a", "#8fd0f5")

# What a colour becomes on a dark page; widths stay viridis, moved to its light end.
DARK = {
    INK: "#e6e8eb",
    MUTED: "#9aa3ae",
    GRID: "#2c3238",
    PAPER: "#171b20",
    SHADE: "#20262c",
    **dict(zip((*WIDTHS, *ARMS), (*_DARK_WIDTHS, *_DARK_ARMS), strict=True)),
}
BARS: dict[str, Any] = {"elinewidth": 1.8, "capsize": 4.5, "capthick": 1.5, "zorder": 5}
OPTIMUM: dict[str, Any] = {"ms": 5.5, "mew": 1.6, "zorder": 6}

RC: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titley": 1.0,  # found anew in every drawing otherwise
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.hinting": "no_hinting",  # as in SVG and PDF
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.dpi": 160,
    "svg.fonttype": "path",
    "svg.hashsalt": "hptransfer",
}


def arm_colors(names: list[str]) -> list[str]:
    """Give µP, standard and standard_embed their own colours, other arms the next ones free."""
    fixed: dict[str, str] = dict(zip(_KNOWN_ARMS, ARMS, strict=False))
    used = {fixed[name] for name in names if name in fixed}
    others = [name for name in dict.fromkeys(names) if name not in fixed]
    free = [color for color in ARMS if color not in used]
    fixed.update({name: free[i % len(free)] for i, name in enumerate(others)})
    return [fixed[name] for name in names]


_SETTINGS = {
    "width": "d = {:g}",
    "depth": "depth {:g}",
    "batch_size": "batch {:g}",
    "steps": "{:g} steps",
}


def setting_name(axis: str, value: float) -> str:
    """Return the short name of a width, depth, batch size or number of steps."""
    return _SETTINGS[axis].format(value)


def width_colors(widths: Sequence[float]) -> dict[float, str]:
    """Spread widths, or what else is varied, over the ordered colours, the least darkest."""
    ordered = sorted(set(widths))
    last = len(WIDTHS) - 1
    steps = max(len(ordered) - 1, 1)
    return {w: WIDTHS[round(i * last / steps) % len(WIDTHS)] for i, w in enumerate(ordered)}


def hp_name(hp: str) -> str:
    """Return an HP's name in words; `hp` may begin with `log2_`."""
    short = hp.removeprefix("log2_")
    if short in HYPERPARAMETERS:
        return HYPERPARAMETERS[short].meaning
    return short.replace("_", " ")


def hp_label(hp: str) -> str:
    """Return the label of an HP's axis."""
    return f"log2 {hp_name(hp)}" if hp.startswith("log2_") else hp_name(hp)


class Mark(NamedTuple):
    """A value at a place of the other axis, such as a width; null where none is supported."""

    at: float
    value: float
    interval: tuple[float, float] | None
    censored: str | None


def ends_of(record: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the 90 % interval of a record; None where the data supports none."""
    return None if None in (record["low"], record["high"]) else (record["low"], record["high"])


def limits_of(marks: Sequence[Mark], *, least: float = 0.0) -> tuple[float, float]:
    """Hold every value, and at least `least`, so that noise does not look like a drift.

    Intervals that are longer than the range of the values are cut.
    """
    values = [mark.value for mark in marks] or [0.0]
    ends = [*values, *(end for mark in marks for end in mark.interval or ())]
    reach = max(least / 2, max(values) - min(values)) or abs(values[0]) or 1.0
    low = max(min(ends), min(values) - reach) - 0.08 * reach
    high = min(max(ends), max(values) + reach) + 0.08 * reach
    lack = max(0.0, least - (high - low)) / 2
    return low - lack, high + lack


def draw_interval(ax: Axes, mark: Mark, color: str, *, sideways: bool = False) -> None:
    """Draw a value's 90 % interval, if it has one; `sideways`: the value lies along x."""
    if mark.interval is None:
        return
    low, high = mark.interval  # a censored value may lie outside
    middle, reach = [(low + high) / 2], [(high - low) / 2]
    if sideways:
        ax.errorbar(middle, [mark.at], xerr=reach, fmt="none", color=color, **BARS)
    else:
        ax.errorbar([mark.at], middle, reach, fmt="none", color=color, **BARS)


def draw_mark(
    ax: Axes, mark: Mark, color: str, *, sideways: bool = False, shape: str = "o"
) -> None:
    """Draw a value with its 90 % interval; one that is censored is a hollow diamond."""
    draw_interval(ax, mark, color, sideways=sideways)
    shape, face = (shape, color) if mark.censored is None else ("D", PAPER)
    x, y = (mark.value, mark.at) if sideways else (mark.at, mark.value)
    size = 12 if shape == "*" else OPTIMUM["ms"]
    ax.plot([x], [y], shape, mfc=face, mec=color, **{**OPTIMUM, "ms": size})


def draw_transferred(ax: Axes, x: float, y: float, color: str) -> None:
    """Mark the value for the target by a hollow square."""
    ax.plot([x], [y], "s", mfc=PAPER, mec=color, **OPTIMUM)


def name_at_right(
    ax: Axes, names: Sequence[str], colors: Sequence[str], levels: Sequence[float], gap: float
) -> list[float]:
    """Write names right of the axes, each near its level; return where they stand.

    They are at least `gap` apart, a share of the axes' height.
    """
    low, high = ax.get_ylim()
    gap *= high - low
    inside = [min(max(level, low), high) for level in levels]
    places = spread(inside, gap, (low + gap / 2, high))
    for name, color, place in zip(names, colors, places, strict=True):
        ax.annotate(
            name, (1, place), (5, 0), xycoords=("axes fraction", "data"), color=color,
            textcoords="offset points", va="center", fontsize=9, fontweight="bold",
            annotation_clip=False,
        )  # fmt: skip
    return places


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Give the axes a named row for each name, from the top down."""
    ax.set_yticks(range(len(names)), names, fontsize=8.5)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def spread(positions: list[float], gap: float, limits: tuple[float, float]) -> list[float]:
    """Return label positions at least `gap` apart, in the same order and together in `limits`.

    Of equal positions the first is placed highest.
    """
    order = sorted(range(len(positions)), key=lambda i: (positions[i], -i))
    placed = list(positions)
    for before, here in pairwise(order):
        placed[here] = max(placed[here], placed[before] + gap)
    if not placed:
        return placed
    shift = (sum(positions) - sum(placed)) / len(placed)
    shift = max(min(shift, limits[1] - max(placed)), limits[0] - min(placed))
    return [place + shift for place in placed]


def key_line(ax: Axes, text: str) -> None:
    """Write how to read a picture above it, in place of a title."""
    ax.set_title(text, fontsize=8.5, fontweight="normal", color=MUTED)
