"""A DiT of present-day blocks, for pixels as for latents.

Attention has rotary positions in two dimensions (arXiv 2104.09864) and normed queries and keys
(arXiv 2302.05442), norms are RMSNorm (arXiv 1910.07467), the MLP is a SwiGLU (arXiv 2002.05202),
and learned register tokens (arXiv 2309.16588) stand beside the patches. Patches are embedded
through a bottleneck (arXiv 2511.13720), so that they may be as large as 16x16x3 pixels; one that is
narrower than a patch loses noise, and suits a model that predicts the data. As in that paper's JiT,
fixed sine-cosine positions are added too, since rotary ones tell only differences of places. The
adaptive norms are shared (arXiv 2310.00426, Section 2.3) or each block's own.

No model of these shapes was released: they are a choice of hptransfer's. JiT, the nearest, has
tokens of the class where this has registers, has biases in its blocks, and no shared adaptive norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.config import DiTModernConfig, Layout
from hptransfer.config.choices import AdaLN, Init
from hptransfer.models.families.initializers import (
    FAN_IN,
    ONE,
    XAVIER,
    ZERO,
    Initializer,
    normal,
)
from hptransfer.models.families.layers import (
    LabelEmbedder,
    Linear,
    PatchEmbed,
    Projector,
    Readout,
    Residual,
    RMSNorm,
    TimestepEmbedder,
    Unpatchify,
    angles,
    attention,
    join_heads,
    modulate,
    sincos_grid,
    split_heads,
)

EPS = 1e-6  # of every norm


def rotary_table(size: int, head_dim: int, registers: int) -> Tensor:
    """Return cosines and sines (2, registers + size², head_dim) of a grid's rotary positions.

    The first half of a head turns by the column, the second by the row, each with head_dim/4
    frequencies. Registers have no place, so they are not turned.
    """
    tokens = registers + size * size
    # On the meta device arithmetic would import torch's decompositions, which is slow.
    if torch.get_default_device().type == "meta":
        return torch.empty(2, tokens, head_dim)
    index = torch.arange(size, dtype=torch.float64)
    row, column = torch.meshgrid(index, index, indexing="ij")
    halves = [angles(axis.flatten(), head_dim // 2) for axis in (column, row)]
    angle = torch.cat([half for half in halves for _ in range(2)], dim=-1)
    angle = torch.cat([angle.new_zeros(registers, head_dim), angle])
    return torch.stack([angle.cos(), angle.sin()]).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Return heads (..., tokens, head_dim) turned by the table of `rotary_table`."""
    cosine, sine = table.unbind(0)
    first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)  # ..., tokens, axes, head_dim/4
    turned = torch.stack([-second, first], dim=-2).flatten(-3)
    return x * cosine + turned * sine


