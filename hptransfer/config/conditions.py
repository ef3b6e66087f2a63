"""Conditions of a trial that a sweep may vary besides width: depth, batch size and steps.

They are varied one at a time, the others at the values of the base trial.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hptransfer.config import TrialConfig, require_count
from hptransfer.config.choices import Method
from hptransfer.config.design import DesignConfig
from hptransfer.errors import require

Condition = Mapping[str, int | None]  # name in CONDITIONS -> value; None: a model without depth

CONDITION_GROUPS = {"depth": "model", "batch_size": "budget", "steps": "budget"}
CONDITIONS = tuple(CONDITION_GROUPS)


@dataclass(frozen=True)
class VaryConfig:
    """Further values of each condition; the base trial's own value is always swept as well."""

    depth: tuple[int, ...] = ()
    batch_size: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in CONDITIONS:
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            for value in values:
                require_count(f"sweep.vary.{name}", value)
            require(
                all(a < b for a, b in itertools.pairwise(values)),
                f"`sweep.vary.{name}` must be increasing, but got {list(values)}. Sort the list "
                "and name each value once.",
            )


def condition_of(config: TrialConfig) -> Condition:
    """Return the depth, batch size and steps of a trial."""
    return {
        name: getattr(getattr(config, CONDITION_GROUPS[name]), name, None) for name in CONDITIONS
    }


def with_condition(config: TrialConfig, condition: Condition) -> TrialConfig:
    """Return the trial with the depth, batch size and steps of a condition."""
    for name, value in condition.items():
        if value is not None:
            group = dataclasses.replace(getattr(config, CONDITION_GROUPS[name]), **{name: value})
            config = dataclasses.replace(config, **{CONDITION_GROUPS[name]: group})
    return config


def one_at_a_time(base: Condition, vary: VaryConfig) -> tuple[Condition, ...]:
    """Return the base condition, then every condition that differs from it in one value."""
    further = [
        {**base, name: value}
        for name in CONDITIONS
        for value in getattr(vary, name)
        if value != base[name]
    ]
    return (base, *further)


def require_varied(
    base: TrialConfig, vary: VaryConfig, design: DesignConfig, axes: Sequence[str]
) -> None:
    """Refuse a `sweep.vary` that no basins can be compared by.

    That is one under a design whose points differ between conditions, one that names the base's
    values alone, and one of which a trial cannot be trained.
    """
    method = design.method
    require(
        vary == VaryConfig()
        or method is Method.grid
        or (method is Method.sobol and len(axes) == 1),
        "`sweep.vary` repeats the same points under every condition and compares their basins, so "
        f"it needs a grid, or sobol with one HP, but got {method.value} with {', '.join(axes)}. "
        "Set sweep.design.method=grid, or leave sweep.vary out.",
    )
    of_base = condition_of(base)
    for name in CONDITIONS:
        values, own = getattr(vary, name), of_base[name]
        require(
            not values or own is not None,
            f"`sweep.vary.{name}` needs a model with a {name}, but a {base.model.family} model "
            "has none. Leave it out.",
        )
        require(
            values != (own,),
            f"`sweep.vary.{name}` must name a value besides the base trial's own, but got {own} "
            "alone. Add one, or leave it out.",
        )
    for condition in one_at_a_time(of_base, vary):
        with_condition(base, condition)
