"""The rule of every parameter of a trial: role, factors, initial std; and initial parameters."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from hptransfer.config import CustomConfig, TrialConfig
from hptransfer.config.choices import Scaling
from hptransfer.models.families import initializer
from hptransfer.models.families.layers import Residual
from hptransfer.models.parametrization.factors import (
    Factors,
    Role,
    branch_factor,
    init_factor,
    role_factors,
)
from hptransfer.models.parametrization.measured import drawn_parameters, measured_std
from hptransfer.models.parametrization.roles import ShapedParameter, on_meta, shaped_parameters
from hptransfer.system.random_streams import torch_generator


@dataclass(frozen=True)
class ParameterRule:
    """A parameter of a model, with everything that the parametrization decides for it."""

    name: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    role: Role
    init_std: float  # with the trial's init scale; measured if the model is custom
    factors: Factors


@cache
def parameter_rules(config: TrialConfig) -> tuple[ParameterRule, ...]:
    """Return the rule of every trainable parameter, in the model's own order."""
    return tuple(
        ParameterRule(
            name=shaped.name,
            shape=shaped.shape,
            base_shape=shaped.base_shape,
            role=shaped.role,
            init_std=_initial_std(config, shaped),
            factors=role_factors(
                shaped.role,
                shaped.width_mult,
                config.parametrization,
                config.model.depth_mult if shaped.in_block else 1.0,
            ),
        )
        for shaped in shaped_parameters(config.model, config.data.layout)
    )


def parameter_count(config: TrialConfig) -> int:
    """Return the number of trainable numbers in a trial's model."""
    return sum(math.prod(rule.shape) for rule in parameter_rules(config))


def _initial_std(config: TrialConfig, shaped: ShapedParameter) -> float:
    """Return a parameter's initial std.

    Under µP it is the initialiser's at base width, times m^-1/2 for hidden matrices. Under the
    standard parametrization it is the initialiser's at the actual shape.
    """
    if isinstance(config.model, CustomConfig):
        return measured_std(config, shaped)
    parametrization, layout = config.parametrization, config.data.layout
    scale = parametrization.init_scale
    if parametrization.scaling is not Scaling.mup:
        how = initializer(config.model, layout, shaped.name, config.init)
        return scale * how.std(shaped.shape)
    base = dataclasses.replace(config.model, width=config.model.base_width)
    how = initializer(base, layout, shaped.name, config.init)
    continued = init_factor(shaped.role, shaped.width_mult, parametrization)
    return scale * how.std(shaped.base_shape) * continued


def initial_parameters(config: TrialConfig) -> dict[str, Tensor]:
    """Return every parameter's initial value by name; a family's each have a random stream."""
    if isinstance(config.model, CustomConfig):
        return drawn_parameters(config)
    parameters = {}
    for rule in parameter_rules(config):
        how = initializer(config.model, config.data.layout, rule.name, config.init)
        generator = torch_generator(config.seed, f"init {rule.name}")
        parameters[rule.name] = how.draw(rule.shape, rule.init_std, generator)
    return parameters


def forward_multipliers(config: TrialConfig) -> dict[str, float]:
    """Return the forward multipliers by buffer name.

    A readout's is the output scale times the forward factor. A residual branch has one only if
    depth scaling is on.
    """
    readouts = {
        f"{rule.name.removesuffix('.weight')}.multiplier": readout_factor(config, rule)
        for rule in parameter_rules(config)
        if rule.role is Role.output
    }
    return {**readouts, **branch_multipliers(config)}


def readout_factor(config: TrialConfig, rule: ParameterRule) -> float:
    """Return the multiplier of a readout's input; 1 for every other parameter."""
    scale = config.parametrization.output_scale if rule.role is Role.output else 1.0
    return rule.factors.forward * scale


def branch_multipliers(config: TrialConfig) -> dict[str, float]:
    """Return the multipliers of residual branches by buffer name; none without depth scaling."""
    branch = branch_factor(config.model.depth_mult, config.parametrization)
    if branch == 1.0:
        return {}
    model = on_meta(config.model, config.data.layout, config.model.width)
    residuals = [name for name, child in model.named_modules() if isinstance(child, Residual)]
    return {f"{name}.multiplier": branch for name in residuals}
