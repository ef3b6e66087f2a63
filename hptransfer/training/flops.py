"""FLOPs, parameters and memory of trials, counted by torch: on meta tensors, or on small real ones.

Torch's meta kernels, and its own `FlopCounterMode`, import torch's compiler when they are first
used, which takes a second or two in every process that trains. So the FLOPs of a small model of a
family are counted while one step of it is computed on zeros, in milliseconds.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from hptransfer.config import CustomConfig, Layout, ModelConfig, MuonConfig, TrialConfig
from hptransfer.models.families import build_architecture, empty_batch
from hptransfer.models.parametrization.muon import matrices_by_name
from hptransfer.training.orthogonal import product_flops

# Of the models whose step is computed for its FLOPs: the most parameters times numbers of a batch,
# which take a second at most, and the most pixels a side, since attention grows with their fourth
# power.
SMALL_WORK, SMALL_SIDE = 1e10, 16


class PlainFlopCounter(TorchDispatchMode):
    """Counts FLOPs as torch's `FlopCounterMode` does, without importing torch's compiler.

    Only for models that call no higher-order operator, such as `torch.cond`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0  # FLOPs counted so far

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True wraps `__torch_dispatch__` in a function that imports the compiler

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


@lru_cache(maxsize=256)
def step_flops(model: ModelConfig, layout: Layout, batch_size: int) -> tuple[float, float]:
    """Return the FLOPs of one forward, and of one forward and backward, at a batch size."""
    if is_small(model, layout, batch_size):
        return computed_flops(model, layout, batch_size)
    return meta_flops(model, layout, batch_size)


def meta_flops(model: ModelConfig, layout: Layout, batch_size: int) -> tuple[float, float]:
    """Return `step_flops`, counted on meta tensors."""
    network, arguments = _network(model, layout), _arguments(model, layout, batch_size)
    with FlopCounterMode(display=False) as forward:
        network(*arguments)
    with FlopCounterMode(display=False) as both:
        _trained_sum(network, arguments, _asked(model, layout, batch_size)).backward()
    return float(forward.get_total_flops()), float(both.get_total_flops())


def computed_flops(model: ModelConfig, layout: Layout, batch_size: int) -> tuple[float, float]:
    """Return `step_flops`, counted while a step is computed on zeros.

    They are float64, and attention is made of plain products, since float32 has shortcuts of its
    own on a CPU, which count otherwise.
    """
    network = _network(model, layout)
    state = {name: _zeros(t) for name, t in (*network.named_parameters(), *network.named_buffers())}
    arguments = tuple(map(_zeros, _arguments(model, layout, batch_size)))
    with sdpa_kernel(SDPBackend.MATH):
        with PlainFlopCounter() as forward:
            output = functional_call(network, state, arguments)
        with PlainFlopCounter() as backward:
            output.sum().backward()
    return float(forward.total), float(forward.total + backward.total)


def _zeros(like: Tensor) -> Tensor:
    dtype = torch.float64 if like.is_floating_point() else like.dtype
    return torch.zeros(like.shape, dtype=dtype, requires_grad=like.requires_grad)


def is_small(model: ModelConfig, layout: Layout, batch_size: int) -> bool:
    """Whether a step of a model is computed for its FLOPs.

    One of a user's own model never is, nor one with a head for REPA.
    """
    own = isinstance(model, CustomConfig) or layout.projected_block > 0
    if own or layout.image_size > SMALL_SIDE:
        return False
    numbers = batch_size * layout.channels * layout.image_size**2
    return numbers * trainable_parameters(model, layout) <= SMALL_WORK


def _asked(model: ModelConfig, layout: Layout, batch_size: int) -> dict[str, Any]:
    """Return by name what a model is called with in training besides the inputs, as on meta."""
    if not isinstance(model, CustomConfig):
        return {"project": True} if layout.projected_block else {}
    if not model.feature_tokens:
        return {}
    shape = batch_size, model.feature_tokens, layout.feature_channels
    return {"features": torch.empty(shape, device="meta")}


def _trained_sum(
    network: nn.Module, arguments: tuple[Tensor, ...], asked: dict[str, Any]
) -> Tensor:
    """Return a number that depends on all outputs of training: REPA's head and losses, too."""
    output = network(*arguments, **asked)
    if isinstance(output, Tensor):
        return output.sum()
    prediction, beside = output
    return prediction.sum() + beside.sum()


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
    weights = 1 + len(budget.judged_ema_fractions)  # that are evaluated after the steps
    evaluated = budget.eval_samples * (weights * budget.eval_draws + 1) / budget.batch_size
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
        output = _trained_sum(network, arguments, _asked(model, layout, batch_size))
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
