"""Custom models: the user's function `width -> nn.Module`, named as package.module:function.

The function draws its weights from torch's global generator, which is seeded before the call and
restored after it. Whether a model can be scaled by µP and trained along a trial axis is checked
once, on the model of the base width.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from hptransfer.config import CustomConfig, Layout
from hptransfer.config.choices import Conditioning
from hptransfer.errors import UserError, require
from hptransfer.models.families.host_copies import host_copies, own_line
from hptransfer.system.random_streams import torch_generator

Found = TypeVar("Found")

_MOST_DIMENSIONS = 4  # of a parameter: the weight of a 2-D convolution


def build_custom_model(config: CustomConfig, stream: torch.Generator | None = None) -> nn.Module:
    """Return the model at the config's width in eval mode, on the current default device.

    The factory draws from the seed of `stream`, or from that of trial seed 0.

    Raises:
        UserError: the factory cannot be imported, raises, or returns something else than a module.
    """
    stream = torch_generator(0, "init") if stream is None else stream
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream.initial_seed())
        factory = _factory(config.factory)
        model = made(factory, config.width, setting="model.factory", function=config.factory)
    if config.condition is Conditioning.none:
        model.register_forward_pre_hook(lambda _, arguments: arguments[:2])
    return model.eval().to(torch.get_default_device())


def made(make: Callable[[int], Any], width: int, *, setting: str, function: str) -> nn.Module:
    """Return the model of a user's function; `setting` and `function` name it in messages.

    Raises:
        UserError: the function raises, or returns something else than a module.
    """
    try:
        model = make(width)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if torch.get_default_device().type == "meta":
            # A factory that reads a tensor's value needs storage; shapes are the same on a CPU.
            with torch.device("cpu"):
                return made(make, width, setting=setting, function=function)
        raise UserError(
            f"`{setting}` must build a model at every width, but {function} raises "
            f"{_named(error)} at width {width}."
        ) from error
    require(
        isinstance(model, nn.Module),
        f"`{setting}` must return an nn.Module, but {function} returns a {type(model).__name__}.",
    )
    return model


@cache
def _factory(name: str) -> Callable[[int], Any]:
    """Return the function of that name; modules are looked for in the current folder, too."""
    require(
        re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None,
        "`model.factory` must name the function that builds your model from a width, as "
        f"package.module:function, but got {name!r}.",
    )
    module_name, _, function = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        # An import must neither use the trial's random numbers nor create tensors without storage.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"`model.factory` must name a module that can be imported, but importing {module_name} "
            f"raises {_named(error)}. Modules are looked for in {folder} and on PYTHONPATH."
        ) from error
    require(
        callable(getattr(module, function, None)),
        f"`model.factory` must name a function of its module, but {module.__name__} has no "
        f"function {function!r}. Write package.module:function.",
    )
    return getattr(module, function)


def _named(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300].rstrip('.')}{_place(error)}"


def _place(error: BaseException) -> str:
    """Return the deepest line of the user's own code that an error passed through, if any."""
    line = own_line(traceback.extract_tb(error.__traceback__))
    return f" ({line})" if line else ""


@contextmanager
def packable_attention(*, compiled: bool = False) -> Iterator[None]:
    """Let torch compute attention by plain matrix products in a `with` block.

    For the fused kernels `vmap` has no rule and would loop over the trials. Torch's fused encoder
    layer, which is used in eval mode, has no backward. On a GPU `vmap` applies autocast once more
    inside of attention, whose backward then raises, so `_CastBefore` does that before. Compiled
    code needs no such help, and torch 2.11 cannot compile some methods of tensors under it.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    casts = torch.is_autocast_enabled("cuda") and not compiled
    try:
        with sdpa_kernel(SDPBackend.MATH), _CastBefore() if casts else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class _CastBefore(TorchFunctionMode):
    """Casts the inputs of attention on a GPU as autocast does, and computes it without autocast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is not F.scaled_dot_product_attention or not torch.is_autocast_enabled("cuda"):
            return func(*args, **named)
        dtype = torch.get_autocast_dtype("cuda")

        def cast(value: Any) -> Any:
            floating = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(dtype) if floating else value

        with torch.autocast("cuda", enabled=False):
            return func(*map(cast, args), **{name: cast(value) for name, value in named.items()})


