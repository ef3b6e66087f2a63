"""Tables of planted sweeps: basins, laws and noise that the analysis does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Shape = Callable[[Floats], Floats]

GRID = np.arange(-10.0, -2.0)  # log2 of the learning rate
COLUMNS = {
    "family": "dit",
    "parametrization": "mup",
    "status": "completed",
    "loss_at_init": np.nan,
    "flops": np.nan,
    "depth": np.nan,
    "batch_size": np.nan,
    "steps": np.nan,
    "n_seeds": 1,
    "loss_sd": np.nan,
}


def parabola(offset: Floats) -> Floats:
    """A rise of one an octave from the optimum."""
    return offset**2


def smooth_wall(offset: Floats) -> Floats:
    """A parabola that runs into an exponential wall above the optimum."""
    return offset**2 + 0.1 * np.expm1(2.0 * np.maximum(offset, 0.0)) ** 2


def quartic(offset: Floats) -> Floats:
    """A basin that steepens on both sides."""
    return 0.5 * offset**2 + 0.3 * offset**4


def basin(
    optimum: float,
    *,
    level: float,
    rng: np.random.Generator,
    seeds: int = 3,
    k: float = 0.02,
    noise: float = 0.002,
    seed_sd: float = 0.01,
    shape: Shape = parabola,
    grid: Floats = GRID,
    **columns: object,
) -> pd.DataFrame:
    """Return one setting's rows: log losses are level + k·shape, a shift per seed, and noise."""
    rows = []
    for seed, shift in enumerate(rng.normal(0.0, seed_sd, seeds)):
        y = level + k * shape(grid - optimum) + shift + rng.normal(0.0, noise, len(grid))
        rows.append(pd.DataFrame({"log2_lr": grid, "seed": seed, "loss": np.exp(y)}))
    return pd.concat(rows, ignore_index=True).assign(**{**COLUMNS, **columns})


def sweep(
    optima: Mapping[int, float], *, fall: float = 0.06, rng: int = 0, **more: object
) -> pd.DataFrame:
    """Return rows of several widths whose log loss falls by `fall` per doubling of the width."""
    generator = np.random.default_rng(rng)
    first = min(optima)
    return pd.concat(
        [
            basin(
                optimum,
                level=-0.5 - fall * np.log2(width / first),
                rng=generator,
                width=width,
                **more,  # type: ignore[arg-type]
            )
            for width, optimum in optima.items()
        ],
        ignore_index=True,
    )
