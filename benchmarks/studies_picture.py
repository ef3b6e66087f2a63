"""The README's picture: four families' basins over widths, under µP and under the standard one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.studies_questions import FAMILIES
from benchmarks.studies_read import Record, Study
from benchmarks.studies_words import drift
from hptransfer.reporting.figures import FORMATS
from hptransfer.reporting.figures.basins import (
    LANE,
    BasinCurve,
    basin_curve,
    draw_curve,
    draw_lane,
    frame_losses,
)
from hptransfer.reporting.figures.style import INK, MUTED, RC, width_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARMS = {"mup": "µP", "standard": "standard parametrization"}
COLUMN, HEIGHT = 2.85, 6.6  # inches
ABOVE, BELOW = 0.6, 0.35  # of the losses shown, in spans of the widths' best losses


class Panel(NamedTuple):
    """One family under one parametrization; losses from `floor` to `ceiling`, as in its other."""

    family: str
    arm: str
    curves: tuple[BasinCurve, ...]
    thetas: tuple[float, float]
    floor: float
    ceiling: float
    drift: str


def panels(studies: Mapping[str, Study]) -> list[Panel]:
    """Select each family's basins under both parametrizations; widths have one colour each."""
    arms = {f: [arm for name in ARMS if (arm := s.arm(name))] for f, s in studies.items()}
    colors = width_colors([o["width"] for both in arms.values() for o in _optima(both)])
    return [_panel(f, arm, both, colors) for f, both in arms.items() for arm in both]


def _optima(arms: Sequence[Record]) -> list[Any]:
    return [o for arm in arms for o in arm["optima"] if o["loss"] is not None]


def _panel(family: str, arm: Record, both: Sequence[Record], colors: dict[float, str]) -> Panel:
    best = [o["loss"] for o in _optima(both)]
    thetas = [theta for o in _optima(both) for theta in o["basin"]["theta"]]
    span = max(best) - min(best)
    ceiling = max(best) + ABOVE * span
    return Panel(
        family=family,
        arm=arm["parametrization"],
        curves=tuple(basin_curve(o, colors[o["width"]], ceiling) for o in _optima([arm])),
        thetas=(min(thetas) - 0.35, max(thetas) + 0.35),
        floor=min(best) - BELOW * span,
        ceiling=ceiling,
        drift=drift(arm),
    )


def draw(studies: Mapping[str, Study], path: Path) -> None:
    """Draw a column for each family and a row for each parametrization; write a PNG."""
    import matplotlib.style
    from matplotlib.figure import Figure

    listed = panels(studies)
    with matplotlib.style.context(["default", RC]):
        figure = Figure(figsize=(0.6 + COLUMN * len(studies), HEIGHT), layout="constrained")
        axes = figure.subplots(2, len(studies), squeeze=False, sharex="col", sharey="col")
        for panel in listed:
            row, column = list(ARMS).index(panel.arm), list(studies).index(panel.family)
            _draw(axes[row][column], panel)
            if row == 0:
                axes[row][column].set_title(FAMILIES[panel.family], pad=8)
        for row, name in enumerate(ARMS.values()):
            axes[row][0].set_ylabel(f"{name}\nvalidation loss", fontweight="bold")
        for column in range(len(studies)):
            axes[1][column].set_xlabel("log2 base learning rate")
        _legend(figure, listed)
        figure.savefig(path, **FORMATS[".png"])


def _draw(ax: Axes, panel: Panel) -> None:
    lane = LANE * (panel.ceiling - panel.floor)
    top = panel.ceiling + lane * len(panel.curves)
    ax.set(xlim=panel.thetas)
    frame_losses(ax, panel.floor, panel.ceiling, top)
    ax.set_ylabel("")
    for place, curve in enumerate(panel.curves):
        draw_curve(ax, curve)
        draw_lane(ax, curve, top - (place + 0.5) * lane)
    _join_optima(ax, panel.curves)
    ax.text(
        0.03, 0.03, f"drift {panel.drift}", transform=ax.transAxes, fontsize=9.5, color=INK,
        fontweight="bold", zorder=7,
    )  # fmt: skip


def _join_optima(ax: Axes, curves: tuple[BasinCurve, ...]) -> None:
    """Lead from each width's optimum to the next one's: upright where nothing drifts."""
    ordered = sorted(curves, key=lambda curve: curve.at)
    for a, b in pairwise(ordered):
        ax.plot([a.optimum, b.optimum], [a.loss, b.loss], color=INK, lw=1.4, zorder=4.5)


def _legend(figure: Figure, listed: list[Panel]) -> None:
    from matplotlib.lines import Line2D

    colors = {c.at: c.color for panel in listed for c in panel.curves}
    handles = [
        Line2D([], [], color=colors[width], lw=2.5, label=f"width {width}")
        for width in sorted(colors)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(
        "dots: each width's best rate, joined by the dark line; bars and brackets: 90 % intervals\n"
        "◇ not resolved    × failed    ▲ above the picture    drift: octaves per width doubling",
        fontsize=9, color=MUTED,
    )  # fmt: skip
