"""The metrics by which `fit --metric` may judge trials: the deciding loss, or another number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hptransfer.errors import UserError


class Reading(Enum):
    """How a row's number becomes the judged one, of which less is better, as of a loss."""

    plain = "plain"
    negated = "negated"  # for numbers of which more is better
    log2 = "log2"  # for positive numbers that span orders of magnitude over a sweep


@dataclass(frozen=True)
class Metric:
    """A number of each row by which trials are judged, after its `reading`."""

    name: str  # in `--metric` and in the `metrics` of a row
    label: str  # of the judged number, in sentences
    axis: str  # of the judged number, on an axis of a picture
    reading: Reading = Reading.plain
    of_samples: bool = False  # measured where `quality.samples` asks for it
    of_neighbours: bool = False  # and only where real samples are known, not `quality.reference`


LOSS = Metric("loss", "loss", "validation loss")
_ALL = (
    LOSS,
    Metric("train_loss", "training loss", "training loss"),
    Metric(
        "frechet_distance",
        "log2 Fréchet distance",
        "log2 Fréchet distance of samples",
        Reading.log2,
        of_samples=True,
    ),
    Metric("precision", "−precision", "negative precision of samples", Reading.negated, True, True),
    Metric("recall", "−recall", "negative recall of samples", Reading.negated, True, True),
)
METRICS = {metric.name: metric for metric in _ALL}


def metric_named(name: str) -> Metric:
    """Return the metric of a name.

    Raises:
        UserError: there is no such metric.
    """
    if name not in METRICS:
        raise UserError(f"A metric must be one of {', '.join(METRICS)}, but got {name!r}.")
    return METRICS[name]


def metric_of(estimates: Mapping[str, Any]) -> Metric:
    """Return the metric of a record of estimates; records of older versions are by the loss."""
    return METRICS[estimates.get("metric", LOSS.name)]


def rename_loss_in_sentences(metric: Metric, record: Any) -> Any:
    """Return a record of estimates by a metric, with `loss` in its sentences replaced.

    The analysis calls the judged number the loss, whatever the metric. Only texts of several words
    are sentences; names and keys stay.
    """
    if isinstance(record, dict):
        return {name: rename_loss_in_sentences(metric, value) for name, value in record.items()}
    if isinstance(record, list):
        return [rename_loss_in_sentences(metric, value) for value in record]
    if isinstance(record, str) and " " in record:
        return re.sub(r"\bloss\b", metric.label, record)
    return record
