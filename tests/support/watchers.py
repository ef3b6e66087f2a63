"""Rows and curves that watchers are told of."""

from __future__ import annotations

from typing import Any

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Status
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.results.trial_result import TrialResult

CURVE = ((2, 0.9), (4, 0.7), (6, 0.6))


def recorded(config: TrialConfig, log2_lr: float, loss: float | None = 0.5) -> dict[str, Any]:
    """Return the ledger's row of a trial."""
    status = Status.diverged if loss is None else Status.completed
    result = TrialResult(
        config, status, loss, 1.0, loss, 3 if loss is None else None, 0.0, 1e9, 1.0, "cpu"
    )
    return ledger_row(result, {"log2_lr": log2_lr}, {"commit": "abc"})
