"""Layers that the families share.

Shapes are written with negative dimensions only and no layer reshapes by absolute position, so
that every module can be mapped over a leading trial axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with scale 1/sqrt(head_dim); all tensors (..., heads, tokens, head_dim).

    The scale is a constant: the head dimension never grows with width, so µP's 1/head_dim
    (arXiv 2203.03466, Definition 4.1) is not needed.
    """
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
    return weights @ v


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Apply adaptive shift and scale (..., d) to tokens (..., tokens, d)."""
    return x * (1 + scale.unsqueeze(-2)) + shift.unsqueeze(-2)


def angles(positions: Tensor, dim: int) -> Tensor:
    """Return positions (...,) times dim/2 frequencies from 1 down to 1/10,000: (..., dim/2)."""
    exponent = torch.arange(dim // 2, dtype=torch.float64, device=positions.device) / (dim // 2)
    return positions.double().unsqueeze(-1) * 10000.0**-exponent


def sincos_grid(size: int, dim: int) -> Tensor:
    """Fixed 2-D positions of a size x size grid, (1, size², dim): columns first, then rows."""
    index = torch.arange(size, dtype=torch.float64)
    row, column = torch.meshgrid(index, index, indexing="ij")
    halves = [angles(axis.flatten(), dim // 2) for axis in (column, row)]
    parts = [wave(half) for half in halves for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=-1).float().unsqueeze(0)


class PatchEmbed(nn.Module):
    """Cut an image (..., C, H, W) into p x p patches and embed each: (..., tokens, d)."""

    def __init__(self, patch_size: int, channels: int, width: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        p = self.patch_size
        x = x.unflatten(-1, (-1, p)).unflatten(-3, (-1, p))  # ..., C, rows, p, columns, p
        x = x.movedim((-4, -2), (-5, -4)).flatten(-5, -4).flatten(-3)  # ..., rows·columns, C·p·p
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class Unpatchify(nn.Module):
    """Turn tokens (..., tokens, p·p·C) back into an image (..., C, H, W)."""

    def __init__(self, patch_size: int, channels: int) -> None:
        super().__init__()
        self.patch_size, self.channels = patch_size, channels

    def forward(self, x: Tensor) -> Tensor:
        p, side = self.patch_size, math.isqrt(x.shape[-2])
        x = x.unflatten(-1, (p, p, self.channels)).unflatten(-4, (side, side))
        x = x.movedim(-1, -5)  # ..., C, rows, columns, p, p
        return x.transpose(-3, -2).flatten(-2).flatten(-3, -2)


class TimestepEmbedder(nn.Module):
    """Embed timesteps (...,) of scale 0 to 1000: sine-cosine of 256, then a two-layer MLP."""

    frequencies = 256

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(self.frequencies, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Tensor) -> Tensor:
        angle = angles(t, self.frequencies)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1).float())


class LabelEmbedder(nn.Module):
    """Look labels (...,) up; the last row is the null class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


class Attention(nn.Module):
    """Multi-head self-attention with biases and a fixed head dimension."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, -1, self.head_dim))  # ..., tokens, 3, heads, head_dim
        q, k, v = qkv.movedim(-3, 0).transpose(-2, -3).unbind(0)
        return self.proj(attention(q, k, v).transpose(-2, -3).flatten(-2))


class Mlp(nn.Module):
    """Two linear layers with a tanh-approximated GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Readout(nn.Linear):
    """A linear layer on `multiplier`·x: µP's output layer (arXiv 2203.03466, Table 8).

    The multiplier (output scale over m) is a plain number in a buffer of its own, so it survives
    copies, stacking and functional calls.
    """

    multiplier: Tensor

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs)
        self.register_buffer("multiplier", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x * self.multiplier)
