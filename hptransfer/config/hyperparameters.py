"""Hyperparameters that a sweep may search: the config field of each, and its axis in log2."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hptransfer.config import DDPMConfig, ObjectiveConfig, TrialConfig
from hptransfer.errors import require


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


VLB_WEIGHT = Hyperparameter("objective", "vlb_weight", meaning="weight of the variance's bound")


def searchable(objective: ObjectiveConfig) -> dict[str, Hyperparameter]:
    """Return the HPs of a trial by name: those above, and what its objective has.

    Other scalars of an objective change the loss that decides, so no search can compare them.
    """
    own = {"vlb_weight": VLB_WEIGHT} if isinstance(objective, DDPMConfig) else {}
    return {**HYPERPARAMETERS, **own}


def hyperparameter(axis: str, objective: ObjectiveConfig) -> Hyperparameter:
    """Return the HP on the axis `log2_<hp>` of trials with this objective."""
    name = axis.removeprefix("log2_")
    return HYPERPARAMETERS.get(name) or searchable(objective)[name]


def hps(config: TrialConfig, axes: Sequence[str]) -> dict[str, float]:
    """Return where a trial stands on the axes `log2_<hp>`."""
    return {axis: hyperparameter(axis, config.objective).log2(config) for axis in axes}


def with_hyperparameters(config: TrialConfig, log2_values: Mapping[str, float]) -> TrialConfig:
    """A trial with HPs set; `log2_values` maps `log2_<hp>` to a point of its axis."""
    for name, log2 in log2_values.items():
        hp = hyperparameter(name, config.objective)
        group = dataclasses.replace(getattr(config, hp.group), **{hp.field: hp.value(log2)})
        config = dataclasses.replace(config, **{hp.group: group})
    return config


LARGEST_LOG2 = 120.0  # of an HP: 2**±120 is still a normal float32


def require_known_hp(name: str, objective: ObjectiveConfig) -> None:
    """Refuse a name that is no HP of trials with this objective."""
    known = searchable(objective)
    require(
        name in known,
        f"`search.{name}` is not a hyperparameter that can be swept. Those that can "
        f"with objective={objective.name}: {', '.join(known)}.",
    )
