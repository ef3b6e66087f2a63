"""Adaptive designs: rounds of trials, each chosen from the losses of the rounds before.

Nothing is stored of a search but the ledger's rows. A search that is continued is replayed from its
rows, so it asks for the same points wherever it was killed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Method
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.config.identity import arm_of, trial_key, with_scaling, with_width
from hptransfer.config.sweep import SweepConfig

Point = Mapping[str, float]  # log2_<hp> -> value on its axis
Rows = Mapping[str, Mapping[str, Any]]  # a ledger's rows by trial_key


@dataclass(frozen=True)
class ArmAndWidth:
    """An arm at a width, which is searched on its own; at base width all arms are one."""

    arm: str  # as the ledger names it: a parametrization, or `shared`
    width: int
    model: TrialConfig  # the trials' config, but for seed and searched HPs

    def trials(self, point: Point, seeds: Sequence[int]) -> list[TrialConfig]:
        """Return the trials of a point, one for each seed."""
        placed = with_hyperparameters(self.model, point)
        return [dataclasses.replace(placed, seed=seed) for seed in seeds]


@dataclass(frozen=True)
class TriedPoint:
    """A point with the losses of its seeds, +inf where a trial diverged or was stopped."""

    point: tuple[tuple[str, float], ...]
    losses: tuple[float, ...]  # (seed,)
    loss_at_init: float  # mean over the seeds that recorded one, else NaN

    @property
    def loss(self) -> float:
        """The mean loss over the seeds; +inf if one of them failed."""
        return math.fsum(self.losses) / len(self.losses)


# The complete rounds of each arm at each width.
History = Mapping[ArmAndWidth, Sequence[Sequence[TriedPoint]]]


def arms_and_widths(sweep: SweepConfig) -> list[ArmAndWidth]:
    """Return what is searched: arm by arm, widths in the sweep's order, base width once."""
    found: dict[tuple[str, int], ArmAndWidth] = {}
    for scaling in sweep.parametrizations:
        for width in sweep.widths:
            model = with_scaling(with_width(sweep.base, width), scaling)
            arm = arm_of(model)
            found.setdefault((arm, width), ArmAndWidth(arm, width, model))
    return list(found.values())


def tried_point(place: ArmAndWidth, point: Point, seeds: Sequence[int], rows: Rows) -> TriedPoint:
    """Return a point with the losses of its trials, all of which must have rows."""
    found = [rows[trial_key(config)] for config in place.trials(point, seeds)]
    losses = (math.inf if row["loss"] is None else row["loss"] for row in found)
    starts = [row["metrics"]["loss_at_init"] for row in found]
    known = [start for start in starts if start is not None]
    start = math.fsum(known) / len(known) if known else math.nan
    return TriedPoint(tuple(point.items()), tuple(losses), start)


def asked(sweep: SweepConfig, rows: Rows) -> list[tuple[TrialConfig, ...]]:
    """Return the trials of all rounds asked so far.

    Only the last round may lack rows; if it lacks none, the search is over. A trial that several
    rounds ask for belongs to the first of them.
    """
    if sweep.design.method is Method.refine:
        from hptransfer.sweeping.design.refine import propose
    else:
        from hptransfer.sweeping.design.optuna_samplers import propose
    history: dict[ArmAndWidth, list[list[TriedPoint]]] = {
        place: [] for place in arms_and_widths(sweep)
    }
    rounds: list[tuple[TrialConfig, ...]] = []
    seen: set[str] = set()
    while chosen := propose(sweep, history):
        trials = {trial_key(c): c for c in _trials(sweep, chosen)}
        fresh = tuple(config for key, config in trials.items() if key not in seen)
        seen |= trials.keys()
        if fresh:
            rounds.append(fresh)
        if not rows.keys() >= trials.keys():
            break
        for place, points in chosen.items():
            history[place].append([tried_point(place, p, sweep.seeds, rows) for p in points])
    return rounds


def _trials(sweep: SweepConfig, chosen: Mapping[ArmAndWidth, Sequence[Point]]) -> list[TrialConfig]:
    """Return the trials of the chosen points, in a grid's order: arm and width, seed, point."""
    return [
        config
        for place, points in chosen.items()
        for of_seed in zip(*(place.trials(p, sweep.seeds) for p in points), strict=True)
        for config in of_seed
    ]
