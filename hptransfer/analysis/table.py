"""From the row table to arms, and from an arm's rows at one width to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hptransfer.analysis.basin import Grid, build_grid
from hptransfer.analysis.curve import Floats
from hptransfer.errors import UserError
from hptransfer.ledger_table import CONDITIONS

SHARED = "shared"
DECIMALS = 9  # grid values that agree to this many decimals are the same point


@dataclass(frozen=True)
class Rows:
    """Trials as arrays of shape (row,)."""

    family: NDArray[np.str_]
    parametrization: NDArray[np.str_]
    width: NDArray[np.int64]
    seed: NDArray[np.int64]
    loss: Floats  # +inf unless completed
    loss_at_init: Floats
    n_seeds: NDArray[np.int64]  # runs whose mean the loss is
    loss_sd: Floats  # between those runs; NaN where no row says
    conditions: dict[str, Floats]  # depth, batch_size, steps; NaN where not known
    hps: dict[str, Floats]

    def where(self, keep: NDArray[np.bool_]) -> Rows:
        """Return the rows that are to be kept."""
        return Rows(
            family=self.family[keep],
            parametrization=self.parametrization[keep],
            width=self.width[keep],
            seed=self.seed[keep],
            loss=self.loss[keep],
            loss_at_init=self.loss_at_init[keep],
            n_seeds=self.n_seeds[keep],
            loss_sd=self.loss_sd[keep],
            conditions={name: values[keep] for name, values in self.conditions.items()},
            hps={name: values[keep] for name, values in self.hps.items()},
        )


@dataclass(frozen=True)
class Arm:
    """One family, parametrization and HP, with the rows that answer for it."""

    family: str
    parametrization: str
    hp: str
    rows: Rows
    warnings: tuple[str, ...]


def read_rows(table: pd.DataFrame, axes: Sequence[str]) -> Rows:
    """Return the table's columns as arrays; a trial that did not complete has an infinite loss.

    Raises:
        UserError: a swept HP is no column of the table.
    """
    missing = sorted(set(axes) - set(table.columns))
    if missing or not axes:
        raise UserError(
            f"Every swept HP must be a column of the rows, but {missing} are not among "
            f"{sorted(map(str, table.columns))}. Name the swept HPs as the ledger does."
        )
    loss = table["loss"].to_numpy(dtype=np.float64)
    completed = (table["status"].to_numpy() == "completed") & np.isfinite(loss)
    return Rows(
        family=table["family"].to_numpy(dtype=np.str_),
        parametrization=table["parametrization"].to_numpy(dtype=np.str_),
        width=table["width"].to_numpy(dtype=np.int64),
        seed=table["seed"].to_numpy(dtype=np.int64),
        loss=np.where(completed, loss, np.inf),
        loss_at_init=table["loss_at_init"].to_numpy(dtype=np.float64),
        n_seeds=table["n_seeds"].to_numpy(dtype=np.int64),
        loss_sd=table["loss_sd"].to_numpy(dtype=np.float64),
        conditions={name: table[name].to_numpy(dtype=np.float64) for name in CONDITIONS},
        hps={axis: _grid_values(table, axis) for axis in axes},
    )


def _grid_values(table: pd.DataFrame, axis: str) -> Floats:
    return np.asarray(np.round(table[axis].to_numpy(dtype=np.float64), DECIMALS), dtype=np.float64)


def split_arms(rows: Rows) -> list[Arm]:
    """Return an arm per family, parametrization and HP; shared rows belong to every one.

    With several HPs the others are held at each width's best point.
    """
    arms: list[Arm] = []
    for family in np.unique(rows.family):
        members = rows.where(rows.family == family)
        labels = [str(label) for label in np.unique(members.parametrization) if label != SHARED]
        for label in labels or [SHARED]:
            own = members.where(np.isin(members.parametrization, [label, SHARED]))
            arms += [_arm(str(family), label, own, hp=hp) for hp in rows.hps]
    return arms


def _arm(family: str, label: str, rows: Rows, *, hp: str) -> Arm:
    others = [name for name in rows.hps if name != hp and len(np.unique(rows.hps[name])) > 1]
    if not others:
        return Arm(family, label, hp, rows, ())
    keep = np.zeros(len(rows.width), dtype=np.bool_)
    for width in np.unique(rows.width):
        at_width = np.flatnonzero(rows.width == width)
        keep[at_width] = _at_best(rows, at_width, others)
    note = f"{', '.join(others)} held at each width's best point; interactions are not modelled."
    return Arm(family, label, hp, rows.where(keep), (note,))


def _at_best(rows: Rows, index: NDArray[np.intp], others: list[str]) -> NDArray[np.bool_]:
    """Say which rows have the other HPs of the point with the lowest mean over seeds."""
    points, of_row = np.unique(
        np.stack([values[index] for values in rows.hps.values()], axis=1),
        axis=0,
        return_inverse=True,
    )
    of_row = of_row.reshape(-1)
    means = np.bincount(of_row, weights=rows.loss[index]) / np.bincount(of_row)
    best = dict(zip(rows.hps, points[np.argmin(means)], strict=True))
    agree = [rows.hps[name][index] == best[name] for name in others]
    return np.logical_and.reduce(agree)


def loss_array(rows: Rows, hp: str) -> tuple[Floats, Floats]:
    """Return theta ascending and losses (seed, theta): +inf where a trial failed, NaN for no row.

    Raises:
        UserError: two rows have the same value and seed.
    """
    theta, column = np.unique(rows.hps[hp], return_inverse=True)
    seeds, row = np.unique(rows.seed, return_inverse=True)
    cells = row.reshape(-1) * len(theta) + column.reshape(-1)
    places = len(np.unique(cells))
    if places < len(cells):
        raise UserError(
            f"Each {hp}, width and seed must have one row, but width {int(rows.width[0])} has "
            f"{len(cells)} rows for {places} places. Give repeated runs different seeds, or "
            "sweep what differs between them."
        )
    losses = np.full(len(seeds) * len(theta), np.nan)
    losses[cells] = rows.loss
    return theta, losses.reshape(len(seeds), len(theta))


def width_grids(rows: Rows, hp: str) -> dict[int, Grid | None]:
    """Return each width's grid, widths ascending; None where no point is sound."""
    grids: dict[int, Grid | None] = {}
    for width in np.unique(rows.width):
        members = rows.where(rows.width == width)
        theta, losses = loss_array(members, hp)
        start = float(np.median(members.loss_at_init))
        grids[int(width)] = build_grid(theta, losses, loss_at_init=start)
    return grids
