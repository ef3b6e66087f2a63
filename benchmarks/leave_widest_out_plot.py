"""The plot of `benchmarks.leave_widest_out`: what was predicted, over what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.reporting.figures.style import ARMS, FAIL, GRID, INK, MUTED, PAPER, RC

if TYPE_CHECKING:
    from matplotlib.figure import Figure


GAP = 1.5  # tasks' widths between two groups, so that the names of small ones stay apart


def draw(cases: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the plot."""
    from matplotlib import style

    path.parent.mkdir(parents=True, exist_ok=True)
    with style.context(["default", RC]):
        predictions_figure(cases).savefig(path)


def predictions_figure(cases: Sequence[Mapping[str, Any]]) -> Figure:
    """Return a figure of our intervals less the optimum that was found, task by task in groups."""
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(case["group"] for case in cases))
    ordered = sorted(cases, key=lambda c: (groups.index(c["group"]), _error(c)))
    figure = Figure(figsize=(10.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0.0, color=INK, linewidth=1.0, zorder=1)
    places = [i + GAP * groups.index(case["group"]) for i, case in enumerate(ordered)]
    for place, case in zip(places, ordered, strict=True):
        told = case["methods"]["ours"]
        color = {True: ARMS[0], False: FAIL, None: MUTED}[told["held"]]
        if told["low"] is not None:
            ends = (told["low"] - case["found"], told["high"] - case["found"])
            axes.vlines(place, *ends, color=color, linewidth=1.6, zorder=2)
        axes.plot(place, _error(case), "o", ms=4, color=color, mec=PAPER, mew=0.5, zorder=3)
    inside = [[p for p, c in zip(places, ordered, strict=True) if c["group"] == g] for g in groups]
    for before, after in pairwise(inside):
        axes.axvline((before[-1] + after[0]) / 2.0, color=GRID, linewidth=1.0, zorder=0)
    middles = [(own[0] + own[-1]) / 2.0 for own in inside]
    names = [group.replace("_", " ").replace(" by ", "\nby ") for group in groups]
    axes.set_xticks(middles, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xlim(-1.0, places[-1] + 1.0)
    axes.grid(False, axis="x")
    axes.set_ylabel("predicted less found optimum, octaves")
    axes.set_title("The next width's optimum, predicted from the narrower ones")
    marks = ((ARMS[0], "90 % interval holds"), (FAIL, "missed"), (MUTED, "found at the grid's end"))
    for color, name in marks:
        axes.plot([], [], color=color, marker="o", ms=4, label=name)
    axes.legend(loc="best", frameon=False, fontsize=9)
    return figure


def _error(case: Mapping[str, Any]) -> float:
    return float(case["methods"]["ours"]["value"] - case["found"])
