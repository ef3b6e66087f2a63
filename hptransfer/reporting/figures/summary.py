"""The sweep in one picture: a column per arm, its basins above, its optimum over width below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.reporting.figures.basins import BARS, OPTIMUM, BasinPanel, basins_data, draw_basins
from hptransfer.reporting.figures.optimum_width import (
    Mark,
    OverWidth,
    Track,
    optimum_width_data,
    set_width_ticks,
)
from hptransfer.reporting.figures.style import INK, MUTED, PAPER, width_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Column(NamedTuple):
    """One arm: its basins, and its optima with the colours of their widths."""

    panel: BasinPanel
    strip: OverWidth
    track: Track
    colors: dict[int, str]


class SummaryData(NamedTuple):
    """The columns, in the order of the arms."""

    columns: tuple[Column, ...]


def summary_data(estimates: dict[str, Any]) -> SummaryData:
    """Select every arm's basins and optima; both rows of a column share their HP axis."""
    arms = estimates["arms"]
    colors = width_colors([o["width"] for arm in arms for o in arm["optima"]])
    panels = basins_data(estimates).panels
    columns = []
    for index, (arm, panel) in enumerate(zip(arms, panels, strict=True)):
        strip = optimum_width_data(estimates, hp=arm["hp"])
        place = sum(1 for other in arms[:index] if other["hp"] == arm["hp"])
        columns.append(Column(panel, strip, strip.tracks[place], colors))
    return SummaryData(tuple(columns))


def draw_summary(figure: Figure, data: SummaryData) -> None:
    """Draw a column per arm: basins above, optimum over width below, one HP axis for both."""
    count = len(data.columns)
    axes = figure.subplots(2, count, height_ratios=(2.1, 1), squeeze=False)
    for index, column in enumerate(data.columns):
        draw_basins(axes[0][index], column.panel)
        axes[0][index].set(xlabel="")
        draw_strip(axes[1][index], column)
        if index > 0:
            axes[0][index].set(ylabel="")
            axes[1][index].set(ylabel="")
    figure.align_ylabels(axes[:, 0])
    # A single column is too narrow for the key on one line.
    between = "\n" if count == 1 else "    "
    key = (
        "bars at optima: 90 % intervals    ▲ above the picture",
        "× failed, tinted past the cliff    □ value for the target",
        "shaded: 90 % band of the law",
    )
    figure.supxlabel(between.join(key), color=MUTED, fontsize=8.5)


def draw_strip(ax: Axes, column: Column) -> None:
    """Draw one arm's optimum over width with the HP along the bottom, as in its basins."""
    strip, track = column.strip, column.track
    last = max([*strip.widths, strip.target_width or 0])
    ax.set_yscale("log", base=2)
    ax.set(xlim=column.panel.x_limits, ylim=(min(strip.widths) / 1.35, last * 1.35))
    ax.set(xlabel=column.panel.x_label, ylabel="width d")
    set_width_ticks(ax.yaxis, strip)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    if track.band is not None:
        width, value, low, high = track.band
        if low:
            ax.fill_betweenx(width, low, high, color=MUTED, alpha=0.18, lw=0)
        ax.plot(value, width, color=MUTED, lw=1.4)
    for mark in track.marks:
        _draw_mark(ax, mark, column.colors[mark.width])
    if track.target is not None and track.emitted is not None:
        _draw_bar(ax, track.target, INK)
        ax.plot([track.emitted], [track.target.width], "s", mfc=PAPER, mec=INK, **OPTIMUM)
        emitted = f"{track.emitted:.2f}".replace("-", "−")
        edge = max([track.emitted, *(track.target.interval or [])])
        ax.annotate(
            emitted, (edge, track.target.width), (9, 0), textcoords="offset points", va="center",
            fontsize=9, fontweight="bold",
        )  # fmt: skip


def _draw_mark(ax: Axes, mark: Mark, color: str) -> None:
    _draw_bar(ax, mark, color)
    shape, face = ("o", color) if mark.censored is None else ("D", PAPER)
    ax.plot([mark.value], [mark.width], shape, mfc=face, mec=color, **OPTIMUM)


def _draw_bar(ax: Axes, mark: Mark, color: str) -> None:
    if mark.interval is not None:
        ends = [[mark.value - mark.interval[0]], [mark.interval[1] - mark.value]]
        ax.errorbar([mark.value], [mark.width], xerr=ends, fmt="none", color=color, **BARS)
