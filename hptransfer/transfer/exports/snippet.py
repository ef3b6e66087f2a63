"""Optimizer groups, initialisation and schedule of a target run, for a torch training loop.

Needs torch alone. `hptransfer transfer` writes this file with its table filled in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Rule(NamedTuple):
    """What the target's config decides for one parameter."""

    shape: tuple[int, ...]
    lr: float
    weight_decay: float  # of torch's AdamW, which multiplies it by lr
    eps: float
    forward: float  # multiplies the layer's input
    distribution: str  # zero, one, normal, uniform; or model: as the model's own code draws it
    std: float  # root mean square of the entries at the start
    draw_multiplier: float = 1.0  # of the entries that the model's own code drew


# table
READOUT = "hook"
OPTIMIZER: dict[str, Any] = {}
SCHEDULE: dict[str, Any] = {}
PARAMETERS: dict[str, tuple[Any, ...]] = {}
# end of table

# READOUT says where a readout's factor acts: "hook", on the input of its layer (`scale_readouts`
# puts it there), or "folded", in its weight's rate, decay, epsilon and std, so that the model's
# forward stays as it is. Both train alike under AdamW, unless gradients are clipped.


def param_groups(model: nn.Module, readout: str = READOUT) -> list[dict[str, Any]]:
    """Return AdamW groups with absolute lr, weight_decay and eps; a schedule multiplies each lr."""
    groups: dict[tuple[float, float, float], dict[str, Any]] = {}
    for name, parameter, rule in _trainable(model):
        f = rule.forward if readout == "folded" else 1.0
        key = (rule.lr * f, rule.weight_decay / f, rule.eps / f)
        values = dict(zip(("lr", "weight_decay", "eps"), key, strict=True))
        fresh = {"params": [], "names": [], **values, "betas": OPTIMIZER["betas"]}
        group = groups.setdefault(key, fresh)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def scale_readouts(model: nn.Module) -> None:
    """Multiply the readouts' inputs by their factors; for readout="hook" only."""
    for name, _, rule in _trainable(model):
        if rule.forward != 1.0:
            layer = model.get_submodule(name.rpartition(".")[0])
            layer.register_forward_pre_hook(_scaled(rule.forward))


def _scaled(factor: float) -> Any:
    return lambda _, arguments: (arguments[0] * factor, *arguments[1:])


@torch.no_grad()
def initialise(model: nn.Module, seed: int, readout: str = READOUT) -> None:
    """Start every trainable parameter with the target's distribution and std.

    Where a rule's distribution is `model`, what the model's own code drew is multiplied: build the
    model anew, and call this once.
    """
    rules = list(_trainable(model))
    for name, parameter, rule in rules:
        if rule.distribution == "model":
            _require_own_draw(name, parameter, rule)
    generator = torch.Generator().manual_seed(seed)
    for _, parameter, rule in rules:
        folded = rule.forward if readout == "folded" else 1.0
        if rule.distribution == "model":
            parameter.mul_(rule.draw_multiplier * folded)
            setattr(parameter, STARTED, True)
        else:
            parameter.copy_(_draw(rule, generator) * folded)


STARTED = "started_as_target"  # attribute of a parameter whose own draw was multiplied


def _require_own_draw(name: str, parameter: Tensor, rule: Rule) -> None:
    """Refuse entries that the tuned model's code cannot have drawn: they would start elsewhere.

    The table's root mean square is followed from measured widths to the target's: within 25 %. That
    of n drawn entries has a relative standard error of 1/sqrt(2n).
    """
    drawn, found = rule.std / rule.draw_multiplier, parameter.square().mean().sqrt().item()
    within = drawn * (0.25 + 5 / math.sqrt(2 * parameter.numel()))
    if hasattr(parameter, STARTED) or abs(found - drawn) > within:
        raise ValueError(
            f"{name} must be as the code of the tuned model draws it, with a root mean square of "
            f"{drawn:.4g}, but has {found:.4g}. Build the model anew and call initialise once."
        )


def _draw(rule: Rule, generator: torch.Generator) -> Tensor:
    match rule.distribution:
        case "zero":
            return torch.zeros(rule.shape)
        case "one":
            return torch.ones(rule.shape)
        case "normal":
            return torch.randn(rule.shape, generator=generator) * rule.std
        case "uniform":
            entries = torch.rand(rule.shape, generator=generator)
            return (2 * entries - 1) * (math.sqrt(3.0) * rule.std)
    raise ValueError(f"There is no distribution {rule.distribution!r}.")


def multiplier(step: int) -> float:
    """Return what multiplies every group's lr at a step (from 0), for `LambdaLR`."""
    steps = SCHEDULE["steps"]
    warmup_steps = max(SCHEDULE["warmup_fraction"] * steps, 1.0)
    warmup = min((step + 1) / warmup_steps, 1.0)
    if SCHEDULE["schedule"] == "cosine":
        share = (step - warmup_steps) / max(steps - warmup_steps, 1.0)
        return warmup * 0.5 * (1.0 + math.cos(math.pi * min(max(share, 0.0), 1.0)))
    if SCHEDULE["schedule"] == "linear_decay":
        left = (steps - step) / max(SCHEDULE["decay_fraction"] * steps, 1.0)
        return warmup * min(left, 1.0)
    return warmup


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Rule]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter, _rule(name, parameter)


def _rule(name: str, parameter: Tensor) -> Rule:
    """Return a parameter's rule; names in the table may have * for every number."""
    plain = name.replace("_orig_mod.", "").removeprefix("module.")
    entry = PARAMETERS.get(plain) or PARAMETERS.get(re.sub(r"(?<=\.)\d+(?=\.)", "*", plain))
    if entry is None:
        raise KeyError(f"{name} is no parameter of the target; its table has {len(PARAMETERS)}")
    rule = Rule(*entry)
    if tuple(parameter.shape) != rule.shape:
        raise ValueError(
            f"{name} must have the target's shape {rule.shape}, but has "
            f"{tuple(parameter.shape)}: factors are of one width only."
        )
    return rule
