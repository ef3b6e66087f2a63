"""The rule of every parameter of a trial, and the model and the optimizer groups that follow it.

A readout's factor acts on the input of its layer, or is folded into its weight. Under AdamW a layer
on f·x with weight W and the same layer on x with weight f·W train alike if the second has f times
the learning rate, and 1/f times the weight decay and epsilon. The second's gradient is 1/f times
the first's, and AdamW's step without epsilon does not depend on a gradient's scale (the
abc-symmetry of arXiv 2011.14522, for Adam). A clipped global gradient norm does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache

import torch
from torch import Tensor, nn

from hptransfer.config import CustomConfig, LionConfig, MuonConfig, TrialConfig
from hptransfer.config.choices import TRANSFERRING
from hptransfer.errors import UserError
from hptransfer.models.families import build_architecture, initializer
from hptransfer.models.families.layers import Readout, Residual
from hptransfer.models.parametrization.factors import (
    Factors,
    Role,
    adam_betas,
    base_weight_decay,
    branch_factor,
    clock_of,
    coupled_decay,
    folded,
    group_values,
    init_factor,
    matrix_momentum,
    role_factors,
)
from hptransfer.models.parametrization.measured import drawn_parameters, measured_std
from hptransfer.models.parametrization.muon import Matrices, matrices_of, muon_factors, rate_group
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
    rate_group: str  # whose base rate optimizer.lr_mult_<rate_group> multiplies
    matrices: Matrices | None  # as Muon orthogonalises it; None: AdamW or Lion updates it


@cache
def parameter_rules(config: TrialConfig) -> tuple[ParameterRule, ...]:
    """Return the rule of every trainable parameter, in the model's own order."""
    return tuple(_rule(config, shaped) for shaped in shaped_parameters(config.model, config.layout))


def _rule(config: TrialConfig, shaped: ShapedParameter) -> ParameterRule:
    r = config.model.depth_mult if shaped.in_block else 1.0
    matrices = matrices_of(config, shaped)
    if matrices is None:
        kappa = clock_of(config)
        factors = role_factors(shaped.role, shaped.width_mult, config.parametrization, r, kappa)
    else:
        factors = muon_factors(matrices, shaped, config, r)
    return ParameterRule(
        name=shaped.name,
        shape=shaped.shape,
        base_shape=shaped.base_shape,
        role=shaped.role,
        init_std=_initial_std(config, shaped),
        factors=factors,
        rate_group=rate_group(config.model, config.layout, shaped),
        matrices=matrices,
    )


def base_lr(config: TrialConfig, rule: ParameterRule) -> float:
    """Return a parameter's base learning rate: its optimizer's, times its group's multiplier."""
    optimizer, own = config.optimizer, config.optimizer.lr
    if isinstance(optimizer, MuonConfig) and rule.matrices is None:
        own = optimizer.adam_lr
    return own * lr_mult(config, rule)


def lr_mult(config: TrialConfig, rule: ParameterRule) -> float:
    """Return what multiplies the base learning rate of a parameter's group."""
    return getattr(config.optimizer, f"lr_mult_{rule.rate_group}", 1.0)


def resolved_values(config: TrialConfig, rule: ParameterRule) -> dict[str, float]:
    """Return a parameter's rate, and its decay and epsilon as AdamW takes them: `group_values`.

    The decay is coupled: the optimizer multiplies it by the rate.
    """
    optimizer, base = config.optimizer, base_lr(config, rule)
    mode = config.parametrization.weight_decay_mode
    decay = coupled_decay(base_weight_decay(config), base, mode)
    eps = getattr(optimizer, "eps", 1.0)  # Lion has none
    return group_values(rule.factors, lr=base, weight_decay=decay, eps=eps)


def decay_timescale(config: TrialConfig, rule: ParameterRule) -> float | None:
    """Return τ = batch/(lr·λ·samples) of a parameter, in runs; None where it does not decay.

    It is the time in which weight decay alone, at multiplier 1, shrinks a weight by the factor e
    (arXiv 2405.13698).
    """
    values = resolved_values(config, rule)
    share = values["lr"] * values["weight_decay"]  # lost per step
    return 1.0 / (share * config.budget.steps) if share else None


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
    parametrization, layout = config.parametrization, config.layout
    scale = parametrization.init_scale
    if parametrization.scaling not in TRANSFERRING:
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
        how = initializer(config.model, config.layout, rule.name, config.init)
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
    model = on_meta(config.model, config.layout, config.model.width)
    residuals = [name for name, child in model.named_modules() if isinstance(child, Residual)]
    return {f"{name}.multiplier": branch for name in residuals}


class ReadoutForm(Enum):
    """The form of a readout's factor."""

    hook = "hook"  # on the layer's input, by a forward hook
    folded = "folded"  # in the weight, its rate, decay and epsilon; no factor in the forward


