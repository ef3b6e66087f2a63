"""What a sweep asks: its searchable hyperparameters, axes, and the sweep itself."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hptransfer.config import TrialConfig, require
from hptransfer.vocabulary import Method, Scaling


# The hyperparameters a sweep may search: where each lives, and how θ = log2 HP maps to the field.
@dataclass(frozen=True)
class Hyperparameter:
    """A searchable HP. On the axis stands log2 of the value (or of 1 - value for the betas)."""

    group: str
    field: str
    complement: bool = False  # the axis is log2(1 - value)
    meaning: str = ""

    def value(self, log2: float) -> float:
        """The field's value at a point of the axis."""
        return 1.0 - 2.0**log2 if self.complement else 2.0**log2

    def log2(self, config: TrialConfig) -> float:
        """The point of the axis at which a trial stands."""
        value = getattr(getattr(config, self.group), self.field)
        return round(math.log2(1.0 - value if self.complement else value), 9)


HYPERPARAMETERS: Mapping[str, Hyperparameter] = {
    "lr": Hyperparameter("optimizer", "lr", meaning="base learning rate"),
    "weight_decay": Hyperparameter("optimizer", "weight_decay", meaning="weight decay"),
    "eps": Hyperparameter("optimizer", "eps", meaning="Adam epsilon"),
    "clip_norm": Hyperparameter("optimizer", "clip_norm", meaning="gradient clip norm"),
    "one_minus_beta1": Hyperparameter("optimizer", "beta1", True, "1 - Adam beta1"),
    "one_minus_beta2": Hyperparameter("optimizer", "beta2", True, "1 - Adam beta2"),
    "init_scale": Hyperparameter("parametrization", "init_scale", meaning="init scale"),
    "output_scale": Hyperparameter("parametrization", "output_scale", meaning="output scale"),
    "warmup_fraction": Hyperparameter("budget", "warmup_fraction", meaning="warm-up share"),
}


def with_hyperparameters(config: TrialConfig, log2_values: Mapping[str, float]) -> TrialConfig:
    """A trial with HPs set; `log2_values` maps `log2_<hp>` to a point of its axis."""
    for name, log2 in log2_values.items():
        hp = HYPERPARAMETERS[name.removeprefix("log2_")]
        group = dataclasses.replace(getattr(config, hp.group), **{hp.field: hp.value(log2)})
        config = dataclasses.replace(config, **{hp.group: group})
    return config


LARGEST_LOG2 = 120.0  # of an HP: 2**±120 is still a normal float32
MOST_POINTS = 10_000  # of an axis


@dataclass(frozen=True)
class Axis:
    """A search axis: `low`, `high` and `step` of log2 of the HP, both ends included."""

    low: float
    high: float
    step: float = 1.0

    def __post_init__(self) -> None:
        require(
            self.step > 0 and self.high > self.low,
            "A search axis needs low < high and step > 0, so that it has two points or more, but "
            f"got low={self.low}, high={self.high}, step={self.step}.",
        )
        require(
            self.low >= -LARGEST_LOG2 and self.high <= LARGEST_LOG2,
            f"A search axis is in log2 of the HP, so it must lie within ±{LARGEST_LOG2:g}, but got "
            f"low={self.low}, high={self.high}. Write -10 for 2^-10.",
        )
        count = (self.high - self.low) / self.step
        require(
            count < MOST_POINTS,
            f"A search axis may have {MOST_POINTS} points at most; step={self.step} gives more.",
        )
        require(
            abs(count - round(count)) < 1e-6,
            f"A search axis must end on its grid, but high - low = {self.high - self.low} is not "
            f"a multiple of step={self.step}.",
        )

    @property
    def points(self) -> tuple[float, ...]:
        """The grid, ascending, in log2 of the HP."""
        count = round((self.high - self.low) / self.step) + 1
        return tuple(round(self.low + i * self.step, 9) for i in range(count))


@dataclass(frozen=True)
class RealiseConfig:
    """The target's own sweep, which says afterwards what the transferred value cost."""

    points: int = 5  # grid points around the transferred value
    seeds: int = 3

    def __post_init__(self) -> None:
        require(
            self.points >= 3 and self.seeds >= 1,
            "`sweep.realise` needs at least 3 points and 1 seed, but got "
            f"points={self.points}, seeds={self.seeds}.",
        )


@dataclass(frozen=True)
class DesignConfig:
    """How a sweep's points are chosen from its axes."""

    method: Method = Method.grid
    points: int | None = None  # of an arm at a width, all rounds together; null: the method's own
    round: int | None = None  # points asked at a time of an arm at a width; null: the method's own
    seed: int = 0  # of the choice, not of the trials

    def __post_init__(self) -> None:
        for name in ("points", "round"):
            value = getattr(self, name)
            require(
                value is None or value > 0,
                f"`sweep.design.{name}` must be positive or null, but got {value}.",
            )
        require(
            self.seed >= 0, f"`sweep.design.seed` must not be negative, but got {self.seed}."
        )


@dataclass(frozen=True)
class VerdictConfig:
    """The tolerance of the verdict."""

    max_regret: float | None = None  # δ in units of the loss; null: max(run-to-run sd, gain / 4)


@dataclass(frozen=True)
class SweepConfig:
    """A question: a set of trials, and the statistic that will answer it."""

    name: str
    question: str
    statistic: str
    base: TrialConfig
    widths: tuple[int, ...]
    parametrizations: tuple[Scaling, ...]
    seeds: tuple[int, ...]
    search: tuple[tuple[str, Axis], ...]  # (hp name, axis), in the order of the file
    target: TrialConfig | None = None  # the target run, but for the transferred HPs
    realise: RealiseConfig = RealiseConfig()
    verdict: VerdictConfig = VerdictConfig()
    design: DesignConfig = DesignConfig()
    allow: tuple[str, ...] = ()  # what may differ between proxies and target besides width

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
            "`sweep.parametrizations` must name each arm once, but got "
            f"{[scaling.value for scaling in self.parametrizations]}. Remove the repeated one.",
        )
        require(
            self.seeds[0] >= 0, f"`sweep.seeds` must not be negative, but got {list(self.seeds)}."
        )
        for name, _ in self.search:
            require_known_hp(name)
        require_allowable(self.allow)

    @property
    def axes(self) -> tuple[str, ...]:
        """The searched HPs as the ledger names them: `log2_<hp>`."""
        return tuple(f"log2_{name}" for name, _ in self.search)


_SWEEP_PATHS = {
    "widths": "sweep.widths",
    "parametrizations": "sweep.parametrizations",
    "seeds": "sweep.seeds",
    "search": "search",
}


def require_allowable(allow: Collection[str]) -> None:
    """Refuse what no target may differ in."""
    require(set(allow) <= {"depth"}, f"`transfer.allow` may hold depth, but got {list(allow)}.")


def require_known_hp(name: str) -> None:
    """Refuse a name that is no searchable HP."""
    require(
        name in HYPERPARAMETERS,
        f"`search.{name}` is not a hyperparameter that can be swept. Those that can: "
        f"{', '.join(HYPERPARAMETERS)}.",
    )
