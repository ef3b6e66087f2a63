"""µP and the standard parametrization: one rule from role and width ratio to every factor.

Roles come from base shapes (the `mup` package): which dimensions grow with width. The rule is
Table 8 of arXiv 2203.03466 for Adam, as arXiv 2505.15270 applies it to diffusion
transformers. m is the width over the base width. Invariants: at m = 1 every factor is 1 in every
parametrization; `standard` has every factor 1 at every width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache

import torch
from mup.infshape import InfShape
from mup.shape import make_base_shapes, zip_infshapes
from torch import Tensor, nn

from hptransfer.config import DataConfig, ModelConfig, ParametrizationConfig, TrialConfig
from hptransfer.models import build_architecture, initializer
from hptransfer.models.layers import Readout
from hptransfer.streams import torch_generator
from hptransfer.vocabulary import Broken, EpsScaling, Scaling, WeightDecayMode


class Role(Enum):
    """What width does to a parameter: which of its dimensions grow."""

    input = "input"  # fan-out grows: embeddings, first layers
    hidden = "hidden"  # both grow
    output = "output"  # fan-in grows: the readout
    vector = "vector"  # biases and gains whose length grows
    finite = "finite"  # nothing grows


@dataclass(frozen=True)
class Factors:
    """What width multiplies, for one parameter."""

    lr: float
    weight_decay: float  # of a coupled AdamW's λ, so that lr·λ follows `WeightDecayMode`
    eps: float
    forward: float  # of the layer's input


@dataclass(frozen=True)
class ParameterRule:
    """A parameter of a model, with everything its parametrization decides."""

    name: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    role: Role
    init_std: float  # at init_scale 1 it is the initialiser's; the trial's init scale included
    factors: Factors


def factors(role: Role, m: float, parametrization: ParametrizationConfig) -> Factors:
    """Return the factors of a role at width ratio m (arXiv 2203.03466, Table 8, Adam)."""
    lr = _lr_factor(role, m, parametrization)
    mode = parametrization.weight_decay_mode
    mup = parametrization.scaling is Scaling.mup
    scaled_eps = mup and role is not Role.finite and parametrization.eps_scaling is EpsScaling.width
    return Factors(
        lr=lr,
        weight_decay=1.0 if mode is WeightDecayMode.unscaled else 1.0 / lr,
        eps=1.0 / m if scaled_eps else 1.0,
        forward=_forward_factor(role, m, parametrization),
    )


def _lr_factor(role: Role, m: float, parametrization: ParametrizationConfig) -> float:
    if parametrization.scaling is Scaling.standard_embed:
        return m if role is Role.input else 1.0
    if parametrization.scaling is Scaling.standard:
        return 1.0
    match role, parametrization.broken:
        case Role.hidden, Broken.hidden_lr:
            return 1.0
        case Role.hidden, Broken.hidden_lr_squared:
            return m**-2
        case Role.input, Broken.input_lr:
            return 1.0 / m
        case Role.hidden, _:
            return 1.0 / m
    return 1.0


def _forward_factor(role: Role, m: float, parametrization: ParametrizationConfig) -> float:
    if parametrization.scaling is not Scaling.mup or role is not Role.output:
        return 1.0
    match parametrization.broken:
        case Broken.readout:
            return 1.0
        case Broken.readout_twice:
            return m**-2
    return 1.0 / m


def _role(infshape: InfShape, is_embedding: bool) -> Role:
    growing = infshape.ninf()
    if growing == 0:
        return Role.finite
    if len(infshape) == 1:
        return Role.vector
    if growing == 2:
        return Role.hidden
    return Role.output if infshape[1].isinf() and not is_embedding else Role.input


def _on_meta(model: ModelConfig, data: DataConfig, width: int) -> nn.Module:
    with torch.device("meta"):
        return build_architecture(dataclasses.replace(model, width=width), data)


@cache
def parameter_roles(model: ModelConfig, data: DataConfig) -> dict[str, tuple[Role, InfShape]]:
    """Return each parameter's role and base shape, in the model's own order.

    The delta model doubles the base width, so no growing dimension can pass for a fixed one.
    """
    base = _on_meta(model, data, model.base_width)
    delta = _on_meta(model, data, 2 * model.base_width)
    target = _on_meta(model, data, model.width)
    infshapes = zip_infshapes(make_base_shapes(base, delta), target)
    embeddings = {
        f"{name}.weight" for name, child in base.named_modules() if isinstance(child, nn.Embedding)
    }
    return {name: (_role(shape, name in embeddings), shape) for name, shape in infshapes.items()}


def _initial_std(config: TrialConfig, name: str, role: Role, infshape: InfShape) -> float:
    """Return the std: `init` says what it is at base width, the scaling how it goes on from there.

    Under µP a hidden matrix continues with m^-1/2 and all others stay; under the standard
    parametrization the initialiser's own formula is taken at the actual shape.
    """
    how = initializer(config.model, name, config.init)
    scale = config.parametrization.init_scale
    if config.parametrization.scaling is not Scaling.mup:
        return scale * how.std(infshape.shape())
    base_shape = [dim.base_dim if dim.isinf() else dim.dim for dim in infshape]
    continued = config.width_mult**-0.5 if role is Role.hidden else 1.0
    return scale * how.std(base_shape) * continued


@cache
def parameter_rules(config: TrialConfig) -> tuple[ParameterRule, ...]:
    """Return the rule of every trainable parameter, in the model's own order."""
    rules = []
    for name, (role, infshape) in parameter_roles(config.model, config.data).items():
        rules.append(
            ParameterRule(
                name=name,
                shape=tuple(infshape.shape()),
                base_shape=tuple(d.base_dim if d.isinf() else d.dim for d in infshape),
                role=role,
                init_std=_initial_std(config, name, role, infshape),
                factors=factors(role, config.width_mult, config.parametrization),
            )
        )
    return tuple(rules)


