"""The record of a sweep: its base trial, widths, arms, seeds, axes, design and target."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hptransfer.config import TrialConfig
from hptransfer.config.checks import require_count, require_finite, require_share
from hptransfer.config.choices import Method, Scaling
from hptransfer.config.external import (
    ExternalArm,
    ExternalTrial,
    require_names,
    require_placeholders,
)
from hptransfer.config.hyperparameters import LARGEST_LOG2, require_known_hp
from hptransfer.config.identity import AnyTrial
from hptransfer.config.records import read_value
from hptransfer.errors import UserError, abbreviate, require

MOST_POINTS = 100_000  # points of an arm at a width: more can only be a slip

ADAPTIVE = frozenset({Method.tpe, Method.gp, Method.cmaes, Method.refine})
# Default points of an arm at a width, all rounds together, and points of a round. The paper's MMDiT
# search has 80; refinement seldom spends more than six (benchmarks/refine.py).
POINTS = {Method.sobol: 16, Method.tpe: 80, Method.gp: 80, Method.cmaes: 80, Method.refine: 6}
ROUND = {Method.tpe: 8, Method.gp: 8, Method.cmaes: 8, Method.refine: 2}


@dataclass(frozen=True)
class DesignConfig:
    """How a sweep's points are chosen from its axes."""

    method: Method = Method.grid  # how points are chosen from the axes of `search`
    points: int | None = None  # at each width and parametrization; null: the method's own
    round: int | None = None  # points asked at a time; null: the method's own
    seed: int = 0  # of the Sobol or Optuna sampler; trials have `sweep.seeds`

    @property
    def total(self) -> int:
        """The points of an arm at a width, all rounds together."""
        return self.points or POINTS[self.method]

    @property
    def batch(self) -> int:
        """The points of a round of an adaptive method, for an arm at a width."""
        return self.round or ROUND[self.method]

    def __post_init__(self) -> None:
        for name in ("points", "round"):
            require_count(f"sweep.design.{name}", getattr(self, name), most=MOST_POINTS)
        require_count("sweep.design.seed", self.seed, least=0)


def require_axes(design: DesignConfig, axes: Sequence[str]) -> None:
    """Refuse a method that cannot search so many axes, and fields that the method ignores."""
    method, names = design.method, ", ".join(axes)
    require(
        method is not Method.refine or len(axes) == 1,
        "`sweep.design.method=refine` works on one hyperparameter, so `search` must hold one "
        f"entry, but it holds {names}. Leave one, or choose tpe, gp, cmaes, sobol or grid.",
    )
    require(
        method is not Method.cmaes or len(axes) > 1,
        "`sweep.design.method=cmaes` needs two hyperparameters or more, but `search` holds "
        f"{names}. Choose refine, tpe or gp.",
    )
    require(
        method is not Method.grid or design.points is None,
        "`sweep.design.points` must be null for a grid, whose points come from `search`, but got "
        f"{design.points}. Set it to null, or choose another sweep.design.method.",
    )
    require(
        method in ADAPTIVE or design.round is None,
        "`sweep.design.round` must be null unless the method asks in rounds (refine, tpe, gp, "
        f"cmaes), but the method is {method.value}. Set it to null.",
    )


Condition = Mapping[str, int | None]  # name in CONDITIONS -> value; None: a model without depth

CONDITION_GROUPS = {"depth": "model", "batch_size": "budget", "steps": "budget"}
CONDITIONS = tuple(CONDITION_GROUPS)
AXIS_WORDS = {
    "width": "width",
    "depth": "depth",
    "batch_size": "batch size",
    "steps": "training steps",
}
TARGET_WORDS = {  # the override that names a target's value on an axis
    "width": "model.width",
    "depth": "model.depth",
    "batch_size": "budget.batch_size",
    "steps": "budget.steps",
}


@dataclass(frozen=True)
class VaryConfig:
    """Further values of each condition; the base trial's own value is always swept as well."""

    depth: tuple[int, ...] = ()  # numbers of blocks
    batch_size: tuple[int, ...] = ()  # numbers of samples a step
    steps: tuple[int, ...] = ()  # numbers of optimizer steps

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


def condition_of(config: TrialConfig | ExternalTrial) -> Condition:
    """Return the depth, batch size and steps of a trial, as far as they are known."""
    if isinstance(config, ExternalTrial):
        return fixed_condition(dict(config.fixed))
    return {
        name: getattr(getattr(config, CONDITION_GROUPS[name]), name, None) for name in CONDITIONS
    }


