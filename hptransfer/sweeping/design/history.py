"""What a search has tried: its places (an arm at a width), and their points with the losses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hptransfer.config import TrialConfig
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.config.identity import arm_of, trial_key, with_scaling, with_width
from hptransfer.config.sweep import SweepConfig

Point = Mapping[str, float]  # log2_<hp> -> where on its axis
Rows = Mapping[str, Mapping[str, Any]]  # a ledger's rows by trial_key


@dataclass(frozen=True)
class Place:
    """A model that is searched on its own; at base width one for all arms."""

    arm: str  # as the ledger names it: a parametrization, or `shared`
    width: int
    model: TrialConfig  # its trials, but for seed and searched HPs

    def trials(self, point: Point, seeds: Sequence[int]) -> list[TrialConfig]:
        """Return the point's trials, one a seed."""
        placed = with_hyperparameters(self.model, point)
        return [dataclasses.replace(placed, seed=seed) for seed in seeds]


@dataclass(frozen=True)
class Tried:
    """A point with the losses of its seeds, +inf where a trial diverged or was stopped."""

    point: tuple[tuple[str, float], ...]
    losses: tuple[float, ...]  # (seed,)
    loss_at_init: float  # mean over the seeds that know it, else NaN

    @property
    def loss(self) -> float:
        """The mean over seeds; +inf if any of them failed, for survivors are never averaged."""
        return math.fsum(self.losses) / len(self.losses)


History = Mapping[Place, Sequence[Sequence[Tried]]]  # the complete rounds of each place


def places(sweep: SweepConfig) -> list[Place]:
    """Return the models to search, arm by arm, narrow widths first; arms share base width."""
    found: dict[tuple[str, int], Place] = {}
    for scaling in sweep.parametrizations:
        for width in sweep.widths:
            model = with_scaling(with_width(sweep.base, width), scaling)
            arm = arm_of(model)
            found.setdefault((arm, width), Place(arm, width, model))
    return list(found.values())


def tried(place: Place, point: Point, seeds: Sequence[int], rows: Rows) -> Tried:
    """Read a point's losses from the rows of its trials, which must all be there."""
    found = [rows[trial_key(config)] for config in place.trials(point, seeds)]
    losses = (math.inf if row["loss"] is None else row["loss"] for row in found)
    starts = [row["metrics"]["loss_at_init"] for row in found]
    known = [start for start in starts if start is not None]
    start = math.fsum(known) / len(known) if known else math.nan
    return Tried(tuple(point.items()), tuple(losses), start)