def build_template(config: TrialConfig) -> nn.Module:
    """Return a trial's architecture with a `multiplier` buffer, of value 1, on every readout."""
    model = build_architecture(config.model, config.layout)
    for rule in parameter_rules(config):
        layer = model.get_submodule(rule.name.rpartition(".")[0])
        if rule.role is Role.output and not isinstance(layer, Readout):
            layer.register_buffer("multiplier", torch.ones(()), persistent=False)
            layer.register_forward_pre_hook(_scale_input)
    return model


def _scale_input(layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    multiplier = layer.get_buffer("multiplier")  # under a functional call, one trial's own
    return (arguments[0] * multiplier, *arguments[1:])


@cache
def rules_in_form(config: TrialConfig, form: ReadoutForm) -> tuple[ParameterRule, ...]:
    """Return the trial's rules, with the readouts' factors folded in if the form says so."""
    rules = parameter_rules(config)
    if form is ReadoutForm.hook:
        return rules
    return tuple(_folded(rule, readout_factor(config, rule)) for rule in rules)


def _folded(rule: ParameterRule, f: float) -> ParameterRule:
    """Return a rule with the forward factor f, the output scale included, folded in."""
    return dataclasses.replace(rule, init_std=rule.init_std * f, factors=folded(rule.factors, f))


def build_model(config: TrialConfig, readout: ReadoutForm | str = ReadoutForm.hook) -> nn.Module:
    """Return a trial's model, parametrized and initialised, ready to train in any loop.

    With `readout="folded"` the model's forward has no width factor, and `param_groups` must be
    called with the same argument.

    Example:
        >>> config = hptransfer.load_trial("results/studies/quickstart/target.yaml")
        >>> model = hptransfer.build_model(config)
        >>> sum(p.numel() for p in model.parameters())
        1501840
    """
    hooked = ReadoutForm(readout) is ReadoutForm.hook
    model = build_template(config) if hooked else build_architecture(config.model, config.layout)
    initial = initial_parameters(config)
    with torch.no_grad():
        for rule in parameter_rules(config):
            f = 1.0 if hooked else readout_factor(config, rule)
            model.get_parameter(rule.name).copy_(initial[rule.name] * f)
        multipliers = forward_multipliers(config) if hooked else branch_multipliers(config)
        for name, value in multipliers.items():
            model.get_buffer(name).fill_(value)
    return model


def param_groups(
    model: nn.Module, config: TrialConfig, readout: ReadoutForm | str = ReadoutForm.hook
) -> list[dict[str, object]]:
    """Return parameter groups for the trial's optimizer, each with its lr and weight_decay.

    Under AdamW they fit any torch optimizer with lr, weight_decay and eps per group. Under Muon the
    groups with `matrices` are its own: each parameter holds so many matrices one under another, and
    the update of each is orthogonalised, then multiplied by `scale` and lr.

    A schedule must multiply each group's `lr`; an absolute value would undo the factors. Under
    `WeightDecayMode.independent` a weight decays by the configured λ per step at multiplier 1.

    Example:
        >>> import torch
        >>> config = hptransfer.load_trial("results/studies/quickstart/target.yaml")
        >>> model = hptransfer.build_model(config)
        >>> optimizer = torch.optim.AdamW(hptransfer.param_groups(model, config))
        >>> sorted({round(group["lr"], 5) for group in optimizer.param_groups})
        [0.00249, 0.01994]
    """
    try:
        model.get_parameter(parameter_rules(config)[0].name)
    except AttributeError:
        raise UserError(
            "`param_groups` needs the model that `build_model` returned, but got a "
            f"{type(model).__name__} without its parameters' names. Pass the model inside it, "
            "usually model.module."
        ) from None
    alike: dict[tuple[object, ...], list[ParameterRule]] = {}
    for rule in rules_in_form(config, ReadoutForm(readout)):
        factors = dataclasses.replace(rule.factors, forward=1.0)
        alike.setdefault((factors, base_lr(config, rule), rule.matrices), []).append(rule)
    return [_group(model, config, rules) for rules in alike.values()]


def _group(
    model: nn.Module, config: TrialConfig, rules: Sequence[ParameterRule]
) -> dict[str, object]:
    optimizer, matrices = config.optimizer, rules[0].matrices
    values = resolved_values(config, rules[0])
    if matrices is not None and isinstance(optimizer, MuonConfig):
        own = {
            **{name: values[name] for name in ("lr", "weight_decay")},
            "matrices": matrices.count,
            "scale": matrices.scale(optimizer.scale),
            "momentum": matrix_momentum(config),
            "nesterov": optimizer.nesterov,
            "ns_steps": optimizer.ns_steps,
            "ns_eps": optimizer.ns_eps,
        }
    else:
        own = {**values, "betas": adam_betas(config)}
        if isinstance(optimizer, LionConfig):
            del own["eps"]
    return {
        "params": [model.get_parameter(rule.name) for rule in rules],
        "names": [rule.name for rule in rules],
        **own,
    }
