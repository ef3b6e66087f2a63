"""The picture of what a search cost: three ratios, each with its denominator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hptransfer.reporting.figures.style import ARMS, FAIL, INK, MUTED, PAPER
from hptransfer.system.text import percent_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DENOMINATORS = (
    ("arm_over_target_percent", "the arm's sweep", "one target run"),
    ("narrowest_over_target_percent", "its narrowest proxy alone", "one target run"),
    (
        "over_direct_search_percent",
        "the arm's sweep",
        "a direct search at the target, same grid and seeds",
    ),
)


def draw_cost(ax: Axes, cost: Mapping[str, Any]) -> None:
    """Draw each ratio as a bar from 100 %, to the left where the search is the cheaper.

    Ratios that could not be counted are left out.
    """
    ratios = [(cost[key], f"{what}, of {of}") for key, what, of in DENOMINATORS if cost[key]]
    values = [percent for percent, _ in ratios]
    ax.set_xscale("log")
    ax.set(xlim=(min([*values, 20]) / 4.5, max([*values, 500]) * 4.5))
    ax.set(ylim=(len(values) - 0.35, -0.65), xlabel="% of the denominator (log axis)")
    for row, (percent, said) in enumerate(ratios):
        dearer = percent > 100
        color = FAIL if dearer else ARMS[2]
        ax.barh([row], [percent - 100], left=100, height=0.34, color=color, alpha=0.85)
        ax.annotate(
            percent_text(percent), (percent, row), (5 if dearer else -5, 0),
            textcoords="offset points", ha="left" if dearer else "right", va="center",
            color=color, fontweight="bold",
        )  # fmt: skip
        ax.annotate(
            said, (0, row - 0.2), (4, 3), fontsize=8.5, color=INK,
            xycoords=("axes fraction", "data"), textcoords="offset points", va="bottom",
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    ax.axvline(100, color=MUTED, lw=1)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xticks([], minor=True)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
