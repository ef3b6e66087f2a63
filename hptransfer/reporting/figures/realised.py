"""The target's own basin: what the transferred value cost, against what was predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.reporting.figures.basins import (
    BasinCurve,
    basin_curve,
    draw_curve,
    draw_lane,
    frame_losses,
    loss_window,
)
from hptransfer.reporting.figures.style import ARMS, FAIL, INK, MUTED, PAPER, hp_label
from hptransfer.results.metrics import LOSS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class RegretInterval(NamedTuple):
    """A regret with its 90 % interval; null where it is not known."""

    name: str
    value: float | None
    low: float | None
    high: float | None


class RealisedData(NamedTuple):
    """The target's basin, the transferred value in it, and both regrets."""

    title: str
    x_label: str
    curve: BasinCurve
    transferred: float
    loss_at_transferred: float | None
    window: tuple[float, float]
    predicted: RegretInterval
    realised: RegretInterval
    missed: bool


def realised_data(realised: dict[str, Any]) -> RealisedData:
    """Select the target's basin, the transferred value and the two regrets."""
    optimum = realised["optimum"]
    floor, ceiling = loss_window([optimum])
    predicted = realised["predicted"] or {"mean": None, "low": None, "high": None}
    regret = realised["regret"] or {"estimate": None, "low": None, "high": None}
    return RealisedData(
        title=f"target, width {realised['width']}: prediction "
        + ("missed" if realised["missed"] else "held"),
        x_label=hp_label(realised["hp"]),
        curve=basin_curve(optimum, INK, ceiling),
        transferred=realised["transferred"],
        loss_at_transferred=realised["loss_at_transferred"],
        window=(floor, ceiling),
        predicted=RegretInterval(
            "predicted", predicted["mean"], predicted["low"], predicted["high"]
        ),
        realised=RegretInterval("realised", regret["estimate"], regret["low"], regret["high"]),
        missed=realised["missed"],
    )


def _regret(name: str, value: float | None, ends: dict[str, Any]) -> RegretInterval:
    return RegretInterval(name, value, ends["low"], ends["high"])


def draw_realised(figure: Figure, data: RealisedData) -> None:
    """Draw the basin with the transferred value above, the two regrets below."""
    upper, lower = figure.subplots(2, height_ratios=(4.2, 1))
    _draw_basin(upper, data)
    _draw_regrets(lower, data)


def _draw_basin(ax: Axes, data: RealisedData) -> None:
    floor, ceiling = data.window
    top = ceiling + 0.09 * (ceiling - floor)
    frame_losses(ax, floor, ceiling, top)
    draw_curve(ax, data.curve)
    draw_lane(ax, data.curve, (top + ceiling) / 2)
    ax.plot([data.transferred] * 2, [floor, ceiling], color=ARMS[0], lw=1.6, zorder=1)
    if data.loss_at_transferred is not None:
        ax.plot(
            [data.transferred], [data.loss_at_transferred], "s", ms=6.5, mfc=PAPER, mec=ARMS[0],
            mew=1.8, zorder=7,
        )  # fmt: skip
    # The name stands on the side where the line leaves more room.
    thetas = [p.theta for p in data.curve.points] or [data.transferred]
    left = data.transferred > (min(thetas) + max(thetas)) / 2
    ax.annotate(
        "transferred", (data.transferred, ceiling), (-6 if left else 6, -6), va="top",
        textcoords="offset points", ha="right" if left else "left", color=ARMS[0],
        fontweight="bold",
    )  # fmt: skip
    ax.set_title(data.title)
    ax.set(xlabel=data.x_label, ylabel=LOSS.axis)


def _draw_regrets(ax: Axes, data: RealisedData) -> None:
    color = FAIL if data.missed else INK
    for row, (interval, shade) in enumerate(((data.predicted, ARMS[0]), (data.realised, color))):
        if interval.low is not None and interval.high is not None:
            ends = [interval.low, interval.high]
            ax.plot(ends, [row, row], color=shade, lw=3, alpha=0.45, solid_capstyle="butt")
        if interval.value is None:
            ax.text(0, row, " not known", va="center", color=MUTED)
        else:
            ax.plot([interval.value], [row], "o", color=shade, ms=6.5)
    ax.axvline(0, color=MUTED, lw=0.8)
    ax.set_yticks([0, 1], [data.predicted.name, data.realised.name])
    ax.set(ylim=(1.6, -0.6), xlabel="regret (loss)")
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=5)
