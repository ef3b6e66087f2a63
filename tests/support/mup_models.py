"""Models built by us and by the mup package."""

from __future__ import annotations

import dataclasses
from typing import Any

import mup
import pytest
import torch
from torch import Tensor, nn

from hptransfer.config import (
    DiTConfig,
    DiTModernConfig,
    Layout,
    MMDiTConfig,
    ModelConfig,
    PixArtConfig,
    TrialConfig,
    UViTConfig,
)
from hptransfer.config.choices import AdaLN, Conditioning
from hptransfer.config.identity import with_width
from hptransfer.models.families import build_architecture
from hptransfer.models.families.layers import Readout

BASE = 32


SMALL: dict[str, Any] = {"width": BASE, "base_width": BASE, "depth": 2, "head_dim": 8}


FAMILIES: dict[str, ModelConfig] = {
    "dit": DiTConfig(**SMALL),
    "dit_modern": DiTModernConfig(**SMALL),
    "dit_modern block": DiTModernConfig(**SMALL, adaln=AdaLN.block),
    "uvit": UViTConfig(**SMALL),
    "uvit caption": UViTConfig(**SMALL, condition=Conditioning.caption),
    "pixart": PixArtConfig(**SMALL),
    "mmdit": MMDiTConfig(**SMALL, qk_norm=True),
}


families = pytest.mark.parametrize("family", list(FAMILIES))


def trial(family: str, width: int = BASE, **changes: Any) -> TrialConfig:
    """Return a trial on digits, which have labels, captions and pooled features."""
    return with_width(TrialConfig(model=FAMILIES[family], **changes), width)


def random_batch(config: TrialConfig, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return arguments of a family's forward for 16 samples; no label is the null label."""
    layout = config.data.layout
    x = torch.randn(16, 1, layout.image_size, layout.image_size, generator=generator)
    t = torch.rand(16, generator=generator) * 1000
    if config.model.conditioning is Conditioning.label:
        return x, t, torch.arange(16) % layout.classes
    length = layout.caption_tokens
    tokens = torch.randn(16, length, layout.caption_channels, generator=generator)
    mask = torch.arange(length) < torch.arange(1, 17).clamp_max(length)[:, None]
    pooled = torch.randn(16, layout.pooled_channels, generator=generator)
    return x, t, tokens, mask, pooled


def with_mu_readouts(model: ModelConfig, layout: Layout) -> nn.Module:
    """Build our architecture with mup's readout in the place of ours."""
    built = build_architecture(model, layout)
    for name, layer in list(built.named_modules()):
        if isinstance(layer, Readout):
            built.set_submodule(name, mup.MuReadout(layer.in_features, layer.out_features))
    return built


def reference(config: TrialConfig, *, rescale: bool = False) -> nn.Module:
    """Build what mup's guide says to build for this trial; `rescale` its initial readout."""
    model, layout = config.model, config.data.layout
    built, base, delta = (
        with_mu_readouts(dataclasses.replace(model, width=width), layout)
        for width in (model.width, model.base_width, 2 * model.base_width)
    )
    mup.set_base_shapes(built, base, delta=delta, rescale_params=rescale)
    return built


LR = 2.0**-6


EPS = 1e-12  # PixArt's queries to captions have first gradients as small as Adam's usual 1e-8


def arm(config: TrialConfig, **changes: Any) -> TrialConfig:
    optimizer = dataclasses.replace(config.optimizer, lr=LR, eps=EPS)
    parametrization = dataclasses.replace(config.parametrization, **changes)
    return dataclasses.replace(config, optimizer=optimizer, parametrization=parametrization)
