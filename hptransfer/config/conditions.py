"""What a sweep varies besides width: depth, batch size and steps, each with the others at rest."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hptransfer.config import TrialConfig, require_count
from hptransfer.config.choices import Method
from hptransfer.config.design import DesignConfig
from hptransfer.errors import require

Condition = Mapping[str, int | None]  # depth, batch_size, steps; None: the model has no depth

GROUPS = {"depth": "model", "batch_size": "budget", "steps": "budget"}


@dataclass(frozen=True)
class VaryConfig:
    """Further values of a condition; the base trial's own is always there and may be named."""

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
    """Return the condition under which a trial trains."""
    return {name: getattr(getattr(config, GROUPS[name]), name, None) for name in CONDITIONS}


def with_condition(config: TrialConfig, condition: Condition) -> TrialConfig:
    """Return the trial under another condition."""
    for name, value in condition.items():
        if value is not None:
            group = dataclasses.replace(getattr(config, GROUPS[name]), **{name: value})
            config = dataclasses.replace(config, **{GROUPS[name]: group})
    return config


def star(base: Condition, vary: VaryConfig) -> tuple[Condition, ...]:
    """Return the base's condition and then those that differ from it in one value."""
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
    """Refuse values that vary nothing or cannot be trained, and points that cut out no basins."""
    method = design.method
    require(
        vary == VaryConfig()
        or method is Method.grid
        or (method is Method.sobol and len(axes) == 1),
        "`sweep.vary` repeats the same points under every condition and compares their basins, so "
        f"it needs a grid, or sobol with one HP, but got {method.value} with {', '.join(axes)}. "
        "Set sweep.design.method=grid, or leave sweep.vary out.",
    )
    resting = condition_of(base)
    for name in CONDITIONS:
        values, own = getattr(vary, name), resting[name]
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
    for condition in star(resting, vary):
        with_condition(base, condition)


CONDITIONS = ("depth", "batch_size", "steps")  # what an optimum may follow besides width
