"""The form in which trackers get a trial: a name, flat parameters, and scalars by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hptransfer.config.records import flat

Row = Mapping[str, Any]  # a row of the ledger
TrainingCurve = Sequence[tuple[int, float]]  # (step, training loss)
Scalar = tuple[str, int, float]  # (name, step, value)

TRIAL_RUNS = 1000  # trials shown as runs of their own; with more, no dashboard stays usable


def run_name(row: Row) -> str:
    """Return a trial's name for people: arm, width, swept HPs and seed.

    Dashboards group runs by the parts between `/`.
    """
    values = [f"{name}={value:.6g}" for name, value in row["hps"].items()]
    last = ",".join((*values, f"seed={row['seed']}"))
    return f"{row['parametrization']}/w{row['width']}/{last}"


def summary(row: Row) -> dict[str, str | float]:
    """Return the fields by which trials are compared: the swept HPs, width, arm, seed, status."""
    fields = ("trial_key", "status", "width", "parametrization", "seed")
    return {**row["hps"], **{name: row[name] for name in fields}}


def parameters(row: Row) -> dict[str, Any]:
    """Return a trial's config by dotted keys, and its summary."""
    return {**flat(row["config"]), **summary(row)}


def curve_scalars(curve: TrainingCurve) -> list[Scalar]:
    """Return a training curve as the scalars `train_loss`, without losses that are not finite."""
    return [("train_loss", step, loss) for step, loss in curve if math.isfinite(loss)]


def scalars(row: Row, curve: TrainingCurve) -> list[Scalar]:
    """Return a trial's training curve, and its deciding loss as `loss` at the curve's last step."""
    if row["loss"] is None:
        return curve_scalars(curve)
    return [*curve_scalars(curve), ("loss", curve[-1][0] if curve else 0, row["loss"])]
