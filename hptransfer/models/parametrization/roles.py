"""The roles of parameters: which dimensions grow with width, by the `mup` package's base shapes.

A model is given as a function from a width to a module without storage (on the meta device), so
that the families, custom models and models of a user's own loop go through the same functions.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial

import torch
from mup.infshape import InfShape
from mup.shape import make_base_shapes, zip_infshapes
from torch import nn

from hptransfer.config import CustomConfig, Layout, ModelConfig
from hptransfer.errors import UserError
from hptransfer.models.families import build_architecture
from hptransfer.models.families.custom import (
    on_example,
    require_called,
    require_forward_at,
    require_usable,
)
from hptransfer.models.families.layers import Residual
from hptransfer.models.parametrization.dataflow import Dataflow, watched
from hptransfer.models.parametrization.factors import Role


@dataclass(frozen=True)
class ShapedParameter:
    """A parameter's shape, role and width ratio, and whether it lies in a residual block."""

    name: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    role: Role
    width_mult: float  # ratio m of the fan-in if it grows, else of the growing dimension
    in_block: bool  # in a module with residual branches, so that depth scaling acts on it
    places: tuple[str, ...]  # every name of the tensor; several if it is tied
    readouts: tuple[str, ...]  # the places at which it is a readout's weight
    grows: tuple[int, ...]  # the dimensions that grow with width
    reason: str  # why it has its role, as a clause


REASONS = {
    Role.input: "since it grows with its fan-out alone",
    Role.hidden: "since two of its dimensions grow",
    Role.output: "since it grows with its fan-in alone",
    Role.vector: "since it is a vector whose length grows",
    Role.finite: "since none of its dimensions grows",
}

EmptyModel = Callable[[int], nn.Module]  # the model of a width, on the meta device


@dataclass(frozen=True)
class Wording:
    """What messages call a user's function, and the setting that states roles."""

    function: str
    roles: str


def on_meta(model: ModelConfig, layout: Layout, width: int) -> nn.Module:
    """Return a model at a width on the meta device; callers share it and must not change it."""
    return _on_meta(dataclasses.replace(model, width=width), layout)


@cache
def _on_meta(model: ModelConfig, layout: Layout) -> nn.Module:
    with torch.device("meta"):
        return build_architecture(model, layout)


@cache
def shaped_parameters(model: ModelConfig, layout: Layout) -> tuple[ShapedParameter, ...]:
    """Return every trainable parameter's role and base shape, in the model's own order.

    A dimension grows if it differs between the models of the base width and of twice that width.
    """
    if isinstance(model, CustomConfig):
        return _custom_parameters(model, layout)
    return _inferred(partial(on_meta, model, layout), model.base_width, model.width)


def _inferred(build: EmptyModel, base_width: int, width: int) -> tuple[ShapedParameter, ...]:
    base, delta = build(base_width), build(2 * base_width)
    infshapes = zip_infshapes(make_base_shapes(base, delta), build(width))
    fan_in = _fan_in_dimensions(base)
    blocks = _blocks(base)
    places = _places(base)
    return tuple(
        _shaped(name, infshape, fan_in, places[name], in_block=name.startswith(blocks))
        for name, infshape in infshapes.items()
        if base.get_parameter(name).requires_grad
    )


def _shaped(
    name: str,
    infshape: InfShape,
    fan_in: Mapping[str, int],
    places: tuple[str, ...],
    *,
    in_block: bool,
) -> ShapedParameter:
    roles = {place: _role(place, infshape, fan_in) for place in places}
    # A table that is also a readout's weight is scaled as a table (arXiv 2203.03466, Appendix D).
    tied_table = Role.input in roles.values()
    role = Role.input if tied_table else roles[name]
    return ShapedParameter(
        name=name,
        shape=tuple(infshape.shape()),
        base_shape=tuple(d.base_dim if d.isinf() else d.dim for d in infshape),
        role=role,
        width_mult=float(infshape.width_mult()),
        in_block=in_block,
        places=places,
        readouts=tuple(place for place, role in roles.items() if role is Role.output),
        grows=tuple(index for index, dimension in enumerate(infshape) if dimension.isinf()),
        reason=REASONS[role],
    )


