"""The families' forward passes written anew, from the papers, as functions of a state dict.

All for images of 8x8 grey, patches of 4 and heads of 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def two_layers(w: Weights, name: str, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    first, second = ("0", "2") if f"{name}.0.weight" in w else ("fc1", "fc2")
    return linear(w, f"{name}.{second}", act(linear(w, f"{name}.{first}", x)))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def normed(x: Tensor, eps: float = 1e-6) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def waves(t: Tensor, dim: int) -> Tensor:
    frequencies = torch.exp(-math.log(10000) * torch.arange(dim // 2).double() / (dim // 2))
    angle = t.double()[:, None] * frequencies
    return torch.cat([angle.cos(), angle.sin()], dim=-1).float()


def time_embedding(w: Weights, t: Tensor) -> Tensor:
    return two_layers(w, "t_embedder.mlp", waves(t, 256), F.silu)


def patches(w: Weights, name: str, x: Tensor) -> Tensor:
    x = F.conv2d(x, w[f"{name}.proj.weight"], w[f"{name}.proj.bias"], stride=4)
    return x.flatten(2).transpose(1, 2)


def image(x: Tensor) -> Tensor:
    x = x.reshape(len(x), 2, 2, 4, 4, 1)  # rows, columns, p, p, channels
    return torch.einsum("nhwpqc->nchpwq", x).reshape(len(x), 1, 8, 8)


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend with heads of 8; all (B, tokens, d), mask (B, tokens of k)."""
    q, k, v = (x.reshape(*x.shape[:2], -1, 8).transpose(1, 2) for x in (q, k, v))
    seen = None if mask is None else mask[:, None, None]
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return mixed.transpose(1, 2).flatten(2)


