"""DiT: diffusion transformer with adaptive layer norm (arXiv 2212.09748, Section 3.2).

Parameter names, shapes and counts are those of the released models without learned sigma.
"""

from __future__ import annotations

import re

from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.config import DataConfig, DiTConfig
from hptransfer.models.initializers import FAN_IN, ZERO, Distribution, Initializer
from hptransfer.models.layers import (
    Attention,
    LabelEmbedder,
    Mlp,
    PatchEmbed,
    Readout,
    TimestepEmbedder,
    Unpatchify,
    modulate,
    sincos_grid,
)
from hptransfer.vocabulary import Init


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class DiTBlock(nn.Module):
    """Attention and MLP, each modulated and gated by the conditioning (adaLN-Zero)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        d = config.width
        self.attn = Attention(d, config.head_dim)
        self.mlp = Mlp(d, config.mlp_ratio * d)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = x + gate1.unsqueeze(-2) * self.attn(modulate(_norm(x), shift1, scale1))
        return x + gate2.unsqueeze(-2) * self.mlp(modulate(_norm(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Modulated norm and readout to p·p·C values a token."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = Readout(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(modulate(_norm(x), shift, scale))


class DiT(nn.Module):
    """Predict the target for images x (..., C, H, W), timesteps t (...,) and labels y (...,)."""

    pos_embed: Tensor

    def __init__(self, config: DiTConfig, data: DataConfig) -> None:
        super().__init__()
        d, p = config.width, config.patch_size
        self.x_embedder = PatchEmbed(p, data.channels, d)
        self.t_embedder = TimestepEmbedder(d)
        self.y_embedder = LabelEmbedder(data.classes, d)
        self.register_buffer("pos_embed", sincos_grid(data.image_size // p, d))
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(d, p * p * data.channels)
        self.unpatchify = Unpatchify(p, data.channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y)
        for block in self.blocks:
            x = block(x, c)
        return self.unpatchify(self.final_layer(x, c))


def initializer(name: str, init: Init) -> Initializer:
    """Say how a parameter starts: that of arXiv 2505.15270 (`paper`), the same with adaLN zero
    (`adaln_zero`), or the released models' (`original`).
    """
    if name.endswith(".bias") or name == "final_layer.linear.weight":
        return ZERO
    if "adaLN_modulation" in name and init is not Init.paper:
        return ZERO
    if init is not Init.original:
        return Initializer(Distribution.normal, 1.0) if "embedding_table" in name else FAN_IN
    if re.match(r"(t_embedder|y_embedder)\.", name):
        return Initializer(Distribution.normal, 0.02)
    return Initializer(Distribution.xavier_uniform)
