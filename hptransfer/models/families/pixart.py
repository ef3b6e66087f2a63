"""PixArt-α: a DiT with one shared adaptive norm and cross-attention to captions.

arXiv 2310.00426, Section 2.3. Parameter names, shapes and counts are those of the released
256-pixel model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hptransfer.config import Layout, PixArtConfig
from hptransfer.config.choices import Init
from hptransfer.models.families.initializers import FAN_IN, XAVIER, ZERO, Initializer, normal
from hptransfer.models.families.layers import (
    Attention,
    FusedLinear,
    Linear,
    Mlp,
    Modulation,
    PatchEmbed,
    Projector,
    Readout,
    Residual,
    TimestepEmbedder,
    Unpatchify,
    attention,
    join_heads,
    modulate,
    norm,
    sincos_grid,
    split_heads,
)
from hptransfer.system.random_streams import torch_generator


class CrossAttention(nn.Module):
    """Attention of patches (..., N, d) to caption tokens (..., L, d), padding masked."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_linear = Linear(width, width)
        self.kv_linear = FusedLinear(width, 2)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        (q,) = split_heads(self.q_linear(x), 1, self.head_dim)
        k, v = split_heads(self.kv_linear(tokens), 2, self.head_dim)
        return self.proj(join_heads(attention(q, k, v, mask)))


class PixArtBlock(nn.Module):
    """Gated self-attention, cross-attention and gated MLP.

    The modulation is that shared by all blocks, plus the block's own table.
    """

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        d = config.width
        self.attn = Attention(d, config.head_dim)
        self.cross_attn = CrossAttention(d, config.head_dim)
        self.mlp = Mlp(d, config.mlp_ratio * d)
        self.scale_shift_table = nn.Parameter(torch.zeros(6, d))
        self.residual = Residual()

    def forward(self, x: Tensor, modulation: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        parts = self.scale_shift_table.unsqueeze(-3) + modulation.unflatten(-1, (6, -1))
        shift1, scale1, gate1, shift2, scale2, gate2 = parts.unbind(-2)
        x = self.residual(x, self.attn(modulate(norm(x), shift1, scale1)), gate1)
        x = self.residual(x, self.cross_attn(x, tokens, mask))
        return self.residual(x, self.mlp(modulate(norm(x), shift2, scale2)), gate2)


class CaptionEmbedder(nn.Module):
    """Embedding of caption features (..., L, K); an all-masked caption is the null caption."""

    y_embedding: Tensor

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        tokens, channels = layout.caption_tokens, layout.caption_channels
        self.y_proj = Mlp(channels, width, width)
        null = torch.randn(
            tokens, channels, generator=torch_generator(0, "null caption"), device="cpu"
        )
        null = null.to(torch.get_default_device()) / math.sqrt(channels)
        self.register_buffer("y_embedding", null)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        null = ~mask.any(dim=-1, keepdim=True)
        tokens = torch.where(null.unsqueeze(-1), self.y_embedding, tokens)
        return self.y_proj(tokens), mask | null


class FinalLayer(nn.Module):
    """Modulated norm and readout; the modulation is a table plus the timestep's embedding."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = Readout(width, outputs)
        self.scale_shift_table = nn.Parameter(torch.zeros(2, width))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table.unsqueeze(-3) + t.unsqueeze(-2)).unbind(-2)
        return self.linear(modulate(norm(x), shift, scale))


class PixArt(nn.Module):
    """The model: images x (..., C, H, W), timesteps t (...,) and captions to predictions.

    A caption is tokens (..., L, K) and mask (..., L), True at real tokens; its pooled features are
    not used. With `project` and REPA's head it returns the projected tokens (..., tokens, D), too.
    """

    pos_embed: Tensor

    def __init__(self, config: PixArtConfig, layout: Layout) -> None:
        super().__init__()
        d, p = config.width, config.patch_size
        channels = layout.channels * (2 if config.learn_sigma else 1)
        self.x_embedder = PatchEmbed(p, layout.channels, d)
        self.t_embedder = TimestepEmbedder(d)
        self.register_buffer("pos_embed", sincos_grid(layout.image_size // p, d))
        self.t_block = nn.Sequential(nn.SiLU(), Modulation(d, 6))
        self.y_embedder = CaptionEmbedder(layout, d)
        self.blocks = nn.ModuleList(PixArtBlock(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(d, p * p * channels)
        self.unpatchify = Unpatchify(p, channels)
        self.projected_block = layout.projected_block
        if self.projected_block:
            self.projector = Projector(d, layout.feature_channels)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        tokens: Tensor,
        mask: Tensor,
        pooled: Tensor,
        *,
        project: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        x = self.x_embedder(x) + self.pos_embed
        t = self.t_embedder(t)
        modulation = self.t_block(t)
        tokens, mask = self.y_embedder(tokens, mask)
        hidden = x
        for number, block in enumerate(self.blocks, 1):
            x = block(x, modulation, tokens, mask)
            hidden = x if number == self.projected_block else hidden
        prediction = self.unpatchify(self.final_layer(x, t))
        return (prediction, self.projector(hidden)) if project else prediction


def initializer(config: PixArtConfig, layout: Layout, name: str, init: Init) -> Initializer:
    """Return the initialiser of a parameter.

    `paper` is that of arXiv 2505.15270, `adaln_zero` the same with zero modulation of the blocks,
    `original` that of the released model. REPA's head begins as in the other families.
    """
    if name.endswith(".bias") or name == "final_layer.linear.weight" or "cross_attn.proj" in name:
        return ZERO
    in_blocks = name.startswith("t_block") or (name.startswith("blocks") and "table" in name)
    if in_blocks and init is Init.adaln_zero:
        return ZERO
    if "scale_shift_table" in name:
        return normal(1 / math.sqrt(config.width) if init is Init.original else 0.02)
    if name.startswith(("t_embedder", "t_block", "y_embedder")):
        return normal(0.02)
    if name.startswith("projector") and init is not Init.original:
        return FAN_IN
    return XAVIER
