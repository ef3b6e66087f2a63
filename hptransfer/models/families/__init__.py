"""From a model config to a plain `nn.Module`, and to the way its parameters start.

A model's `forward(x, t, *condition)` takes images, timesteps (0 to 1000) and the condition: labels,
or a caption's tokens, mask and pooled features. It only wires its children; a family adds one
file here and one line in `_FAMILIES`. A model of the user's own brings its initialisation along.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn

from hptransfer.config import (
    CustomConfig,
    DiTConfig,
    Layout,
    MMDiTConfig,
    ModelConfig,
    PixArtConfig,
    UViTConfig,
)
from hptransfer.config.choices import Conditioning, Init
from hptransfer.models.families import custom, dit, mmdit, pixart, uvit
from hptransfer.models.families.initializers import Initializer

_FAMILIES: dict[type[ModelConfig], tuple[type[nn.Module], ModuleType]] = {
    DiTConfig: (dit.DiT, dit),
    UViTConfig: (uvit.UViT, uvit),
    PixArtConfig: (pixart.PixArt, pixart),
    MMDiTConfig: (mmdit.MMDiT, mmdit),
}


def build_architecture(model: ModelConfig, layout: Layout) -> nn.Module:
    """Build a model on the current default device, in its code's own initialisation."""
    if isinstance(model, CustomConfig):
        return custom.build_custom_model(model)
    build, _ = _family(model)
    return build(model, layout)


def initializer(model: ModelConfig, layout: Layout, name: str, init: Init) -> Initializer:
    """Say how the parameter `name` of a family starts."""
    _, module = _family(model)
    return module.initializer(model, layout, name, init)


def _family(model: ModelConfig) -> tuple[type[nn.Module], ModuleType]:
    if type(model) not in _FAMILIES:
        known = ", ".join(cls.__name__ for cls in _FAMILIES)
        raise TypeError(f"no model for {type(model).__name__}; known: {known}")
    return _FAMILIES[type(model)]


def empty_batch(model: ModelConfig, layout: Layout, batch_size: int) -> tuple[Tensor, ...]:
    """Return uninitialised arguments of a model's forward, on the current default device."""
    size = layout.image_size
    x = torch.empty(batch_size, layout.channels, size, size)
    t = torch.empty(batch_size)
    if model.conditioning is not Conditioning.caption:
        return x, t, torch.empty(batch_size, dtype=torch.long)
    length = layout.caption_tokens
    tokens = torch.empty(batch_size, length, layout.caption_channels)
    mask = torch.empty(batch_size, length, dtype=torch.bool)
    return x, t, tokens, mask, torch.empty(batch_size, layout.pooled_channels)
