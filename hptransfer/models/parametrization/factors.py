"""The parametrization's rule: every factor of a parameter from its role and the model's ratios.

m is the width over the base width, r the depth over the base depth, b the batch size over the base
batch size, and d the samples of the run over those of the base run.

`mup` is Table 8 of arXiv 2203.03466 for Adam, as arXiv 2505.15270 applies it to diffusion
transformers; depth by Table 1 of arXiv 2505.01618 (CompleteP). `complete` is Table 1 of arXiv
2512.22382 (Complete(d)P): it has both, and b and d as κ = b/d besides. That table folds a readout's
1/m into its weight, while here it multiplies the layer's input; `folded` leads from one to the
other. Invariants: at m = r = b = d = 1 every factor is 1 in every parametrization; `standard` has
every factor 1 everywhere.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hptransfer.config import MuonConfig, ParametrizationConfig, TrialConfig
from hptransfer.config.choices import (
    TRANSFERRING,
    Broken,
    Decayed,
    EpsScaling,
    Scaling,
    WeightDecayMode,
)


class Role(Enum):
    """The dimensions of a parameter that grow with width."""

    input = "input"  # the fan-out grows: embeddings, first layers
    hidden = "hidden"  # fan-in and fan-out grow, or the fan-in of a layer amid the network
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
    role: Role,
    m: float,
    parametrization: ParametrizationConfig,
    r: float = 1.0,
    kappa: float = 1.0,
) -> Factors:
    """Return the factors of a role at width ratio m.

    `r` is the depth ratio for a parameter inside a residual block, and must be 1 for all others.
    `kappa` is the trial's `clock_ratio`, which counts under `complete` alone.
    """
    known = parametrization.scaling in TRANSFERRING
    width_lr = _width_lr_factor(role, m, parametrization)
    depth_lr = r ** (parametrization.depth_alpha - 1) if known else 1.0
    clock_lr = kappa**0.5 if parametrization.scaling is Scaling.complete else 1.0
    lr = width_lr * depth_lr * clock_lr
    return Factors(
        lr=lr,
        weight_decay=_decay_factor(role, parametrization, width_lr, lr, clock_lr),
        eps=_eps_factor(role, m, r, parametrization) / clock_lr,
        forward=_forward_factor(role, m, parametrization),
    )


def clock_ratio(b: float, d: float, exponent: float = 0.5) -> float:
    """Return κ, by how much more of the run a step is than at the base values (arXiv 2512.22382).

    With the paper's exponent ½ it is b/d, which is the base steps over the steps. With another
    exponent of the duration the learning rate follows √b·d^-exponent.
    """
    return b / d ** (2 * exponent)


def clock_of(config: TrialConfig) -> float:
    """Return a trial's κ; 1 in every parametrization but `complete`."""
    parametrization = config.parametrization
    if parametrization.scaling is not Scaling.complete:
        return 1.0
    return clock_ratio(config.batch_mult, config.duration_mult, parametrization.duration_exponent)


def _decay_factor(
    role: Role, parametrization: ParametrizationConfig, width_lr: float, lr: float, clock_lr: float
) -> float:
    """Return the factor of AdamW's λ.

    By the tables of CompleteP and Complete(d)P it undoes the width's factor of the rate and not the
    depth's, so that a step takes r^(a-1)·κ of the base share off a weight in a block.
    """
    if parametrization.decayed is Decayed.matrices and role not in (Role.hidden, Role.output):
        return 0.0
    match parametrization.weight_decay_mode:
        case WeightDecayMode.mup:
            return 1.0 / width_lr * clock_lr
        case WeightDecayMode.independent:
            return clock_lr**2 / lr
        case WeightDecayMode.unscaled:
            return clock_lr


def _eps_factor(role: Role, m: float, r: float, parametrization: ParametrizationConfig) -> float:
    """Return the factor of Adam's epsilon, which follows the size of the role's gradients.

    The gradients of a tensor that does not grow, such as the gains of queries and keys, do not
    depend on the width.
    """
    match parametrization.scaling, parametrization.eps_scaling:
        case (Scaling.complete, _):
            return r**-parametrization.depth_alpha / (1.0 if role is Role.finite else m)
        case (Scaling.mup, EpsScaling.width) if role is not Role.finite:
            return r**-parametrization.depth_alpha / m
    return 1.0


def folded(own: Factors, f: float) -> Factors:
    """Return the factors of a readout whose forward factor f lies in its weight (rules.py)."""
    return dataclasses.replace(
        own, lr=own.lr * f, weight_decay=own.weight_decay / f, eps=own.eps / f, forward=1.0
    )


def moment_decay(config: TrialConfig, base: float) -> float:
    """Return a moment's decay per step in a trial, from that at the base values.

    Under `complete` 1 - decay is κ times the base value's. It is raised up to
    `most_one_minus_beta` and no farther, since a moment must outlast a step.
    """
    kappa, most = clock_of(config), config.parametrization.most_one_minus_beta
    if kappa == 1.0:
        return base
    return 1.0 - min((1.0 - base) * kappa, max(most, 1.0 - base))


def adam_betas(config: TrialConfig) -> tuple[float, float]:
    """Return a trial's beta1 and beta2: `moment_decay` of the base values."""
    optimizer = config.optimizer
    return moment_decay(config, optimizer.beta1), moment_decay(config, optimizer.beta2)


def matrix_momentum(config: TrialConfig) -> float | None:
    """Return the momentum of Muon's matrices: `moment_decay` of the base value; None without."""
    optimizer = config.optimizer
    return moment_decay(config, optimizer.momentum) if isinstance(optimizer, MuonConfig) else None


def base_weight_decay(config: TrialConfig) -> float:
    """Return a trial's λ, before the factor of a parameter; a time scale says it if there is one.

    With a time scale of τ runs, a parameter whose rate has only the factor of κ loses 1/(τ·steps)
    of itself in a step at multiplier 1.
    """
    optimizer, steps = config.optimizer, config.budget.steps
    timescale = getattr(optimizer, "decay_timescale", None)  # AdamW alone has one
    if timescale is None:
        return optimizer.weight_decay
    share = 1.0 / (timescale * steps * clock_of(config))
    independent = config.parametrization.weight_decay_mode is WeightDecayMode.independent
    return share if independent else share / optimizer.lr


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
    known = parametrization.scaling in TRANSFERRING and parametrization.broken is not Broken.branch
    return r**-parametrization.depth_alpha if known else 1.0


def init_factor(role: Role, m: float, parametrization: ParametrizationConfig) -> float:
    """Return the initial std over that at base width (arXiv 2203.03466, Table 8)."""
    hidden = parametrization.scaling in TRANSFERRING and role is Role.hidden
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
    if parametrization.scaling not in TRANSFERRING or role is not Role.output:
        return 1.0
    match parametrization.broken:
        case Broken.readout:
            return 1.0
        case Broken.readout_twice:
            return m**-2
    return 1.0 / m