@cache
def require_usable(config: CustomConfig, layout: Layout) -> None:
    """Raise a `UserError` if a model's parameters or its forward cannot be scaled or packed."""
    with torch.device("cpu"):
        model, again = (build_custom_model(config) for _ in range(2))
        _require_parameters(model, config)
        for name, value in model.named_parameters():
            require(
                bool(value.isfinite().all()),
                f"A parameter must start finite, but {name} of {config.factory} starts with NaN or "
                "infinity.",
            )
            require(
                torch.equal(value, again.get_parameter(name)),
                f"`model.factory` must draw from torch's global generator only, but {name} of "
                f"{config.factory} differs between two calls from the same seed. Use torch.nn.init "
                "or torch.randn, not numpy, random or a generator of its own.",
            )
        _require_forward(model, config, _example(config, layout))
    with torch.device("meta"):
        empty = build_custom_model(config)
    _require_own_device(empty, config, _example(config, layout))


def _require_parameters(model: nn.Module, config: CustomConfig) -> None:
    parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    require(
        bool(parameters),
        f"A model must have trainable parameters, but that of {config.factory} has none.",
    )
    for name, module in model.named_modules():
        require(
            not (
                isinstance(module, _BatchNorm) or getattr(module, "running_mean", None) is not None
            ),
            "A model must not depend on the other samples of its batch, but "
            f"{name} is a {type(module).__name__}. Use nn.GroupNorm or nn.LayerNorm.",
        )
    for name, value in parameters:
        require(
            value.ndim <= _MOST_DIMENSIONS and value.dtype is torch.float32,
            f"A parameter must be float32 of at most {_MOST_DIMENSIONS} dimensions, but {name} is "
            f"{value.dtype} of shape {tuple(value.shape)}.",
        )
    names: dict[int, list[str]] = defaultdict(list)
    for name, value in model.named_parameters(remove_duplicate=False):
        names[value.untyped_storage().data_ptr()].append(name)
    for tied in names.values():
        require(
            len(tied) == 1,
            f"Every parameter must have its own storage, but {' and '.join(tied)} share one, and "
            "µP may scale their places differently. Give each place its own parameter.",
        )


def _example(config: CustomConfig, layout: Layout) -> tuple[Tensor, ...]:
    """Return arguments of a forward for two samples, the second with the null condition."""
    stream = torch_generator(0, "example")

    def normal(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=stream)

    x, t = normal(layout.channels, layout.image_size, layout.image_size), torch.tensor([0.0, 1e3])
    if config.condition is not Conditioning.caption:
        return x, t, torch.tensor([0, layout.classes])
    present = torch.tensor([True, False])
    tokens = normal(layout.caption_tokens, layout.caption_channels) * present[:, None, None]
    mask = present[:, None].expand(2, layout.caption_tokens)
    return x, t, tokens, mask, normal(layout.pooled_channels) * present[:, None]


def on_example(
    config: CustomConfig,
    layout: Layout,
    look: Callable[[nn.Module, Callable[[nn.Module], object]], Found],
    device: str = "cpu",
) -> Found:
    """Return what `look` finds in a custom model, given the model and what calls it on samples."""
    with torch.device(device):
        model = build_custom_model(config)
    example = [part.to(device) for part in _example(config, layout)]
    with packable_attention():
        return look(model, lambda called: called(*example))


def _require_forward(model: nn.Module, config: CustomConfig, example: Sequence[Tensor]) -> None:
    try:
        output = model(*example)
    except Exception as error:
        raise UserError(
            f"A model must run as forward(x, t, *condition), but that of {config.factory} raises "
            f"{_named(error)}. The condition is {_SAID[config.condition]}."
        ) from error
    require(
        isinstance(output, Tensor) and output.shape == example[0].shape,
        f"A model's output must be one tensor of its input's shape {tuple(example[0].shape)}, but "
        f"{config.factory} gives {getattr(output, 'shape', type(output).__name__)}.",
    )
    require(
        bool(output.isfinite().all()),
        f"A model's output must be finite, but {config.factory} gives NaN or infinity on two "
        "samples, the second with the null condition (the last label, or an all-masked caption).",
    )
    _require_packable(model, config, example, output)


# The condition in the words of an error, by kind.
_SAID = {
    Conditioning.none: "empty (model.condition=none)",
    Conditioning.label: (
        "labels (B,), where the null label is the number of classes; a model without labels needs "
        "model.condition=none"
    ),
    Conditioning.caption: "tokens (B, L, K), mask (B, L) and pooled features (B, A)",
}


