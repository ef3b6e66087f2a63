"""From the row table to arms, and from an arm's rows at one width to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hptransfer.analysis.basins.basin import Grid, build_grid
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.units import unit_of
from hptransfer.config.sweep import CONDITIONS
from hptransfer.errors import UserError

SHARED = "shared"
SAME_DECIMALS = 9  # grid values that agree to this many decimals are the same point


@dataclass(frozen=True)
class TrialArrays:
    """Trials as arrays of shape (row,)."""

    family: NDArray[np.str_]
    parametrization: NDArray[np.str_]
    width: NDArray[np.int64]
    seed: NDArray[np.int64]
    loss: Floats  # +inf unless completed
    loss_at_init: Floats
    n_seeds: NDArray[np.int64]  # runs whose mean the loss is
    loss_sd: Floats  # between those runs; NaN where no row says
    flops: Floats  # of the whole run; NaN where not known
    conditions: dict[str, Floats]  # depth, batch_size, steps; NaN where not known
    hps: dict[str, Floats]  # in units of the axis; -inf where an HP on a log scale is zero
    units: dict[str, float] = field(default_factory=dict)  # of the HPs' axes; absent: 1

    def where(self, keep: NDArray[np.bool_]) -> TrialArrays:
        """Return the rows that are to be kept."""
        return TrialArrays(
            family=self.family[keep],
            parametrization=self.parametrization[keep],
            width=self.width[keep],
            seed=self.seed[keep],
            loss=self.loss[keep],
            loss_at_init=self.loss_at_init[keep],
            n_seeds=self.n_seeds[keep],
            loss_sd=self.loss_sd[keep],
            flops=self.flops[keep],
            conditions={name: values[keep] for name, values in self.conditions.items()},
            hps={name: values[keep] for name, values in self.hps.items()},
            units=self.units,
        )


@dataclass(frozen=True)
class Arm:
    """One family and parametrization, with the rows that answer for it."""

    family: str
    parametrization: str
    rows: TrialArrays


def read_rows(table: pd.DataFrame, axes: Sequence[str]) -> TrialArrays:
    """Return the table's columns as arrays; a trial that did not complete has an infinite loss.

    Raises:
        UserError: a swept HP is no column of the table.
    """
    missing = sorted(set(axes) - set(table.columns))
    if missing or not axes:
        raise UserError(
            f"Every swept hyperparameter must be a column of the rows, but {missing} are not "
            f"among {sorted(map(str, table.columns))}. Name them as the ledger does (log2_NAME)."
        )
    loss = table["loss"].to_numpy(dtype=np.float64)
    points = {axis: _grid_values(table, axis) for axis in axes}
    units = {axis: unit_of(axis, values) for axis, values in points.items()}
    completed = (table["status"].to_numpy() == "completed") & np.isfinite(loss)
    return TrialArrays(
        family=table["family"].to_numpy(dtype=np.str_),
        parametrization=table["parametrization"].to_numpy(dtype=np.str_),
        width=table["width"].to_numpy(dtype=np.int64),
        seed=table["seed"].to_numpy(dtype=np.int64),
        loss=np.where(completed, loss, np.inf),
        loss_at_init=table["loss_at_init"].to_numpy(dtype=np.float64),
        n_seeds=table["n_seeds"].to_numpy(dtype=np.int64),
        loss_sd=table["loss_sd"].to_numpy(dtype=np.float64),
        flops=table["flops"].to_numpy(dtype=np.float64),
        conditions={name: table[name].to_numpy(dtype=np.float64) for name in CONDITIONS},
        hps={axis: values / units[axis] for axis, values in points.items()},
        units=units,
    )


def _grid_values(table: pd.DataFrame, axis: str) -> Floats:
    return np.asarray(
        np.round(table[axis].to_numpy(dtype=np.float64), SAME_DECIMALS), dtype=np.float64
    )


def split_arms(rows: TrialArrays) -> list[Arm]:
    """Return an arm per family and parametrization; shared rows belong to every one."""
    arms: list[Arm] = []
    for family in np.unique(rows.family):
        members = rows.where(rows.family == family)
        labels = [str(label) for label in np.unique(members.parametrization) if label != SHARED]
        for label in labels or [SHARED]:
            own = members.where(np.isin(members.parametrization, [label, SHARED]))
            arms.append(Arm(str(family), label, own))
    return arms


def _arranged(rows: TrialArrays, hp: str, *columns: Floats) -> tuple[Floats, list[Floats]]:
    """Return theta ascending and each column as (seed, theta), NaN where there is no row."""
    theta, place = np.unique(rows.hps[hp], return_inverse=True)
    return theta, by_seed(rows, place.reshape(-1), *columns, what=hp)


def by_seed(
    rows: TrialArrays, place: NDArray[np.intp], *columns: Floats, what: str
) -> list[Floats]:
    """Return each column (row,) as (seed, place), NaN where there is no row.

    Args:
        place: where each row stands along the second axis, from zero on without gaps.
        what: names such a place, for the refusal.

    Raises:
        UserError: two rows have the same place and seed.
    """
    seeds, row = np.unique(rows.seed, return_inverse=True)
    width = int(place.max()) + 1
    cells = row.reshape(-1) * width + place
    filled = len(np.unique(cells))
    if filled < len(cells):
        raise UserError(
            f"Each {what}, width and seed must have one row, but width {int(rows.width[0])} has "
            f"{len(cells)} rows for {filled} combinations. Give repeated runs different seeds, or "
            "sweep what differs between them."
        )
    arrays = []
    for values in columns:
        array = np.full(len(seeds) * width, np.nan)
        array[cells] = values
        arrays.append(array.reshape(len(seeds), width))
    return arrays


def hp_grid(rows: TrialArrays, hp: str) -> Grid | None:
    """Return the points of rows of one setting; None if every one failed."""
    runs = rows.n_seeds.astype(np.float64)
    theta, (losses, runs, sds) = _arranged(rows, hp, rows.loss, runs, rows.loss_sd)
    start = float(np.median(rows.loss_at_init))
    return build_grid(theta, losses, loss_at_init=start, runs=runs, run_sds=sds)
