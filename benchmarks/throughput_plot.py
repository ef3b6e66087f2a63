"""The plot of `benchmarks.throughput`: each method's rate by shape, and what ours gains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.throughput_rows import AIMS, Row, Size, over, size_of
from hptransfer.reporting.figures.style import ARMS, INK, MUTED, PAPER, RC

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS = {
    ("official", "fp32"): ("official", MUTED, "o"),
    ("official_bf16", "bf16"): ("official, bf16", INK, "o"),
    ("shared_eager", ""): ("k processes, eager", ARMS[5], "s"),
    ("shared_compiled", ""): ("k processes, compiled", ARMS[3], "s"),
    ("ours", "fp32"): ("ours, fp32", ARMS[2], "D"),
    ("ours", "bf16"): ("ours, bf16", ARMS[0], "D"),
}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the plot."""
    from matplotlib import style

    path.parent.mkdir(parents=True, exist_ok=True)
    with style.context(["default", RC]):
        throughput_figure(rows).savefig(path)


def throughput_figure(rows: Sequence[Row]) -> Figure:
    """Return a figure of trial-steps per second by shape, with ours over others at the right."""
    from matplotlib import style
    from matplotlib.figure import Figure

    measured = [row for row in rows if row["trial_steps_per_second"]]
    shapes = sorted(dict.fromkeys(map(size_of, measured)), key=lambda size: size not in AIMS)
    with style.context(["default", RC]):
        figure = Figure(figsize=(9.5, 1.9 + 0.42 * len(shapes)), layout="constrained")
        axes = figure.add_subplot()
        for (method, precision), (label, color, marker) in MARKS.items():
            points = [
                (row["trial_steps_per_second"], shapes.index(size_of(row)))
                for row in measured
                if row["method"] == method and precision in ("", row["precision"])
            ]
            if points:
                xs, ys = zip(*points, strict=True)
                axes.scatter(
                    xs, ys, s=46, color=color, marker=marker, label=label, edgecolors=PAPER,
                    linewidths=0.8, zorder=3,
                )  # fmt: skip
        for place, shape in enumerate(shapes):
            axes.text(
                1.02, place, _gains(measured, shape), transform=axes.get_yaxis_transform(),
                va="center", fontsize=9, color=INK,
            )  # fmt: skip
        axes.text(
            1.02, -0.9, "ours over official | best shared", transform=axes.get_yaxis_transform(),
            va="center", fontsize=9, color=MUTED,
        )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yticks(range(len(shapes)), [", ".join(map(str, shape)) for shape in shapes])
        axes.set_ylim(len(shapes) - 0.4, -0.6)
        axes.set_ylabel("width, depth, batch, tokens")
        axes.set_xlabel("trial-steps per second")
        axes.set_title(f"Training throughput, {measured[0]['device']}", pad=22)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _gains(rows: Sequence[Row], shape: Size) -> str:
    """Say what the fastest of ours gains over `official` and over the best of the shared."""
    ours = [row for row in rows if size_of(row) == shape and row["method"] == "ours"]
    if not ours:
        return ""
    best = max(ours, key=lambda row: row["trial_steps_per_second"])
    ratios = [over(best, rows, other) for other in ("official", "shared")]
    return " | ".join("–" if ratio is None else f"{ratio:.3g}×" for ratio in ratios)
