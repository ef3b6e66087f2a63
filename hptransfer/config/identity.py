"""The identity of a trial: its canonical JSON, its key, its arm, and the shape of its pack."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from enum import Enum
from functools import wraps
from typing import Any, TypeVar

from hptransfer.config import (
    DDPMConfig,
    ParametrizationConfig,
    TrialConfig,
)
from hptransfer.config.choices import Broken, Scaling
from hptransfer.config.external import ExternalArm, ExternalTrial

T = TypeVar("T")
V = TypeVar("V")
AnyTrial = TypeVar("AnyTrial", TrialConfig, ExternalTrial)


def _remembered(function: Callable[[T], V]) -> Callable[[T], V]:
    """A function whose answer is kept in its argument, a frozen object, as `cached_property` does.

    A cache by value would hash the whole nested config at every call, which is ten times the work.
    """
    name = f"_{function.__name__.strip('_')}"

    @wraps(function)
    def remembered(about: T) -> V:
        kept = about.__dict__
        if name not in kept:
            kept[name] = function(about)
        return kept[name]

    return remembered


def shape_signature(config: AnyTrial) -> AnyTrial:
    """The trial with every field at its default in which trials of one pack may differ.

    They may differ in most fields of the optimizer, in warm-up, init scale, output scale, seed, and
    the weights of a learned variance's bound, of REPA's loss, unless that is off, and of a custom
    model's own, if it has one. A trial of a trainer that is not ours is its own pack.
    """
    if isinstance(config, ExternalTrial):
        return config
    objective = config.objective
    if isinstance(objective, DDPMConfig):
        objective = dataclasses.replace(objective, vlb_weight=DDPMConfig().vlb_weight)
    if objective.repa_weight:
        objective = dataclasses.replace(objective, repa_weight=1.0)
    if objective.auxiliary_weight is not None:
        objective = dataclasses.replace(objective, auxiliary_weight=1.0)
    return dataclasses.replace(
        config,
        optimizer=config.optimizer.of_pack(),
        parametrization=dataclasses.replace(
            config.parametrization, init_scale=1.0, output_scale=1.0
        ),
        objective=objective,
        budget=dataclasses.replace(config.budget, warmup_fraction=0.0),
        seed=0,
    )


def with_width(config: AnyTrial, width: int) -> AnyTrial:
    """The same trial at another width of its family."""
    if isinstance(config, ExternalTrial):
        return config.with_width(width)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, width=width))


def with_scaling(config: AnyTrial, scaling: Scaling | ExternalArm) -> AnyTrial:
    """The same trial under another parametrization."""
    if isinstance(config, ExternalTrial):
        return dataclasses.replace(config, parametrization=scaling.value)
    parametrization = dataclasses.replace(config.parametrization, scaling=Scaling(scaling))
    return dataclasses.replace(config, parametrization=parametrization)


def arm_of(config: TrialConfig | ExternalTrial) -> str:
    """The trial's arm: its parametrization, or `shared` at base width, where all are one model.

    Where depth, batch size or duration are scaled too the arms differ at base width as well. Of a
    trainer that is not ours nothing is known, so its arms share no trial.
    """
    if isinstance(config, ExternalTrial):
        return config.parametrization
    return "shared" if config.is_base else config.parametrization.scaling.value


def canonical(config: TrialConfig | ExternalTrial) -> dict[str, Any]:
    """The smallest JSON object that tells a trial from every other.

    Fields equal to their default are left out, tags of groups stay, floats have 12 significant
    digits, and a trial at base width is `mup` whatever its arm: there all arms are one trial.
    """
    if isinstance(config, ExternalTrial):
        return config.canonical()
    if arm_of(config) == "shared":
        config = dataclasses.replace(config, parametrization=_neutral(config.parametrization))
    return _short_form(config)


@_remembered
def _neutral(parametrization: ParametrizationConfig) -> ParametrizationConfig:
    """The parametrization that stands for every arm at base width, where all arms are one model."""
    return dataclasses.replace(
        parametrization, scaling=Scaling.mup, broken=Broken.none, **_OF_COMPLETE
    )


# The fields that only `complete` reads, with their defaults.
_OF_COMPLETE = {
    f.name: f.default
    for f in dataclasses.fields(ParametrizationConfig)
    if f.name in ("base_batch_size", "base_steps", "duration_exponent", "most_one_minus_beta")
}


def _short_form(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, tuple):
        return [_short_form(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    short = {}
    for f in dataclasses.fields(value):
        item = getattr(value, f.name)
        form = _short_form(item)
        group = dataclasses.is_dataclass(item)
        if f.metadata.get("tag") or (group and form) or (not group and item != f.default):
            short[f.name] = form
    return short


def canonical_json(config: TrialConfig | ExternalTrial) -> str:
    """The text of `canonical` with sorted keys, of which a trial's key is the hash.

    It is put together from the texts of the groups, since the trials of a sweep share most groups.
    """
    if isinstance(config, ExternalTrial):
        return json.dumps(config.canonical(), sort_keys=True, separators=(",", ":"))
    groups = {name: getattr(config, name) for name in _GROUPS}
    if arm_of(config) == "shared":
        groups["parametrization"] = _neutral(config.parametrization)
    texts = {name: text for name, group in groups.items() if (text := _group_text(group)) != "{}"}
    for name, default in _PLAIN.items():
        value = getattr(config, name)
        if value != default:
            texts[name] = json.dumps(_short_form(value))
    return "{" + ",".join(f'"{name}":{texts[name]}' for name in sorted(texts)) + "}"


@_remembered
def _group_text(group: Any) -> str:
    return json.dumps(_short_form(group), sort_keys=True, separators=(",", ":"))


# A trial's groups, and its fields that are none with their defaults.
_GROUPS = tuple(
    f.name for f in dataclasses.fields(TrialConfig) if dataclasses.is_dataclass(f.default)
)
_PLAIN = {f.name: f.default for f in dataclasses.fields(TrialConfig) if f.name not in _GROUPS}


@_remembered
def trial_key(config: TrialConfig | ExternalTrial) -> str:
    """The trial's identity: 12 hex digits of the sha256 of its canonical JSON."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()[:12]
