"""Estimates of planted sweeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

MUP = {24: -5.7, 48: -5.5, 96: -5.6}


STANDARD = {24: -5.7, 48: -6.4, 96: -7.2}


LEVELS = {24: 0.60, 48: 0.57, 96: 0.55, 192: 0.53, 384: 0.52}


BASE = 24


def planted(
    optima: dict[int, float], label: str = "mup", *, seeds: int = 3, rng: int = 0
) -> pd.DataFrame:
    """Return rows at log2 rates -10..-3 with 0.3 % noise; width 24 is shared by all arms."""
    generator = np.random.default_rng(rng)
    rows: list[dict[str, Any]] = []
    for width, optimum in optima.items():
        for seed, shift in enumerate(generator.normal(0.0, 0.003, seeds)):
            for theta in np.arange(-10.0, -2.0):
                offset = theta - optimum
                rise = 0.012 * offset**2 * (1.0 if offset < 0 else 1.4)
                row = {"width": width, "seed": seed, "log2_lr": theta}
                row["loss"] = LEVELS[width] + rise + shift + generator.normal(0.0, 0.0018)
                row["parametrization"] = "shared" if width == BASE else label
                rows.append(row)
    common = {"status": "completed", "family": "dit", "loss_at_init": 2.0, "flops": 1.0}
    common |= {"depth": 2, "batch_size": 64, "steps": 150, "n_seeds": 1, "loss_sd": np.nan}
    return pd.DataFrame([common | row for row in rows])


def both_arms() -> pd.DataFrame:
    standard = planted(STANDARD, "standard", rng=1)
    return pd.concat([planted(MUP), standard.query("width != @BASE")], ignore_index=True)
