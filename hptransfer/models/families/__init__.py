"""The model families: from a model config to an `nn.Module` and its parameters' initialisation.

A model's `forward(x, t, *condition)` takes images (..., B, C, H, W), timesteps (..., B) from 0 to
1000, and the condition: labels, or a caption's tokens, mask and pooled features. It returns the
prediction. With `project=True` a family returns the tokens of REPA's head, too; a custom model may
return a pair of its prediction and an auxiliary loss (`objective.auxiliary_weight`). A family is
one module here and one line in `_FAMILIES`. A custom model brings its initialisation along.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn

from hptransfer.config import (
    CustomConfig,
    DiTConfig,
    DiTModernConfig,
    Layout,
    MMDiTConfig,
    ModelConfig,
    PixArtConfig,
    UViTConfig,
)
from hptransfer.config.choices import Conditioning, Init
from hptransfer.models.families import custom, dit, dit_modern, mmdit, pixart, uvit
from hptransfer.models.families.initializers import Initializer

_FAMILIES: dict[type[ModelConfig], tuple[type[nn.Module], ModuleType]] = {
    DiTConfig: (dit.DiT, dit),
    DiTModernConfig: (dit_modern.DiTModern, dit_modern),
    UViTConfig: (uvit.UViT, uvit),
    PixArtConfig: (pixart.PixArt, pixart),
    MMDiTConfig: (mmdit.MMDiT, mmdit),
}


def build_architecture(model: ModelConfig, layout: Layout) -> nn.Module:
    """Return a model on the current default device, initialised as its own code does."""
    if isinstance(model, CustomConfig):
        return custom.build_custom_model(model)
    build, _ = _FAMILIES[type(model)]
    return build(model, layout)


def initializer(model: ModelConfig, layout: Layout, name: str, init: Init) -> Initializer:
    """Return the initialiser of the parameter `name` of a family."""
    _, module = _FAMILIES[type(model)]
    return module.initializer(model, layout, name, init)


def empty_batch(model: ModelConfig, layout: Layout, batch_size: int) -> tuple[Tensor, ...]:
    """Return uninitialised arguments (B, ...) of a forward, on the current default device."""
    size = layout.image_size
    x = torch.empty(batch_size, layout.channels, size, size)
    t = torch.empty(batch_size)
    if model.conditioning is not Conditioning.caption:
        return x, t, torch.empty(batch_size, dtype=torch.long)
    length = layout.caption_tokens
    tokens = torch.empty(batch_size, length, layout.caption_channels)
    mask = torch.empty(batch_size, length, dtype=torch.bool)
    return x, t, tokens, mask, torch.empty(batch_size, layout.pooled_channels)
