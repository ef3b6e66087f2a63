"""One setting's points: every value of a hyperparameter that was trained, with its runs.

A setting is one width, depth, batch size and training time. Arrays have the axes (seed, theta); a
loss is finite (completed), +inf (diverged or stopped) or NaN (not trained). A point of which any
seed failed has failed: survivors are never averaged. A point that was not trained with some seeds
is compared through the others, seeds being blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from hptransfer.analysis.basins.curve import Floats

LOW_SHARE = 0.25  # points that rise by less than this share of the median rise count as low
LOW_POINTS = 4  # at least so many points count as low
JUMP, STEP, PLATEAU, FAR = 5.0, 4.0, 1.5, 100.0  # of a rise that tells a run that blew up
ALTERNATIONS = 20  # rounds of seed means and point means


@dataclass(frozen=True)
class Grid:
    """One setting's points, ascending in theta."""

    theta: Floats  # (theta,)
    losses: Floats  # (seed, theta); +inf where the point failed, NaN where not trained
    failed: NDArray[np.bool_]  # (theta,)
    runs: Floats  # (seed, theta) runs whose mean a loss is
    run_sds: Floats  # (seed, theta) sd between those runs; NaN where no row says
    copied_seeds: int = 0  # seeds left out because they repeat another one's losses exactly

    @property
    def sound(self) -> NDArray[np.intp]:
        """Indices of the points that did not fail."""
        return np.flatnonzero(~self.failed)

    @property
    def cliff(self) -> float | None:
        """The lowest failed value above all sound ones."""
        above = self.theta[self.sound[-1] + 1 :] if len(self.sound) else self.theta
        return float(above[0]) if len(above) else None

    @property
    def isolated_failures(self) -> int:
        """How many failed points have a sound one above them."""
        return int(self.failed[: self.sound[-1]].sum())

    @property
    def missing(self) -> int:
        """How many runs of sound points were not trained."""
        return int(np.isnan(self.losses[:, ~self.failed]).sum())

    @property
    def step(self) -> float:
        """The distance of neighbouring points near the minimum, in octaves; 1 for one point."""
        gaps = np.diff(self.theta)
        if not len(gaps):
            return 1.0
        first = min(max(self.minimum - 2, 0), max(len(gaps) - 4, 0))
        return float(np.median(gaps[first : first + 4]))

    @cached_property
    def means(self) -> Floats:
        """Mean y of every point over its seeds, as if all seeds were there; +inf where failed."""
        means = np.full(len(self.theta), np.inf)
        means[self.sound] = self.effects[0]
        return means

    @cached_property
    def effects(self) -> tuple[Floats, Floats]:
        """Means (sound,) and residuals (seed, sound) about means and seed effects."""
        return seed_effects(self.losses[:, self.sound])

    @property
    def minimum(self) -> int:
        """Index of the sound point of lowest mean."""
        return int(np.argmin(self.means))

    @property
    def low(self) -> NDArray[np.bool_]:
        """Which sound points lie low in the basin, where noise is even and a basin is smooth."""
        return low_points(self.means[self.sound])


def low_points(means: Floats) -> NDArray[np.bool_]:
    """Return which means lie low: near the lowest, and at least LOW_POINTS of them."""
    rises = means - means.min()
    low = rises <= LOW_SHARE * np.median(rises)
    if low.sum() < LOW_POINTS:
        low = np.argsort(np.argsort(rises)) < LOW_POINTS
    return low


def seed_effects(losses: Floats) -> tuple[Floats, Floats]:
    """Return the points' means and the residuals of a table (seed, point) that may lack cells.

    A loss is its point's mean plus its seed's effect plus a residual. Effects are read from the low
    points, as seeds scatter more on the walls, and average to zero.
    """
    there = ~np.isnan(losses)
    filled = np.where(there, losses, 0.0)
    counts = np.maximum(there.sum(axis=0), 1)
    means = filled.sum(axis=0) / counts
    if len(losses) == 1:
        return means, np.where(there, 0.0, np.nan)
    effects = np.zeros(len(losses))
    for _ in range(ALTERNATIONS):
        counted = there & low_points(means)
        counted = np.where(counted.any(axis=1, keepdims=True), counted, there)
        own = np.where(counted, filled - means, 0.0).sum(axis=1)
        effects = own / np.maximum(counted.sum(axis=1), 1)
        effects -= effects.mean()
        means = np.where(there, filled - effects[:, None], 0.0).sum(axis=0) / counts
        if there.all():
            break
    return means, np.where(there, losses - means - effects[:, None], np.nan)


