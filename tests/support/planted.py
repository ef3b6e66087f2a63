"""Invented basins whose truth is known: the shapes, grids and seeds that a sweep may meet.

A trial's loss is level(width) · (1 + rise(θ - θ*) + seed effect + noise): the level falls with
width, the seed effect shifts a seed's whole curve at one width, the noise is the trial's own. The
grid is the same at every width and lies anywhere relative to the optima. Nothing here is a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hptransfer.analysis.basins.curve import Floats
from hptransfer.results.table import TABLE_COLUMNS

SHAPES = ("quadratic", "asymmetric", "cliff", "ties", "outliers", "heavy_tailed")
# Held out until their coverage led to a finer list of shapes: no check any more.
ONCE_HELD_OUT = ("skewed", "kinked_below", "kinked_above", "wall", "quartic")
# No constant of the estimator was tuned on these.
HELD_OUT = ("cosh", "kinked_quartic", "softplus_wall")
CURVATURE = 0.006  # of the loss per squared octave
GENTLE = CURVATURE * 2.0 / 3.0
KINKED = {  # curvature below and above the optimum
    "asymmetric": (GENTLE, 3.0 * GENTLE),
    "kinked_below": (2.2 * GENTLE, GENTLE),
    "kinked_above": (GENTLE, 4.2 * GENTLE),
}
SKEWED = ((-0.6, 0.002), (0.9, 0.004))  # exponentials: rate per octave, curvature
COSH = (0.004, 1.2)  # curvature, rate per octave
KINKED_QUARTIC = (GENTLE, 1.8 * GENTLE, 0.0005)  # curvature below and above; fourth power above
SOFTPLUS = (0.005, 0.03, 1.0, 0.3)  # curvature; the wall's slope, onset and width in octaves
QUARTIC = (0.004, 0.0008)  # of the loss per squared octave, and per octave to the fourth
DECIMALS = 3  # `ties`: losses are rounded to them
OUTLIERS = (0.03, 10.0)  # share of the trials, and their loss's excess in noise sds
TAIL_DEGREES = 3  # `heavy_tailed`: Student's t, scaled to the same sd
SEED_EFFECT = 2.0  # noise sds
CENTRE, REACH = -6.0, 4.0  # the grid covers REACH octaves each side of CENTRE
LEVEL, FALL = 0.5, 0.12  # loss of the narrowest optimum, and its power of 1/width
LOSS_AT_INIT = 1.0

Drawn = dict[int, tuple[Floats, Floats]]  # width -> theta (theta,), losses (seed, theta)


@dataclass(frozen=True)
class Wall:
    """What lies above an optimum, in octaves from it, added to a parabola."""

    start: float
    steepness: float  # of the loss per squared octave
    cliff: float  # trials beyond it fail
    cliff_sd: float  # between trials


WALLED = {"cliff": Wall(0.75, 0.04, 1.75, 0.1), "wall": Wall(1.15, 0.025, 2.3, 0.15)}


@dataclass(frozen=True)
class Cell:
    """One setting of which many sweeps are drawn; `noise` is a trial's sd relative to its loss."""

    seeds: int
    step: float
    shape: str
    noise: float = 0.002
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Truth:
    """What a drawn sweep should find: `law` maps a width to its optimum in log2 HP."""

    cell: Cell
    law: Callable[[float], float]

    def optimum(self, width: float) -> float:
        """Return the optimum at a width."""
        return self.law(width)

    def rise(self, offset: Floats) -> Floats:
        """Return the relative loss above the optimum; +inf beyond a cliff."""
        return rise(self.cell.shape, offset)

    def regret(self, width: float, x: float) -> float:
        """Return what `x` costs at a width, in units of the loss."""
        return level(self.cell, width) * float(self.rise(np.array([x - self.law(width)]))[0])


def level(cell: Cell, width: float) -> float:
    """Return the loss at a width's optimum."""
    return LEVEL * (width / cell.widths[0]) ** -FALL


