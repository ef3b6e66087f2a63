"""DiT, the diffusion transformer with adaptive layer norm (arXiv 2212.09748, Section 3.2).

Parameter names, shapes and counts are those of the released models.
"""

from __future__ import annotations

from torch import Tensor, nn

from hptransfer.config import DiTConfig, Layout
from hptransfer.config.choices import Init
from hptransfer.models.families.initializers import FAN_IN, XAVIER, ZERO, Initializer, normal
from hptransfer.models.families.layers import (
    AdaptiveReadout,
    Attention,
    LabelEmbedder,
    Mlp,
    Modulation,
    PatchEmbed,
    Projector,
    Residual,
    TimestepEmbedder,
    Unpatchify,
    modulate,
    norm,
    sincos_grid,
)


class DiTBlock(nn.Module):
    """Attention and MLP, each modulated and gated by the conditioning (adaLN-Zero)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        d = config.width
        self.attn = Attention(d, config.head_dim)
        self.mlp = Mlp(d, config.mlp_ratio * d)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Modulation(d, 6))
        self.residual = Residual()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = self.residual(x, self.attn(modulate(norm(x), shift1, scale1)), gate1)
        return self.residual(x, self.mlp(modulate(norm(x), shift2, scale2)), gate2)


class DiT(nn.Module):
    """The model: images x (..., C, H, W), timesteps t (...,), labels y (...,) to predictions.

    With `project` and REPA's head it returns the projected tokens (..., tokens, D), too.
    """

    pos_embed: Tensor

    def __init__(self, config: DiTConfig, layout: Layout) -> None:
        super().__init__()
        d, p = config.width, config.patch_size
        channels = layout.channels * (2 if config.learn_sigma else 1)
        self.x_embedder = PatchEmbed(p, layout.channels, d)
        self.t_embedder = TimestepEmbedder(d)
        self.y_embedder = LabelEmbedder(layout.classes, d)
        self.register_buffer("pos_embed", sincos_grid(layout.image_size // p, d))
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.final_layer = AdaptiveReadout(d, p * p * channels)
        self.unpatchify = Unpatchify(p, channels)
        self.projected_block = layout.projected_block
        if self.projected_block:
            self.projector = Projector(d, layout.feature_channels)

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor, *, project: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y)
        hidden = x
        for number, block in enumerate(self.blocks, 1):
            x = block(x, c)
            hidden = x if number == self.projected_block else hidden
        prediction = self.unpatchify(self.final_layer(x, c))
        return (prediction, self.projector(hidden)) if project else prediction


def initializer(config: DiTConfig, layout: Layout, name: str, init: Init) -> Initializer:
    """Return the initialiser of a parameter.

    `paper` is that of arXiv 2505.15270, `adaln_zero` the same with zero adaptive norms, `original`
    that of the released models.
    """
    if name.endswith(".bias") or name == "final_layer.linear.weight":
        return ZERO
    if "adaLN_modulation" in name and init is not Init.paper:
        return ZERO
    if init is not Init.original:
        return normal(1.0) if "embedding_table" in name else FAN_IN
    return normal(0.02) if name.startswith(("t_embedder.", "y_embedder.")) else XAVIER
