"""One setting's points of several HPs: which are sound, which may be fitted, and their noise.

The rules are `basin.build_grid`'s: seeds are blocks, a point of which any seed failed has failed,
and one that lacks a seed is left out. Losses have the axes (seed, point), positions (point, hp).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.noise import Noise
from hptransfer.analysis.basins.rows import TrialArrays, by_seed
from hptransfer.analysis.surfaces.quadratic import SPARE_POINTS, coefficients

# Points that rise by more than this share of the way from the best to the start lie outside the
# basin: on the wall above it seeds scatter ten times as far.
BASIN_RISE = 0.1
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class SurfacePoints:
    """One setting's points in lexicographic order of position."""

    hps: tuple[str, ...]
    positions: Floats  # (point, hp), log2
    losses: Floats  # (seed, point); +inf where failed
    failed: NDArray[np.bool_]  # (point,)
    loss_at_init: float
    ceiling: float  # mean losses above it lie outside the basin
    incomplete_points: int
    seeds_left_out: int

    @property
    def means(self) -> Floats:
        """Mean losses over seeds, shape (point,)."""
        return self.losses.mean(axis=0)

    @property
    def ruined_above(self) -> float:
        """The mean loss above which a finite one has failed, where it lies above the optimum."""
        best = float(self.means.min())
        return best + (self.loss_at_init - best) / 2.0 if self.loss_at_init > best else np.inf

    @property
    def best(self) -> int:
        """Index of the point of lowest mean loss."""
        return int(np.argmin(self.means))

    @property
    def needed(self) -> int:
        """How many points a surface takes, its skews included; a grid of three values fewer."""
        return coefficients(len(self.hps)) + len(self.hps) + SPARE_POINTS

    @property
    def inside(self) -> int:
        """How many of the lowest points may be fitted: those below the ceiling, or as many as
        a surface takes."""
        below = int((self.means <= self.ceiling).sum())
        return min(max(below, self.needed), int((~self.failed).sum()))


def build_points(
    hps: tuple[str, ...], positions: Floats, losses: Floats, *, loss_at_init: float
) -> SurfacePoints | None:
    """Decide which points are sound; None if none is.

    `losses` (seed, point) are finite, +inf (diverged or stopped) or NaN (no row).
    """
    order = np.lexsort(positions.T[::-1])
    positions, losses = positions[order], losses[:, order]
    regular = 2 * (~np.isnan(losses)).sum(axis=1) >= len(positions)
    losses = losses[regular]
    complete = ~np.isnan(losses).any(axis=0) & bool(len(losses))
    positions, losses = positions[complete], losses[:, complete]
    failed = np.asarray(np.isinf(losses).any(axis=0))
    if failed.all():
        return None
    best = float(losses[:, ~failed].mean(axis=0).min())
    rise = BASIN_RISE * (loss_at_init - best)
    return SurfacePoints(
        hps=hps,
        positions=positions,
        losses=np.where(failed[None, :], np.inf, losses),
        failed=failed,
        loss_at_init=loss_at_init,
        ceiling=best + rise if rise > 0 else np.inf,
        incomplete_points=int((~complete).sum()),
        seeds_left_out=int((~regular).sum()),
    )


def varying(rows: TrialArrays) -> tuple[str, ...]:
    """Return the HPs that take more than one value, in the rows' order."""
    return tuple(name for name, values in rows.hps.items() if len(np.unique(values)) > 1)


def setting_points(
    rows: Mapping[Key, TrialArrays], hps: tuple[str, ...]
) -> dict[Key, SurfacePoints]:
    """Return each setting's points; settings without a sound point are absent."""
    found: dict[Key, SurfacePoints] = {}
    for setting, members in rows.items():
        positions, losses = point_array(members, hps)
        start = float(np.median(members.loss_at_init))
        points = build_points(hps, positions, losses, loss_at_init=start)
        if points is not None:
            found[setting] = points
    return found


def point_array(rows: TrialArrays, hps: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Return the distinct positions (point, hp) and losses (seed, point), NaN for no row.

    Raises:
        UserError: two rows have the same position and seed.
    """
    stacked = np.stack([rows.hps[name] for name in hps], axis=1)
    positions, place = np.unique(stacked, axis=0, return_inverse=True)
    (losses,) = by_seed(rows, place.reshape(-1), rows.loss, what=f"point of {', '.join(hps)}")
    return positions, losses


def seed_noise(every: Iterable[SurfacePoints]) -> Noise | None:
    """Pool the residuals around seed plus point effects below the ceilings; None for one seed."""
    squares, degrees = 0.0, 0
    for points in every:
        inside = np.argsort(points.means, kind="stable")[: points.inside]
        losses = points.losses[:, inside]
        seed_effect = losses.mean(axis=1, keepdims=True) - losses.mean()
        residual = losses - losses.mean(axis=0, keepdims=True) - seed_effect
        squares += float((residual**2).sum())
        degrees += (losses.shape[0] - 1) * (losses.shape[1] - 1)
    return Noise(float(np.sqrt(squares / degrees)), float(degrees)) if degrees else None
