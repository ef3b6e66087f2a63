"""The metrics by which `fit --metric` may judge trials: the deciding loss, or another number.

Two kinds are many, and named by rule. `loss_noise_2_of_4` is the deciding loss at the second
quarter of the noise levels, from the least noise on. `loss_ema_0.05` is the held-out loss of a
moving average of the weights whose horizon is 0.05 of the steps, beside the weights that decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from hptransfer.config.choices import Status
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
    ema_fraction: float | None = None  # horizon of the weights' average; None: the deciding weights
    of_some_noise: bool = False  # a loss at some noise levels only, not comparable with the whole

    @property
    def remedy(self) -> str:
        """What to do so that rows hold the metric, as the begin of a sentence that goes on."""
        words = []
        if self.ema_fraction is not None:
            words.append(f"{self.ema_fraction:g} in budget.judged_ema_fractions")
        if self.of_samples:
            words.append("quality.samples above 0")
        if self.of_neighbours:
            words.append("without quality.reference")
        if words:
            return f"Sweep with {' and '.join(words)} under another name, or name"
        if self.of_some_noise:
            return "Rows of earlier versions and of other trainers lack it. Name"
        return "Name"


LOSS = Metric("loss", "loss", "validation loss")
NOISE_PARTS = 4  # equal parts of the noise levels of which rows hold the loss
_AVERAGED = (
    LOSS,
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


def noise_metric_name(part: int) -> str:
    """Return the name of the deciding loss at a part of the noise levels, 1 that of least noise."""
    return f"loss_noise_{part}_of_{NOISE_PARTS}"


def ema_metric_name(name: str, fraction: float) -> str:
    """Return the name of a metric under an average whose horizon is a share of the steps."""
    return f"{name}_ema_{fraction:.12g}"


_ALL = (
    LOSS,
    Metric("train_loss", "training loss", "training loss"),
    *_AVERAGED[1:],
    *(
        Metric(
            noise_metric_name(part),
            f"loss at noise quarter {part}",
            f"validation loss at quarter {part} of {NOISE_PARTS} of the noise levels",
            of_some_noise=True,
        )
        for part in range(1, NOISE_PARTS + 1)
    ),
)
METRICS = {metric.name: metric for metric in _ALL}  # those whose names are fixed
_BY_EMA = {metric.name: metric for metric in _AVERAGED}  # those that an average may have, too


def ema_metric(metric: Metric, fraction: float) -> Metric:
    """Return a metric of the deciding weights as one of an average of the weights."""
    under = f"under EMA {fraction:g}"
    return replace(
        metric,
        name=ema_metric_name(metric.name, fraction),
        label=f"{metric.label} {under}",
        axis=f"{metric.axis} {under}",
        ema_fraction=fraction,
    )


def metric_named(name: str) -> Metric:
    """Return the metric of a name.

    Raises:
        UserError: there is no such metric.
    """
    if name in METRICS:
        return METRICS[name]
    base, _, share = name.rpartition("_ema_")
    with suppress(ValueError):
        if base in _BY_EMA and 0 < float(share) <= 1:
            return ema_metric(_BY_EMA[base], float(share))
    averaged = ", ".join(ema_metric_name(each, 0.05) for each in _BY_EMA)
    raise UserError(
        f"A metric must be one of {', '.join(METRICS)}, but got {name!r}. Rows of a sweep with "
        f"budget.judged_ema_fractions also have {averaged} for each of its shares (here 0.05)."
    )


def metrics_of_all(rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Return the metrics that every completed row holds, or would if its number had been finite."""
    fractions = judged_fractions(rows)
    known = [
        *METRICS.values(),
        *(ema_metric(metric, f) for metric in _AVERAGED for f in fractions),
    ]
    completed = _completed(rows)
    return [metric for metric in known if all(was_asked(row, metric) for row in completed)]


def judged_fractions(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the horizons of averages, increasing, that every completed row was asked to judge."""
    asked = [_judged_fractions(row) for row in _completed(rows)]
    return sorted(set(asked[0]).intersection(*asked[1:])) if asked else []


def _completed(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["status"] == Status.completed.value]


def was_asked(row: Mapping[str, Any], metric: Metric) -> bool:
    """Say whether a completed row has a metric, or would if its number had been finite."""
    if metric is LOSS or row["metrics"].get(metric.name) is not None:
        return True
    quality = row["config"].get("quality", {})
    if metric.of_samples and not quality.get("samples", 0) > 0:
        return False
    if metric.of_neighbours and quality.get("reference"):
        return False
    if metric.ema_fraction is not None:
        return metric.ema_fraction in _judged_fractions(row)
    return metric.of_samples


def _judged_fractions(row: Mapping[str, Any]) -> list[float]:
    return row["config"].get("budget", {}).get("judged_ema_fractions", [])


def metric_of(estimates: Mapping[str, Any]) -> Metric:
    """Return the metric of a record of estimates; records of older versions are by the loss."""
    return metric_named(estimates.get("metric", LOSS.name))


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
