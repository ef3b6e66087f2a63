"""Pictures over the width, or what else the answer is read along: optimum, loss, and the target.

The summary shows the optima under the basins, a column per arm; the agreement of two measures the
optima by a metric beside those by the loss, a row per arm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.analysis.answer.text import arm_names, target_differs
from hptransfer.config.sweep import AXIS_WORDS
from hptransfer.reporting.figures.basins import (
    basins_data,
    colors_along,
    draw_basins,
)
from hptransfer.reporting.figures.style import (
    ARMS,
    INK,
    MUTED,
    Mark,
    arm_colors,
    draw_interval,
    draw_mark,
    draw_transferred,
    ends_of,
    hp_label,
    key_line,
    limits_of,
    name_at_right,
)
from hptransfer.reporting.figures.wording import estimate_text
from hptransfer.results.metrics import LOSS, metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_OCTAVES = 3.0  # of the optimum's axis


class Band(NamedTuple):
    """A law's line; its 90 % band is empty where the noise is not known."""

    at: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Track(NamedTuple):
    """One arm: its values at the widths, their law, and the value it gives the target."""

    name: str
    color: str
    marks: tuple[Mark, ...]
    band: Band | None = None
    target: Mark | None = None
    emitted: float | None = None


class OverAxis(NamedTuple):
    """All arms of one HP on one pair of axes; `realised` is what the target itself gave."""

    key: str
    x_label: str
    y_label: str
    tracks: tuple[Track, ...]
    places: tuple[float, ...]  # the widths, or what else the answer is read along
    limits: tuple[float, float]
    target: float | None = None
    realised: Mark | None = None


def optimum_data(
    estimates: Mapping[str, Any], realised: Mapping[str, Any] | None = None, *, hp: str = "log2_lr"
) -> OverAxis:
    """Select the optima, bands and target of the arms that swept one HP.

    The band holds under the conditions where the answer is read; a target's may be others.
    """
    data = _over_axis(estimates, realised, hp, _optimum_track, optimum_mark, LEAST_OCTAVES)
    differs = [target_differs(arm) for arm in estimates["arms"] if arm["hp"] == hp]
    others = ", ".join(f"{AXIS_WORDS[n]} {v:g}" for n, v in (differs[0] if differs else {}).items())
    value = f"value for the target{f' at {others}' if others else ''}"
    key = _key(data, value, "its own optimum")
    return data._replace(key=key, y_label=f"optimal {hp_label(hp)}")


def loss_data(
    estimates: Mapping[str, Any], realised: Mapping[str, Any] | None = None, *, hp: str
) -> OverAxis:
    """Select the losses at the optima, their laws, and the loss expected of the target."""
    apart = any(target_differs(arm) for arm in estimates["arms"])  # then its loss is no such loss
    data = _over_axis(estimates, None if apart else realised, hp, _loss_track, loss_mark, 0.0)
    key = _key(data, "expected of the target", "what it gave")
    return data._replace(key=key, y_label=f"{metric_of(estimates).label} at the optimum")


def _over_axis(
    estimates: Mapping[str, Any],
    realised: Mapping[str, Any] | None,
    hp: str,
    track_of: Callable[[Mapping[str, Any], str, str], Track],
    mark_of: Callable[[Mapping[str, Any], str], Mark],
    least: float,
) -> OverAxis:
    arms = [arm for arm in estimates["arms"] if arm["hp"] == hp]
    names = arm_names(arms)
    tracks = tuple(map(track_of, arms, names, arm_colors(names)))
    axis = arms[0]["axis"] if arms else "width"
    own = None
    if realised is not None and realised["hp"] == hp and axis == "width":
        own = mark_of(realised["optimum"], axis)
    ends = [own] if own else [track.target for track in tracks if track.target]
    return OverAxis(
        key="",
        x_label=AXIS_WORDS[axis],
        y_label="",
        tracks=tracks,
        places=tuple(sorted({mark.at for track in tracks for mark in track.marks})),
        limits=limits_of_tracks(tracks, own, least=least),
        target=max((mark.at for mark in ends), default=None),
        realised=own,
    )


def limits_of_tracks(
    tracks: tuple[Track, ...], own: Mark | None = None, *, least: float = LEAST_OCTAVES
) -> tuple[float, float]:
    """Return limits that hold every mark of some arms."""
    marks = [mark for track in tracks for mark in (*track.marks, track.target)]
    return limits_of([mark for mark in (*marks, own) if mark is not None], least=least)


