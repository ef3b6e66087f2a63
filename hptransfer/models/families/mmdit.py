"""MMDiT: caption and patches as two streams with separate weights and joint attention.

arXiv 2403.03206, Section 4. Parameter names, shapes and counts are those of the released models;
here width and depth are independent of each other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hptransfer.config import Layout, MMDiTConfig
from hptransfer.config.choices import Init
from hptransfer.models.families.initializers import (
    FAN_IN,
    FAN_IN_UNIFORM,
    ONE,
    ZERO,
    Distribution,
    Initializer,
)
from hptransfer.models.families.layers import (
    AdaptiveReadout,
    FusedLinear,
    Linear,
    Mlp,
    Modulation,
    PatchEmbed,
    Projector,
    Residual,
    RMSNorm,
    TimestepEmbedder,
    Unpatchify,
    VectorEmbedder,
    attention,
    join_heads,
    modulate,
    norm,
    sincos_grid,
    split_heads,
)

Heads = tuple[Tensor, Tensor, Tensor]  # queries, keys, values (..., heads, tokens, head_dim)


class StreamAttention(nn.Module):
    """One stream's part of joint attention: its queries, keys, values and output projection."""

    def __init__(self, config: MMDiTConfig, *, pre_only: bool) -> None:
        super().__init__()
        d, self.head_dim = config.width, config.head_dim
        self.qkv = FusedLinear(d, 3)
        if not pre_only:
            self.proj = Linear(d, d)
        if config.qk_norm:
            self.ln_q = RMSNorm(config.head_dim, eps=1e-6)
            self.ln_k = RMSNorm(config.head_dim, eps=1e-6)
        self.qk_norm = config.qk_norm

    def heads(self, x: Tensor) -> Heads:
        q, k, v = split_heads(self.qkv(x), 3, self.head_dim)
        return (self.ln_q(q), self.ln_k(k), v) if self.qk_norm else (q, k, v)


class StreamBlock(nn.Module):
    """One stream's half of a joint block; with `pre_only` it ends after its keys and values."""

    def __init__(self, config: MMDiTConfig, *, pre_only: bool) -> None:
        super().__init__()
        d = config.width
        self.pre_only = pre_only
        self.attn = StreamAttention(config, pre_only=pre_only)
        if not pre_only:
            self.mlp = Mlp(d, config.mlp_ratio * d)
            self.residual = Residual()
        parts = 2 if pre_only else 6
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Modulation(d, parts))

    def before(self, x: Tensor, c: Tensor) -> tuple[Heads, tuple[Tensor, ...]]:
        """Return the stream's queries, keys and values, and the modulation that `after` needs."""
        parts = self.adaLN_modulation(c).chunk(2 if self.pre_only else 6, dim=-1)
        shift, scale, *rest = parts
        return self.attn.heads(modulate(norm(x), shift, scale)), tuple(rest)

    def after(self, x: Tensor, mixed: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        """Return the stream (..., tokens, d) after attention and MLP."""
        gate1, shift, scale, gate2 = rest
        x = self.residual(x, self.attn.proj(mixed), gate1)
        return self.residual(x, self.mlp(modulate(norm(x), shift, scale)), gate2)


class JointBlock(nn.Module):
    """A block with one attention over caption and patch tokens; all else is per stream."""

    def __init__(self, config: MMDiTConfig, *, pre_only: bool) -> None:
        super().__init__()
        self.context_block = StreamBlock(config, pre_only=pre_only)
        self.x_block = StreamBlock(config, pre_only=False)

    def forward(self, context: Tensor, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        theirs, context_rest = self.context_block.before(context, c)
        ours, x_rest = self.x_block.before(x, c)
        q, k, v = (torch.cat(pair, dim=-2) for pair in zip(theirs, ours, strict=True))
        mixed = join_heads(attention(q, k, v))
        length = context.shape[-2]
        if not self.context_block.pre_only:
            context = self.context_block.after(context, mixed[..., :length, :], context_rest)
        return context, self.x_block.after(x, mixed[..., length:, :], x_rest)


class MMDiT(nn.Module):
    """The model: images x (..., C, H, W), timesteps t (...,) and captions to predictions.

    A caption is tokens (..., L, K), a mask, which is not used (padding is attended to, as in the
    released models), and pooled features (..., A), used if the layout has them. With `project` and
    REPA's head it returns the projected tokens of patches (..., tokens, D), too.
    """

    pos_embed: Tensor

    def __init__(self, config: MMDiTConfig, layout: Layout) -> None:
        super().__init__()
        d, p = config.width, config.patch_size
        self.grid = layout.image_size // p
        self.x_embedder = PatchEmbed(p, layout.channels, d)
        self.t_embedder = TimestepEmbedder(d)
        self.pooled = layout.pooled_channels > 0
        if self.pooled:
            self.y_embedder = VectorEmbedder(layout.pooled_channels, d)
        self.context_embedder = Linear(layout.caption_channels, d)
        self.register_buffer("pos_embed", sincos_grid(config.position_grid or self.grid, d))
        last = config.depth - 1
        self.joint_blocks = nn.ModuleList(
            JointBlock(config, pre_only=i == last) for i in range(config.depth)
        )
        self.final_layer = AdaptiveReadout(d, p * p * layout.channels)
        self.unpatchify = Unpatchify(p, layout.channels)
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
        x = self.x_embedder(x) + self._positions()
        c = self.t_embedder(t)
        if self.pooled:
            c = c + self.y_embedder(pooled)
        context = self.context_embedder(tokens)
        hidden = x
        for number, block in enumerate(self.joint_blocks, 1):
            context, x = block(context, x, c)
            hidden = x if number == self.projected_block else hidden
        prediction = self.unpatchify(self.final_layer(x, c))
        return (prediction, self.projector(hidden)) if project else prediction

    def _positions(self) -> Tensor:
        """Return the centre of the stored table of positions: (1, tokens, d)."""
        side = math.isqrt(self.pos_embed.shape[-2])
        first = (side - self.grid) // 2
        table = self.pos_embed.unflatten(-2, (side, side))
        middle = slice(first, first + self.grid)
        return table[..., middle, middle, :].flatten(-3, -2)


def initializer(config: MMDiTConfig, layout: Layout, name: str, init: Init) -> Initializer:
    """Return the initialiser of a parameter.

    `paper` is fan-in with a zero readout, `adaln_zero` the same with zero adaptive norms,
    `original` torch's default, since the reference code states no other.
    """
    if "ln_q" in name or "ln_k" in name:
        return ONE
    is_bias = name.endswith(".bias")
    if init is Init.original:
        if not is_bias:
            return FAN_IN_UNIFORM
        return Initializer(Distribution.uniform, 1 / math.sqrt(3 * _fan_in(config, layout, name)))
    if is_bias or name == "final_layer.linear.weight":
        return ZERO
    if "adaLN_modulation" in name and init is Init.adaln_zero:
        return ZERO
    return FAN_IN


def _fan_in(config: MMDiTConfig, layout: Layout, bias: str) -> int:
    """Return the fan-in of the layer that a bias belongs to."""
    inputs = {
        "x_embedder.proj.bias": config.patch_size**2 * layout.channels,
        "t_embedder.mlp.0.bias": TimestepEmbedder.frequencies,
        "y_embedder.mlp.0.bias": layout.pooled_channels,
        "context_embedder.bias": layout.caption_channels,
        "projector.fc2.bias": Projector.ratio * config.width,
        "projector.fc3.bias": Projector.ratio * config.width,
    }
    hidden = config.mlp_ratio if bias.endswith("fc2.bias") else 1
    return inputs.get(bias, hidden * config.width)