class RotaryAttention(nn.Module):
    """Multi-head self-attention with normed queries and keys that are turned by their places."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_norm = RMSNorm(head_dim, eps=EPS)
        self.k_norm = RMSNorm(head_dim, eps=EPS)
        self.proj = Linear(width, width, bias=False)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        q, k, v = split_heads(self.qkv(x), 3, self.head_dim)
        q, k = rotate(self.q_norm(q), table), rotate(self.k_norm(k), table)
        return self.proj(join_heads(attention(q, k, v)))


class SwiGLU(nn.Module):
    """down(SiLU(gate(x))·up(x)) (arXiv 2002.05202, Eq. 6)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(width, hidden, bias=False)
        self.up = Linear(width, hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class ModernBlock(nn.Module):
    """Attention and SwiGLU, each modulated and gated by the conditioning.

    With a shared adaptive norm the conditioning is the six shared parts (..., 6·d), to which the
    block adds its own table. Else it is an embedding (..., d), which the block maps itself.
    """

    def __init__(self, config: DiTModernConfig) -> None:
        super().__init__()
        d = config.width
        self.shared = config.adaln is AdaLN.single
        self.norm1 = RMSNorm(d, eps=EPS)
        self.attn = RotaryAttention(d, config.head_dim)
        self.norm2 = RMSNorm(d, eps=EPS)
        self.mlp = SwiGLU(d, config.mlp_hidden)
        if self.shared:
            self.scale_shift_table = nn.Parameter(torch.zeros(6, d))
        else:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(d, 6 * d))
        self.residual = Residual()

    def forward(self, x: Tensor, c: Tensor, table: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self._modulation(c)
        mixed = self.attn(modulate(self.norm1(x), shift1, scale1), table)
        x = self.residual(x, mixed, gate1)
        return self.residual(x, self.mlp(modulate(self.norm2(x), shift2, scale2)), gate2)

    def _modulation(self, c: Tensor) -> tuple[Tensor, ...]:
        if self.shared:
            parts = self.scale_shift_table.unsqueeze(-3) + c.unflatten(-1, (6, -1))
            return parts.unbind(-2)
        return self.adaLN_modulation(c).chunk(6, dim=-1)


class BottleneckEmbed(nn.Module):
    """Embedding of p x p patches by two layers, with few channels between (..., tokens, d)."""

    def __init__(self, config: DiTModernConfig, layout: Layout) -> None:
        super().__init__()
        self.patches = PatchEmbed(config.patch_size, layout.channels, config.bottleneck, bias=False)
        self.proj = Linear(config.bottleneck, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.patches(x))


class FinalLayer(nn.Module):
    """Modulated norm and readout to p·p·C values per token."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, eps=EPS)
        self.linear = Readout(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(modulate(self.norm(x), shift, scale))


class DiTModern(nn.Module):
    """The model: images x (..., C, H, W), timesteps t (...,), labels y (...,) to predictions.

    With `project` and REPA's head it returns the projected tokens of patches (..., tokens, D), too.
    """

    rotary: Tensor
    pos_embed: Tensor

    def __init__(self, config: DiTModernConfig, layout: Layout) -> None:
        super().__init__()
        d, p = config.width, config.patch_size
        self.count = config.registers
        self.x_embedder = BottleneckEmbed(config, layout)
        self.t_embedder = TimestepEmbedder(d)
        self.y_embedder = LabelEmbedder(layout.classes, d)
        if config.registers:
            self.registers = nn.Parameter(torch.zeros(config.registers, d))
        table = rotary_table(layout.image_size // p, config.head_dim, config.registers)
        self.register_buffer("rotary", table, persistent=False)
        self.register_buffer("pos_embed", sincos_grid(layout.image_size // p, d), persistent=False)
        self.shared = config.adaln is AdaLN.single
        if self.shared:
            self.t_block = nn.Sequential(nn.SiLU(), Linear(d, 6 * d))
        self.blocks = nn.ModuleList(ModernBlock(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(d, p * p * layout.channels)
        self.unpatchify = Unpatchify(p, layout.channels)
        self.projected_block = layout.projected_block
        if self.projected_block:
            self.projector = Projector(d, layout.feature_channels)

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor, *, project: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        x = self._with_registers(self.x_embedder(x) + self.pos_embed)
        c = self.t_embedder(t) + self.y_embedder(y)
        told = self.t_block(c) if self.shared else c
        hidden = x
        for number, block in enumerate(self.blocks, 1):
            x = block(x, told, self.rotary)
            hidden = x if number == self.projected_block else hidden
        prediction = self.unpatchify(self.final_layer(x[..., self.count :, :], c))
        return (prediction, self.projector(hidden[..., self.count :, :])) if project else prediction

    def _with_registers(self, x: Tensor) -> Tensor:
        """Return patches (..., tokens, d) with the registers before them."""
        if not self.count:
            return x
        registers = self.registers.unsqueeze(-3).expand(*x.shape[:-2], -1, -1)
        return torch.cat([registers, x], dim=-2)


def initializer(config: DiTModernConfig, layout: Layout, name: str, init: Init) -> Initializer:
    """Return the initialiser of a parameter.

    `paper` is that of arXiv 2505.15270 for DiT, `adaln_zero` the same with zero adaptive norms,
    `original` that of JiT's code (arXiv 2511.13720): Xavier, and zero adaptive norms.
    """
    if "norm" in name:
        return ONE
    if name.endswith(".bias") or name == "final_layer.linear.weight":
        return ZERO
    if name == "registers":
        return normal(0.02)
    adaptive = "adaLN_modulation" in name or name.startswith("t_block") or "table" in name
    if adaptive and "embedding_table" not in name:
        return _adaptive(name, init)
    if init is not Init.original:
        return normal(1.0) if "embedding_table" in name else FAN_IN
    return normal(0.02) if name.startswith(("t_embedder.", "y_embedder.")) else XAVIER


def _adaptive(name: str, init: Init) -> Initializer:
    """Return the initialiser of a weight of the adaptive norms."""
    if init is not Init.paper:
        return ZERO
    return normal(0.02) if "table" in name else FAN_IN