def initial_parameters(config: TrialConfig) -> dict[str, Tensor]:
    """Draw every parameter, each from its own stream of (seed, its name)."""
    parameters = {}
    for rule in parameter_rules(config):
        how = initializer(config.model, rule.name, config.init)
        generator = torch_generator(config.seed, f"init {rule.name}")
        parameters[rule.name] = how.draw(rule.shape, rule.init_std, generator)
    return parameters


def readout_multipliers(config: TrialConfig) -> dict[str, float]:
    """Return each readout's forward multiplier by buffer name: output scale times its factor."""
    return {
        f"{rule.name.removesuffix('.weight')}.multiplier": rule.factors.forward
        * config.parametrization.output_scale
        for rule in parameter_rules(config)
        if rule.role is Role.output
    }


def build_model(config: TrialConfig) -> nn.Module:
    """Build a trial's model, parametrized and initialised, ready to train in any loop."""
    model = build_architecture(config.model, config.data)
    with torch.no_grad():
        for name, value in initial_parameters(config).items():
            model.get_parameter(name).copy_(value)
        for name, value in readout_multipliers(config).items():
            readout = model.get_submodule(name.removesuffix(".multiplier"))
            assert isinstance(readout, Readout), f"{name}: an output layer must be a Readout"
            readout.multiplier.fill_(value)
    return model


def param_groups(model: nn.Module, config: TrialConfig) -> list[dict[str, object]]:
    """Return groups for any torch optimizer with per-group lr, weight_decay and eps.

    Multiply a schedule into each group's `lr`; an absolute value would undo the factors. Under
    `WeightDecayMode.independent` the decay is λ per step at the base schedule.
    """
    by_factors: dict[Factors, list[ParameterRule]] = {}
    for rule in parameter_rules(config):
        by_factors.setdefault(dataclasses.replace(rule.factors, forward=1.0), []).append(rule)
    return [_group(model, config, key, rules) for key, rules in by_factors.items()]


def _group(
    model: nn.Module, config: TrialConfig, key: Factors, rules: Sequence[ParameterRule]
) -> dict[str, object]:
    optimizer = config.optimizer
    independent = config.parametrization.weight_decay_mode is WeightDecayMode.independent
    decay = optimizer.weight_decay / (optimizer.lr if independent else 1.0)
    return {
        "params": [model.get_parameter(rule.name) for rule in rules],
        "names": [rule.name for rule in rules],
        "lr": optimizer.lr * key.lr,
        "weight_decay": decay * key.weight_decay,
        "eps": optimizer.eps * key.eps,
        "betas": (optimizer.beta1, optimizer.beta2),
    }