def fixed_condition(fixed: Mapping[str, Any]) -> Condition:
    """Return the depth, batch size and steps among the fixed values of a trainer that is not ours.

    They are None where `fixed` lacks them, or does not give them as whole numbers.
    """
    found = {name: fixed.get(name) for name in CONDITIONS}
    return {name: value if isinstance(value, int) else None for name, value in found.items()}


def with_condition(config: AnyTrial, condition: Condition) -> AnyTrial:
    """Return the trial with the depth, batch size and steps of a condition."""
    if isinstance(config, ExternalTrial):
        return config.with_fixed({k: v for k, v in condition.items() if v is not None})
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
        "`sweep.vary` compares the same points at every depth, batch size and number of steps, "
        f"so it needs a grid, or sobol with one hyperparameter, but got {method.value} with "
        f"{', '.join(axes)}. Set sweep.design.method=grid, or leave sweep.vary out.",
    )
    of_base = condition_of(base)
    for name in CONDITIONS:
        values, own = getattr(vary, name), of_base[name]
        require(
            not values or own is not None,
            f"`sweep.vary.{name}` needs the {name} that all other trials have, but "
            + (
                f"`fixed.{name}` does not give it as a whole number. Set it."
                if isinstance(base, ExternalTrial)
                else f"a {base.model.family} model has none. Leave it out."
            ),
        )
        require(
            values != (own,),
            f"`sweep.vary.{name}` must name a value other than that of the base config, but got "
            f"only {own}. Add one, or leave it out.",
        )
    for condition in one_at_a_time(of_base, vary):
        with_condition(base, condition)


MOST_AXIS_POINTS = 10_000  # points of an axis, and of a target's own sweep
MOST_TRIALS = 1_000_000  # trials of a sweep: more than a ledger is made for


@dataclass(frozen=True)
class Axis:
    """The points of a search axis, in log2 of the HP: a grid with both its ends, or a list."""

    low: float
    high: float
    step: float = 1.0  # spacing of the grid; of a list the smallest spacing
    listed: tuple[float, ...] = ()  # the points, ascending; empty: those of the grid

    def __post_init__(self) -> None:
        require(
            self.step > 0 and self.high > self.low,
            "A search axis needs low < high and step > 0, so that it has two points or more, but "
            f"got low={self.low}, high={self.high}, step={self.step}.",
        )
        require(
            self.low >= -LARGEST_LOG2 and self.high <= LARGEST_LOG2,
            "A search axis gives log2 of the hyperparameter, so it must lie within "
            f"±{LARGEST_LOG2:g}, but got low={self.low}, high={self.high}. Write -10 for 2^-10.",
        )
        count = len(self.listed) or (self.high - self.low) / self.step
        require(
            count < MOST_AXIS_POINTS,
            f"A search axis may have at most {MOST_AXIS_POINTS} points, but step={self.step} "
            "gives more. Take a larger step.",
        )
        require(
            bool(self.listed) or abs(count - round(count)) < 1e-6,
            "The range of a search axis must be a multiple of its step, but high - low = "
            f"{self.high - self.low} is not a multiple of step={self.step}. Change one of them.",
        )

    @property
    def points(self) -> tuple[float, ...]:
        """All points, ascending, in log2 of the HP."""
        if self.listed:
            return self.listed
        count = round((self.high - self.low) / self.step) + 1
        return tuple(round(self.low + i * self.step, 9) for i in range(count))


# HPs that are far below 1, so that an axis in log2 lies below zero.
SMALL_HPS = frozenset(
    {"lr", "weight_decay", "eps", "one_minus_beta1", "one_minus_beta2", "warmup_fraction"}
    | {"vlb_weight"}
)
BELOW_ONE = frozenset({"one_minus_beta1", "one_minus_beta2", "warmup_fraction"})
SURELY_VALUES = 0.25  # octaves: no grid in log2 lies between 2^0 and 2^0.25


