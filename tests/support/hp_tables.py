"""Invented sweeps of any hyperparameters as tables of rows, and their answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.estimates import estimate
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.surfaces.ped_anova import add_ped_anova

WIDTHS = (64, 128, 256)
NOISE = 0.001


def table_of(
    points: dict[str, Floats], rise: Callable[[dict[str, Floats], int], Floats], *, seeds: int = 2
) -> pd.DataFrame:
    """Return rows at every point (one array per HP); `rise` is a share of the loss, by width."""
    rng = np.random.default_rng(0)
    parts = []
    for step, width in enumerate(WIDTHS):
        for seed in range(seeds):
            risen = rise(points, step)
            noise = NOISE * rng.standard_normal(len(risen))
            loss = 3.0 * 0.95**step * (1.0 + risen + noise)
            parts.append(pd.DataFrame({**points, "width": width, "seed": seed, "loss": loss}))
    known = {"status": "completed", "family": "dit", "parametrization": "mup", "n_seeds": 1}
    unknown = ("loss_sd", "loss_at_init", "flops", "depth", "batch_size", "steps")
    return pd.concat(parts).assign(**known, **dict.fromkeys(unknown, np.nan))


def answered(table: pd.DataFrame, axes: Sequence[str]) -> dict[str, Any]:
    found = estimate(table, sweep_name="x", axes=axes, target_width=1024)
    if found["surfaces"]:
        add_ped_anova(found, table, axes)
    json.dumps(found, allow_nan=False)
    return found


def crossed(**axes: Floats) -> dict[str, Floats]:
    """Return the points of a grid."""
    grids = np.meshgrid(*axes.values(), indexing="ij")
    return {name: grid.ravel() for name, grid in zip(axes, grids, strict=True)}
