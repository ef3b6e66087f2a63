"""The layers that the families share, with or without a trial axis.

A layer's parameters are plain, or stacked along a leading trial axis (T, ...) for inputs with that
axis: a model of these layers trains T trials as one program. Code between the layers indexes
dimensions from the end, so that it works with and without a trial axis.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.nn import functional as F

# Number of keys from which the fused attention kernel is used. On a CPU two plain matrix products
# take 0.85 of the kernel's time at 16 keys, and 1.3 of it at 64.
FUSED_TOKENS = 64
# Number of tokens up to which a CPU takes attention apart into elementwise products. At 4 tokens
# that takes 0.3 to 0.65 of two small matrix products for each head, and compiled 0.1 to 0.2; at 9
# tokens 1.2 of it.
FEW_TOKENS = 6


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax attention of q, k and v (..., B, heads, tokens, head_dim).

    `mask` (..., B, tokens of k) is True at keys that are used. The scale is 1/sqrt(head_dim): since
    the head dimension does not grow with width, µP's 1/head_dim (arXiv 2203.03466, Definition 4.1)
    would differ from it by a constant only.
    """
    if k.shape[-2] >= FUSED_TOKENS:
        seen = None if mask is None else mask[..., None, None, :].flatten(0, -4)
        folded = (x.flatten(0, -4) for x in (q, k, v))  # the trial axis into the batch
        return F.scaled_dot_product_attention(*folded, attn_mask=seen).unflatten(0, q.shape[:-3])
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask[..., None, None, :], -math.inf)
    return torch.softmax(scores, dim=-1) @ v


def self_attention(qkv: Tensor, head_dim: int) -> Tensor:
    """Return self-attention (..., tokens, d) of queries, keys and values (..., tokens, 3·d)."""
    if qkv.is_cpu and qkv.dtype is torch.float32 and qkv.shape[-2] <= FEW_TOKENS:
        return _attention_of_few(qkv, head_dim)
    return join_heads(attention(*split_heads(qkv, 3, head_dim)))


def _attention_of_few(qkv: Tensor, head_dim: int) -> Tensor:
    """Return `self_attention` by elementwise products of all pairs of tokens, all heads at once."""
    q, k, v = qkv.chunk(3, dim=-1)
    products = q.unsqueeze(-2) * k.unsqueeze(-3)  # ..., queries, keys, d
    heads = None if torch.compiler.is_compiling() else _heads(qkv, head_dim)
    if heads is None:
        scores = products.unflatten(-1, (-1, head_dim)).sum(-1)
    else:  # sums over channels as one product, since a sum over few of them is slow
        scores = linear(products, heads, None)
    weights = torch.softmax(scores / math.sqrt(head_dim), dim=-2)  # ..., queries, keys, heads
    if heads is None:
        weights = weights.unsqueeze(-1).expand(*weights.shape, head_dim).flatten(-2)
    else:
        weights = linear(weights, heads.mT, None)
    return (weights * v.unsqueeze(-3)).sum(-2)


