"""The optimizer groups of a model that `build` returned (built.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from torch import nn

from hptransfer.config import ParametrizationConfig
from hptransfer.config.choices import Decayed, EpsScaling, WeightDecayMode
from hptransfer.errors import UserError, abbreviate, require
from hptransfer.models.parametrization.built import forward_factor, trained_parameters
from hptransfer.models.parametrization.factors import (
    Factors,
    Role,
    coupled_decay,
    folded,
    group_values,
    role_factors,
)
from hptransfer.models.parametrization.roles import ShapedParameter
from hptransfer.models.parametrization.rules import ReadoutForm

Choice = TypeVar("Choice", bound=Enum)


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
    weight_decay_mode: WeightDecayMode | str = WeightDecayMode.mup,
    eps_scaling: EpsScaling | str = EpsScaling.none,
    decayed: Decayed | str = Decayed.all,
) -> list[dict[str, Any]]:
    """Return the parameter groups of a built model for AdamW, or for Adam without weight decay.

    There is a group for each role (and width ratio, where a role has several). Call it before or
    after `model.to`, `torch.compile`, DistributedDataParallel, `fully_shard` or accelerate's
    `prepare`: factors are found by the parameters' names. Parameters that are frozen now are left
    out. A schedule must multiply each group's `lr`; see `require_ratios`.

    The factors are those of Table 8 of arXiv 2203.03466 for Adam. They hold for optimizers whose
    step does not depend on the scale of the gradient, and so not for SGD.

    Args:
        model: what `build` returned, wrapped or not.
        lr: the learning rate at the base width.
        weight_decay: the λ of AdamW at the base width; under `independent` the share that a tensor
            loses per step.
        eps: Adam's epsilon at the base width.
        weight_decay_mode: `mup` keeps rate times decay the same for all tensors (hidden matrices
            have lr/m and λ·m), `independent` makes every tensor lose λ per step whatever the rate,
            and `unscaled` gives all tensors the same λ (a control).
        eps_scaling: `none`, or `width` for eps/m (arXiv 2407.05872).
        decayed: what weight decay acts on: `all`, or `matrices`, the hidden and output weights, so
            that gains, biases, embeddings and first layers are left out.

    Returns:
        One dict a group: `params`, `name`, `lr`, `weight_decay`, `eps`, and the factors that the
        last three were given: `lr_factor`, `weight_decay_factor`, `eps_factor`.

    Raises:
        UserError: a model that `build` did not return, or a value that is no positive number.

    Example:
        >>> from torch import nn
        >>> def make_model(width):
        ...     return nn.Sequential(nn.Linear(8, width), nn.Linear(width, width), nn.ReLU(),
        ...                          nn.Linear(width, 2))
        >>> model = hptransfer.mup.build(make_model, width=256, base_width=32)
        >>> groups = hptransfer.mup.param_groups(model, lr=0.01, weight_decay=0.1)
        >>> {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
        {'input': (0.01, 0.1), 'vector': (0.01, 0.1), 'hidden': (0.00125, 0.8),
         'output': (0.00125, 0.8), 'finite': (0.01, 0.1)}
    """
    lr, eps = _number("lr", lr), _number("eps", eps)
    weight_decay = _number("weight_decay", weight_decay, or_zero=True)
    parametrization = ParametrizationConfig(
        weight_decay_mode=_choice("weight_decay_mode", weight_decay_mode, WeightDecayMode),
        eps_scaling=_choice("eps_scaling", eps_scaling, EpsScaling),
        decayed=_choice("decayed", decayed, Decayed),
    )
    members: dict[tuple[Role, float, Factors], list[nn.Parameter]] = {}
    for _, parameter, shaped, form in trained_parameters(model):
        factors = _factors(shaped, form, parametrization)
        members.setdefault((shaped.role, shaped.width_mult, factors), []).append(parameter)
    coupled = coupled_decay(weight_decay, lr, parametrization.weight_decay_mode)
    keys = _merged(members)
    return [
        {
            "params": parameters,
            "name": name,
            **group_values(factors, lr=lr, weight_decay=coupled, eps=eps),
            "lr_factor": factors.lr,
            "weight_decay_factor": factors.weight_decay,
            "eps_factor": factors.eps,
        }
        for name, factors, parameters in keys
    ]


def _merged(
    members: Mapping[tuple[Role, float, Factors], Sequence[nn.Parameter]],
) -> list[tuple[str, Factors, list[nn.Parameter]]]:
    """Return the groups with their names: a role's, with m where the role has several groups."""
    found: dict[tuple[Role, Factors], tuple[float, list[nn.Parameter]]] = {}
    for (role, m, factors), parameters in members.items():
        found.setdefault((role, factors), (m, []))[1].extend(parameters)
    roles = [role for role, _ in found]
    return [
        (
            role.value if roles.count(role) == 1 else f"{role.value}, m = {m:g}",
            factors,
            parameters,
        )
        for (role, factors), (m, parameters) in found.items()
    ]


def _factors(
    shaped: ShapedParameter, form: ReadoutForm, parametrization: ParametrizationConfig
) -> Factors:
    own = role_factors(shaped.role, shaped.width_mult, parametrization)
    return folded(own, forward_factor(shaped) if form is ReadoutForm.folded else 1.0)


def _number(name: str, value: object, *, or_zero: bool = False) -> float:
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        number = math.nan
    good = math.isfinite(number) and (number > 0 or (or_zero and number == 0))
    least = "zero or a positive number" if or_zero else "a positive number"
    require(good, f"`{name}` must be {least}, but got {abbreviate(value)}.")
    return number


def _choice(name: str, value: Choice | str, kind: type[Choice]) -> Choice:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(f"`{each.value}`" for each in kind)
        raise UserError(f"`{name}` must be one of {known}, but got {value!r}.") from None
