"""Recorded rows and costs for tests of the budget planner."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hptransfer.analysis.basins.curve import Curves
from hptransfer.analysis.basins.scale import Scale
from hptransfer.config.hyperparameters import hps
from hptransfer.config.sweep import SweepConfig
from hptransfer.execution.pack_sizes import MeasuredPack, PackCost
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.sweeping.design.trials import wanted
from hptransfer.sweeping.plan.budget.knowledge import Knowledge
from tests.support.tiny import completed

KNOWN = Knowledge(
    scale=Scale(is_log=True),
    shape=Curves(np.zeros(1), np.zeros(1), np.array([0.028]), np.array([0.4])),
    level=math.log(0.6),
    start=math.log(1.9),
    noise=0.008,
    cliff=math.inf,
    optimum=-5.5,
    optimum_sd=0.2,
    width=8,
    drift=0.0,
    drift_sd=0.1,
    steps=12,
    source="rows",
    trials=24,
)


def cost_of(width: int) -> PackCost:
    """A pack of four takes twice as long as a single trial."""
    second = width / 8.0
    points = tuple(MeasuredPack(n, second * (0.5 + n / 2), 1.0) for n in (1, 2, 4))
    return PackCost(points, warmup=1.0, spread=0.1)


def recorded_rows(sweep: SweepConfig, *, noise: float = 0.004) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    rows = []
    for config in wanted(sweep).values():
        at = hps(config, sweep.axes)
        rise = KNOWN.shape.rise(np.array([at["log2_lr"] + 5.5]))[0, 0]
        loss = 0.6 * math.exp(rise) + noise * rng.standard_normal()
        result = completed(config, loss=float(loss), loss_at_init=1.9)
        rows.append(ledger_row(result, at, {"commit": "x"}))
    return rows
