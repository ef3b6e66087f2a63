"""Hyperparameters that a sweep may search: the config field of each, and its axis in log2."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hptransfer.config import AnyOptimizer, DDPMConfig, ObjectiveConfig, TrialConfig
from hptransfer.config.external import ExternalTrial
from hptransfer.config.identity import AnyTrial
from hptransfer.errors import require
from hptransfer.system.text import rounded


@dataclass(frozen=True)
class Hyperparameter:
    """A searchable HP; its axis is in log2 of a config field, or of 1 minus that for betas."""

    group: str  # of the config, e.g. optimizer
    field: str  # of that group
    complement: bool = False  # the axis is in log2 of 1 minus the field
    meaning: str = ""  # in words, for pictures and tables

    def value(self, log2: float) -> float:
        """The value of the field at a point of the axis."""
        return 1.0 - 2.0**log2 if self.complement else 2.0**log2

    def log2(self, config: TrialConfig) -> float:
        """The point of the axis, in log2, that a trial's field is."""
        value = getattr(getattr(config, self.group), self.field)
        return round(math.log2(1.0 - value if self.complement else value), 9)


HYPERPARAMETERS: Mapping[str, Hyperparameter] = {
    "lr": Hyperparameter("optimizer", "lr", meaning="base learning rate"),
    "adam_lr": Hyperparameter("optimizer", "adam_lr", meaning="base learning rate of AdamW's part"),
    "weight_decay": Hyperparameter("optimizer", "weight_decay", meaning="weight decay"),
    "decay_timescale": Hyperparameter(
        "optimizer", "decay_timescale", meaning="weight decay's time scale"
    ),
    "eps": Hyperparameter("optimizer", "eps", meaning="Adam epsilon"),
    "clip_norm": Hyperparameter("optimizer", "clip_norm", meaning="gradient clip norm"),
    "one_minus_beta1": Hyperparameter("optimizer", "beta1", True, "1 - Adam beta1"),
    "one_minus_beta2": Hyperparameter("optimizer", "beta2", True, "1 - Adam beta2"),
    "one_minus_momentum": Hyperparameter("optimizer", "momentum", True, "1 - Muon momentum"),
    "init_scale": Hyperparameter("parametrization", "init_scale", meaning="init scale"),
    "output_scale": Hyperparameter("parametrization", "output_scale", meaning="output scale"),
    "warmup_fraction": Hyperparameter("budget", "warmup_fraction", meaning="warm-up share"),
    "repa_weight": Hyperparameter("objective", "repa_weight", meaning="weight of REPA's loss"),
    "auxiliary_weight": Hyperparameter(
        "objective", "auxiliary_weight", meaning="weight of the auxiliary loss"
    ),
    **{
        f"lr_mult_{group}": Hyperparameter(
            "optimizer", f"lr_mult_{group}", meaning=f"learning rate multiplier of {parameters}"
        )
        for group, parameters in {
            "input": "input weights",
            "hidden": "hidden matrices",
            "output": "readout weights",
            "vector": "biases and gains",
            "adaln": "adaptive norms",
        }.items()
    },
}


VLB_WEIGHT = Hyperparameter("objective", "vlb_weight", meaning="weight of the variance's bound")


def searchable(objective: ObjectiveConfig, optimizer: AnyOptimizer) -> dict[str, Hyperparameter]:
    """Return the searchable HPs of trials with this objective and optimizer, by name.

    Other scalars of an objective change the loss that decides, so no search can compare them. The
    weights of REPA's loss and of a custom model's own do not: they are no part of that loss.
    """
    own = {"vlb_weight": VLB_WEIGHT} if isinstance(objective, DDPMConfig) else {}
    known = {
        name: hp
        for name, hp in HYPERPARAMETERS.items()
        if hp.group != "optimizer" or hasattr(optimizer, hp.field)
    }
    return {**known, **own}


def hyperparameter(axis: str) -> Hyperparameter:
    """Return the HP on the axis `log2_<hp>`."""
    return {**HYPERPARAMETERS, "vlb_weight": VLB_WEIGHT}[axis.removeprefix("log2_")]


def hps(config: TrialConfig | ExternalTrial, axes: Sequence[str]) -> dict[str, float]:
    """Return the points of a trial on the axes `log2_<hp>`."""
    if isinstance(config, ExternalTrial):
        return {axis: dict(config.hps)[axis.removeprefix("log2_")] for axis in axes}
    return {axis: hyperparameter(axis).log2(config) for axis in axes}


def with_hyperparameters(config: AnyTrial, log2_values: Mapping[str, float]) -> AnyTrial:
    """Return the trial with HPs set; `log2_values` maps `log2_<hp>` to a point of its axis."""
    if isinstance(config, ExternalTrial):
        return config.with_hps(log2_values)
    for name, log2 in log2_values.items():
        hp = hyperparameter(name)
        group = dataclasses.replace(getattr(config, hp.group), **{hp.field: hp.value(log2)})
        config = dataclasses.replace(config, **{hp.group: group})
    return config


def hp_words(axis: str) -> str:
    """Return an axis's hyperparameter in words, such as `learning rate` for `log2_lr`."""
    name = axis.removeprefix("log2_")
    known = {**HYPERPARAMETERS, "vlb_weight": VLB_WEIGHT}.get(name)
    words = name.replace("_", " ") if known is None else known.meaning
    return words.removeprefix("base ")


def hp_value(axis: str, point: float) -> float:
    """Return the value at a point of an axis: of `log2_<name>` a power of two, else the point."""
    return 2.0**point if axis.startswith("log2_") else point


def value_text(axis: str, value: float, digits: int = 3) -> str:
    """Return a hyperparameter's own value with so many significant digits.

    On an axis that is not in log2 a value near 1, such as a momentum of 0.9995, is told by its
    distance from 1.
    """
    if not axis.startswith("log2_") and 0 < abs(value - 1.0) < 0.1:
        return f"{1.0 + float(f'{value - 1.0:.{digits - 1}g}'):.10g}"
    return rounded(value, digits)


def axis_digits(axis: str) -> int:
    """Return the decimals in which a point of an axis is told: octaves need fewer than values."""
    return 2 if axis.startswith("log2_") else 4


LARGEST_LOG2 = 120.0  # largest size of a point: 2**±120 is still a normal float32


def require_known_hp(name: str, objective: ObjectiveConfig, optimizer: AnyOptimizer) -> None:
    """Refuse a name that is no HP of trials with this objective and optimizer."""
    known = searchable(objective, optimizer)
    require(
        name in known,
        f"`search.{name}` is not a hyperparameter that can be swept. With "
        f"objective={objective.name} and optimizer={optimizer.name} these can be: "
        f"{', '.join(known)}.",
    )