def build_grid(
    theta: Floats,
    losses: Floats,
    *,
    loss_at_init: float,
    runs: Floats | None = None,
    run_sds: Floats | None = None,
) -> Grid | None:
    """Return the points of one setting; None if every one failed.

    Args:
        theta: distinct values, (theta,).
        losses: y of every run, (seed, theta).
        loss_at_init: y before training. Above the minimum a loss beyond halfway to it counts as
            failed; below the minimum it is slow training. NaN: not known, and a sudden jump fails.
        runs: how many runs each loss is the mean of; None: one.
        run_sds: sd between those runs, NaN where not known; None: nowhere.
    """
    order = np.argsort(theta)
    theta, losses = theta[order], losses[:, order]
    runs = np.ones_like(losses) if runs is None else runs[:, order]
    run_sds = np.full_like(losses, np.nan) if run_sds is None else run_sds[:, order]
    trained = ~np.isnan(losses).all(axis=0)
    theta, losses, runs, run_sds = (
        theta[trained],
        *(table[:, trained] for table in (losses, runs, run_sds)),
    )
    own = _distinct_seeds(losses)
    failed = np.asarray(np.isinf(losses).any(axis=0))
    if failed.all():
        return None
    failed = failed | _is_ruined(losses, failed, loss_at_init)
    return Grid(
        theta=theta,
        losses=np.where(failed, np.inf, losses)[own],
        failed=failed,
        runs=runs[own],
        run_sds=run_sds[own],
        copied_seeds=len(losses) - len(own),
    )


def _distinct_seeds(losses: Floats) -> NDArray[np.intp]:
    """Return the seeds whose finite losses are not all another one's: copies are no evidence."""
    known = np.where(np.isfinite(losses), losses, -1.0)
    first = np.unique(known, axis=0, return_index=True)[1]
    return np.sort(first) if losses.shape[1] > 1 else np.arange(len(losses))


def _is_ruined(losses: Floats, failed: NDArray[np.bool_], loss_at_init: float) -> NDArray[np.bool_]:
    sound = np.flatnonzero(~failed)
    means = np.full(losses.shape[1], np.inf)
    means[sound] = seed_effects(losses[:, sound])[0]
    best = int(np.argmin(means))
    if np.isnan(loss_at_init):
        return _has_blown_up(means, best)
    ruined = (losses > means[best] + (loss_at_init - means[best]) / 2.0).any(axis=0)
    ruined[: best + 1] = False
    return ruined if loss_at_init > means[best] else np.zeros_like(failed)


def _has_blown_up(means: Floats, best: int) -> NDArray[np.bool_]:
    """Say from which value above the minimum on training blew up, though its loss is a number.

    Where the loss before training is not known, that is a jump: a rise of JUMP times the usual one
    of the values up to the minimum and STEP times the highest one before it, which either does not
    go on (PLATEAU), as a wall does, or is far off (FAR).
    """
    rises = means - means[best]
    usual = float(np.median(rises[:best])) if best else 0.0
    blown = np.zeros(len(means), dtype=np.bool_)
    before = 0.0
    above = [at for at in range(best + 1, len(means)) if np.isfinite(rises[at])]
    for at, after in zip_longest(above, above[1:]):
        is_jump = usual > 0.0 and rises[at] > max(JUMP * usual, STEP * before)
        is_flat = after is not None and rises[after] < PLATEAU * rises[at]
        if is_jump and (is_flat or rises[at] > FAR * usual):
            blown[at:] = True
            break
        before = max(before, float(rises[at]))
    return blown
