"""Pictures of basins: loss over log2 HP with optimum and interval, a curve per width.

The target's own basin shows what the transferred value cost, against what was predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.analysis.answer.text import arm_names
from hptransfer.reporting.figures.style import (
    ARMS,
    FAIL,
    INK,
    MUTED,
    PAPER,
    Mark,
    draw_mark,
    draw_transferred,
    ends_of,
    hp_label,
    name_at_right,
    name_rows,
    setting_name,
    width_colors,
)
from hptransfer.results.metrics import LOSS, Metric, metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGE_SHARE = 0.05  # a larger probability that the optimum lies beyond the grid is noted
LANE = 0.046  # height of one width's lane in the strip, as a share of the loss window


class GridPoint(NamedTuple):
    """A grid point's mean loss with the range over seeds."""

    theta: float
    loss: float
    low: float
    high: float


class BasinCurve(NamedTuple):
    """One width's basin; `above`, `failed` and the cliff are drawn in the strip at the top."""

    at: float  # the width, or what else the answer is read along
    name: str
    color: str
    points: tuple[GridPoint, ...]
    above: tuple[float, ...]
    failed: tuple[float, ...]
    fit: tuple[tuple[float, float], ...]
    optimum: float
    interval: tuple[float, float] | None
    loss: float
    censored: str | None
    cliff: float | None  # from here on up every point failed
    note: str  # stands under the width's name: how probably the optimum lies beyond the grid


class BasinPanel(NamedTuple):
    """One arm's curves in a window that all arms of the HP share."""

    title: str
    x_label: str
    curves: tuple[BasinCurve, ...]
    x_limits: tuple[float, float]
    floor: float
    ceiling: float  # losses above are drawn as arrows
    top: float  # end of the strip that holds arrows and crosses
    seeds: str
    metric: Metric


def basins_data(estimates: Mapping[str, Any]) -> list[BasinPanel]:
    """Select each arm's curves; arms that share an HP share their limits."""
    arms = estimates["arms"]
    colors, names = colors_along(arms), arm_names(arms, with_hp=False)
    return [
        _panel(f"{name}: {arm['verdict']}", arm, arms, colors, metric_of(estimates))
        for name, arm in zip(names, arms, strict=True)
    ]


def colors_along(arms: Sequence[Mapping[str, Any]]) -> dict[float, str]:
    """Return a colour for every width, or what else the arms' answers are read along."""
    return width_colors([o[arm["axis"]] for arm in arms for o in arm["optima"]])


def basin_curve(
    optimum: Mapping[str, Any], color: str, ceiling: float, axis: str = "width"
) -> BasinCurve:
    """Return one width's basin: its grid points inside the picture, above it, and failed."""
    basin = optimum["basin"]
    columns = (basin[name] for name in ("theta", "mean", "low", "high", "failed"))
    grid = list(zip(*columns, strict=True))
    sound = [
        GridPoint(t, m, m if lo is None else lo, m if hi is None else hi)
        for t, m, lo, hi, failed in grid
        if not failed and m is not None
    ]
    fit = zip(basin["fit_theta"] or [], basin["fit_loss"] or [], strict=True)
    return BasinCurve(
        at=optimum[axis],
        name=setting_name(axis, optimum[axis]),
        color=color,
        points=tuple(sound),
        above=tuple(p.theta for p in sound if p.loss > ceiling),
        failed=tuple(t for t, m, _, _, failed in grid if failed or m is None),
        fit=tuple((t, y) for t, y in fit if y is not None),
        optimum=optimum["optimum"],
        interval=ends_of(optimum),
        loss=_bottom(optimum),
        censored=optimum["censored"],
        cliff=None if optimum.get("cliff") is None else optimum["optimum"] + optimum["cliff"],
        note=_edge_note(optimum.get("edge")),
    )


def _edge_note(edge: Mapping[str, Any] | None) -> str:
    shares = {side: (edge or {}).get(side) or 0.0 for side in ("low", "high")}
    side = max(shares, key=lambda name: shares[name])
    return f"{100 * shares[side]:.0f} % beyond" if shares[side] > EDGE_SHARE else ""


