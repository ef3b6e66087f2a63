"""Numbers that a basin may be made of: the deciding loss, or another that rows record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hptransfer.errors import UserError


class Reading(Enum):
    """What of a row's number is judged, so that less is better and a basin has the loss's shape."""

    plain = "plain"
    negated = "negated"  # more is better in the row
    log2 = "log2"  # a positive number that spans orders of magnitude over a sweep


@dataclass(frozen=True)
class Metric:
    """What a sweep's rows may be judged by; of what is read, less is better."""

    name: str  # as `--metric` and the rows' metrics have it
    label: str  # of what is read
    axis: str  # the same on a picture's axis
    reading: Reading = Reading.plain
    of_samples: bool = False  # measured where `quality.samples` asks for it


LOSS = Metric("loss", "loss", "validation loss")


_OF_SAMPLES = "log2 Fréchet distance in our classifier's features"


METRICS = {
    metric.name: metric
    for metric in (
        LOSS,
        Metric("train_loss", "training loss", "training loss"),
        Metric(
            "frechet_distance",
            "log2 Fréchet distance",
            _OF_SAMPLES,
            Reading.log2,
            of_samples=True,
        ),
        Metric(
            "precision",
            "−precision",
            "negative precision of samples",
            Reading.negated,
            of_samples=True,
        ),
        Metric("recall", "−recall", "negative recall of samples", Reading.negated, of_samples=True),
    )
}


def metric_named(name: str) -> Metric:
    """Return the metric of a name, or say which there are."""
    if name not in METRICS:
        raise UserError(f"A metric is one of {', '.join(METRICS)}, but got {name!r}.")
    return METRICS[name]


def metric_of(estimates: Mapping[str, Any]) -> Metric:
    """Return what estimates call loss; those of older versions name no metric."""
    return METRICS[estimates.get("metric", LOSS.name)]


def said_of(metric: Metric, record: Any) -> Any:
    """Return a record of estimates whose sentences name the metric, where they called it loss."""
    if isinstance(record, dict):
        return {name: said_of(metric, value) for name, value in record.items()}
    if isinstance(record, list):
        return [said_of(metric, value) for value in record]
    if isinstance(record, str) and " " in record:  # a sentence, not a name
        return re.sub(r"\bloss\b", metric.label, record)
    return record
