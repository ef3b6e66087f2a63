"""The README's picture: loss against learning rate, widths overlaid, µP beside the standard one."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.studies_read import Record, Study
from hptransfer.reporting.figures import FORMATS
from hptransfer.reporting.figures.basins import BasinCurve, basin_curve
from hptransfer.reporting.figures.style import INK, MUTED, PAPER, RC, width_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARMS = {"mup": "µP", "standard": "Standard"}
MOVES = {
    "no": "the best learning rate stays",
    "yes": "the best learning rate moves",
    "unclear": "the best learning rate may move",
}
SIZE = (10.4, 4.7)  # inches
ABOVE, BELOW = 0.6, 0.14  # of the losses shown, in spans of the widths' best losses
BEST: dict[str, Any] = {"ms": 9.5, "mec": PAPER, "mew": 1.6}
LANE = 0.03  # between the crosses of two widths, as a share of the panel's height


class Panel(NamedTuple):
    """One parametrization's curves, and what is said of them."""

    title: str
    curves: tuple[BasinCurve, ...]


class Window(NamedTuple):
    """The learning rates, as log2, and the losses that both panels show."""

    thetas: tuple[float, float]
    losses: tuple[float, float]


def readme_panels(study: Study) -> list[Panel]:
    """Select the study's curves under both parametrizations; widths have one colour each."""
    arms = _arms(study)
    colors = width_colors([o["width"] for arm in arms for o in _optima(arm)])
    ceiling = window(study).losses[1]
    return [
        Panel(
            f"{ARMS[arm['parametrization']]}: {MOVES[arm['moves']]}",
            tuple(basin_curve(o, colors[o["width"]], ceiling) for o in _optima(arm)),
        )
        for arm in arms
    ]


def window(study: Study) -> Window:
    """Return what both panels show: every rate, and losses up to above the narrowest's best."""
    optima = [o for arm in _arms(study) for o in _optima(arm)]
    best = [o["loss"] for o in optima]
    thetas = [theta for o in optima for theta in o["basin"]["theta"]]
    span = max(best) - min(best)
    return Window(
        (min(thetas) - 0.25, max(thetas) + 0.25),
        (min(best) - BELOW * span, max(best) + ABOVE * span),
    )


def _arms(study: Study) -> list[Record]:
    return [arm for name in ARMS if (arm := study.arm(name)) is not None]


def _optima(arm: Record) -> list[Record]:
    return [o for o in arm["optima"] if o["loss"] is not None]


def draw_readme(study: Study, path: Path) -> None:
    """Draw both parametrizations side by side on the same axes; write a PNG."""
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown, panels = window(study), readme_panels(study)
    with matplotlib.style.context(["default", RC]):
        figure = Figure(figsize=SIZE, layout=ConstrainedLayoutEngine(wspace=0.06))
        axes = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
        for ax, panel in zip(axes, panels, strict=True):
            _draw(ax, panel, shown)
        axes[0].set_ylabel("validation loss")
        _legend(figure, panels[0].curves)
        figure.savefig(path, **FORMATS[".png"])


def _draw(ax: Axes, panel: Panel, shown: Window) -> None:
    ax.set(xlim=shown.thetas, ylim=shown.losses, xlabel="learning rate (each step doubles it)")
    ax.set_title(panel.title, pad=10)
    ticks = range(math.ceil(shown.thetas[0]), math.floor(shown.thetas[1]) + 1)
    ax.set_xticks(ticks, [f"{2.0**theta:.3f}" for theta in ticks])
    ax.grid(axis="x", visible=False)
    widest_first = sorted(panel.curves, key=lambda curve: -curve.at)
    for lane, curve in enumerate(widest_first):
        _draw_curve(ax, curve)
        _draw_failed(ax, curve, 1 - (lane + 0.7) * LANE)
    for a, b in pairwise(widest_first):
        ax.plot([a.optimum, b.optimum], [a.loss, b.loss], color=INK, lw=1.6, zorder=5)
    for curve in reversed(widest_first):
        ax.plot([curve.optimum], [curve.loss], "o", mfc=curve.color, zorder=6, **BEST)


def _draw_curve(ax: Axes, curve: BasinCurve) -> None:
    points = sorted((p.theta, p.loss) for p in curve.points)
    ax.plot(*zip(*points, strict=True), color=curve.color, lw=1.0, alpha=0.3, zorder=3)
    ax.plot(*zip(*points, strict=True), "o", color=curve.color, ms=4, alpha=0.55, mew=0, zorder=3)
    ax.plot(*zip(*curve.fit, strict=True), color=curve.color, lw=2.8, zorder=4)


def _draw_failed(ax: Axes, curve: BasinCurve, height: float) -> None:
    for theta in curve.failed:
        ax.plot(
            [theta], [height], "x", color=curve.color, ms=6, mew=1.8, zorder=4,
            transform=ax.get_xaxis_transform(),
        )  # fmt: skip


def _legend(figure: Figure, curves: tuple[BasinCurve, ...]) -> None:
    from matplotlib.lines import Line2D

    widths = [
        Line2D([], [], color=c.color, lw=3, label=f"width {c.at:g}")
        for c in sorted(curves, key=lambda curve: curve.at)
    ]
    best = Line2D([], [], color=INK, lw=1.6, marker="o", mfc=MUTED, label="best of a width", **BEST)
    failed = Line2D([], [], color=MUTED, ls="", marker="x", ms=6, mew=1.8, label="diverged")
    handles = [*widths, best, failed]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
        columnspacing=1.5, handlelength=1.6,
    )  # fmt: skip
