"""FLOPs, parameters and memory of trials: counted by torch on meta tensors, nothing is computed."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hptransfer.config import Layout, ModelConfig, MuonConfig, TrialConfig
from hptransfer.models.families import build_architecture, empty_batch
from hptransfer.models.parametrization.muon import matrices_by_name
from hptransfer.training.orthogonal import product_flops


@lru_cache(maxsize=256)
def step_flops(model: ModelConfig, layout: Layout, batch_size: int) -> tuple[float, float]:
    """Return the FLOPs of one forward, and of one forward and backward, at a batch size."""
    network, arguments = _network(model, layout), _arguments(model, layout, batch_size)
    with FlopCounterMode(display=False) as forward:
        network(*arguments)
    with FlopCounterMode(display=False) as both:
        _trained_sum(network, arguments, layout).backward()
    return float(forward.get_total_flops()), float(both.get_total_flops())


def _trained_sum(network: nn.Module, arguments: tuple[Tensor, ...], layout: Layout) -> Tensor:
    """Return a number that depends on all outputs of training: with REPA those of its head too."""
    if not layout.projected_block:
        return network(*arguments).sum()
    prediction, projected = network(*arguments, project=True)
    return prediction.sum() + projected.sum()


def train_step_flops(config: TrialConfig) -> float:
    """Return the FLOPs of a training step: its batch forward and backward, and Muon's products."""
    both = step_flops(config.model, config.layout, config.budget.batch_size)[1]
    return both + muon_flops(config)


def muon_flops(config: TrialConfig) -> float:
    """Return the FLOPs of a step's Newton-Schulz products; 0 where the optimizer is not Muon."""
    if not isinstance(config.optimizer, MuonConfig):
        return 0.0
    steps = config.optimizer.ns_steps
    found = matrices_by_name(config.model, config.layout).values()
    return sum(each.count * product_flops(each.rows, each.columns, steps) for each in found)


def trial_flops(config: TrialConfig) -> float:
    """Return the FLOPs of a whole trial: its steps, and its evaluation before and after them."""
    budget = config.budget
    forward, _ = step_flops(config.model, config.layout, budget.batch_size)
    evaluated = budget.eval_samples * (budget.eval_draws + 1) / budget.batch_size
    return budget.steps * train_step_flops(config) + evaluated * forward


def trainable_parameters(model: ModelConfig, layout: Layout) -> int:
    """Return the number of trainable numbers of a model with a data set's shapes."""
    network = _network(model, layout)
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@lru_cache(maxsize=256)
def saved_bytes(model: ModelConfig, layout: Layout, batch_size: int) -> int:
    """Return the bytes of activations that one forward in float32 keeps for its backward."""
    network, arguments = _network(model, layout), _arguments(model, layout, batch_size)
    storages = {}  # by address; the values keep the storages alive, so no address comes twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = _trained_sum(network, arguments, layout)
    for parameter in network.parameters():
        storages.pop(parameter.untyped_storage()._cdata, None)
    del output
    return sum(storage.nbytes() for storage in storages.values())


@lru_cache(maxsize=16)
def _network(model: ModelConfig, layout: Layout) -> nn.Module:
    with torch.device("meta"):
        return build_architecture(model, layout)


def _arguments(model: ModelConfig, layout: Layout, batch_size: int) -> tuple[Tensor, ...]:
    with torch.device("meta"):
        return empty_batch(model, layout, batch_size)
