"""A trial's model and optimizer groups for any torch training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from hptransfer.config import TrialConfig
from hptransfer.errors import UserError
from hptransfer.models.families import build_architecture
from hptransfer.models.parametrization.factors import Factors, coupled_weight_decay
from hptransfer.models.parametrization.readouts import ReadoutForm, build_template, rules_in_form
from hptransfer.models.parametrization.rules import (
    ParameterRule,
    branch_multipliers,
    forward_multipliers,
    initial_parameters,
    parameter_rules,
    readout_factor,
)


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
    if hooked:
        model = build_template(config)
    else:
        model = build_architecture(config.model, config.data.layout)
    initial = initial_parameters(config)
    with torch.no_grad():
        for rule in parameter_rules(config):
            folded = 1.0 if hooked else readout_factor(config, rule)
            model.get_parameter(rule.name).copy_(initial[rule.name] * folded)
        multipliers = forward_multipliers(config) if hooked else branch_multipliers(config)
        for name, value in multipliers.items():
            model.get_buffer(name).fill_(value)
    return model


def param_groups(
    model: nn.Module, config: TrialConfig, readout: ReadoutForm | str = ReadoutForm.hook
) -> list[dict[str, object]]:
    """Return parameter groups for any torch optimizer with lr, weight_decay and eps per group.

    A schedule must multiply each group's `lr`; an absolute value would undo the factors. Under
    `WeightDecayMode.independent` a weight decays by the configured λ per step at multiplier 1.

    Example:
        >>> import torch
        >>> config = hptransfer.load_trial("results/studies/quickstart/target.yaml")
        >>> model = hptransfer.build_model(config)
        >>> optimizer = torch.optim.AdamW(hptransfer.param_groups(model, config))
        >>> sorted({round(group["lr"], 5) for group in optimizer.param_groups})
        [0.00261, 0.02084]
    """
    try:
        model.get_parameter(parameter_rules(config)[0].name)
    except AttributeError:
        raise UserError(
            "`param_groups` needs the model that `build_model` returned, but got a "
            f"{type(model).__name__} without its parameters' names. Pass the model inside it, "
            "usually model.module."
        ) from None
    by_factors: dict[Factors, list[ParameterRule]] = {}
    for rule in rules_in_form(config, ReadoutForm(readout)):
        by_factors.setdefault(dataclasses.replace(rule.factors, forward=1.0), []).append(rule)
    return [_group(model, config, key, rules) for key, rules in by_factors.items()]


def _group(
    model: nn.Module, config: TrialConfig, key: Factors, rules: Sequence[ParameterRule]
) -> dict[str, object]:
    optimizer = config.optimizer
    return {
        "params": [model.get_parameter(rule.name) for rule in rules],
        "names": [rule.name for rule in rules],
        "lr": optimizer.lr * key.lr,
        "weight_decay": coupled_weight_decay(config) * key.weight_decay,
        "eps": optimizer.eps * key.eps,
        "betas": (optimizer.beta1, optimizer.beta2),
    }
