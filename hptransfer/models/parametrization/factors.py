"""The parametrization's rule: every factor of a parameter from its role and the model's ratios.

m is the width over the base width, r the depth over the base depth.

Table 8 of arXiv 2203.03466 for Adam, as arXiv 2505.15270 applies it to diffusion transformers;
depth by Table 1 of arXiv 2505.01618 (CompleteP). Invariants: at m = r = 1 every factor is 1 in
every parametrization; `standard` has every factor 1 at every width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hptransfer.config import ParametrizationConfig
from hptransfer.config.choices import Broken, EpsScaling, Scaling, WeightDecayMode


class Role(Enum):
    """The dimensions of a parameter that grow with width."""

    input = "input"  # the fan-out grows: embeddings, first layers
    hidden = "hidden"  # fan-in and fan-out grow
    output = "output"  # the fan-in grows: the readout
    vector = "vector"  # biases and gains whose length grows
    finite = "finite"  # no dimension grows


@dataclass(frozen=True)
class Factors:
    """The factors of one parameter, which multiply its hyperparameters and its layer's input."""

    lr: float
    weight_decay: float  # of the λ of AdamW, which multiplies λ by lr
    eps: float
    forward: float  # of the layer's input


def role_factors(
    role: Role, m: float, parametrization: ParametrizationConfig, r: float = 1.0
) -> Factors:
    """Return the factors of a role at width ratio m (arXiv 2203.03466, Table 8, Adam).

    `r` is the depth ratio for a parameter inside a residual block, and must be 1 for all others.
    """
    mup = parametrization.scaling is Scaling.mup
    alpha = parametrization.depth_alpha
    width_lr = _width_lr_factor(role, m, parametrization)
    lr = width_lr * (r ** (alpha - 1) if mup else 1.0)
    mode = parametrization.weight_decay_mode
    scaled_eps = mup and role is not Role.finite and parametrization.eps_scaling is EpsScaling.width
    return Factors(
        lr=lr,
        weight_decay=1.0 if mode is WeightDecayMode.unscaled else 1.0 / width_lr,
        eps=r**-alpha / m if scaled_eps else 1.0,
        forward=_forward_factor(role, m, parametrization),
    )


def folded(own: Factors, f: float) -> Factors:
    """Return the factors of a readout whose forward factor f lies in its weight (rules.py)."""
    return dataclasses.replace(
        own, lr=own.lr * f, weight_decay=own.weight_decay / f, eps=own.eps / f, forward=1.0
    )


def coupled_decay(weight_decay: float, lr: float, mode: WeightDecayMode) -> float:
    """Return the λ that `torch.optim.AdamW`, which multiplies λ by the rate, needs at base width.

    Under `WeightDecayMode.independent` it is the decay per step over the base rate `lr`.
    """
    return weight_decay / (lr if mode is WeightDecayMode.independent else 1.0)


def group_values(factors: Factors, *, lr: float, weight_decay: float, eps: float) -> dict[str, Any]:
    """Return what a group of AdamW gets, from the base values; `weight_decay` is coupled."""
    return {
        "lr": lr * factors.lr,
        "weight_decay": weight_decay * factors.weight_decay,
        "eps": eps * factors.eps,
    }


def branch_factor(r: float, parametrization: ParametrizationConfig) -> float:
    """Return the multiplier of residual branches at depth ratio r (arXiv 2505.01618, Table 1)."""
    return r**-parametrization.depth_alpha if parametrization.scaling is Scaling.mup else 1.0


def init_factor(role: Role, m: float, parametrization: ParametrizationConfig) -> float:
    """Return the initial std over that at base width (arXiv 2203.03466, Table 8)."""
    hidden = parametrization.scaling is Scaling.mup and role is Role.hidden
    return m**-0.5 if hidden else 1.0


def _width_lr_factor(role: Role, m: float, parametrization: ParametrizationConfig) -> float:
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
