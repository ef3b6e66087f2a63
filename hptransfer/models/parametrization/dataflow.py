"""What a model's forward does with its weights: seen in one call, on a few samples.

Shapes do not tell a readout from a layer in the middle of a network whose fan-out is fixed (shared
keys and values, a bottleneck, a router of experts): of both the fan-in alone grows. So a forward is
watched, operation by operation, below autograd. What a layer gives is followed through every tensor
that is computed from it; a layer that so meets another growing weight is no readout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that sum over a dimension of both operands.
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "addbmm", "convolution", "_weight_int8pack_mm"}
_TABLES = {"embedding", "index_select", "index", "gather"}  # operations that take rows of a table


@dataclass(frozen=True)
class Dataflow:
    """What one call of a model showed, by the names of parameters."""

    reached: Mapping[str, str]  # of a layer's weight: a growing weight that meets its output
    # Weights of no layer that are summed over the dimension that grows, as a readout's is; and
    # those of them that have another use as well.
    summed: frozenset[str]
    reused: frozenset[str]
    readouts: frozenset[str]  # layers' weights whose output meets no growing weight


def watched(
    model: nn.Module,
    call: Callable[[nn.Module], object],
    *,
    growing: Mapping[str, tuple[int, ...]],
    layers: frozenset[str],
) -> Dataflow:
    """Return what one `call` of a model does with its weights.

    Args:
        model: with parameters that have storage.
        call: calls the model on a few samples.
        growing: the growing parameters, each with its dimensions that grow.
        layers: those of them whose output is followed.
    """
    watch = _Watch(model, growing, layers)
    with torch.no_grad(), watch:
        call(model)
    summed = {name for name, uses in watch.uses.items() if "sum" in uses} - layers
    reused = {name for name in summed if "other" in watch.uses[name]}
    readouts = {name for name in layers - watch.reached.keys() if watch.uses[name]}
    return Dataflow(dict(watch.reached), frozenset(summed), frozenset(reused), frozenset(readouts))


UNWATCHED = Dataflow({}, frozenset(), frozenset(), frozenset())  # of a model that was not watched


class _Watch(TorchDispatchMode):
    """Follow weights and layers' outputs from tensor to tensor, by their storage.

    A view has the storage of its base. A tensor that is computed from weights alone (a transpose in
    another precision, the weight of weight norm) is a weight, all others are activations.
    """

    def __init__(
        self, model: nn.Module, growing: Mapping[str, tuple[int, ...]], layers: frozenset[str]
    ) -> None:
        super().__init__()
        self.growing, self.layers = growing, layers
        self.shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        # By address of a storage: the weights that it holds, or the layers that it depends on.
        self.weights: dict[int, frozenset[str]] = {}
        self.activations: dict[int, frozenset[str]] = {}
        self.reached: dict[str, str] = {}
        self.uses: dict[str, set[str]] = {name: set() for name in growing}
        self.kept: list[Tensor] = []  # so that no storage is used again
        for name, parameter in model.named_parameters():
            self.weights[_address(parameter)] = frozenset({name})
        # Buffers, and what is computed from neither weights nor the model's input.
        self.constants = {_address(buffer) for buffer in model.buffers()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        self._note(func.overloadpacket.__name__, _tensors((args, given)), _tensors(result))
        return result

    def _note(self, operation: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        self.kept += outputs
        held = [self.weights.get(_address(tensor), frozenset()) for tensor in inputs]
        weights = frozenset[str]().union(*held)
        active = [tensor for tensor in inputs if self._is_activation(tensor)]
        known = (self.activations.get(_address(tensor), frozenset()) for tensor in active)
        carried = frozenset[str]().union(*known)
        if not active:
            if operation in _PRODUCTS:
                self._meet(weights & self.layers, weights)
            if operation in _TABLES:
                self._use(weights, "other")
            for place in map(_address, outputs):
                if weights:
                    self.weights[place] = self.weights.get(place, frozenset()) | weights
                else:
                    self.constants.add(place)
            return
        self._meet(carried, weights)
        summed = frozenset[str]().union(
            *(
                names & self.growing.keys()
                for tensor, names in zip(inputs, held, strict=True)
                if self._is_summed(operation, tensor, names)
            )
        )
        self._use(summed, "sum")
        self._use(weights - summed, "other")
        for place in map(_address, outputs):
            before = self.activations.get(place, frozenset())
            self.activations[place] = before | carried | (weights & self.layers) | summed

    def _is_activation(self, tensor: Tensor) -> bool:
        """Whether a tensor is computed from the model's input; unknown ones are inputs."""
        place = _address(tensor)
        return place in self.activations or (
            place not in self.weights and place not in self.constants and tensor.ndim > 0
        )

    def _meet(self, layers: frozenset[str], weights: frozenset[str]) -> None:
        """Note which growing weights the outputs of layers meet."""
        for layer in layers:
            others = [name for name in self.growing if name in weights and name != layer]
            if others:
                self.reached.setdefault(layer, others[0])

    def _use(self, names: frozenset[str], use: str) -> None:
        for name in names & self.uses.keys():
            self.uses[name].add(use)

    def _is_summed(self, operation: str, tensor: Tensor, names: frozenset[str]) -> bool:
        """Whether a product sums over the one dimension of a weight that grows."""
        grown = names & self.growing.keys()
        if operation not in _PRODUCTS or len(grown) != 1:
            return False
        (name,) = grown
        if len(self.growing[name]) != 1:
            return False
        (dimension,) = self.growing[name]
        size = self.shapes[name][dimension]
        # A product sums over the last but one dimension of its second operand.
        at = 1 if operation == "convolution" else -2
        different = list(self.shapes[name]).count(size) == 1
        return different and tensor.ndim > 1 and tensor.shape[at] == size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@dataclass(frozen=True)
class AttentionCall:
    """An attention that was computed by torch: where, over how large a head, at what scale."""

    module: str  # the innermost module that called it; empty for the model itself
    head_dim: int
    scale: float | None  # what multiplies q·k; None: 1/sqrt(head_dim)


def attention_calls(model: nn.Module, call: Callable[[nn.Module], object]) -> list[AttentionCall]:
    """Return the attentions that one call of a model computes by torch's functions and layers."""
    found = [
        AttentionCall(name, int(part.head_dim), None)
        for name, part in model.named_modules()
        if isinstance(part, nn.MultiheadAttention)
    ]
    inside: list[str] = []
    own = {call.module for call in found}

    class Seen(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            given = kwargs or {}
            if func is nn.functional.scaled_dot_product_attention:
                q = args[0] if args else given["query"]
                place = inside[-1] if inside else ""
                if place not in own:
                    found.append(AttentionCall(place, int(q.shape[-1]), given.get("scale")))
            return func(*args, **given)

    hooks = []
    for name, part in model.named_modules():
        hooks.append(part.register_forward_pre_hook(partial(_enter, inside, name)))
        leave = partial(_leave, inside)
        hooks.append(part.register_forward_hook(leave, always_call=True))
    try:
        with torch.no_grad(), Seen():
            call(model)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _enter(inside: list[str], name: str, *_: Any) -> None:
    inside.append(name)


def _leave(inside: list[str], *_: Any) -> None:
    inside.pop()