def uvit_reference(w: Weights, x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
    """U-ViT (arXiv 2209.12152, Figure 1) of depth 4 or 2, written anew."""
    d = w["norm.weight"].numel()

    def gained(name: str, h: Tensor) -> Tensor:
        return normed(h, 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def block(name: str, h: Tensor) -> Tensor:
        qkv = linear(w, f"{name}.attn.qkv", gained(f"{name}.norm1", h))
        h = h + linear(w, f"{name}.attn.proj", attended(*qkv.split(d, dim=-1)))
        return h + two_layers(w, f"{name}.mlp", gained(f"{name}.norm2", h), gelu)

    tokens = [waves(t, d)[:, None], patches(w, "patch_embed", x)]
    if "label_emb.weight" in w:
        tokens.insert(0, w["label_emb.weight"][condition[0]][:, None])
    if "context_embed.weight" in w:
        tokens.insert(1, linear(w, "context_embed", condition[0]))
    stream = [torch.cat(tokens, dim=1) + w["pos_embed"]]
    half = sum(name.endswith("skip_linear.weight") for name in w)
    for i in range(half):
        stream.append(block(f"in_blocks.{i}", stream[-1]))
    h = block("mid_block", stream[-1])
    for i in range(half):
        both = torch.cat([h, stream[half - i]], dim=-1)
        h = block(f"out_blocks.{i}", linear(w, f"out_blocks.{i}.skip_linear", both))
    x = image(linear(w, "decoder_pred", gained("norm", h))[:, -4:])
    if "final_layer.weight" not in w:
        return x
    return F.conv2d(x, w["final_layer.weight"], w["final_layer.bias"], padding=1)


def pixart_reference(
    w: Weights, x: Tensor, t: Tensor, y: Tensor, mask: Tensor, _: Tensor
) -> Tensor:
    """PixArt-α (arXiv 2310.00426, Section 2.3) of depth 2, written anew."""
    d = w["x_embedder.proj.bias"].numel()
    h = patches(w, "x_embedder", x) + w["pos_embed"]
    t = time_embedding(w, t)
    shared = linear(w, "t_block.1", F.silu(t)).reshape(-1, 6, d)
    y = two_layers(w, "y_embedder.y_proj", y, gelu_tanh)
    for block in ("blocks.0", "blocks.1"):
        parts = (shared + w[f"{block}.scale_shift_table"]).split(1, dim=1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        qkv = linear(w, f"{block}.attn.qkv", normed(h) * (1 + scale_a) + shift_a)
        h = h + gate_a * linear(w, f"{block}.attn.proj", attended(*qkv.split(d, dim=-1)))
        k, v = linear(w, f"{block}.cross_attn.kv_linear", y).split(d, dim=-1)
        mixed = attended(linear(w, f"{block}.cross_attn.q_linear", h), k, v, mask)
        h = h + linear(w, f"{block}.cross_attn.proj", mixed)
        inner = normed(h) * (1 + scale_m) + shift_m
        h = h + gate_m * two_layers(w, f"{block}.mlp", inner, gelu_tanh)
    shift, scale = (w["final_layer.scale_shift_table"] + t[:, None]).split(1, dim=1)
    return image(linear(w, "final_layer.linear", normed(h) * (1 + scale) + shift))


def dit_modern_reference(w: Weights, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """A DiT of modern blocks of depth 2, written anew; its grid is 2 x 2, turned pair by pair."""
    d = w["x_embedder.proj.bias"].numel()
    registers = w.get("registers", torch.zeros(0, d))
    count = len(registers)

    def root_mean_square(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]

    def turned(heads: Tensor) -> Tensor:
        """Turn (B, heads, tokens, 8): channels 0 and 2 by the column, 1 and 3 by a hundredth."""
        heads = heads.clone()
        for place in range(4):
            for axis, first in ((place % 2, 0), (place // 2, 4)):
                for pair in range(2):
                    angle = torch.tensor(axis * 10000 ** -(pair / 2))
                    turn = torch.polar(torch.ones(()), angle)
                    a, b = first + pair, first + pair + 2
                    token = heads[:, :, count + place].clone()
                    product = torch.complex(token[..., a], token[..., b]) * turn
                    heads[:, :, count + place, a] = product.real
                    heads[:, :, count + place, b] = product.imag
        return heads

    def attention(name: str, h: Tensor) -> Tensor:
        q, k, v = (
            part.reshape(*h.shape[:2], -1, 8).transpose(1, 2)
            for part in linear(w, f"{name}.qkv", h).split(d, dim=-1)
        )
        q, k = (
            turned(root_mean_square(part, f"{name}.{part_name}_norm"))
            for part, part_name in ((q, "q"), (k, "k"))
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return linear(w, f"{name}.proj", mixed)

    def swiglu(name: str, h: Tensor) -> Tensor:
        gated = F.silu(linear(w, f"{name}.gate", h)) * linear(w, f"{name}.up", h)
        return linear(w, f"{name}.down", gated)

    few = F.conv2d(x, w["x_embedder.patches.proj.weight"], stride=4).flatten(2).transpose(1, 2)
    h = linear(w, "x_embedder.proj", few) + sincos_of_two_by_two(d)
    h = torch.cat([registers.expand(len(x), -1, -1), h], dim=1)
    c = time_embedding(w, t) + w["y_embedder.embedding_table.weight"][y]
    for block in ("blocks.0", "blocks.1"):
        if f"{block}.scale_shift_table" in w:
            parts = linear(w, "t_block.1", F.silu(c)).reshape(-1, 6, d)
            parts = parts + w[f"{block}.scale_shift_table"]
        else:
            parts = linear(w, f"{block}.adaLN_modulation.1", F.silu(c)).reshape(-1, 6, d)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts.split(1, dim=1)
        inner = root_mean_square(h, f"{block}.norm1") * (1 + scale_a) + shift_a
        h = h + gate_a * attention(f"{block}.attn", inner)
        inner = root_mean_square(h, f"{block}.norm2") * (1 + scale_m) + shift_m
        h = h + gate_m * swiglu(f"{block}.mlp", inner)
    shift, scale = linear(w, "final_layer.adaLN_modulation.1", F.silu(c))[:, None].split(d, dim=-1)
    h = root_mean_square(h[:, count:], "final_layer.norm") * (1 + scale) + shift
    return image(linear(w, "final_layer.linear", h))


def sincos_of_two_by_two(d: int) -> Tensor:
    """Return sines and cosines of the places of a 2 x 2 grid: columns first, then rows."""
    frequencies = 10000.0 ** (-torch.arange(d // 4) / (d // 4))
    rows = []
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        parts = [wave(at * frequencies) for at in (column, row) for wave in (torch.sin, torch.cos)]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def mmdit_reference(
    w: Weights, x: Tensor, t: Tensor, y: Tensor, _: Tensor, pooled: Tensor
) -> Tensor:
    """MMDiT (arXiv 2403.03206, Figure 2) of depth 2, written anew; its grid is 2 x 2."""
    d, side = w["x_embedder.proj.bias"].numel(), math.isqrt(w["pos_embed"].shape[1])
    first = (side - 2) // 2
    rows = [row * side + column for row in (first, first + 1) for column in (first, first + 1)]
    h = patches(w, "x_embedder", x) + w["pos_embed"][:, rows]
    c = F.silu(time_embedding(w, t) + two_layers(w, "y_embedder.mlp", pooled, F.silu))
    streams = {"context_block": linear(w, "context_embedder", y), "x_block": h}

    def root_mean_square(x: Tensor, gain: Tensor) -> Tensor:
        x = x.unflatten(-1, (-1, 8))
        return (x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain).flatten(-2)

    for block in ("joint_blocks.0", "joint_blocks.1"):
        modulations, heads = {}, []
        for name, value in streams.items():
            stream = f"{block}.{name}"
            parts = linear(w, f"{stream}.adaLN_modulation.1", c)[:, None].split(d, dim=-1)
            modulations[name] = parts
            qkv = linear(w, f"{stream}.attn.qkv", normed(value) * (1 + parts[1]) + parts[0])
            q, k, v = qkv.split(d, dim=-1)
            if f"{stream}.attn.ln_q.weight" in w:
                q = root_mean_square(q, w[f"{stream}.attn.ln_q.weight"])
                k = root_mean_square(k, w[f"{stream}.attn.ln_k.weight"])
            heads.append((q, k, v))
        mixed = attended(*(torch.cat(pair, dim=1) for pair in zip(*heads, strict=True)))
        shares = mixed.split([y.shape[1], 4], dim=1)
        for (name, parts), share in zip(modulations.items(), shares, strict=True):
            stream = f"{block}.{name}"
            if len(parts) == 2:  # the last block ends the context
                continue
            value = streams[name] + parts[2] * linear(w, f"{stream}.attn.proj", share)
            inner = normed(value) * (1 + parts[4]) + parts[3]
            streams[name] = value + parts[5] * two_layers(w, f"{stream}.mlp", inner, gelu_tanh)
    shift, scale = linear(w, "final_layer.adaLN_modulation.1", c)[:, None].split(d, dim=-1)
    return image(linear(w, "final_layer.linear", normed(streams["x_block"]) * (1 + scale) + shift))
