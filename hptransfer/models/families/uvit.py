"""U-ViT: a transformer with long skips in which time, label and caption are tokens.

arXiv 2209.12152, Section 3. Parameter names, shapes and counts are those of the released models.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hptransfer.config import Layout, UViTConfig
from hptransfer.config.choices import Conditioning, Init
from hptransfer.models.families.initializers import (
    FAN_IN,
    FAN_IN_UNIFORM,
    ONE,
    ZERO,
    Distribution,
    Initializer,
    normal,
)
from hptransfer.models.families.layers import (
    Attention,
    Conv2d,
    Embedding,
    LayerNorm,
    Linear,
    Mlp,
    PatchEmbed,
    Projector,
    Readout,
    Residual,
    Unpatchify,
    timestep_waves,
)


class UViTBlock(nn.Module):
    """Pre-norm attention and MLP; a block of the second half first mixes in a long skip."""

    def __init__(self, config: UViTConfig, *, skip: bool) -> None:
        super().__init__()
        d = config.width
        self.norm1 = LayerNorm(d)
        self.attn = Attention(d, config.head_dim, qkv_bias=False)
        self.norm2 = LayerNorm(d)
        self.mlp = Mlp(d, config.mlp_ratio * d, exact=True)
        self.skip_linear = Linear(2 * d, d) if skip else None
        self.residual = Residual()

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None:
            assert skip is not None, "a block of the second half takes a skip"
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = self.residual(x, self.attn(self.norm1(x)))
        return self.residual(x, self.mlp(self.norm2(x)))


class UViT(nn.Module):
    """The model: images x (..., C, H, W), timesteps t (...,) and a condition to predictions.

    The condition is labels (...,), or a caption's tokens (..., L, K), mask and pooled features, of
    which only the tokens are used, as in the released text model. With `project` and REPA's head it
    returns the projected tokens of patches (..., tokens, D), too.
    """

    def __init__(self, config: UViTConfig, layout: Layout) -> None:
        super().__init__()
        d, p = config.width, config.patch_size
        self.width, self.condition = d, config.condition
        self.patch_embed = PatchEmbed(p, layout.channels, d)
        if config.condition is Conditioning.label:
            # The null label has a row only where labels are dropped, as in the released models.
            self.label_emb = Embedding(layout.classes + (config.label_dropout > 0), d)
        elif config.condition is Conditioning.caption:
            self.context_embed = Linear(layout.caption_channels, d)
        tokens = {Conditioning.label: 1, Conditioning.caption: layout.caption_tokens}
        self.extras = 1 + tokens.get(config.condition, 0)
        patches = (layout.image_size // p) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(1, self.extras + patches, d))
        half = range(config.depth // 2)
        self.in_blocks = nn.ModuleList(UViTBlock(config, skip=False) for _ in half)
        self.mid_block = UViTBlock(config, skip=False)
        self.out_blocks = nn.ModuleList(UViTBlock(config, skip=True) for _ in half)
        self.norm = LayerNorm(d)
        self.decoder_pred = Readout(d, p * p * layout.channels)
        self.unpatchify = Unpatchify(p, layout.channels)
        channels = layout.channels
        self.final_layer = (
            Conv2d(channels, channels, 3, padding=1) if config.final_conv else nn.Identity()
        )
        self.projected_block = layout.projected_block
        if self.projected_block:
            self.projector = Projector(d, layout.feature_channels)

    def forward(
        self, x: Tensor, t: Tensor, *condition: Tensor, project: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        tokens = [timestep_waves(t, self.width).unsqueeze(-2), self.patch_embed(x)]
        if self.condition is Conditioning.label:
            tokens.insert(0, self.label_emb(condition[0]).unsqueeze(-2))
        elif self.condition is Conditioning.caption:
            tokens.insert(1, self.context_embed(condition[0]))
        hidden = x = torch.cat(tokens, dim=-2) + self.pos_embed
        skips: list[Tensor] = []
        for number, block in enumerate([*self.in_blocks, self.mid_block, *self.out_blocks], 1):
            x = block(x, skips.pop()) if number > len(self.in_blocks) + 1 else block(x)
            if number <= len(self.in_blocks):
                skips.append(x)
            hidden = x if number == self.projected_block else hidden
        x = self.decoder_pred(self.norm(x))
        prediction = self.final_layer(self.unpatchify(x[..., self.extras :, :]))
        if not project:
            return prediction
        return prediction, self.projector(hidden[..., self.extras :, :])


def initializer(config: UViTConfig, layout: Layout, name: str, init: Init) -> Initializer:
    """Return the initialiser of a parameter.

    `paper` is fan-in with a zero readout, `adaln_zero` the same since there is no adaptive norm,
    `original` that of the released models.
    """
    if name == "pos_embed":
        return normal(0.02)
    if "norm" in name:
        return ONE if name.endswith(".weight") else ZERO
    if name == "label_emb.weight":
        return normal(1.0)
    if init is not Init.original:
        return ZERO if name.endswith(".bias") or name.startswith("decoder_pred") else FAN_IN
    if name.startswith(("patch_embed", "final_layer")):
        kernel = config.patch_size if name.startswith("patch_embed") else 3
        bias = Initializer(Distribution.uniform, 1 / math.sqrt(3 * kernel**2 * layout.channels))
        return FAN_IN_UNIFORM if name.endswith(".weight") else bias
    return ZERO if name.endswith(".bias") else normal(0.02)
