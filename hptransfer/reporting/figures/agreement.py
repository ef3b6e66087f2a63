"""The picture of two measures of the same runs: the optima by a metric beside those by the loss.

A row per arm and HP: the basins by the loss, those by the metric, and both optima over width.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures import Picture
from hptransfer.reporting.figures.basins import BasinPanel, basins_data, draw_basins
from hptransfer.reporting.figures.optimum_width import (
    Mark,
    OverWidth,
    Track,
    draw_over_width,
    theta_limits,
)
from hptransfer.reporting.figures.style import ARMS, hp_label
from hptransfer.reporting.figures.wording import estimate_text
from hptransfer.results.metrics import LOSS, metric_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BY_LOSS, BY_METRIC = ARMS[2], ARMS[3]  # neither is an arm's own colour


class AgreementRow(NamedTuple):
    """One HP of an arm by both measures."""

    by_loss: BasinPanel
    by_metric: BasinPanel
    over: OverWidth


class AgreementData(NamedTuple):
    """The rows, in the order of the sweep's arms."""

    label: str
    rows: tuple[AgreementRow, ...]


def agreement_pictures(by_loss: dict[str, Any], by_metric: dict[str, Any]) -> list[Picture]:
    """Return the picture of two measures of one sweep; none if no width has both optima."""
    data = agreement_data(by_loss, by_metric)
    if not data.rows:
        return []
    size = (12.6, 0.6 + 3.8 * len(data.rows))
    return [Picture("agreement", data.label, size, partial(draw_agreement, data=data))]


def agreement_data(by_loss: dict[str, Any], by_metric: dict[str, Any]) -> AgreementData:
    """Select each arm's basins by both measures, and how far apart their optima are."""
    panels = [
        {_name(a): p for a, p in zip(told["arms"], basins_data(told).panels, strict=True)}
        for told in (by_loss, by_metric)
    ]
    metric, told = metric_of(by_metric), by_metric["agreement"]
    rows = tuple(
        AgreementRow(
            by_loss=panels[0][_name(arm)]._replace(title=_title(arm, LOSS.label)),
            by_metric=panels[1][_name(arm)]._replace(title=_title(arm, metric.label)),
            over=_over(arm, [peer for peer in told if peer["hp"] == arm["hp"]], metric.label),
        )
        for arm in told
        if arm["widths"]
    )
    return AgreementData(f"optimum by {metric.label} beside that by {LOSS.label}", rows)


def _name(arm: dict[str, Any]) -> tuple[str, str, str]:
    return arm["family"], arm["parametrization"], arm["hp"]


def _title(arm: dict[str, Any], label: str) -> str:
    return f"{arm_name(arm['parametrization'])}, by {label}"


def _over(arm: dict[str, Any], peers: list[dict[str, Any]], label: str) -> OverWidth:
    """Select an arm's optima by both measures; arms of one HP share their axis."""
    mean = arm["mean_difference"]
    count = f"{mean['widths']} width{'' if mean['widths'] == 1 else 's'}"
    return OverWidth(
        key=f"apart by {estimate_text(mean, 2)} octaves, the mean of {count}\nbars: 90 % intervals",
        y_label=f"optimal {hp_label(arm['hp'])}",
        tracks=_tracks(arm, label),
        widths=tuple(at["width"] for at in arm["widths"]),
        target_width=None,
        limits=theta_limits([t for peer in peers for t in _tracks(peer, label)], None),
        realised=None,
    )


def _tracks(arm: dict[str, Any], label: str) -> tuple[Track, Track]:
    return (
        _track(f"by {LOSS.label}", BY_LOSS, arm["widths"], "by_loss"),
        _track(f"by {label}", BY_METRIC, arm["widths"], "by_metric"),
    )


def _track(name: str, color: str, widths: list[dict[str, Any]], by: str) -> Track:
    marks = []
    for at in widths:
        told = at[by]
        ends = (told["low"], told["high"])
        known = None if None in ends else ends
        marks.append(Mark(at["width"], told["optimum"], known, told["censored"]))
    return Track(name, color, tuple(marks), band=None, target=None, emitted=None)


def draw_agreement(figure: Figure, data: AgreementData) -> None:
    """Draw a row per arm: basins by the loss, basins by the metric, both optima over width."""
    axes = figure.subplots(len(data.rows), 3, squeeze=False)
    for row, (left, middle, right) in zip(data.rows, axes, strict=True):
        draw_basins(left, row.by_loss)
        draw_basins(middle, row.by_metric)
        draw_over_width(right, row.over)
