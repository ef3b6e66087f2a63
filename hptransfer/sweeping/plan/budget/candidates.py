"""The sweeps that a budget may be spent on: widths, grid, seeds and length of training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hptransfer.config import CustomConfig, ModelConfig, TransformerConfig
from hptransfer.config.sweep import Axis, SweepConfig
from hptransfer.errors import UserError
from hptransfer.sweeping.plan.budget.knowledge import Knowledge

WIDTH_COUNTS = (3, 4, 5, 6)  # numbers of widths that are considered
NEAREST_WIDTHS = 1.2  # the least ratio of neighbouring widths
# Numbers of seeds that are considered; one seed shows no noise, so no verdict follows.
SEED_COUNTS = (2, 3, 4, 5, 6, 7, 8, 9, 10)
GRID_STEPS = (0.5, 1.0, 2.0)  # octaves between two points of a grid
MARGINS = (1.5, 2.0, 3.0, 4.0, 5.0)  # octaves of a grid beyond the optima that are expected
LEAST_POINTS = 4  # of a grid
STEP_SHARES = (1.0, 0.5, 0.25)  # lengths of training, as shares of the base trial's steps


@dataclass(frozen=True)
class Candidate:
    """A sweep of one HP that could be run."""

    widths: tuple[int, ...]
    axis: Axis
    seeds: tuple[int, ...]
    steps: int

    @property
    def trials_of_a_width(self) -> int:
        """Trials of one arm at one width."""
        return len(self.axis.points) * len(self.seeds)


def candidates(sweep: SweepConfig, knowledge: Knowledge) -> list[Candidate]:
    """Return every candidate that is considered.

    Raises:
        UserError: there is no room for three widths below half the target's.
    """
    sets = width_sets(sweep)
    seeds = seed_lists(sweep.seeds)
    found: dict[Candidate, None] = {}
    for steps in step_counts(sweep):
        for widths in sets:
            for axis in axes(sweep.search[0][1], knowledge, widths):
                found |= {Candidate(widths, axis, seed, steps): None for seed in seeds}
    return list(found)


def step_counts(sweep: SweepConfig) -> list[int]:
    """Return the lengths of training, the sweep's own first."""
    counts = (round(sweep.base.budget.steps * share) for share in STEP_SHARES)
    return list(dict.fromkeys(max(count, 1) for count in counts))


def seed_lists(own: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the sweep's seeds, cut or grown to each number of seeds."""
    fresh = (seed for seed in itertools.count() if seed not in own)
    every = [*own, *itertools.islice(fresh, SEED_COUNTS[-1])]
    return [tuple(sorted(every[:count])) for count in SEED_COUNTS]


def width_sets(sweep: SweepConfig) -> list[tuple[int, ...]]:
    """Return sets of widths that the family can have: geometric ones from the sweep's narrowest.

    The sweep's own widths are among them, alone and with one or two more, since growing a sweep
    keeps its rows. No width is above half the target's.

    Raises:
        UserError: there is no set of three widths or more.
    """
    assert sweep.target is not None, "a budget is planned for a target"
    narrowest, most = sweep.widths[0], sweep.target.model.width // 2
    unit = width_unit(sweep.base.model)
    widest = [_valid(narrowest * 2.0 ** (half / 2), unit) for half in range(1, 40)]
    widest = sorted({width for width in (*widest, most // unit * unit) if width <= most})
    sets = {
        tuple(_valid(w, unit) for w in _geometric(narrowest, last, count))
        for last in widest
        for count in WIDTH_COUNTS
    }
    own = tuple(width for width in sweep.widths if width <= most)
    grown = [(*own, *more) for count in (0, 1, 2) for more in itertools.combinations(widest, count)]
    candidates = sets | {tuple(sorted({*widths})) for widths in grown}
    kept = [widths for widths in sorted(candidates) if _is_spread(widths)]
    if not kept:
        raise UserError(
            f"A plan for a budget needs three widths or more between {narrowest} and half the "
            f"target's, {most}, in multiples of {unit}, but there are not so many. Name a wider "
            "target or a narrower first width in sweep.widths."
        )
    return kept


def width_unit(model: ModelConfig) -> int:
    """Return the number of which a family's widths are multiples; a custom model's base width."""
    if isinstance(model, TransformerConfig):
        return math.lcm(model.head_dim, model.width_multiple)
    assert isinstance(model, CustomConfig), "every other family is a transformer"
    return model.base_width


def _valid(width: float, unit: int) -> int:
    return max(round(width / unit), 1) * unit


def _geometric(first: int, last: int, count: int) -> Iterator[float]:
    return (first * (last / first) ** (i / (count - 1)) for i in range(count))


def _is_spread(widths: Sequence[int]) -> bool:
    near = any(b < NEAREST_WIDTHS * a for a, b in itertools.pairwise(widths))
    return len(widths) in WIDTH_COUNTS and not near


def axes(own: Axis, knowledge: Knowledge, widths: Sequence[int]) -> list[Axis]:
    """Return grids around the optima that are expected; the sweep's own grid first.

    Their points lie on those of the sweep's own grid, or half-way between.
    """
    ends = sorted(knowledge.expected(width) for width in (widths[0], widths[-1]))
    found: dict[Axis, None] = {own: None}
    for step in GRID_STEPS:
        for margin in MARGINS:
            low = own.low + math.floor((ends[0] - margin - own.low) / step) * step
            high = own.low + math.ceil((ends[1] + margin - own.low) / step) * step
            axis = Axis(round(low, 9), round(high, 9), step)
            if len(axis.points) >= LEAST_POINTS:
                found[axis] = None
    return list(found)