def read_axis(name: str, entry: Any, *, external: bool = False) -> Axis:
    """The axis that an entry of the section `search` describes.

    Args:
        name: of the HP.
        external: whether the HP is a word of a trainer that is not ours, so that a range between
            0 and 1 may be meant as values whatever its name.
        entry: `{low, high, step}` in log2 of the HP, or as values where only values can be meant; a
            list of its values; or `{points: [...]}` in log2, as results folders record a list.

    Raises:
        UserError: anything else, values that are not positive and different, or a range that may
            be in log2 or not.
    """
    where, keys = f"search.{name}", {"low", "high", "step"}
    if isinstance(entry, Sequence) and not isinstance(entry, str):
        values = read_value(list[float], list(entry), where)
        require(
            all(0 < value < math.inf for value in values),
            f"`{where}` as a list gives values of the hyperparameter, which must be positive, but "
            f"got {abbreviate(entry)}. Give low and high for a grid in log2.",
        )
        return _listed(where, [round(math.log2(value), 9) for value in values], entry)
    if isinstance(entry, Mapping) and set(entry) == {"points"}:
        points = read_value(tuple[float, ...], entry["points"], f"{where}.points")
        return _listed(where, points, entry)
    if not isinstance(entry, Mapping) or not {"low", "high"} <= set(entry) <= keys:
        raise UserError(
            f"`{where}` must give low, high and perhaps step, in log2, or a list of values, but "
            f"got {abbreviate(entry)}. Write e.g. {where}.low=-10 {where}.high=-3."
        )
    ends = {key: read_value(float, value, f"{where}.{key}") for key, value in entry.items()}
    if (external or name in SMALL_HPS) and 0.0 < ends["low"] < ends["high"] < 1.0:
        return _axis_of_values(name, **ends)
    return Axis(**ends)


def _axis_of_values(name: str, low: float, high: float, step: float | None = None) -> Axis:
    """The axis of a range between 0 and 1, whose log2 no small HP has."""
    where, ends = f"search.{name}", f"{low:g} to {high:g}"
    if step is None or not 0.0 < step <= high - low:
        count = math.floor(math.log2(high / low) + 1e-9) + 1
        listed = _typed(where, [low * 2.0**i for i in range(min(count, MOST_TYPED))])
        problem = "no step" if step is None else f"the step {step:g}"
        raise UserError(
            f"`{where}` from {ends} looks like values of the hyperparameter and not like their "
            f"log2, but it has {problem}. List the values: {listed}"
        )
    count = (high - low) / step
    require(
        count < MOST_AXIS_POINTS and abs(count - round(count)) < 1e-6,
        "The range of a search axis must be a multiple of its step, with at most "
        f"{MOST_AXIS_POINTS} points, but `{where}` from {ends} has step={step:g}. Choose a step "
        "that divides high - low.",
    )
    values = [low + i * step for i in range(round(count) + 1)]
    if name not in BELOW_ONE and high > SURELY_VALUES:
        first, second = (_typed(where, each) for each in (values, [2.0**v for v in values]))
        raise UserError(
            f"`{where}` from {ends} could be values of the hyperparameter, or their log2, which "
            f"would be values from {2.0**low:.4g} to {2.0**high:.4g}. For values write "
            f"{first}; for log2 write {second}"
        )
    return _listed(where, [round(math.log2(value), 9) for value in values], values)


MOST_TYPED = 64  # values that a message lists as an override


def _typed(where: str, values: Sequence[float]) -> str:
    return f"'{where}=[{','.join(f'{value:.9g}' for value in values[:MOST_TYPED])}]'"


def _listed(where: str, points: Sequence[float], given: Any) -> Axis:
    require(
        len(set(points)) == len(points) > 1 and all(map(math.isfinite, points)),
        f"`{where}` must list two different values or more, but got {abbreviate(given)}.",
    )
    ordered = sorted(points)
    step = min(b - a for a, b in itertools.pairwise(ordered))
    return Axis(ordered[0], ordered[-1], step, tuple(ordered))


def axis_entry(axis: Axis) -> dict[str, Any]:
    """An axis as an entry of the section `search`, from which `read_axis` makes it again."""
    if axis.listed:
        return {"points": list(axis.listed)}
    return {"low": axis.low, "high": axis.high, "step": axis.step}


@dataclass(frozen=True)
class RealiseConfig:
    """The target's own trials, which tell afterwards what the transferred value cost."""

    points: int = 5  # grid points nearest to the transferred value
    seeds: int = 3  # seeds of each point

    def __post_init__(self) -> None:
        require(
            self.points >= 3 and self.seeds >= 1,
            "`sweep.realise` needs at least 3 points and 1 seed, but got "
            f"points={self.points}, seeds={self.seeds}.",
        )
        for name in ("points", "seeds"):
            require_count(f"sweep.realise.{name}", getattr(self, name), most=MOST_AXIS_POINTS)


