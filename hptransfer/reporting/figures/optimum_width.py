"""The picture of an HP's optimum over width: arms, their laws with bands, and the target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures.style import (
    INK,
    MUTED,
    PAPER,
    arm_colors,
    hp_label,
    key_line,
    spread,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Mark(NamedTuple):
    """A value at a width; `interval` is null where the data supports none."""

    width: int
    value: float
    interval: tuple[float, float] | None
    censored: str | None


class Band(NamedTuple):
    """A law's line over width; its 90 % band is empty where the noise is not known."""

    width: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Track(NamedTuple):
    """One arm: its optima, its law, and the value it gives the target."""

    name: str
    color: str
    marks: tuple[Mark, ...]
    band: Band | None
    target: Mark | None
    emitted: float | None


class OverWidth(NamedTuple):
    """All arms of one HP on one pair of axes; `realised` is what the target itself gave."""

    key: str
    y_label: str
    tracks: tuple[Track, ...]
    widths: tuple[int, ...]
    target_width: int | None
    limits: tuple[float, float]
    realised: Mark | None


def optimum_width_data(
    estimates: dict[str, Any], realised: dict[str, Any] | None = None, *, hp: str = "log2_lr"
) -> OverWidth:
    """Select the optima, bands and target of the arms that swept one HP."""
    arms = [arm for arm in estimates["arms"] if arm["hp"] == hp]
    colors = arm_colors([arm["parametrization"] for arm in arms])
    tracks = tuple(arm_track(arm, color) for arm, color in zip(arms, colors, strict=True))
    own = _mark(realised["optimum"]) if realised is not None and realised["hp"] == hp else None
    targets = [track.target.width for track in tracks if track.target is not None]
    target_width = own.width if own is not None else max(targets, default=None)
    return OverWidth(
        key=key_text(targets and "value for the target", own and "its own optimum"),
        y_label=f"optimal {hp_label(hp)}",
        tracks=tracks,
        widths=tuple(sorted({m.width for track in tracks for m in track.marks})),
        target_width=target_width,
        limits=theta_limits([*tracks], own),
        realised=own,
    )


def key_text(target: object, own: object) -> str:
    """Return the key line: what bars mean, and the target's marks where they are drawn."""
    marks = [f"{mark} {said}" for mark, said in (("□", target), ("★", own)) if said]
    return "   ".join(["bars: 90 % intervals", *marks])


def arm_track(arm: dict[str, Any], color: str) -> Track:
    """Select one arm's optima, their law and the target."""
    target = arm.get("target")
    if target is not None and target.get("optimum") is None:
        target = None
    return Track(
        name=arm_name(arm["parametrization"]),
        color=color,
        marks=tuple(_mark(o) for o in arm["optima"]),
        band=_band(arm.get("law")),
        target=_mark({**target, "censored": None}) if target is not None else None,
        emitted=target.get("emitted") if target is not None else None,
    )


def theta_limits(tracks: list[Track], realised: Mark | None) -> tuple[float, float]:
    """Hold every optimum and at least 3 octaves, so that noise does not look like a drift."""
    marks = [m for t in tracks for m in (*t.marks, t.target) if m is not None]
    marks += [realised] if realised is not None else []
    center = [m.value for m in marks] or [0.0]
    # An interval may be as long as the whole axis: it is cut an octave beyond the optima.
    ends = [end for m in marks if m.interval is not None for end in m.interval]
    low = max(min([*center, *ends]), min(center) - 1) - 0.25
    high = min(max([*center, *ends]), max(center) + 1) + 0.25
    lack = max(0.0, 3 - (high - low)) / 2
    return low - lack, high + lack


def _mark(optimum: dict[str, Any]) -> Mark:
    ends = (optimum["low"], optimum["high"])
    return Mark(
        optimum["width"], optimum["optimum"], None if None in ends else ends, optimum["censored"]
    )


