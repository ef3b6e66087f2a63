"""What a trial gave."""

from __future__ import annotations

from dataclasses import dataclass

from hptransfer.config import TrialConfig
from hptransfer.vocabulary import Status


@dataclass(frozen=True)
class TrialResult:
    """What a trial gave. `loss` is None unless `status` is completed."""

    config: TrialConfig
    status: Status
    loss: float | None  # held-out loss of the deciding weights
    loss_at_init: float  # the same loss before the first step
    train_loss: float | None  # mean training loss over the last tenth of the steps
    diverged_at_step: int | None
    clipped_share: float  # share of steps whose gradient was clipped
    flops: float  # of the whole trial, forward and backward
    seconds: float  # the pack's wall time over its members
    device: str
    curve: tuple[tuple[int, float], ...] = ()  # (step, mean training loss since the last point)
    stopped_at_step: int | None = None  # where it was given up as hopeless
    pack_size: int = 1  # trials that really ran together, itself included; not recorded
    notes: tuple[str, ...] = ()  # of its pack: a checkpoint that was no use, say; not recorded
