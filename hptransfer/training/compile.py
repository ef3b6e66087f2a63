"""Regional compilation: one compiled function per kind of block, whatever the model's depth.

Blocks of one kind share a function whose arguments are the blocks' parameters, so that it is
compiled once for all depths and for all packs of a shape. Torch keeps compiled code on disk between
processes. Compiling a whole training step instead takes minutes.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hptransfer.errors import UserError

# Shapes that one function may be compiled for in one process. Torch's default of 8 would silently
# leave the ninth width of a sweep uncompiled.
MOST_SHAPES = 512

COMPILERS = ("g++", "clang++", "gcc", "clang")  # commands, one of which torch.compile needs

_BY_KIND: dict[Hashable, Callable[..., Any]] = {}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is compiled as a whole for every shape it is called with.

    Raises:
        UserError: there is no C++ compiler.
    """
    _require_compiler()
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    torch._dynamo.config.accumulated_recompile_limit = MOST_SHAPES
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(function, fullgraph=True, dynamic=False)


@contextmanager
def refuse_uncompilable(name: str) -> Iterator[None]:
    """Raise a `UserError` if the custom model `name` cannot be compiled, in a `with` block."""
    from torch._dynamo.exc import TorchDynamoException  # slow to import, and needed only here

    try:
        yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"`runtime.compile` needs a model that torch.compile takes whole, but {name} gives: "
            f"{reason} ... Mend it, or leave runtime.compile null."
        ) from error


def _require_compiler() -> None:
    named = [os.environ[name] for name in ("CXX", "CC") if name in os.environ]
    if not any(shutil.which(name) for name in (*named, *COMPILERS)):
        raise UserError(
            f"`runtime.compile` needs a C++ compiler, but none of {', '.join(COMPILERS)} is on the "
            "PATH. Install one (on Debian: apt install g++), or set runtime.compile=false."
        )


def compile_blocks(model: nn.Module) -> None:
    """Replace the forward of every block in an `nn.ModuleList` by its kind's compiled function."""
    for blocks in [child for child in model.modules() if isinstance(child, nn.ModuleList)]:
        for block in blocks:
            block.forward = partial(_run, block, _function_of(block))


def _run(block: nn.Module, function: Callable[..., Any], *arguments: Tensor) -> Any:
    """Call a block's function with its present tensors, which a functional call may replace."""
    tensors = {
        **dict(block.named_parameters(remove_duplicate=False)),
        **dict(block.named_buffers(remove_duplicate=False)),
    }
    return function(tensors, arguments)


def _function_of(block: nn.Module) -> Callable[..., Any]:
    kind = block_kind(block)
    if kind not in _BY_KIND:
        own = copy.deepcopy(block).to("meta")  # the structure only: tensors are arguments
        _BY_KIND[kind] = compiled(partial(functional_call, own))
    return _BY_KIND[kind]


def block_kind(block: nn.Module) -> Hashable:
    """Return the classes and plain attributes that blocks of one compiled function share."""
    plain = (int, float, bool, str, tuple, type(None))
    return tuple(
        (name, type(child), *sorted((k, v) for k, v in vars(child).items() if isinstance(v, plain)))
        for name, child in block.named_modules()
    )
