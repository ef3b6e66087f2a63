"""Packs for jobs, with few imports, since each job is a Python of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.config.choices import Status
from hptransfer.errors import TrialFailure, UserError
from hptransfer.results.trial_result import Quality, TrialResult


def result(config: TrialConfig) -> TrialResult:
    """Return a result that depends on nothing but the config."""
    return TrialResult(
        config=config,
        status=Status.completed,
        loss=config.optimizer.lr,
        loss_at_init=float("nan"),
        train_loss=None,
        diverged_at_step=None,
        clipped_share=0.0,
        flops=1e9,
        seconds=0.1,
        device="cpu",
        curve=((1, 0.1), (2, float("inf"))),
        metrics={"accuracy": 0.1 + 0.2},
        quality=Quality(1.5, None, float("nan")),
        notes=("a note",),
    )


def cheap(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Return results at once; seed 2 is a bug."""
    if configs[0].seed == 2:
        raise ZeroDivisionError("a bug in the model")
    return [result(config) for config in configs]


def held(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Return results once the file `hold` of the working folder is gone."""
    while Path("hold").exists():
        time.sleep(0.05)
    return [result(config) for config in configs]


def killed(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Fail as a trial whose process a signal ended."""
    raise TrialFailure("every attempt was ended by SIGKILL", "", "the log", is_lost=True)


def refused(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Raise what the user can fix."""
    raise UserError("The data set is not there. Download it.")


def warned(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Get SLURM's signal before the time limit."""
    os.kill(os.getpid(), signal.SIGUSR2)
    time.sleep(10.0)
    return [result(config) for config in configs]
