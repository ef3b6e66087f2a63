"""The picture of two measures of the same runs: the optima by a metric beside those by the loss.

A row per arm and HP: the basins by the loss, those by the metric, and both optima over width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures.basins import BasinPanel, basins_data, draw_basins
from hptransfer.reporting.figures.over_width import (
    OverWidth,
    Track,
    draw_over_width,
    limits_of_tracks,
    optimum_mark,
)
from hptransfer.reporting.figures.style import ARMS, hp_label
from hptransfer.reporting.figures.wording import estimate_text
from hptransfer.results.metrics import LOSS, metric_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class AgreementRow(NamedTuple):
    """One HP of an arm by both measures."""

    by_loss: BasinPanel
    by_metric: BasinPanel
    over: OverWidth


def agreement_data(by_loss: Mapping[str, Any], by_metric: Mapping[str, Any]) -> list[AgreementRow]:
    """Select each arm's basins by both measures, and how far apart their optima are."""
    panels = [
        {_name(a): panel for a, panel in zip(told["arms"], basins_data(told), strict=True)}
        for told in (by_loss, by_metric)
    ]
    label, told = metric_of(by_metric).label, by_metric["agreement"]
    rows = []
    for arm in told:
        if not arm["widths"]:
            continue
        name = arm_name(arm["parametrization"])
        left, right = (by[_name(arm)] for by in panels)
        rows.append(
            AgreementRow(
                by_loss=left._replace(title=f"{name}, by {LOSS.label}"),
                by_metric=right._replace(title=f"{name}, by {label}"),
                over=_over(arm, [peer for peer in told if peer["hp"] == arm["hp"]], label),
            )
        )
    return rows


def _name(arm: Mapping[str, Any]) -> tuple[str, str, str]:
    return arm["family"], arm["parametrization"], arm["hp"]


def _over(arm: Mapping[str, Any], peers: list[Mapping[str, Any]], label: str) -> OverWidth:
    """Select an arm's optima by both measures; arms of one HP share their axis."""
    mean = arm["mean_difference"]
    count = f"{mean['widths']} width{'' if mean['widths'] == 1 else 's'}"
    return OverWidth(
        key=f"apart by {estimate_text(mean, 2)} octaves, the mean of {count}\nbars: 90 % intervals",
        y_label=f"optimal {hp_label(arm['hp'])}",
        tracks=_tracks(arm, label),
        widths=tuple(at["width"] for at in arm["widths"]),
        limits=limits_of_tracks(tuple(track for peer in peers for track in _tracks(peer, label))),
    )


def _tracks(arm: Mapping[str, Any], label: str) -> tuple[Track, ...]:
    # Neither colour is an arm's own.
    measures = ((LOSS.label, ARMS[2], "by_loss"), (label, ARMS[3], "by_metric"))
    return tuple(
        Track(
            f"by {name}",
            color,
            tuple(optimum_mark({"width": at["width"], **at[key]}) for at in arm["widths"]),
        )
        for name, color, key in measures
    )


def draw_agreement(figure: Figure, rows: list[AgreementRow]) -> None:
    """Draw a row per arm: basins by the loss, basins by the metric, both optima over width."""
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for row, (left, middle, right) in zip(rows, axes, strict=True):
        draw_basins(left, row.by_loss)
        draw_basins(middle, row.by_metric)
        draw_over_width(right, row.over)