def _heads(qkv: Tensor, head_dim: int) -> Tensor:
    """Return the matrix (heads, d) of 1 where a channel is of a head; for each trial, if any."""
    count = qkv.shape[-1] // 3 // head_dim
    matrix = torch.eye(count, device=qkv.device).repeat_interleave(head_dim, dim=1)
    return matrix if qkv.ndim == 3 else matrix.expand(len(qkv), -1, -1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return weight (out, in) applied to x (..., in), or (T, out, in) to x (T, ..., in)."""
    if weight.ndim == 2:
        return F.linear(x, weight, bias)
    if len(weight) == 1:
        return F.linear(x, weight.squeeze(0), None if bias is None else bias.squeeze(0))
    rows = x.flatten(1, -2)
    if bias is None:
        product = torch.bmm(rows, weight.mT)
    elif torch.compiler.is_compiling():  # compiled code fuses the sum with what follows
        product = torch.bmm(rows, weight.mT)
        product = product + bias.to(product.dtype).unsqueeze(1)
    else:
        product = torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
    return product.unflatten(1, x.shape[1:-1])


def as_stacked(parameter: Tensor, x: Tensor) -> Tensor:
    """Return stacked parameters (T, ...) with the axes that broadcast against x (T, ..., ...)."""
    missing = [1] * (x.ndim - parameter.ndim)
    return parameter.unflatten(0, (-1, *missing)) if missing else parameter


class Linear(nn.Linear):
    """`nn.Linear`, with or without a trial axis."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return linear(x, self.weight, self.bias)


class FusedLinear(Linear):
    """Several square maps of one input as one layer: `maps` matrices, one under another."""

    def __init__(self, width: int, maps: int, *, bias: bool = True) -> None:
        super().__init__(width, maps * width, bias=bias)
        self.maps = maps


class Modulation(FusedLinear):
    """The layer that makes the shifts, scales and gates of adaptive norms."""


class Embedding(nn.Embedding):
    """`nn.Embedding`, with or without a trial axis."""

    def reset_parameters(self) -> None:
        """Draw the table; not on meta, where `normal_` imports torch's compiler, for a second."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, index: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.weight.ndim == 2:
            return F.embedding(index, self.weight)
        trials, rows = self.weight.shape[:2]
        first = rows * torch.arange(trials, device=index.device)
        return F.embedding(index + as_stacked(first, index), self.weight.flatten(0, 1))


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last dimension, with or without a trial axis."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.weight.ndim == 1:
            return super().forward(x)
        plain = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return plain * as_stacked(self.weight, x) + as_stacked(self.bias, x)


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` over the last dimension, with or without a trial axis."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.weight.ndim == 1:
            return super().forward(x)
        return F.rms_norm(x, x.shape[-1:], eps=self.eps) * as_stacked(self.weight, x)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Compute in the tensors' own precision in a `with` block, whatever the trial's."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext()


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` in the precision of its weights (float32), with or without a trial axis.

    cuDNN need not have a deterministic kernel for the gradients of grouped convolutions in bf16.
    """

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        with full_precision(x.device):
            return self._convolved(x.to(self.weight.dtype))

    def _convolved(self, x: Tensor) -> Tensor:
        if self.weight.ndim == 4:
            return super().forward(x)
        assert self.bias is not None, "a stacked convolution has a bias"
        trials, stacked = len(self.weight), (x, self.weight, self.bias)
        if trials == 1:  # one group uses another kernel, whose sums differ in the last bits
            stacked = tuple(torch.cat([part, part]) for part in stacked)
        x, weight, bias = stacked
        channels = x.transpose(0, 1).flatten(1, 2)  # B, T·C, H, W: a group of channels a trial
        convolved = F.conv2d(
            channels,
            weight.flatten(0, 1),
            bias.flatten(),
            self.stride,
            self.padding,
            groups=len(weight),
        )
        return convolved.unflatten(1, (len(weight), -1)).transpose(0, 1)[:trials]


def split_heads(x: Tensor, parts: int, head_dim: int) -> tuple[Tensor, ...]:
    """Split (..., tokens, parts·heads·head_dim) into `parts` of (..., heads, tokens, head_dim)."""
    x = x.unflatten(-1, (parts, -1, head_dim))  # ..., tokens, parts, heads, head_dim
    return x.movedim(-3, 0).transpose(-2, -3).unbind(0)


def join_heads(x: Tensor) -> Tensor:
    """Return (..., heads, tokens, head_dim) as (..., tokens, heads·head_dim)."""
    return x.transpose(-2, -3).flatten(-2)


def norm(x: Tensor) -> Tensor:
    """Return the layer norm over the last dimension, without gain or bias, epsilon 1e-6."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return tokens (..., tokens, d) with adaptive shift and scale (..., d) applied."""
    return x * (1 + scale.unsqueeze(-2)) + shift.unsqueeze(-2)


def angles(positions: Tensor, dim: int) -> Tensor:
    """Return positions (...,) times dim/2 frequencies from 1 down to 1/10,000: (..., dim/2)."""
    exponent = torch.arange(dim // 2, dtype=torch.float64, device=positions.device) / (dim // 2)
    return positions.double().unsqueeze(-1) * 10000.0**-exponent


def timestep_waves(t: Tensor, dim: int) -> Tensor:
    """Return cosines, then sines of timesteps (...,): (..., dim), `dim` even.

    Trials of one seed share their timesteps, which are then computed once.
    """
    if t.ndim == 2 and len(t) > 1 and t.stride(0) == 0:
        return timestep_waves(t[:1], dim).expand(len(t), -1, -1)
    angle = angles(t, dim)
    return torch.cat([angle.cos(), angle.sin()], dim=-1).float()


def sincos_grid(size: int, dim: int) -> Tensor:
    """Return fixed positions of a size x size grid (1, size², dim): columns first, then rows."""
    # On the meta device arithmetic would import torch's decompositions, which is slow.
    if torch.get_default_device().type == "meta":
        return torch.empty(1, size * size, dim)
    index = torch.arange(size, dtype=torch.float64)
    row, column = torch.meshgrid(index, index, indexing="ij")
    halves = [angles(axis.flatten(), dim // 2) for axis in (column, row)]
    parts = [wave(half) for half in halves for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=-1).float().unsqueeze(0)


class PatchEmbed(nn.Module):
    """Embedding of an image's p x p patches: (..., C, H, W) to (..., tokens, d)."""

    def __init__(self, patch_size: int, channels: int, width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        p = self.patch_size
        x = x.unflatten(-1, (-1, p)).unflatten(-3, (-1, p))  # ..., C, rows, p, columns, p
        x = x.movedim((-4, -2), (-5, -4)).flatten(-5, -4).flatten(-3)  # ..., rows·columns, C·p·p
        return linear(x, self.proj.weight.flatten(-3), self.proj.bias)


class Unpatchify(nn.Module):
    """Tokens (..., tokens, p·p·C) arranged as an image (..., C, H, W)."""

    def __init__(self, patch_size: int, channels: int) -> None:
        super().__init__()
        self.patch_size, self.channels = patch_size, channels

    def forward(self, x: Tensor) -> Tensor:
        p, side = self.patch_size, math.isqrt(x.shape[-2])
        x = x.unflatten(-1, (p, p, self.channels)).unflatten(-4, (side, side))
        x = x.movedim(-1, -5)  # ..., C, rows, columns, p, p
        return x.transpose(-3, -2).flatten(-2).flatten(-3, -2)


class VectorEmbedder(nn.Module):
    """Embedding of features (..., A): a two-layer MLP."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Linear(features, width), nn.SiLU(), Linear(width, width))

    def forward(self, features: Tensor) -> Tensor:
        return self.mlp(features)


class TimestepEmbedder(VectorEmbedder):
    """Embedding of timesteps (...,) from 0 to 1000: 256 sines and cosines, then a two-layer MLP."""

    frequencies = 256

    def __init__(self, width: int) -> None:
        super().__init__(self.frequencies, width)

    def forward(self, t: Tensor) -> Tensor:
        first = self.mlp[0]
        assert isinstance(first, Linear)
        return super().forward(timestep_waves(t, self.frequencies).to(first.weight.dtype))


class LabelEmbedder(nn.Module):
    """Table of label embeddings; the last row is the null label's."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = Embedding(classes + 1, width)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


class Attention(nn.Module):
    """Multi-head self-attention with a fixed head dimension."""

    def __init__(self, width: int, head_dim: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = FusedLinear(width, 3, bias=qkv_bias)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self_attention(self.qkv(x), self.head_dim))


def as_multiplier(multiplier: Tensor, x: Tensor) -> Tensor:
    """Return one multiplier (), or one per trial (T,), shaped to multiply x (..., d)."""
    return multiplier.view(-1, *[1] * (x.ndim - 1))


class Residual(nn.Module):
    """Sum of the residual stream and a branch, gated or not, times `multiplier`.

    The multiplier is depth scaling's r^-α (arXiv 2505.01618, Table 1), or 1 without it.
    """

    multiplier: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("multiplier", torch.ones(()), persistent=False)

    def forward(self, x: Tensor, branch: Tensor, gate: Tensor | None = None) -> Tensor:
        """Return x plus `branch` (..., tokens, d), times `gate` (..., d) if there is one."""
        if gate is None:
            return x + as_multiplier(self.multiplier, branch) * branch
        return x + (as_multiplier(self.multiplier, gate) * gate).unsqueeze(-2) * branch


def gelu(x: Tensor, approximate: str) -> Tensor:
    """Return GELU, by `tanh` or not at all (`none`) approximated (arXiv 1606.08415, Section 2)."""
    if approximate == "none" or not x.is_cpu or x.dtype is not torch.float32:
        return F.gelu(x, approximate=approximate)
    if torch.compiler.is_compiling():
        return x * torch.sigmoid(x * (GELU_LINEAR + GELU_CUBIC * x * x))
    return _GeluBySigmoid.apply(x)


# sqrt(8/π)·(x + 0.044715·x³), since (1 + tanh(u))/2 is sigmoid(2u).
GELU_LINEAR = math.sqrt(8 / math.pi)
GELU_CUBIC = 0.044715 * GELU_LINEAR


class _GeluBySigmoid(torch.autograd.Function):
    """GELU approximated by tanh, in 0.6 of the time that a CPU takes for torch's own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _sigmoid_of_gelu(x).mul_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # share + x·share·(1 - share)·slope, with the slope of what the sigmoid takes
        (x,) = ctx.saved_tensors
        share = _sigmoid_of_gelu(x)
        slope = torch.mul(x, x).mul_(3 * GELU_CUBIC).add_(GELU_LINEAR).mul_(x)
        return slope.mul_(1 - share).add_(1).mul_(share).mul_(grads[0])


def _sigmoid_of_gelu(x: Tensor) -> Tensor:
    return torch.mul(x, x).mul_(GELU_CUBIC).add_(GELU_LINEAR).mul_(x).sigmoid_()


class Mlp(nn.Module):
    """Two linear layers with a GELU between, approximated by tanh unless `exact`."""

    def __init__(
        self, inputs: int, hidden: int, outputs: int | None = None, *, exact: bool = False
    ) -> None:
        super().__init__()
        self.approximate = "none" if exact else "tanh"
        self.fc1 = Linear(inputs, hidden)
        self.fc2 = Linear(hidden, inputs if outputs is None else outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x), self.approximate))


class Readout(Linear):
    """A linear layer on `multiplier`·x, which is µP's output layer (arXiv 2203.03466, Table 8).

    The multiplier (output scale over m) is a buffer, so that copies, stacked parameters and
    functional calls keep it.
    """

    multiplier: Tensor

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs)
        self.register_buffer("multiplier", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x * as_multiplier(self.multiplier, x))


class AdaptiveReadout(nn.Module):
    """Modulated norm and readout to p·p·C values per token."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = Readout(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Modulation(width, 2))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(modulate(norm(x), shift, scale))


class Projector(nn.Module):
    """REPA's head: tokens (..., tokens, d) to an encoder's channels (..., tokens, D).

    Three layers with SiLU, as in arXiv 2410.06940, Section 3.2. The hidden size is `ratio` times
    the width, where the paper has 2,048 at every width (1.8 times that of SiT-XL/2). So under µP
    the first two layers are hidden and the last is a readout: the head's gradient to the trunk then
    scales with the width as that of the model's own readout, and one weight of the loss means the
    same at every width.
    """

    ratio = 2

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        hidden = self.ratio * width
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, hidden)
        self.fc3 = Readout(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.silu(self.fc2(F.silu(self.fc1(x)))))
