"""Planted basins."""

from __future__ import annotations

import numpy as np

from hptransfer.analysis.basins.basin import Basin, build_grid, fit_basin, pool_noise
from hptransfer.analysis.basins.curve import Floats


def fitted(theta: Floats, losses: Floats, *, rng: int = 0, init: float = 10.0) -> Basin:
    grid = build_grid(theta, losses, loss_at_init=init)
    assert grid is not None
    noise = pool_noise([grid], rng=np.random.default_rng(rng), draws=500)
    return fit_basin(grid, noise, rng=np.random.default_rng(rng), draws=500)
