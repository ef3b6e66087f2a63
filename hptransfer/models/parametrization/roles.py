"""The roles of parameters: which dimensions grow with width, by the `mup` package's base shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

import torch
from mup.infshape import InfShape
from mup.shape import make_base_shapes, zip_infshapes
from torch import nn

from hptransfer.config import CustomConfig, Layout, ModelConfig
from hptransfer.errors import UserError
from hptransfer.models.families import build_architecture
from hptransfer.models.families.custom import require_called, require_forward_at, require_usable
from hptransfer.models.families.layers import Residual
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
    return _inferred(model, layout)


def _inferred(model: ModelConfig, layout: Layout) -> tuple[ShapedParameter, ...]:
    base = on_meta(model, layout, model.base_width)
    delta = on_meta(model, layout, 2 * model.base_width)
    infshapes = zip_infshapes(make_base_shapes(base, delta), on_meta(model, layout, model.width))
    fan_in = _fan_in_dimensions(base)
    blocks = _blocks(base)
    return tuple(
        ShapedParameter(
            name=name,
            shape=tuple(infshape.shape()),
            base_shape=tuple(d.base_dim if d.isinf() else d.dim for d in infshape),
            role=_role(name, infshape, fan_in),
            width_mult=float(infshape.width_mult()),
            in_block=name.startswith(blocks),
        )
        for name, infshape in infshapes.items()
        if base.get_parameter(name).requires_grad
    )


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
    _require_same_names(model, layout)
    parameters = _inferred(model, layout)
    if all(shaped.role is Role.finite for shaped in parameters):
        raise UserError(
            f"A model's parameters must grow with its width, but {model.factory} gives the same "
            f"shapes at widths {model.base_width} and {2 * model.base_width}. Use the width that "
            "the function is given."
        )
    require_forward_at(dataclasses.replace(at_base, width=2 * model.base_width), layout)
    parameters = _overridden(model.roles, parameters)
    outputs = [shaped.name for shaped in parameters if shaped.role is Role.output]
    scalable = _fan_in_dimensions(on_meta(model, layout, model.base_width))
    for name in outputs:
        if name not in scalable:
            raise UserError(
                "A parameter with the role `output` must be the weight of an nn.Linear or a "
                f"convolution, whose input is scaled by base width / width, but {name} is not. "
                "Put it into such a layer, or give it another role in model.roles."
            )
    modules = tuple(name.removesuffix(".weight") for name in outputs)
    require_called(at_base, layout, modules)
    return parameters


def _require_same_names(model: CustomConfig, layout: Layout) -> None:
    def ranks(width: int) -> dict[str, int]:
        built = on_meta(model, layout, width)
        return {name: value.ndim for name, value in built.named_parameters()}

    base = ranks(model.base_width)
    for width in (2 * model.base_width, model.width):
        odd = {name for name, _ in base.items() ^ ranks(width).items()}
        if odd:
            raise UserError(
                f"A model must have the same parameters at every width, but {sorted(odd)[0]} of "
                f"{model.factory} is not the same at widths {model.base_width} and {width}. Let "
                "width change nothing but sizes."
            )


def _overridden(
    roles: Sequence[str], parameters: Sequence[ShapedParameter]
) -> tuple[ShapedParameter, ...]:
    """Return parameters with the roles of `pattern=role`; the first pattern that matches counts."""
    rules = [_override(text, parameters) for text in roles]

    def role(shaped: ShapedParameter) -> Role:
        stated = (role for pattern, role in rules if fnmatchcase(shaped.name, pattern))
        return next(stated, shaped.role)

    return tuple(dataclasses.replace(shaped, role=role(shaped)) for shaped in parameters)


def _override(text: str, parameters: Sequence[ShapedParameter]) -> tuple[str, Role]:
    pattern, _, role = text.rpartition("=")
    known = [each.value for each in Role]
    if not pattern or role not in known:
        raise UserError(
            "`model.roles` must hold entries pattern=role, where the role is one of "
            f"{', '.join(known)}, but got {text!r}."
        )
    if not any(fnmatchcase(shaped.name, pattern) for shaped in parameters):
        names = ", ".join(shaped.name for shaped in parameters[:8])
        raise UserError(
            f"Every pattern of `model.roles` must match a parameter, but {pattern!r} matches "
            f"none. The first parameters are {names}."
        )
    return pattern, Role(role)