def _places(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return every name of each parameter, by its first one."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return {each[0]: tuple(each) for each in names.values()}


def _fan_in_dimensions(model: nn.Module) -> dict[str, int]:
    """Return the fan-in dimension of the weights of linear layers and convolutions, by name."""
    plain = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return {
        f"{name}.weight": 0 if isinstance(child, transposed) else 1
        for name, child in model.named_modules()
        if isinstance(child, (*plain, *transposed))
    }


def _blocks(model: nn.Module) -> tuple[str, ...]:
    """Return the name prefixes of the blocks: entries of lists, with residual branches."""
    return tuple(
        f"{name}.{index}."
        for name, child in model.named_modules()
        if isinstance(child, nn.ModuleList)
        for index, block in child.named_children()
        if any(isinstance(part, Residual) for part in block.modules())
    )


def _role(name: str, infshape: InfShape, fan_in: Mapping[str, int]) -> Role:
    growing = infshape.ninf()
    if growing == 0:
        return Role.finite
    if len(infshape) == 1:
        return Role.vector
    if growing > 2:
        raise UserError(
            f"A parameter must grow with width in at most two dimensions, but {name} of shape "
            f"{tuple(infshape.shape())} grows in {growing}. Keep the others fixed."
        )
    if growing == 2:
        return Role.hidden
    return Role.output if name in fan_in and infshape[fan_in[name]].isinf() else Role.input


def _custom_parameters(model: CustomConfig, layout: Layout) -> tuple[ShapedParameter, ...]:
    """Return a custom model's parameters with inferred or stated roles; refuse unscalable ones."""
    at_base = dataclasses.replace(model, width=model.base_width)
    require_usable(at_base, layout)
    build = partial(on_meta, model, layout)
    words = Wording(function=model.factory, roles="model.roles")
    parameters = growing_parameters(build, model.base_width, model.width, words)
    require_forward_at(dataclasses.replace(at_base, width=2 * model.base_width), layout)
    parameters = without_inner_readouts(parameters, custom_dataflow(model, layout))
    parameters = with_stated_roles(model.roles, parameters, words)
    require_scalable_readouts(parameters, build(model.base_width), words)
    require_plain_readouts(parameters, build(model.base_width), words)
    outputs = [shaped.name for shaped in parameters if shaped.role is Role.output]
    modules = tuple(name.removesuffix(".weight") for name in outputs)
    require_called(at_base, layout, modules)
    return parameters


@cache
def custom_dataflow(model: CustomConfig, layout: Layout) -> Dataflow:
    """Return what a custom model of the base width does with its weights, for any width's roles."""
    at_base = dataclasses.replace(model, width=model.base_width, roles=())
    shapes = _inferred(partial(on_meta, model, layout), model.base_width, model.base_width)
    return on_example(at_base, layout, partial(dataflow_of, parameters=shapes))


def dataflow_of(
    model: nn.Module,
    call: Callable[[nn.Module], object],
    *,
    parameters: Sequence[ShapedParameter],
) -> Dataflow:
    """Return what one call of a model does with its growing parameters."""
    growing = {shaped.name: shaped.grows for shaped in parameters if shaped.grows}
    fan_in = _fan_in_dimensions(model)
    layers = {name for name, grows in growing.items() if grows == (fan_in.get(name),)}
    return watched(model, call, growing=growing, layers=frozenset(layers))


def without_inner_readouts(
    parameters: Sequence[ShapedParameter], flow: Dataflow
) -> tuple[ShapedParameter, ...]:
    """Give the role `hidden` to a layer whose output meets a further growing weight.

    Its fan-out is fixed, but what it gives is an activation, which must neither shrink nor grow
    with the width: so its std falls as that of a hidden matrix, and it has no forward factor.
    """
    return tuple(
        dataclasses.replace(
            shaped, role=Role.hidden, readouts=(), reason=reason_of_inner(flow.reached[shaped.name])
        )
        if is_inner(shaped, flow)
        else shaped
        for shaped in parameters
    )


def is_inner(shaped: ShapedParameter, flow: Dataflow) -> bool:
    """Whether a weight with a growing fan-in and a fixed fan-out lies amid the network."""
    name = shaped.name
    layer = shaped.role is Role.output and not set(shaped.places) - {name}
    return name in flow.reached and (layer or name in flow.summed - flow.reused)


def reason_of_inner(reached: str) -> str:
    """Return why such a weight is hidden, as a clause."""
    return f"since it grows with its fan-in and its output meets {reached}"


def growing_parameters(
    build: EmptyModel, base_width: int, width: int, words: Wording
) -> tuple[ShapedParameter, ...]:
    """Return the inferred roles of a user's model at `width`, in the model's own order.

    Raises:
        UserError: widths differ in more than sizes, or in nothing.
    """
    _require_same_names(build, base_width, width, words)
    parameters = _inferred(build, base_width, width)
    if all(shaped.role is Role.finite for shaped in parameters):
        raise UserError(
            f"A model's parameters must grow with its width, but {words.function} gives the same "
            f"shapes at widths {base_width} and {2 * base_width}. Use the width that "
            "the function is given."
        )
    return parameters


def require_scalable_readouts(
    parameters: Sequence[ShapedParameter], base: nn.Module, words: Wording
) -> None:
    """Refuse a readout that no hook can scale, since it is no layer's weight."""
    scalable = _fan_in_dimensions(base)
    for shaped in parameters:
        if shaped.role is Role.output and shaped.name not in scalable:
            raise UserError(
                "A parameter with the role `output` must be the weight of an nn.Linear or a "
                "convolution, whose input is scaled by base width / width, but "
                f"{shaped.name} is not. Put it into such a layer, or give it another role in "
                f"{words.roles}."
            )


# Of a layer whose weight is computed from others: torch's parametrizations, and its weight norm
# by hooks.
_COMPUTED = re.compile(r"(.+)\.(?:parametrizations\.weight\.original\d*|weight_v)")


def require_plain_readouts(
    parameters: Sequence[ShapedParameter], base: nn.Module, words: Wording
) -> None:
    """Refuse a readout whose weight is normed or computed otherwise, for which there is no rule."""
    fan_in = _fan_in_dimensions(base)
    for shaped in parameters:
        found = _COMPUTED.fullmatch(shaped.name)
        layer = found[1] if found else ""
        if shaped.role is Role.input and shaped.grows == (fan_in.get(f"{layer}.weight"),):
            raise UserError(
                "A readout must have no parametrization such as weight norm, which undoes µP's "
                f"factor of its weight, but {layer} has one. Leave it off; or if {layer} lies "
                f'amid the network, set {words.roles}=["{shaped.name}=hidden"].'
            )


def _require_same_names(build: EmptyModel, base_width: int, width: int, words: Wording) -> None:
    def ranks(width: int) -> dict[str, int]:
        return {name: value.ndim for name, value in build(width).named_parameters()}

    base = ranks(base_width)
    for other in (2 * base_width, width):
        odd = {name for name, _ in base.items() ^ ranks(other).items()}
        if odd:
            raise UserError(
                f"A model must have the same parameters at every width, but {sorted(odd)[0]} of "
                f"{words.function} is not the same at widths {base_width} and {other}. Let "
                "width change nothing but sizes."
            )


def with_stated_roles(
    roles: Sequence[str], parameters: Sequence[ShapedParameter], words: Wording
) -> tuple[ShapedParameter, ...]:
    """Return parameters with the roles of `pattern=role`; the first pattern that matches counts."""
    rules = [_stated(text, parameters, words) for text in roles]

    def as_stated(shaped: ShapedParameter) -> ShapedParameter:
        stated = (role for pattern, role in rules if fnmatchcase(shaped.name, pattern))
        role = next(stated, shaped.role)
        if role is shaped.role:
            return shaped
        readouts = shaped.places if role is Role.output else ()
        reason = f"as {words.roles} states"
        return dataclasses.replace(shaped, role=role, readouts=readouts, reason=reason)

    return tuple(as_stated(shaped) for shaped in parameters)


def _stated(text: str, parameters: Sequence[ShapedParameter], words: Wording) -> tuple[str, Role]:
    pattern, _, role = text.rpartition("=")
    known = [each.value for each in Role]
    if not pattern or role not in known:
        raise UserError(
            f"`{words.roles}` must hold entries pattern=role, where the role is one of "
            f"{', '.join(known)}, but got {text!r}."
        )
    if not any(fnmatchcase(shaped.name, pattern) for shaped in parameters):
        names = ", ".join(shaped.name for shaped in parameters[:8])
        raise UserError(
            f"Every pattern of `{words.roles}` must match a parameter, but {pattern!r} matches "
            f"none. The first parameters are {names}."
        )
    return pattern, Role(role)
