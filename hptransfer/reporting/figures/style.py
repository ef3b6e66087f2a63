"""Colours, type sizes and names that figures share (arms: Okabe and Ito; widths: viridis).

Colours are constants, not a colour map, so that the report can give each its dark counterpart
and needs no plotting library.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hptransfer.config.choices import arm_name
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
_KNOWN_ARMS = ("mup", "standard", "standard_embed")
FAIL = ARMS[1]

# What a colour becomes on a dark page; widths stay viridis, moved to its light end.
DARK = {
    INK: "#e6e8eb",
    MUTED: "#9aa3ae",
    GRID: "#2c3238",
    PAPER: "#171b20",
    SHADE: "#20262c",
    **dict(
        zip(
            WIDTHS,
            (
                "#8f84d8", "#7593d9", "#52a3d4", "#35b0bd", "#32bd9b", "#5bc96f", "#a3d84a",
                "#f1e04a",
            ),
            strict=True,
        )
    ),
    **dict(
        zip(
            ARMS,
            ("#58b5ec", "#f58a45", "#2fc79c", "#e0a0c5", "#d9b83a", "#8fd0f5"),
            strict=True,
        )
    ),
}  # fmt: skip

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


def arm_title(arm: dict[str, Any]) -> str:
    """Return an arm's name with its verdict, where it has one."""
    name = arm_name(arm["parametrization"])
    return f"{name}: {arm['verdict']}" if arm.get("verdict") else name


def arm_colors(parametrizations: list[str]) -> list[str]:
    """Give µP, standard and standard_embed their own colours, other arms the next ones free."""
    fixed: dict[str, str] = dict(zip(_KNOWN_ARMS, ARMS, strict=False))
    used = {fixed[name] for name in parametrizations if name in fixed}
    others = [name for name in dict.fromkeys(parametrizations) if name not in fixed]
    free = [color for color in ARMS if color not in used]
    fixed.update({name: free[i % len(free)] for i, name in enumerate(others)})
    return [fixed[name] for name in parametrizations]


def width_colors(widths: list[int]) -> dict[int, str]:
    """Spread the widths over the ordered colours, the narrowest darkest."""
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
