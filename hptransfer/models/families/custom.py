"""Custom models: the user's function `width -> nn.Module`, named as package.module:function.

The function draws its weights from torch's global generator, which is seeded before the call and
restored after it. Whether a model can be scaled by µP and trained along a trial axis is checked
once, on the model of the base width.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

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
from hptransfer.models.families.host_copies import host_copies
from hptransfer.models.user_functions import error_text, user_function
from hptransfer.system.random_streams import torch_generator

Found = TypeVar("Found")

FACTORY = "the function that builds your model from a width"  # what `model.factory` must name
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
        factory = user_function(config.factory, "model.factory", FACTORY)
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
            f"{error_text(error)} at width {width}."
        ) from error
    require(
        isinstance(model, nn.Module),
        f"`{setting}` must return an nn.Module, but {function} returns a {type(model).__name__}.",
    )
    return model


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


def prediction_of(output: Any) -> Tensor:
    """Return the prediction of what a model returns: the output, or the first part of a pair."""
    return output[0] if isinstance(output, tuple) else output


def auxiliary_of(output: Any, factory: str) -> Tensor:
    """Return the auxiliary loss of what a model returns: one a sample (..., B), or a batch (...,).

    Raises:
        UserError: the output is no pair, or its second part is no such loss.
    """
    require(
        isinstance(output, tuple) and len(output) == 2,
        "`objective.auxiliary_weight` weights a loss that the model returns beside its prediction, "
        f"but {factory} returns {_kind(output)}. Return (prediction, loss), or set "
        "objective.auxiliary_weight=null.",
    )
    prediction, loss = output
    floating = isinstance(loss, Tensor) and loss.is_floating_point()
    batch = prediction.shape[:-3]
    require(
        floating and loss.shape in (batch, batch[:-1]),
        "An auxiliary loss must be a floating-point tensor of one number for each sample, (B,), or "
        f"of one for the batch, (), but of {factory} it is {_kind(loss)} for inputs "
        f"{tuple(prediction.shape)}. Sum or average over its other dimensions.",
    )
    return loss


def _kind(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a {str(output.dtype).removeprefix('torch.')} tensor of shape {tuple(output.shape)}"
    parts = f" of {len(output)}" if isinstance(output, tuple | list) else ""
    return f"a {type(output).__name__}{parts}"


def has_batch_loss(config: CustomConfig, layout: Layout) -> bool:
    """Whether a model's auxiliary loss is one number for a whole batch, and not one a sample."""
    if not layout.auxiliary:
        return False
    at_base = dataclasses.replace(config, width=config.base_width)

    def look(model: nn.Module, call: Callable[[nn.Module], object]) -> bool:
        return auxiliary_of(call(model), config.factory).ndim == 0

    return on_example(at_base, layout, look, device="meta")


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
        _require_forward(model, config, layout)
    with torch.device("meta"):
        empty = build_custom_model(config)
    _require_own_device(empty, config, _example(config, layout))


class _Example(NamedTuple):
    """The arguments of a forward for two samples, the second with the null condition."""

    inputs: tuple[Tensor, ...]
    features: dict[str, Tensor]  # by the argument's name; empty where the model gets none

    def on(self, device: str) -> _Example:
        """Return the same arguments on a device."""
        named = {name: part.to(device) for name, part in self.features.items()}
        return _Example(tuple(part.to(device) for part in self.inputs), named)

    def given_to(self, model: nn.Module) -> Any:
        """Return what a model returns for them."""
        return model(*self.inputs, **self.features)


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


def _example(config: CustomConfig, layout: Layout) -> _Example:
    stream = torch_generator(0, "example")

    def normal(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=stream)

    x, t = normal(layout.channels, layout.image_size, layout.image_size), torch.tensor([0.0, 1e3])
    features = {}
    if config.feature_tokens:
        features["features"] = normal(config.feature_tokens, layout.feature_channels)
    if config.condition is not Conditioning.caption:
        return _Example((x, t, torch.tensor([0, layout.classes])), features)
    present = torch.tensor([True, False])
    tokens = normal(layout.caption_tokens, layout.caption_channels) * present[:, None, None]
    mask = present[:, None].expand(2, layout.caption_tokens)
    pooled = normal(layout.pooled_channels) * present[:, None]
    return _Example((x, t, tokens, mask, pooled), features)


def on_example(
    config: CustomConfig,
    layout: Layout,
    look: Callable[[nn.Module, Callable[[nn.Module], object]], Found],
    device: str = "cpu",
) -> Found:
    """Return what `look` finds in a custom model, given the model and what calls it on samples."""
    with torch.device(device):
        model = build_custom_model(config)
    example = _example(config, layout).on(device)
    with packable_attention():
        return look(model, example.given_to)


