"""The picture of docs/architecture.md: the twelve packages in layers, and one sweep's way.

The layers follow from the table of allowed imports in `tests/test_architecture.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hptransfer.reporting.figures.style import ARMS, GRID, INK, MUTED, PAPER, SHADE
from tests.test_architecture import ALLOWED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What a package does for a sweep, with the number of its step where it has one.
STEPS = {
    "cli": (None, "the commands: reads words, prints answers"),
    "reporting": (8, "draws pictures, writes\nthe report page"),
    "transfer": (7, "writes the target's config,\nruns and exports it"),
    "sweeping": (2, "decides which trials are missing, what they cost, and runs them"),
    "execution": (3, "makes groups of trials, places\nthem here or on Ray"),
    "analysis": (6, "rows in, answer out: optima,\ntheir law, the verdict"),
    "training": (4, "trains a group of trials, or one target"),
    "models": (None, "architectures, µP's\nfactors"),
    "data": (None, "data sets as pure\nfunctions"),
    "results": (5, "keeps the rows: ledger,\nimport, export"),
    "config": (1, "what a trial and a sweep are: typed records, YAML, overrides"),
    "system": (None, "files, locks, signals, storage, random streams"),
}
LEFT, RIGHT, HEIGHT, GAP = 0.6, 10.0, 0.78, 0.3


def layers(allowed: Mapping[str, str]) -> list[list[str]]:
    """Return the packages in rows, the uppermost first: each lies below all that may import it."""
    depth: dict[str, int] = {}
    for package in allowed:  # importers stand before what they import
        above = [depth[name] for name, below in allowed.items() if package in below.split()]
        depth[package] = 1 + max(above, default=-1)
    rows: list[list[str]] = [[] for _ in range(1 + max(depth.values()))]
    for package, at in depth.items():
        rows[at].append(package)
    return rows


def draw_architecture(figure: Figure) -> None:
    """Draw a row for each layer, and beside the packages the steps of a sweep."""
    ax = figure.add_subplot()
    rows = layers(ALLOWED)
    for row, packages in enumerate(rows):
        width = (RIGHT - LEFT - GAP * (len(packages) - 1)) / len(packages)
        for place, package in enumerate(packages):
            left = LEFT + place * (width + GAP)
            _draw_package(ax, package, left, -row * (HEIGHT + GAP), width)
    bottom = -(len(rows) - 1) * (HEIGHT + GAP)
    arrow = {"arrowstyle": "-|>", "color": MUTED, "lw": 1.4}
    ax.annotate("", (0.25, bottom), (0.25, HEIGHT), arrowprops=arrow)
    ax.text(
        0.1, (bottom + HEIGHT) / 2, "a package imports only packages of lower rows", rotation=90,
        ha="center", va="center", color=MUTED, fontsize=9.5,
    )  # fmt: skip
    ax.set(xlim=(-0.05, RIGHT + 0.05), ylim=(bottom - 0.08, HEIGHT + 0.08))
    ax.set_axis_off()
    ax.set_title("Numbers follow one sweep from its YAML file to its report", fontsize=12)


def _draw_package(ax: Axes, package: str, left: float, bottom: float, width: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    step, text = STEPS[package]
    ax.add_patch(
        FancyBboxPatch(
            (left + 0.04, bottom + 0.04), width - 0.08, HEIGHT - 0.08,
            boxstyle="round,pad=0.04,rounding_size=0.08", facecolor=SHADE if step else PAPER,
            edgecolor=GRID if step else MUTED, lw=1.0,
        )
    )  # fmt: skip
    start = left + 0.18
    if step is not None:
        ax.plot([start + 0.14], [bottom + HEIGHT / 2], "o", ms=20, color=ARMS[0])
        ax.text(
            start + 0.14, bottom + HEIGHT / 2, str(step), ha="center", va="center_baseline",
            color=PAPER, fontweight="bold", fontsize=11,
        )  # fmt: skip
        start += 0.48
    ax.text(start, bottom + 0.60, f"{package}/", fontweight="bold", fontsize=10.5, va="center")
    ax.text(start, bottom + 0.42, text, fontsize=9, va="top", color=INK, linespacing=1.15)