def _key(data: OverAxis, target: str, own: str) -> str:
    """Return the key line: what bars mean, and the target's marks where they are drawn."""
    words = ["bars: 90 % intervals"]
    if any(track.target for track in data.tracks):
        words.append(f"□ {target}")
    if data.realised is not None:
        words.append(f"{'★' if data.realised.censored is None else '◇'} {own}")
    return "   ".join(words)


def _optimum_track(arm: Mapping[str, Any], name: str, color: str) -> Track:
    axis, target = arm["axis"], arm["target"]
    return Track(
        name=name,
        color=color,
        marks=tuple(optimum_mark(optimum, axis) for optimum in arm["optima"]),
        band=_band(arm["law"]["band"], "optimum"),
        target=optimum_mark({**target, "censored": None}, axis) if target else None,
        emitted=target["emitted"] if target else None,
    )


def optimum_mark(optimum: Mapping[str, Any], axis: str = "width") -> Mark:
    """Return the optimum at one place of an axis."""
    return Mark(optimum[axis], optimum["optimum"], ends_of(optimum), optimum["censored"])


def _loss_track(arm: Mapping[str, Any], name: str, color: str) -> Track:
    axis, law, target = arm["axis"], arm["loss_law"] or {}, arm["target"]
    told, expected = law.get("at_target"), None
    if told and target and told["estimate"] is not None and not target_differs(arm):
        expected = Mark(target[axis], told["estimate"], ends_of(told), None)
    return Track(
        name=name,
        color=color,
        marks=tuple(loss_mark(optimum, axis) for optimum in arm["optima"]),
        band=_band(law.get("band"), "loss"),
        target=expected,
        emitted=expected.value if expected else None,
    )


def loss_mark(optimum: Mapping[str, Any], axis: str = "width") -> Mark:
    """Return the loss at the optimum at one place of an axis."""
    told = optimum["loss_at_optimum"]
    return Mark(optimum[axis], told["estimate"], ends_of(told), optimum["censored"])


def _band(band: Mapping[str, Any] | None, name: str) -> Band | None:
    if band is None:
        return None
    known = None not in (*band["low"], *band["high"])
    low, high = (band["low"], band["high"]) if known else ((), ())
    return Band(tuple(band["at"]), tuple(band[name]), tuple(low), tuple(high))


def draw_over_axis(ax: Axes, data: OverAxis) -> None:
    """Draw every arm along the axis (logarithmic), named at the right end of its law."""
    ax.set_xscale("log", base=2)
    last = max([*data.places, data.target or 0])
    ax.set(ylim=data.limits, xlim=(min(data.places) / 1.18, last * 1.18))
    ax.set(xlabel=data.x_label, ylabel=data.y_label)
    _set_ticks(ax.xaxis, data)
    if data.target is not None:
        ax.axvline(data.target, color=MUTED, lw=0.8, ls=(0, (4, 3)))
    for index, track in enumerate(data.tracks):
        # Arms stand beside one another.
        _draw_track(ax, track, 1 + 0.018 * (index - (len(data.tracks) - 1) / 2))
    if data.realised is not None:
        draw_mark(ax, data.realised._replace(at=data.realised.at * 1.06), INK, shape="*")
    key_line(ax, data.key)
    named = [track for track in data.tracks if track.marks]
    ends = [t.band.value[-1] if t.band else t.marks[-1].value for t in named]
    name_at_right(ax, [t.name for t in named], [t.color for t in named], ends, gap=0.07)


def _draw_track(ax: Axes, track: Track, nudge: float) -> None:
    if track.band is not None:
        at, value, low, high = track.band
        if low:
            ax.fill_between(at, low, high, color=track.color, alpha=0.14, lw=0)
        ax.plot(at, value, color=track.color, lw=1.6)
    for mark in track.marks:
        draw_mark(ax, mark._replace(at=mark.at * nudge), track.color)
    if track.target is not None:
        target = track.target._replace(at=track.target.at * nudge)
        draw_interval(ax, target, track.color)
        if track.emitted is not None:
            draw_transferred(ax, target.at, track.emitted, track.color)


def _set_ticks(axis: Any, data: OverAxis) -> None:
    """Put a tick at every width that was trained and one at the target."""
    ticks = {place: f"{place:g}" for place in data.places}
    if data.target is not None:
        ticks.setdefault(data.target, f"{data.target:g}\ntarget")
    axis.set_ticks(list(ticks), list(ticks.values()))
    axis.set_ticks([], minor=True)