def _require_forward(model: nn.Module, config: CustomConfig, layout: Layout) -> None:
    example = _example(config, layout)
    x, named = example.inputs[0], "".join(f", {name}={name}" for name in example.features)
    try:
        output = example.given_to(model)
    except Exception as error:
        raise UserError(
            f"A model must run as forward(x, t, *condition{named}), but that of {config.factory} "
            f"raises {error_text(error)}. The condition is {_SAID[config.condition]}."
        ) from error
    require(
        layout.auxiliary or not isinstance(output, tuple),
        "A model that returns a pair, its prediction and an auxiliary loss, needs the loss's "
        f"weight, but {config.factory} returns {_kind(output)} and objective.auxiliary_weight is "
        "null. Set it, for example to 0.01; with 0 the loss has no effect.",
    )
    prediction = prediction_of(output)
    require(
        isinstance(prediction, Tensor) and prediction.shape == x.shape,
        f"A model's output must be one tensor of its input's shape {tuple(x.shape)}, but "
        f"{config.factory} gives {getattr(prediction, 'shape', type(output).__name__)}.",
    )
    losses = (auxiliary_of(output, config.factory),) if layout.auxiliary else ()
    for loss in losses:
        require(
            loss.requires_grad,
            "An auxiliary loss must depend on the model's parameters, but that of "
            f"{config.factory} has no gradient. Leave out .detach(), .item() and torch.no_grad().",
        )
    require(
        all(bool(part.isfinite().all()) for part in (prediction, *losses)),
        f"A model's output must be finite, but {config.factory} gives NaN or infinity on two "
        "samples, the second with the null condition (the last label, or an all-masked caption).",
    )
    if example.features:
        _require_blind(model, config, example.inputs, prediction)
    _require_packable(model, config, example, (prediction, *losses))


def _require_blind(
    model: nn.Module, config: CustomConfig, inputs: Sequence[Tensor], prediction: Tensor
) -> None:
    """Refuse a model that does not predict without features what it does with them."""
    try:
        without = prediction_of(model(*inputs))
    except Exception as error:
        raise UserError(
            "A model must predict without features, which samples do not have, but that of "
            f"{config.factory} raises {error_text(error)} as forward(x, t, *condition). Write "
            "features=None into its arguments, and leave the loss out where they are None."
        ) from error
    require(
        isinstance(without, Tensor) and torch.equal(without, prediction),
        "A prediction must not depend on the features, which samples do not have, but that of "
        f"{config.factory} is another one without them. Use them in the loss alone.",
    )


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
    model: nn.Module,
    config: CustomConfig,
    example: _Example,
    outputs: tuple[Tensor, ...],
) -> None:
    """Refuse a model that `vmap` cannot map over trials, or whose output then differs."""
    tensors = {
        name: torch.stack([value.detach()] * 2).requires_grad_()
        for name, value in model.requires_grad_(False).named_parameters()
    }
    inputs = tuple(part.expand(2, *part.shape) for part in example.inputs)
    features = {name: part.expand(2, *part.shape) for name, part in example.features.items()}

    def member(
        own: dict[str, Tensor], args: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> tuple[Tensor, ...]:
        output = functional_call(model, own, args, named)
        return output if len(outputs) > 1 else (output,)

    try:
        with packable_attention():
            mapped = vmap(member)(tensors, inputs, features)
            torch.cat([part.flatten() for part in mapped]).square().sum().backward()
    except Exception as error:
        raise UserError(
            f"A model must run under torch.func.vmap, which trains trials together, but that of "
            f"{config.factory} raises {error_text(error)}. Usual causes are .item(), an `if` on a "
            "tensor's values, writing into a tensor in place, random draws, and custom kernels."
        ) from error
    require(
        all(
            torch.allclose(ours[1], alone, rtol=1e-3, atol=1e-4)
            for ours, alone in zip(mapped, outputs, strict=True)
        ),
        "A model must give the same output under torch.func.vmap, which trains trials together, "
        f"but that of {config.factory} does not. Remove what depends on the number of trials or "
        "on other samples.",
    )


def _require_own_device(empty: nn.Module, config: CustomConfig, example: _Example) -> None:
    """Refuse a model that does not run on the meta device, on which FLOPs are counted."""
    try:
        example.on("meta").given_to(empty)
    except Exception as error:
        raise UserError(
            f"A model must run on the device of its inputs, but that of {config.factory} raises "
            f"{error_text(error)} on torch's meta device. Create tensors in forward with "
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
    example = _example(config, layout).on("meta")
    with host_copies() as copies:
        try:
            example.given_to(model)
        except Exception as error:
            raise UserError(
                f"A model must run on the device of its inputs, but that of {config.factory} "
                f"raises {error_text(error)} where its parameters and buffers were moved to "
                "another device. Keep constant tensors as buffers (self.register_buffer)."
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
        _example(config, layout).on("meta").given_to(model)
    except Exception as error:
        raise UserError(
            f"A model must run at every width, but that of {config.factory} raises "
            f"{error_text(error)} at width {config.width}, though it runs at the base width. "
            "Replace a size in the model that is a fixed number by one that is computed from the "
            "width."
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
        _example(config, layout).given_to(model)
    for name in modules:
        require(
            name in called,
            "The output layer must be called as a module, so that its input can be scaled, but "
            f"{name} of {config.factory} is not. Call it (layer(x)) instead of using its weight, "
            "or set model.roles.",
        )