def _band(law: dict[str, Any] | None) -> Band | None:
    band = law.get("band") if law is not None else None
    if not band or not band["width"]:
        return None
    ends = [*band["low"], *band["high"]]
    low, high = ((), ()) if None in ends else (band["low"], band["high"])
    return Band(tuple(band["width"]), tuple(band["theta"]), tuple(low), tuple(high))


def draw_over_width(ax: Axes, data: OverWidth) -> None:
    """Draw every arm over width (log axis), named at the right end of its law."""
    ax.set_xscale("log", base=2)
    last = max([*data.widths, data.target_width or 0])
    ax.set(ylim=data.limits, xlim=(min(data.widths) / 1.18, last * 1.18))
    ax.set(xlabel="width d", ylabel=data.y_label)
    set_width_ticks(ax.xaxis, data)
    if data.target_width is not None:
        ax.axvline(data.target_width, color=MUTED, lw=0.8, ls=(0, (4, 3)))
    for index, track in enumerate(data.tracks):
        nudge = 1 + 0.018 * (index - (len(data.tracks) - 1) / 2)
        draw_track(ax, track, nudge)
    if data.realised is not None:
        _draw_mark(ax, data.realised, INK, 1.06, marker="*")
    key_line(ax, data.key)
    _name_tracks(ax, data, last)


def draw_track(ax: Axes, track: Track, nudge: float) -> None:
    """Draw one arm's band, law, optima and target; `nudge` keeps arms from hiding each other."""
    if track.band is not None:
        width, value, low, high = track.band
        if low:
            ax.fill_between(width, low, high, color=track.color, alpha=0.14, lw=0)
        ax.plot(width, value, color=track.color, lw=1.6)
    for mark in track.marks:
        _draw_mark(ax, mark, track.color, nudge)
    if track.target is not None:
        _draw_mark(ax, track.target._replace(censored="predicted"), track.color, nudge)
    if track.target is not None and track.emitted is not None:
        ax.plot(
            [track.target.width * nudge], [track.emitted], "s", ms=6.5, mfc=PAPER, mec=track.color,
            mew=1.8, zorder=6,
        )  # fmt: skip


def _draw_mark(ax: Axes, mark: Mark, color: str, nudge: float, *, marker: str = "o") -> None:
    x = mark.width * nudge
    if mark.interval is not None:
        ends = [[mark.value - mark.interval[0]], [mark.interval[1] - mark.value]]
        ax.errorbar([x], [mark.value], ends, fmt="none", color=color, elinewidth=1.6, capsize=3.5)
    if mark.censored == "predicted":
        return
    shape = marker if mark.censored is None else "D"
    size = 13 if shape == "*" else 6.5
    face, edge = (color, PAPER) if mark.censored is None else (PAPER, color)
    ax.plot([x], [mark.value], shape, ms=size, mfc=face, mec=edge, mew=1.2, zorder=5)


def set_width_ticks(axis: Any, data: OverWidth) -> None:
    """Put a tick at every width that was trained and one at the target."""
    target = data.target_width
    ticks = sorted({*data.widths, target} if target is not None else data.widths)
    own = target not in data.widths
    labels = [f"{w}\ntarget" if own and w == target else str(w) for w in ticks]
    axis.set_ticks(ticks, labels)
    axis.set_ticks([], minor=True)


def _name_tracks(ax: Axes, data: OverWidth, last: float) -> None:
    ends = [t.band.value[-1] if t.band else t.marks[-1].value for t in data.tracks if t.marks]
    low, high = data.limits
    places = spread([min(max(e, low), high) for e in ends], 0.07 * (high - low), data.limits)
    named = [t for t in data.tracks if t.marks]
    for track, place in zip(named, places, strict=True):
        ax.annotate(
            track.name, (last * 1.18, place), (5, 0), textcoords="offset points", va="center",
            color=track.color, fontweight="bold", annotation_clip=False,
        )  # fmt: skip