def rise(shape: str, offset: Floats) -> Floats:
    """Return the shape's relative loss above the optimum at `offset` octaves from it."""
    if shape in KINKED:
        below, above = KINKED[shape]
        return np.where(offset < 0, below, above) * offset**2
    if shape == "skewed":
        return sum((_exponential(*part, offset) for part in SKEWED), np.zeros_like(offset))
    if shape == "quartic":
        return QUARTIC[0] * offset**2 + QUARTIC[1] * offset**4
    if shape == "cosh":
        curvature, rate = COSH
        return curvature * 2.0 * (np.cosh(rate * offset) - 1.0) / rate**2
    if shape == "kinked_quartic":
        below, above, fourth = KINKED_QUARTIC
        return np.where(offset < 0, below * offset**2, above * offset**2 + fourth * offset**4)
    if shape == "softplus_wall":
        return _softplus_wall(offset)
    parabola = CURVATURE * offset**2
    if shape not in WALLED:
        return parabola
    wall = WALLED[shape]
    steeper = wall.steepness * np.maximum(offset - wall.start, 0.0) ** 2
    return np.where(offset > wall.cliff, np.inf, parabola + steeper)


def _exponential(rate: float, curvature: float, offset: Floats) -> Floats:
    slope = rate * np.log(2.0)
    return curvature * 2.0 * (np.exp(slope * offset) - 1.0 - slope * offset) / slope**2


def _softplus_wall(offset: Floats) -> Floats:
    """Return a parabola and a softplus less its tangent at 0, so that the minimum stays there."""
    curvature, slope, onset, width = SOFTPLUS
    at = 1.0 / (1.0 + np.exp(onset / width))  # the softplus's slope at 0
    softplus = width * np.logaddexp(0.0, (offset - onset) / width)
    level = width * np.logaddexp(0.0, -onset / width)
    return curvature * offset**2 + slope * (softplus - level - at * offset)


def draw(cell: Cell, optima: Mapping[int, float], rng: np.random.Generator) -> Drawn:
    """Return every width's points; a failed trial has the loss +inf."""
    count = round(2 * REACH / cell.step)
    places = np.arange(count + 1, dtype=np.float64) + rng.uniform(-0.5, 0.5)
    theta: Floats = np.asarray(CENTRE - REACH + cell.step * places, dtype=np.float64)
    return {width: (theta, _losses(cell, width, theta - optima[width], rng)) for width in optima}


def _losses(cell: Cell, width: int, offset: Floats, rng: np.random.Generator) -> Floats:
    shape = (cell.seeds, len(offset))
    effect = SEED_EFFECT * cell.noise * rng.standard_normal((cell.seeds, 1))
    trial_offset = np.broadcast_to(offset, shape)
    scale = level(cell, width)
    if cell.shape in WALLED:
        wall = WALLED[cell.shape]
        expected = rise(cell.shape, np.minimum(offset, wall.cliff))
        failed = trial_offset > wall.cliff + wall.cliff_sd * rng.standard_normal(shape)
    else:
        expected, failed = rise(cell.shape, offset), np.zeros(shape, dtype=np.bool_)
    losses = scale * (1.0 + expected + effect + cell.noise * _noise(cell.shape, shape, rng))
    if cell.shape == "ties":
        losses = np.round(losses, DECIMALS)
    return np.where(failed, np.inf, losses)


def _noise(name: str, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    if name == "heavy_tailed":
        scale = np.sqrt((TAIL_DEGREES - 2) / TAIL_DEGREES)
        return np.asarray(scale * rng.standard_t(TAIL_DEGREES, shape))
    noise = rng.standard_normal(shape)
    if name == "outliers":
        share, excess = OUTLIERS
        noise = noise + excess * (rng.uniform(size=shape) < share)
    return noise


def table(
    drawn: Drawn, *, hp: str = "log2_lr", parametrization: str = "mup", family: str = "dit"
) -> pd.DataFrame:
    """Return the drawn sweep as the row table that `estimate` reads; NaN stands for no row."""
    parts = []
    for width, (theta, losses) in drawn.items():
        flat = losses.reshape(-1)
        sound = np.isfinite(flat)
        parts.append(
            pd.DataFrame(
                {
                    "status": np.where(sound, "completed", "diverged"),
                    "loss": np.where(sound, flat, np.nan),
                    "width": width,
                    "seed": np.repeat(np.arange(len(losses)), len(theta)),
                    hp: np.tile(theta, len(losses)),
                }
            )[~np.isnan(flat)]
        )
    rows = pd.concat(parts, ignore_index=True)
    constant = {
        "family": family,
        "parametrization": parametrization,
        "n_seeds": 1,
        "loss_at_init": LOSS_AT_INIT,
        "trial_key": [f"{index:012x}" for index in range(len(rows))],
    }
    rows = rows.assign(**constant)
    for column in TABLE_COLUMNS:
        if column.name not in rows and column.name != "log2_<hp>":
            dtype = "Int64" if column.dtype == "Int64" else "float64"
            rows[column.name] = pd.array([np.nan] * len(rows), dtype=dtype)
    return rows
