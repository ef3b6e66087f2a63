"""Invented surfaces of several HPs whose optimum is known. Nothing here is a result.

A trial's loss is LEVEL · (1 + d·bends·d / 2 + seed effect + noise), d = θ - θ*, in the relative
loss per octave². `skewed` has curve.py's shape along the first HP instead of the parabola.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from hptransfer.analysis.answer.settings import Setting
from hptransfer.analysis.basins.curve import Floats, rise
from hptransfer.analysis.basins.rows import TrialArrays

LEVEL = 0.5
REACH = 3.0  # octaves from the box's middle to its faces
LEAST_BEND, MOST_BEND = 0.008, 0.02  # of the loss per octave²: 0.4 to 1 % one octave off
SEED_EFFECT = 2.0  # noise sds
SKEW = 0.25  # per octave, of skewed surfaces
NAMES = ("log2_lr", "log2_weight_decay", "log2_eps", "log2_init_scale")


@dataclass(frozen=True)
class Cell:
    """One setting of which many surfaces are drawn."""

    hps: int
    points: int
    design: str  # grid, sobol or clustered
    shape: str = "quadratic"
    seeds: int = 3
    noise: float = 0.002


@dataclass(frozen=True)
class Planted:
    """A drawn surface: its truth, and what a sweep would record of it."""

    optimum: Floats  # (hp,)
    bends: Floats  # (hp, hp) of the relative loss
    positions: Floats  # (point, hp)
    losses: Floats  # (seed, point)


def plant(cell: Cell, rng: np.random.Generator) -> Planted:
    """Draw a surface with interactions and its points."""
    optimum = rng.uniform(-1.0, 1.0, cell.hps)
    bends = np.diag(rng.uniform(LEAST_BEND, MOST_BEND, cell.hps))
    for a in range(cell.hps):
        for b in range(a):
            strength = rng.uniform(-0.5, 0.5) / max(1, cell.hps - 1)
            bends[a, b] = bends[b, a] = strength * np.sqrt(bends[a, a] * bends[b, b])
    positions = _positions(cell, optimum, rng)
    losses = losses_at(positions, optimum, bends, cell, rng)
    return Planted(optimum, bends, positions, losses)


def losses_at(
    positions: Floats, optimum: Floats, bends: Floats, cell: Cell, rng: np.random.Generator
) -> Floats:
    """Return noisy losses, shape (seed, point)."""
    offset = positions - optimum
    risen = np.einsum("ph,hg,pg->p", offset, bends, offset) / 2.0
    if cell.shape == "skewed":
        along = offset[:, 0]
        risen = risen + bends[0, 0] / 2.0 * (rise(along, SKEW) - along**2)
    effect = SEED_EFFECT * cell.noise * rng.standard_normal((cell.seeds, 1))
    noise = cell.noise * rng.standard_normal((cell.seeds, len(positions)))
    return LEVEL * (1.0 + risen + effect + noise)


def _positions(cell: Cell, optimum: Floats, rng: np.random.Generator) -> Floats:
    if cell.design == "grid":
        axis = np.linspace(-REACH, REACH, round(cell.points ** (1.0 / cell.hps)))
        return np.stack(np.meshgrid(*[axis] * cell.hps), axis=-1).reshape(-1, cell.hps)
    if cell.design == "sobol":
        whole = qmc.Sobol(cell.hps, rng=rng).random(1 << (cell.points - 1).bit_length())
        return REACH * (2.0 * whole[: cell.points] - 1.0)
    spread = rng.uniform(-REACH, REACH, (cell.points // 3, cell.hps))
    middle = optimum + 0.8 * rng.standard_normal(cell.hps)
    near = middle + rng.standard_normal((cell.points - len(spread), cell.hps))
    return np.clip(np.concatenate([spread, near]), -REACH, REACH)


def rows_of(planted: dict[int, Planted]) -> TrialArrays:
    """Return the trials of every width as the analysis reads them; +inf where one failed."""
    parts = [
        (width, seed, position, loss)
        for width, one in planted.items()
        for seed, losses in enumerate(one.losses)
        for position, loss in zip(one.positions, losses, strict=True)
    ]
    widths, seeds, positions, losses = (np.array(column) for column in zip(*parts, strict=True))
    count = len(widths)
    return TrialArrays(
        family=np.full(count, "dit"),
        parametrization=np.full(count, "mup"),
        width=widths,
        seed=seeds,
        loss=losses,
        loss_at_init=np.ones(count),
        n_seeds=np.ones(count, dtype=np.int64),
        loss_sd=np.full(count, np.nan),
        flops=np.full(count, np.nan),
        conditions={},
        hps={NAMES[at]: positions[:, at] for at in range(positions.shape[1])},
    )


def by_setting(rows: TrialArrays) -> dict[Setting, TrialArrays]:
    """Return the rows of every width, as the analysis hands them to the surfaces."""
    return {Setting(int(w)): rows.where(rows.width == w) for w in np.unique(rows.width)}