@dataclass(frozen=True)
class VerdictConfig:
    """The limits of the verdict; docs/evidence tells how often the defaults are right."""

    max_octaves: float = 0.5  # octaves to the widest proxy's optimum; beyond, it moves
    max_compute_percent: float = 5.0  # cost in % of the target's compute; beyond, it matters
    max_loss_percent: float = 0.3  # the same in % of the loss, where no law of the loss is known
    max_regret: float | None = None  # the same in units of the loss; null: one of the two above
    sure: float = 0.85  # probability from which an answer is yes or no, not unclear

    def __post_init__(self) -> None:
        for name in ("max_octaves", "max_compute_percent", "max_loss_percent", "max_regret"):
            require_finite(f"verdict.{name}", getattr(self, name), least=0)
        require_share("verdict.sure", self.sure)
        require(
            self.sure > 0.5,
            f"`verdict.sure` must lie above 0.5, but got {self.sure}. The default is 0.85.",
        )


# The fields of the rule of earlier versions, which judged by a tolerance δ, with their defaults.
EARLIER_RULE = {"gain_share": 0.25, "sure": 0.95, "likely": 0.25, "edge_share": 0.05}


def current_rule(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `verdict` section of a file without the fields of earlier versions.

    Raises:
        UserError: one of them was set by hand, so that leaving it out would change the question.
    """
    if not {"gain_share", "likely", "edge_share"} & section.keys():
        return dict(section)
    changed = {k: v for k, v in EARLIER_RULE.items() if section.get(k, v) != v}
    require(
        not changed,
        "The verdict is decided by verdict.max_octaves and verdict.max_compute_percent, but the "
        f"file sets {', '.join(changed)}, which earlier versions used. Remove "
        f"{', '.join(changed)} from its verdict section, and set those instead if the defaults do "
        "not suit.",
    )
    return {k: v for k, v in section.items() if k not in EARLIER_RULE}


@dataclass(frozen=True)
class SweepConfig:
    """A sweep: a set of trials, and the statistic that will answer its question."""

    name: str  # of the sweep and of its results folder
    question: str  # what the sweep asks, in a sentence
    statistic: str  # the number that will answer it, stated before anything runs
    base: TrialConfig
    widths: tuple[int, ...]
    parametrizations: tuple[Scaling, ...]
    seeds: tuple[int, ...]
    search: tuple[tuple[str, Axis], ...]  # (hp name, axis), in the order of the file
    target: TrialConfig | None = None  # the target run, before its HPs are set
    realise: RealiseConfig = RealiseConfig()
    verdict: VerdictConfig = VerdictConfig()
    design: DesignConfig = DesignConfig()
    allow: tuple[str, ...] = ()  # what may differ between proxies and target besides width
    vary: VaryConfig = VaryConfig()
    gate: bool = True  # a µP arm is swept only after its coordinate check passed

    def __post_init__(self) -> None:
        for name in ("widths", "parametrizations", "seeds", "search"):
            require(
                len(getattr(self, name)) > 0,
                f"A sweep needs at least one entry in `{_SWEEP_PATHS[name]}`, but it is empty. "
                "Add one.",
            )
        for name in ("widths", "seeds"):
            values = getattr(self, name)
            require(
                all(a < b for a, b in itertools.pairwise(values)),
                f"`sweep.{name}` must be increasing, but got {list(values)}. Sort the list and "
                "name each value once.",
            )
        require(
            len(set(self.parametrizations)) == len(self.parametrizations),
            "`sweep.parametrizations` must name each one once, but got "
            f"{[scaling.value for scaling in self.parametrizations]}. Remove the repeated one.",
        )
        require(
            self.seeds[0] >= 0, f"`sweep.seeds` must not be negative, but got {list(self.seeds)}."
        )
        self._require_searchable()
        for name, axis in self.search:
            require(
                not axis.listed or self.design.method is Method.grid,
                f"`search.{name}` lists its points, which only a grid can use, but "
                f"sweep.design.method is {self.design.method.value}. Give low and high, or set "
                "sweep.design.method=grid.",
            )
        require_axes(self.design, self.axes)
        require_varied(self.base, self.vary, self.design, self.axes)
        _require_modest(self)
        require_allowable(self.allow)

    def _require_searchable(self) -> None:
        for name, _ in self.search:
            require_known_hp(name, self.base.objective, self.base.optimizer)
        _require_one_measure(self)

    @property
    def axes(self) -> tuple[str, ...]:
        """The searched HPs as the ledger names them: `log2_<hp>`."""
        return tuple(f"log2_{name}" for name, _ in self.search)

    @property
    def is_adaptive(self) -> bool:
        """Whether rounds of points are asked, each from the losses of those before."""
        return self.design.method in ADAPTIVE

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions under which every width is swept, that of the base trial first."""
        return one_at_a_time(condition_of(self.base), self.vary)

    @property
    def varied(self) -> tuple[str, ...]:
        """The dotted keys of the conditions of which there are several values."""
        return tuple(
            f"{group}.{name}"
            for name, group in CONDITION_GROUPS.items()
            if getattr(self.vary, name)
        )


@dataclass(frozen=True)
class ExternalSweep(SweepConfig):
    """A sweep whose trials a trainer that is not ours runs."""

    base: ExternalTrial  # pyright: ignore[reportIncompatibleVariableOverride]
    parametrizations: tuple[ExternalArm, ...]  # pyright: ignore[reportIncompatibleVariableOverride]
    # The target run, before its HPs are set.
    target: ExternalTrial | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    # What of the target is trained too, to see what the value cost; None: nothing.
    realise: RealiseConfig | None = None  # pyright: ignore[reportIncompatibleVariableOverride]

    def _require_searchable(self) -> None:
        names = [name for name, _ in self.search]
        require_names(names, dict(self.base.fixed))
        placed = self.base.with_hps({f"log2_{name}": 0.0 for name in names})
        require_placeholders(placed, search=names, seeds=len(self.seeds))


def _require_one_measure(sweep: SweepConfig) -> None:
    """Refuse to search the weight of a loss that the trials do not have, or that decides."""
    require(
        "log2_repa_weight" not in sweep.axes or sweep.base.objective.repa_weight > 0,
        "`search.repa_weight` weights REPA's loss, but it is off. Set objective.repa_weight above "
        "0, for example to 0.5, at which the coordinate check trains.",
    )
    require(
        "log2_auxiliary_weight" not in sweep.axes or bool(sweep.base.objective.auxiliary_weight),
        "`search.auxiliary_weight` weights the loss that a model of your own returns, but it is "
        "off. Set objective.auxiliary_weight above 0, for example to 0.01, at which the coordinate "
        "check trains.",
    )
    if "log2_vlb_weight" not in sweep.axes:
        return
    require(
        getattr(sweep.base.model, "learn_sigma", False),
        "`search.vlb_weight` weights a learned variance, but the model has none. Set "
        "model.learn_sigma=true.",
    )
    require(
        getattr(sweep.base.objective, "deciding_vlb_weight", None) is not None,
        "Trials with different `objective.vlb_weight` can only be compared by one common loss, "
        "but objective.deciding_vlb_weight is null. Set it, for example to 0.001.",
    )


def _require_modest(sweep: SweepConfig) -> None:
    """Refuse a sweep of more than `MOST_TRIALS` trials, before its grid is laid out."""
    of_grid = math.prod(len(axis.points) for _, axis in sweep.search)
    points = of_grid if sweep.design.method is Method.grid else sweep.design.total
    models = len(sweep.widths) * len(sweep.parametrizations) * len(sweep.conditions)
    count = points * models * len(sweep.seeds)
    require(
        count <= MOST_TRIALS,
        f"A sweep may have at most {MOST_TRIALS:,} trials, but this one has {count:,}. Take "
        "larger steps, fewer search axes or fewer seeds.",
    )


_SWEEP_PATHS = {
    "widths": "sweep.widths",
    "parametrizations": "sweep.parametrizations",
    "seeds": "sweep.seeds",
    "search": "search",
}


def require_allowable(allow: Collection[str]) -> None:
    """Refuse names in `transfer.allow` other than depth."""
    require(
        set(allow) <= {"depth"},
        f"`transfer.allow` may hold only depth, but got {list(allow)}. Write [depth] or [].",
    )
