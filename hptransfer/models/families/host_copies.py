"""The copies from the host to the device that a forward makes, found without a device.

A CUDA graph cannot capture such a copy: torch raises an error, since the graph would read the same
host memory again long after it was freed. A forward that runs on torch's meta device makes the
calls that it would make on a GPU, so they are found there, by two of torch's modes. The dispatch
mode sees operators that take a tensor of the CPU and give one of the device. The function mode sees
what the meta device has no operator for: tensors made on the device from Python numbers, and lists
as indices.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hptransfer.models.user_functions import own_line

# Functions that make a tensor on the host from numbers and then move it.
_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
_INDEXED = (Tensor.__getitem__, Tensor.__setitem__)
# Operators that move even a single number of the CPU; all others take it as an argument of their
# kernel.
_MOVING = ("_to_copy", "copy_", "where", "index", "index_put", "index_put_")


@contextmanager
def host_copies() -> Iterator[list[str]]:
    """Provide a list of the lines that copy to the meta device, filled in the `with` block."""
    found: list[str] = []
    with _Numbers(found), _Tensors(found):
        yield found


class _Numbers(TorchFunctionMode):
    """Notes the functions that would make a tensor on the host and move it to the device."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = sum(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))
        numbers = given == (func is Tensor.new_tensor)  # which is given the tensor it is of
        made = func in _FROM_NUMBERS and numbers and _is_meta(result)
        listed = func in _INDEXED and _is_meta(args[0]) and _has_list(args[1])
        if made or listed:
            self.found.append(own_line(traceback.extract_stack()))
        return result


class _Tensors(TorchDispatchMode):
    """Notes the operators that would move a tensor of the CPU to the device."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        moving = func.overloadpacket.__name__ in _MOVING
        moved = [
            tensor for tensor in given if tensor.device.type == "cpu" and (moving or tensor.ndim)
        ]
        if moved and any(map(_is_meta, tree_leaves(result))):
            self.found.append(own_line(traceback.extract_stack()))
        return result


def _is_meta(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == "meta"


def _has_list(index: object) -> bool:
    return any(
        isinstance(part, list) or type(part).__module__ == "numpy"
        for part in (index if isinstance(index, tuple) else (index,))
    )
