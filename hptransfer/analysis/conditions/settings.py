"""One width under one condition, with its basin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.basins.basin import Basin
from hptransfer.analysis.conditions.joint_law import Estimates


@dataclass(frozen=True)
class Setting:
    """A width, its condition (depth, batch size, steps; None: not known), and the basin there."""

    width: int
    condition: Mapping[str, float | None]
    basin: Basin

    def value(self, name: str) -> float:
        """Return the width or a condition that is known."""
        found = self.width if name == "width" else self.condition[name]
        assert found is not None, "only known conditions are compared"
        return found


def setting_estimates(settings: Sequence[Setting]) -> Estimates:
    """Return the optima of usable settings with their draws."""
    draws = [s.basin.theta_draws for s in settings if s.basin.theta_draws is not None]
    assert len(draws) == len(settings), "only usable basins have draws"
    return Estimates(np.array([s.basin.optimum for s in settings]), np.stack(draws, axis=1))