def _seeds(optima: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({o["n_seeds"] for o in optima if o["n_seeds"] is not None})
    if not counts:
        return ""
    few, many = counts[0], counts[-1]
    return f"{few} to {many} seeds" if few < many else f"{few} seed{'s' if few > 1 else ''}"


def loss_window(optima: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the loss range that shows every minimum and one side of every fit."""
    bottoms = [_bottom(o) for o in optima]
    fits = [o["basin"]["fit_loss"] for o in optima if o["basin"]["fit_loss"]]
    # The lower shoulder: the higher one often climbs a cliff, which would flatten all the rest.
    shoulders = [min(fit[0], fit[-1]) for fit in fits if None not in (fit[0], fit[-1])]
    means = [m for o in optima for m in o["basin"]["mean"] if m is not None]
    low, high = min([*bottoms, *means]), max(bottoms)
    reach = max(1.3 * (max([high, *shoulders]) - low), 2.5 * (high - low))
    ceiling = min(low + reach, max([high, *means])) if reach > 0 else max([high, *means])
    span = (ceiling - low) or abs(low) or 1.0
    return low - 0.1 * span, max(ceiling, low + span) + 0.03 * span


def _bottom(optimum: Mapping[str, Any]) -> float:
    means = [m for m in optimum["basin"]["mean"] if m is not None]
    return min(means, default=0.0) if optimum["loss"] is None else optimum["loss"]


def _panel(
    title: str,
    arm: Mapping[str, Any],
    arms: Sequence[Mapping[str, Any]],
    colors: Mapping[float, str],
    metric: Metric,
) -> BasinPanel:
    peers = [o for a in arms if a["hp"] == arm["hp"] for o in a["optima"] if o.get("basin")]
    thetas = [t for o in peers for t in o["basin"]["theta"]] or [0.0]
    floor, ceiling = loss_window(peers) if peers else (0.0, 1.0)
    axis = arm["axis"]
    lanes = max((len(a["optima"]) for a in arms if a["hp"] == arm["hp"]), default=1)
    return BasinPanel(
        title=title,
        x_label=hp_label(arm["hp"]),
        curves=tuple(
            basin_curve(o, colors[o[axis]], ceiling, axis) for o in arm["optima"] if o.get("basin")
        ),
        x_limits=(min(thetas) - 0.35, max(thetas) + 0.35),
        floor=floor,
        ceiling=ceiling,
        top=ceiling + (ceiling - floor) * LANE * lanes,
        seeds=_seeds(arm["optima"]),
        metric=metric,
    )


def draw_basins(ax: Axes, data: BasinPanel) -> None:
    """Draw one arm: curves, optima with intervals, widths named at the right edge."""
    ax.set(xlim=data.x_limits, xlabel=data.x_label)
    ax.set_title(data.title)
    frame_losses(ax, data.floor, data.ceiling, data.top)
    ax.set(ylabel=data.metric.axis)
    for lane, curve in enumerate(data.curves):
        draw_curve(ax, curve)
        draw_lane(ax, curve, data.top - (lane + 0.5) * LANE * (data.ceiling - data.floor))
    ax.text(
        0.012, 0.012, data.seeds, transform=ax.transAxes, color=MUTED, fontsize=8.5, zorder=1,
    )  # fmt: skip
    _name_widths(ax, data)


def frame_losses(ax: Axes, floor: float, ceiling: float, top: float) -> None:
    """Set the loss axis, and part off the strip above `ceiling` that holds arrows and crosses."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    ax.set(ylim=(floor, top))
    ax.axhspan(ceiling, top, facecolor=PAPER, edgecolor="none", zorder=3)
    ax.axhline(ceiling, color=MUTED, lw=0.6, ls=(0, (1, 2)), zorder=3.1)
    ticks = MaxNLocator(6).tick_values(floor, ceiling)
    ax.yaxis.set_major_locator(FixedLocator([t for t in ticks if floor <= t <= ceiling]))


def draw_curve(ax: Axes, curve: BasinCurve) -> None:
    """Draw one width's points, seed ranges, fit, and optimum."""
    color = curve.color
    ends = (curve.fit[0][0], curve.fit[-1][0]) if curve.fit else (0.0, 0.0)
    for a, b in pairwise(curve.points):
        # Where the fit is drawn it is the line; across a failed point there is none.
        fitted = ends[0] <= a.theta and b.theta <= ends[1]
        broken = any(a.theta < t < b.theta for t in curve.failed)
        if not fitted and not broken:
            ax.plot([a.theta, b.theta], [a.loss, b.loss], color=color, lw=0.9, alpha=0.6)
    theta = [p.theta for p in curve.points]
    ax.plot(theta, [p.loss for p in curve.points], ".", color=color, ms=6)
    ax.vlines(theta, [p.low for p in curve.points], [p.high for p in curve.points], color, lw=1)
    ax.plot([t for t, _ in curve.fit], [y for _, y in curve.fit], color=color, lw=2)
    best = Mark(curve.loss, curve.optimum, curve.interval, curve.censored)
    draw_mark(ax, best, color, sideways=True)


def draw_lane(ax: Axes, curve: BasinCurve, level: float) -> None:
    """Draw what lies outside the picture at one height: arrows above it, crosses failed."""
    lane = {"ls": "none", "zorder": 4, "color": curve.color}
    if curve.cliff is not None:
        ax.plot(
            [curve.cliff, ax.get_xlim()[1]], [level, level], color=curve.color, lw=5, alpha=0.22,
            solid_capstyle="butt", zorder=3.5,
        )  # fmt: skip
    ax.plot(curve.above, [level] * len(curve.above), marker="^", ms=3.5, alpha=0.55, mew=0, **lane)
    ax.plot(curve.failed, [level] * len(curve.failed), marker="x", ms=5, mew=1.5, **lane)


def _name_widths(ax: Axes, data: BasinPanel) -> None:
    right = data.x_limits[1]
    # Wide enough for a second line where any width has a note.
    gap = 0.09 if any(curve.note for curve in data.curves) else 0.058
    names, colors, levels = [], [], []
    for curve in data.curves:
        names.append(curve.name)
        colors.append(curve.color)
        levels.append(curve.loss)
        ax.plot([curve.optimum, right], [curve.loss] * 2, ":", color=curve.color, lw=1, alpha=0.7)
    places = name_at_right(ax, names, colors, levels, gap)
    for curve, place in zip(data.curves, places, strict=True):
        if curve.note:
            ax.annotate(
                curve.note, (right, place), (5, -6), textcoords="offset points", va="top",
                color=curve.color, fontsize=7.5, annotation_clip=False,
            )  # fmt: skip


def realised_title(realised: Mapping[str, Any]) -> str:
    """Say whether the target's own sweep bears out the prediction."""
    outcome = "missed" if realised["missed"] else "held"
    return f"target, width {realised['width']}: prediction {outcome}"


def draw_realised(figure: Figure, realised: Mapping[str, Any]) -> None:
    """Draw the target's basin with the transferred value above, its two costs below."""
    upper, lower = figure.subplots(2, height_ratios=(4.2, 1))
    _draw_target_basin(upper, realised)
    predicted, regret = realised["predicted"], realised["regret"]
    rows = (
        (predicted["mean"], ends_of(predicted), ARMS[0]),
        (regret["estimate"], ends_of(regret), FAIL if realised["missed"] else INK),
    )
    for row, (value, ends, color) in enumerate(rows):
        if ends is not None:
            lower.plot(ends, [row, row], color=color, lw=3, alpha=0.45, solid_capstyle="butt")
        if value is None:
            lower.text(0, row, " not known", va="center", color=MUTED)
        else:
            lower.plot([value], [row], "o", color=color, ms=6.5)
    lower.axvline(0, color=MUTED, lw=0.8)
    name_rows(lower, ["predicted", "realised"])
    lower.set(xlabel="cost of the value, in loss")
    lower.locator_params(axis="x", nbins=5)


def realised_window(realised: Mapping[str, Any]) -> tuple[float, float]:
    """Return the loss range that shows the target's minimum and the transferred value's loss."""
    floor, ceiling = loss_window([realised["optimum"]])
    loss = realised["loss_at_transferred"]
    if loss is None or loss <= ceiling:
        return floor, ceiling
    return floor - 0.06 * (loss - floor), loss + 0.15 * (loss - floor)


def _draw_target_basin(ax: Axes, realised: Mapping[str, Any]) -> None:
    floor, ceiling = realised_window(realised)
    top = ceiling + 0.09 * (ceiling - floor)
    curve = basin_curve(realised["optimum"], INK, ceiling)
    value, loss = realised["transferred"], realised["loss_at_transferred"]
    frame_losses(ax, floor, ceiling, top)
    draw_curve(ax, curve)
    draw_lane(ax, curve, (top + ceiling) / 2)
    ax.plot([value] * 2, [floor, ceiling], color=ARMS[0], lw=1.6, zorder=1)
    if loss is not None:
        draw_transferred(ax, value, loss, ARMS[0])
    # The name stands on the side where the line leaves more room.
    thetas = [point.theta for point in curve.points] or [value]
    left = value > (min(thetas) + max(thetas)) / 2
    ax.annotate(
        "transferred", (value, ceiling), (-6 if left else 6, -6), va="top",
        textcoords="offset points", ha="right" if left else "left", color=ARMS[0],
        fontweight="bold",
    )  # fmt: skip
    ax.set_title(realised_title(realised))
    ax.set(xlabel=hp_label(realised["hp"]), ylabel=LOSS.axis)
