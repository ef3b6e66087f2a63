"""The picture of the loss at the optimum over width, its law, and the target's expected loss."""

from __future__ import annotations

from typing import Any

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures.optimum_width import Band, Mark, OverWidth, Track, key_text
from hptransfer.reporting.figures.style import arm_colors
from hptransfer.results.metrics import metric_of


def loss_width_data(
    estimates: dict[str, Any], realised: dict[str, Any] | None = None, *, hp: str
) -> OverWidth:
    """Select the losses at the optima, their laws, and the loss expected of the target."""
    arms = [arm for arm in estimates["arms"] if arm["hp"] == hp]
    colors = arm_colors([arm["parametrization"] for arm in arms])
    tracks = tuple(_track(arm, color) for arm, color in zip(arms, colors, strict=True))
    own = _mark(realised["optimum"]) if realised is not None and realised["hp"] == hp else None
    targets = [t.target.width for t in tracks if t.target is not None]
    return OverWidth(
        key=key_text(targets and "expected of the target", own and "what it gave"),
        y_label=f"{metric_of(estimates).label} at the optimum",
        tracks=tracks,
        widths=tuple(sorted({m.width for t in tracks for m in t.marks})),
        target_width=own.width if own is not None else max(targets, default=None),
        limits=_limits(tracks, own),
        realised=own,
    )


def _track(arm: dict[str, Any], color: str) -> Track:
    law = arm.get("loss_law") or {}
    at_target, target = law.get("at_target"), arm.get("target")
    loss = None if at_target is None or target is None else at_target["estimate"]
    marks = [mark for o in arm["optima"] if (mark := _mark(o)) is not None]
    expected = None
    if loss is not None and at_target is not None and target is not None:
        expected = Mark(target["width"], loss, _ends(at_target), None)
    return Track(
        name=arm_name(arm["parametrization"]),
        color=color,
        marks=tuple(marks),
        band=_band(law.get("band")),
        target=expected,
        emitted=loss,
    )


def _mark(optimum: dict[str, Any]) -> Mark | None:
    told = optimum.get("loss_at_optimum") or {"estimate": optimum["loss"], "low": None}
    if told["estimate"] is None:
        return None
    return Mark(optimum["width"], told["estimate"], _ends(told), optimum["censored"])


def _ends(told: dict[str, Any]) -> tuple[float, float] | None:
    low, high = told["low"], told.get("high")
    return None if low is None or high is None else (low, high)


def _band(band: dict[str, Any] | None) -> Band | None:
    if not band or not band["width"]:
        return None
    known = None not in [*band["low"], *band["high"]]
    low, high = (band["low"], band["high"]) if known else ((), ())
    return Band(tuple(band["width"]), tuple(band["loss"]), tuple(low), tuple(high))


def _limits(tracks: tuple[Track, ...], own: Mark | None) -> tuple[float, float]:
    """Hold every loss, with its interval where that is no longer than the losses' range."""
    marks = [m for t in tracks for m in (*t.marks, t.target) if m is not None]
    marks += [own] if own is not None else []
    values = [m.value for m in marks] or [0.0]
    reach = (max(values) - min(values)) or abs(values[0]) or 1.0
    ends = [end for m in marks if m.interval for end in m.interval]
    low = max(min([*values, *ends]), min(values) - reach)
    high = min(max([*values, *ends]), max(values) + reach)
    return low - 0.08 * reach, high + 0.08 * reach
