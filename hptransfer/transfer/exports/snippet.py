"""Optimizer groups, initialisation and schedule of a target run, for a torch training loop.

Needs torch alone. `hptransfer transfer` writes this file with its table filled in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

# table
READOUT = "hook"
OPTIMIZER: dict[str, Any] = {}
SCHEDULE: dict[str, Any] = {}
PARAMETERS: dict[str, tuple[tuple[int, ...], float, float, float, float, str, float]] = {}
# end of table

# READOUT says where a readout's factor acts: "hook", on the input of its layer (`scale_readouts`
# puts it there), or "folded", in its weight's rate, decay, epsilon and std, so that the model's
# forward stays as it is. Both train alike under AdamW, unless gradients are clipped.


def param_groups(model: nn.Module, readout: str = READOUT) -> list[dict[str, Any]]:
    """Return AdamW groups with absolute lr, weight_decay and eps; a schedule multiplies each lr."""
    groups: dict[tuple[float, float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        _, lr, weight_decay, eps, factor, _, _ = _rule(name, parameter)
        f = factor if readout == "folded" else 1.0
        key = (lr * f, weight_decay / f, eps / f)
        values = dict(zip(("lr", "weight_decay", "eps"), key, strict=True))
        fresh = {"params": [], "names": [], **values, "betas": OPTIMIZER["betas"]}
        group = groups.setdefault(key, fresh)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def scale_readouts(model: nn.Module) -> None:
    """Multiply the readouts' inputs by their factors; for readout="hook" only."""
    for name, parameter in model.named_parameters():
        factor = _rule(name, parameter)[4]
        if factor != 1.0:
            layer = model.get_submodule(name.rpartition(".")[0])
            layer.register_forward_pre_hook(_scaled(factor))


def _scaled(factor: float) -> Any:
    return lambda _, arguments: (arguments[0] * factor, *arguments[1:])


@torch.no_grad()
def initialise(model: nn.Module, seed: int, readout: str = READOUT) -> None:
    """Draw every parameter whose distribution is known."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        _, _, _, _, factor, distribution, std = _rule(name, parameter)
        drawn = _draw(tuple(parameter.shape), distribution, std, generator)
        if drawn is not None:
            parameter.copy_(drawn * (factor if readout == "folded" else 1.0))


def _draw(
    shape: tuple[int, ...], distribution: str, std: float, generator: torch.Generator
) -> Tensor | None:
    match distribution:
        case "zero":
            return torch.zeros(shape)
        case "one":
            return torch.ones(shape)
        case "normal":
            return torch.randn(shape, generator=generator) * std
        case "uniform":
            return (2 * torch.rand(shape, generator=generator) - 1) * (math.sqrt(3.0) * std)
    return None


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


def _rule(name: str, parameter: Tensor) -> tuple[Any, ...]:
    """Return a parameter's entry of the table, whose patterns have * for a number."""
    plain = name.replace("_orig_mod.", "").removeprefix("module.")
    for pattern, rule in _compiled():
        if pattern.fullmatch(plain):
            if tuple(parameter.shape) != rule[0]:
                raise ValueError(
                    f"{name} must have the target's shape {rule[0]}, but has "
                    f"{tuple(parameter.shape)}: factors are of one width only."
                )
            return rule
    raise KeyError(f"{name} is no parameter of the target; its table has {len(PARAMETERS)} entries")


def _compiled() -> Iterator[tuple[re.Pattern[str], tuple[Any, ...]]]:
    for pattern, rule in PARAMETERS.items():
        yield re.compile(re.escape(pattern).replace(r"\*", r"\d+")), rule