def _require_packable(
    model: nn.Module, config: CustomConfig, example: Sequence[Tensor], output: Tensor
) -> None:
    """Refuse a model that `vmap` cannot map over trials, or whose output then differs."""
    tensors = {
        name: torch.stack([value.detach()] * 2).requires_grad_()
        for name, value in model.requires_grad_(False).named_parameters()
    }
    arguments = [part.expand(2, *part.shape) for part in example]

    def member(own: dict[str, Tensor], *args: Tensor) -> Tensor:
        return functional_call(model, own, args)

    try:
        with packable_attention():
            mapped = vmap(member)(tensors, *arguments)
            mapped.square().sum().backward()
    except Exception as error:
        raise UserError(
            f"A model must run under torch.func.vmap, which trains trials together, but that of "
            f"{config.factory} raises {_named(error)}. Usual causes are .item(), an `if` on a "
            "tensor's values, writing into a tensor in place, random draws, and custom kernels."
        ) from error
    require(
        torch.allclose(mapped[1], output, rtol=1e-3, atol=1e-4),
        "A model must give the same output under torch.func.vmap, which trains trials together, "
        f"but that of {config.factory} does not. Remove what depends on the number of trials or "
        "on other samples.",
    )


def _require_own_device(empty: nn.Module, config: CustomConfig, example: Sequence[Tensor]) -> None:
    """Refuse a model that does not run on the meta device, on which FLOPs are counted."""
    try:
        empty(*(part.to("meta") for part in example))
    except Exception as error:
        raise UserError(
            f"A model must run on the device of its inputs, but that of {config.factory} raises "
            f"{_named(error)} on torch's meta device. Create tensors in forward with "
            "device=x.device, and keep constants as buffers."
        ) from error


@cache
def require_runs_on_gpu(config: CustomConfig, layout: Layout, *, captured: bool) -> None:
    """Raise a `UserError` if a model that runs on a CPU would not run on a GPU; none is needed.

    The model is built on the CPU and then moved, as for training, so that tensors which are neither
    parameters nor buffers stay behind.

    Args:
        captured: whether steps are captured in a CUDA graph, which takes no copy from the host.
    """
    model = build_custom_model(config).to("meta")
    example = [part.to("meta") for part in _example(config, layout)]
    with host_copies() as copies:
        try:
            model(*example)
        except Exception as error:
            raise UserError(
                f"A model must run on the device of its inputs, but that of {config.factory} "
                f"raises {_named(error)} where its parameters and buffers were moved to another "
                "device. Keep constant tensors as buffers (self.register_buffer)."
            ) from error
    where = f"{copies[0]}, called by {config.factory}," if copies and copies[0] else config.factory
    require(
        not (captured and copies),
        "`runtime.graph` needs a model that copies no tensor from the host to the GPU while it "
        f"runs, but {where} does. Register a table as a buffer (self.register_buffer) or make it "
        "on the device (torch.arange(..., device=x.device)), or set runtime.graph=false, with "
        "which the model runs as it is, but slower.",
    )


@cache
def require_forward_at(config: CustomConfig, layout: Layout) -> None:
    """Raise a `UserError` if the forward does not run at the config's width. Shapes suffice."""
    with torch.device("meta"):
        model = build_custom_model(config)
    try:
        model(*(part.to("meta") for part in _example(config, layout)))
    except Exception as error:
        raise UserError(
            f"A model must run at every width, but that of {config.factory} raises "
            f"{_named(error)} at width {config.width}, though it runs at the base width. Replace a "
            "size in the model that is a fixed number by one that is computed from the width."
        ) from error


@cache
def require_called(config: CustomConfig, layout: Layout, modules: tuple[str, ...]) -> None:
    """Raise a `UserError` if a readout is not called as a module, so that no hook can scale it."""
    with torch.device("cpu"):
        model = build_custom_model(config)
        called: set[str] = set()
        for name in modules:
            note = partial(lambda name, *_: called.add(name), name)
            model.get_submodule(name).register_forward_pre_hook(note)
        model(*_example(config, layout))
    for name in modules:
        require(
            name in called,
            "The output layer must be called as a module, so that its input can be scaled, but "
            f"{name} of {config.factory} is not. Call it (layer(x)) instead of using its weight, "
            "or set model.roles.",
        )
