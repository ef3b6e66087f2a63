"""The result of one trial: its status, losses, cost, and the quality of its samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Status
from hptransfer.config.external import ExternalTrial
from hptransfer.results.metrics import LOSS, ema_metric_name, noise_metric_name


class Quality(NamedTuple):
    """The quality of a trial's samples, in features of our classifier or of the user's function.

    Precision and recall are None where only the moments of real features are known
    (`quality.reference`).
    """

    frechet_distance: float  # between the features of samples and of the training split
    precision: float | None = None  # share of samples that are like training samples
    recall: float | None = None  # share of training samples that are like samples


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial; `loss` is None unless `status` is completed."""

    config: TrialConfig | ExternalTrial
    status: Status
    loss: float | None  # held-out loss of the deciding weights
    loss_at_init: float  # the same loss before the first step; NaN: not known
    train_loss: float | None  # mean training loss over the last tenth of the steps
    diverged_at_step: int | None
    clipped_share: float  # share of steps whose gradient was clipped; NaN: not known
    flops: float  # of the whole trial, forward and backward; NaN: not known
    seconds: float  # the pack's wall time over its members
    device: str
    mode: str = ""  # how its device computed, on which the last digits depend; empty: not known
    curve: tuple[tuple[int, float], ...] = ()  # (step, mean training loss since the last point)
    held_out: tuple[tuple[int, float], ...] = ()  # (step, deciding loss of the weights then)
    stopped_at_step: int | None = None  # the step after which it was given up as hopeless
    small_root_share: float = math.nan  # of entries that epsilon holds back; NaN: not known
    metrics: Mapping[str, float] = field(default_factory=dict)  # further numbers by name
    quality: Quality | None = None  # None: not asked for, not completed, or not finite
    pack_size: int = 1  # trials that really ran together, itself included; not recorded
    notes: tuple[
        str, ...
    ] = ()  # of its pack, such as a checkpoint that could not be used; not recorded


def closing_loss(curve: Iterable[tuple[int, float]], steps: int) -> float:
    """Return the mean training loss over a completed trial's last tenth of steps."""
    tail = [loss for step, loss in curve if step > 0.9 * steps]
    return sum(tail) / len(tail)


def named_metrics(
    by_noise: Iterable[float],
    judged_losses: Mapping[float, float],
    judged_quality: Mapping[float, Quality | None],
) -> dict[str, float]:
    """Return the metrics of a completed trial by their names; those that are not finite are left
    out.

    Args:
        by_noise: the deciding loss at each part of the noise levels, from the least noise on.
        judged_losses: held-out losses of averages of the weights, by their horizons.
        judged_quality: the quality of samples of such averages.
    """
    numbers = {noise_metric_name(part): loss for part, loss in enumerate(by_noise, start=1)}
    numbers |= {ema_metric_name(LOSS.name, f): loss for f, loss in judged_losses.items()}
    for fraction, quality in judged_quality.items():
        told = {} if quality is None else quality._asdict()
        numbers |= {ema_metric_name(name, fraction): value for name, value in told.items()}
    known = ((name, value) for name, value in numbers.items() if value is not None)
    return {name: value for name, value in known if math.isfinite(value)}