def draw_summary(figure: Figure, estimates: Mapping[str, Any]) -> None:
    """Draw a column per arm: basins above, optimum over width below, one HP axis for both."""
    arms, count = estimates["arms"], len(estimates["arms"])
    colors = colors_along(arms)
    strips = {arm["hp"]: optimum_data(estimates, hp=arm["hp"]) for arm in arms}
    tracks = {hp: iter(strip.tracks) for hp, strip in strips.items()}
    axes = figure.subplots(2, count, height_ratios=(2.1, 1), squeeze=False)
    for index, (arm, panel) in enumerate(zip(arms, basins_data(estimates), strict=True)):
        above, below = axes[:, index]
        draw_basins(above, panel)
        above.set(xlabel="")
        below.set(xlim=panel.x_limits, xlabel=panel.x_label)
        _draw_strip(below, strips[arm["hp"]], next(tracks[arm["hp"]]), colors)
        if index > 0:
            above.set(ylabel="")
            below.set(ylabel="")
    figure.align_ylabels(axes[:, 0])
    # A single column is too narrow for the key on one line.
    between = "\n" if count == 1 else "    "
    key = (
        "bars at optima: 90 % intervals    ▲ above the picture",
        "× failed, tinted past the cliff    □ value for the target",
        "shaded: 90 % band of the law",
    )
    figure.supxlabel(between.join(key), color=MUTED, fontsize=8.5)


def _draw_strip(ax: Axes, strip: OverAxis, track: Track, colors: Mapping[float, str]) -> None:
    """Draw one arm's optimum over width with the HP along the bottom, as in its basins."""
    last = max([*strip.places, strip.target or 0])
    ax.set_yscale("log", base=2)
    ax.set(ylim=(min(strip.places) / 1.35, last * 1.35), ylabel=strip.x_label)
    _set_ticks(ax.yaxis, strip)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    if track.band is not None:
        at, value, low, high = track.band
        if low:
            ax.fill_betweenx(at, low, high, color=MUTED, alpha=0.18, lw=0)
        ax.plot(value, at, color=MUTED, lw=1.4)
    for mark in track.marks:
        draw_mark(ax, mark, colors[mark.at], sideways=True)
    if track.target is not None and track.emitted is not None:
        draw_interval(ax, track.target, INK, sideways=True)
        draw_transferred(ax, track.emitted, track.target.at, INK)
        emitted = f"{track.emitted:.2f}".replace("-", "−")
        edge = max([track.emitted, *(track.target.interval or [])])
        ax.annotate(
            emitted, (edge, track.target.at), (9, 0), textcoords="offset points", va="center",
            fontsize=9, fontweight="bold",
        )  # fmt: skip


def compared_arms(by_metric: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the arms, an entry for each HP, that have an optimum by both measures at any width."""
    return [arm for arm in by_metric["agreement"] if arm["widths"]]


def draw_agreement(
    figure: Figure, by_loss: Mapping[str, Any], by_metric: Mapping[str, Any]
) -> None:
    """Draw a row per arm: basins by the loss, basins by the metric, both optima over width.

    Arms of one HP share the axis of their optima.
    """
    names, told = ("family", "parametrization", "hp"), compared_arms(by_metric)
    labels = (LOSS.label, metric_of(by_metric).label)
    axes = figure.subplots(len(told), 3, squeeze=False)
    for title, arm, (*beside, right) in zip(
        arm_names(told, with_hp=False), told, axes, strict=True
    ):
        for ax, estimates, label in zip(beside, (by_loss, by_metric), labels, strict=True):
            (panel,) = (
                panel
                for each, panel in zip(estimates["arms"], basins_data(estimates), strict=True)
                if all(each[name] == arm[name] for name in names)
            )
            draw_basins(ax, panel._replace(title=f"{title}, by {label}"))
        mean = arm["mean_difference"]
        count = f"{mean['widths']} width{'' if mean['widths'] == 1 else 's'}"
        apart = f"apart by {estimate_text(mean, 2)} octaves, the mean of {count}"
        peers = [track for peer in told if peer["hp"] == arm["hp"] for track in _both(peer, labels)]
        over = OverAxis(
            key=f"{apart}\nbars: 90 % intervals",
            x_label="width",
            y_label=f"optimal {hp_label(arm['hp'])}",
            tracks=_both(arm, labels),
            places=tuple(at["width"] for at in arm["widths"]),
            limits=limits_of_tracks(tuple(peers)),
        )
        draw_over_axis(right, over)


def _both(arm: Mapping[str, Any], labels: tuple[str, str]) -> tuple[Track, ...]:
    """Return an arm's optima by the loss and by the metric, in colours that are no arm's own."""
    return tuple(
        Track(
            f"by {label}",
            color,
            tuple(optimum_mark({"width": at["width"], **at[key]}) for at in arm["widths"]),
        )
        for label, color, key in zip(labels, ARMS[2:4], ("by_loss", "by_metric"), strict=True)
    )
