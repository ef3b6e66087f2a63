"""The two forms of a readout's factor: on the input of its layer, or folded into its weight.

Under AdamW a layer on f·x with weight W and the same layer on x with weight f·W train alike if the
second has f times the learning rate, and 1/f times the weight decay and epsilon. The second's
gradient is 1/f times the first's, and AdamW's step without epsilon does not depend on a gradient's
scale (the abc-symmetry of arXiv 2011.14522, for Adam). A clipped global gradient norm does.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from functools import cache

import torch
from torch import Tensor, nn

from hptransfer.config import TrialConfig
from hptransfer.models.families import build_architecture
from hptransfer.models.families.layers import Readout
from hptransfer.models.parametrization.factors import Role
from hptransfer.models.parametrization.rules import ParameterRule, parameter_rules, readout_factor


class ReadoutForm(Enum):
    """The form of a readout's factor."""

    hook = "hook"  # on the layer's input, by a forward hook
    folded = "folded"  # in the weight, its rate, decay and epsilon; no factor in the forward


def build_template(config: TrialConfig) -> nn.Module:
    """Return a trial's architecture with a `multiplier` buffer, of value 1, on every readout."""
    model = build_architecture(config.model, config.data.layout)
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
    own = rule.factors
    factors = dataclasses.replace(
        own, lr=own.lr * f, weight_decay=own.weight_decay / f, eps=own.eps / f, forward=1.0
    )
    return dataclasses.replace(rule, init_std=rule.init_std * f, factors=factors)
