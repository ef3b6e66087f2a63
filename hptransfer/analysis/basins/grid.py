"""One width's points: which count, which lie in the basin, and where its minimum is.

Arrays have the axes (seed, theta). A loss is finite (completed), +inf (diverged or stopped) or
NaN (no row). Seeds are blocks: a point of which any seed failed has failed, and a point that
lacks a seed is left out; survivors are never averaged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.curve import Floats

WINDOW_STEPS = 2.25  # two grid steps each side, and room for grids that are not quite even
WINDOW_OCTAVES = 2.0  # on a finer grid more points: a window of one octave is mostly noise
# Points that rise by more than this share of loss_at_init - best lie outside the basin: on the wall
# above it training is unstable, seeds scatter ten times as far, and such points pull the fit down
# the rates. On 16 one-octave subsamples of four quarter-octave digits basins (three seeds each) a
# limit of 0.05 lowered the 90 % error from 0.24 to 0.16 octaves and the bias from -0.11 to -0.05;
# 0.03 to 0.12 did as well. On planted walls (half-octave grid, ten seeds) the 90 % interval covered
# 83 % at 0.05 and 88 % at 0.035.
BASIN_RISE = 0.04
EVEN = 1e-6  # octaves by which the distances of an even grid may differ


@dataclass(frozen=True)
class Grid:
    """One width's points, ascending in theta."""

    theta: Floats  # (theta,)
    losses: Floats  # (seed, theta); +inf where failed
    failed: NDArray[np.bool_]  # (theta,)
    cliff: float | None  # the first failed point above all sound ones
    ceiling: float  # mean losses above it lie outside the basin
    isolated_failures: int  # failed points with a sound one above them
    incomplete_points: int  # left out because a seed has no row there
    seeds_left_out: int  # seeds with rows at less than half of the points
    runs: Floats | None = None  # (seed, theta) runs whose mean a loss is; None: one each
    run_sds: Floats | None = None  # (seed, theta) sd between those runs; NaN where no row says

    @property
    def sound(self) -> NDArray[np.intp]:
        """Indices of the points whose every seed counts."""
        return np.flatnonzero(~self.failed)

    @property
    def step(self) -> float:
        """The grid step in octaves: the median distance between neighbours.

        On points that are not evenly spaced, such as refined ones, of the four distances nearest
        to the minimum, two on each side: far from it points are farther apart.
        """
        if len(self.theta) < 2:
            return 1.0
        gaps = np.diff(self.theta)
        if np.ptp(gaps) > EVEN:
            first = min(max(self.minimum - 2, 0), max(len(gaps) - 4, 0))
            gaps = gaps[first : first + 4]
        return float(np.median(gaps))

    @property
    def minimum(self) -> int:
        """Index of the sound point of lowest seed-mean loss."""
        return int(self.sound[np.argmin(self.losses[:, self.sound].mean(axis=0))])

    @property
    def core(self) -> NDArray[np.intp]:
        """Indices of the sound points near the minimum and below the ceiling."""
        near = np.abs(self.theta[self.sound] - self.theta[self.minimum])
        low = self.losses[:, self.sound].mean(axis=0) <= self.ceiling
        reach = max(WINDOW_STEPS * self.step, WINDOW_OCTAVES)
        return self.sound[(near <= reach) & low]

    @property
    def window(self) -> NDArray[np.intp]:
        """Indices of the points that are fitted: the core and the minimum's two neighbours."""
        at = int(np.searchsorted(self.sound, self.minimum))
        return np.union1d(self.core, self.sound[max(0, at - 1) : at + 2])


def build_grid(
    theta: Floats,
    losses: Floats,
    *,
    loss_at_init: float,
    runs: Floats | None = None,
    run_sds: Floats | None = None,
) -> Grid | None:
    """Decide which points are sound; None if none is.

    A finite loss above best + (loss_at_init - best)/2 has failed too, but only above the minimum:
    below it such a loss is slow training and no cliff. A NaN `loss_at_init` waives that rule.
    """
    order = np.argsort(theta)
    theta, losses = theta[order], losses[:, order]
    regular = 2 * (~np.isnan(losses)).sum(axis=1) >= len(theta)
    losses = losses[regular]
    complete = ~np.isnan(losses).any(axis=0) & bool(len(losses))
    theta, losses = theta[complete], losses[:, complete]
    kept = np.ix_(regular, order[complete])
    failed = np.asarray(np.isinf(losses).any(axis=0))
    if failed.all():
        return None
    failed = failed | _is_ruined(losses, failed, loss_at_init)
    best = float(losses[:, ~failed].mean(axis=0).min())
    rise = BASIN_RISE * (loss_at_init - best)
    last_sound = int(np.flatnonzero(~failed)[-1])
    return Grid(
        theta=theta,
        losses=np.where(failed[None, :], np.inf, losses),
        failed=failed,
        cliff=float(theta[last_sound + 1]) if last_sound + 1 < len(theta) else None,
        ceiling=best + rise if rise > 0 else np.inf,
        isolated_failures=int(failed[:last_sound].sum()),
        incomplete_points=int((~complete).sum()),
        seeds_left_out=int((~regular).sum()),
        runs=None if runs is None else runs[kept],
        run_sds=None if run_sds is None else run_sds[kept],
    )


def _is_ruined(losses: Floats, failed: NDArray[np.bool_], loss_at_init: float) -> NDArray[np.bool_]:
    means = np.where(failed, np.inf, losses.mean(axis=0))
    best = int(np.argmin(means))
    limit = means[best] + (loss_at_init - means[best]) / 2.0
    ruined = (losses > limit).any(axis=0)
    ruined[: best + 1] = False
    return ruined
