"""Small models of the kinds that users bring, right and wrong, for images (B, 1, 8, 8) and labels.

Their trunk is a stream of tokens or of one vector; the head dimension is HEAD and the number of
heads grows, unless a model's name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from hptransfer.config import AdamWConfig, BudgetConfig, CustomConfig, TrialConfig

BASE, WIDTHS, LOG2_LR = 32, (32, 64, 128), -6.5  # of the models' checks
HEAD, PATCHES, EXPERTS, RANK = 8, 16, 4, 4


class Zoo(nn.Module):
    """Patches of 2 × 2 to tokens and back, with a mixer between them that is the model's kind."""

    def __init__(self, width: int, mixer: nn.Module | None = None) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.place = nn.Parameter(torch.randn(PATCHES, width))
        self.time, self.label = nn.Linear(2, width), nn.Embedding(11, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixer = nn.Linear(width, width) if mixer is None else mixer
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, 4)
        nn.init.zeros_(self.readout.weight)

    def stem(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        angle = t * (torch.pi / 2000)
        c = self.time(torch.stack([angle.cos(), angle.sin()], dim=-1)) + self.label(y)
        tokens = self.patch(x).flatten(-2).transpose(-1, -2) + self.place
        return tokens + c[..., None, :], c

    def head(self, h: Tensor, x: Tensor) -> Tensor:
        return self.pixels(self.readout(self.norm(h)), x)

    def pixels(self, patches: Tensor, x: Tensor) -> Tensor:
        return F.pixel_shuffle(patches.transpose(-1, -2).unflatten(-1, (4, 4)), 2).view_as(x)

    def mixed(self, h: Tensor, c: Tensor) -> Tensor:
        return self.mixer(h)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h, c = self.stem(x, t, y)
        h = h + self.mixed(self.norm1(h), c)
        h = h + self.fc2(F.gelu(self.fc1(self.norm2(h))))
        return self.head(h, x)


def heads_of(x: Tensor, head_dim: int) -> Tensor:
    return x.unflatten(-1, (-1, head_dim)).transpose(-2, -3)


class Attention(nn.Module):
    """Attention of fused or of separate projections, with as many or with fewer key heads."""

    def __init__(self, width: int, *, head: int = HEAD, kv_heads: int | None = None) -> None:
        super().__init__()
        self.head_dim = head
        kv = width if kv_heads is None else kv_heads * head
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, kv), nn.Linear(width, kv)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_of(part(x), self.head_dim) for part in (self.q, self.k, self.v))
        k, v = (p.repeat_interleave(q.shape[-3] // p.shape[-3], dim=-3) for p in (k, v))
        return self.proj(self.attend(q, k, v).transpose(-2, -3).flatten(-2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class FusedAttention(nn.Module):
    """Attention of fused queries, keys and values, with a layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ls = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_of(part, HEAD) for part in self.qkv(x).chunk(3, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2)
        return self.ls * self.proj(out)


def vit(width: int) -> nn.Module:
    """A vision transformer's block."""
    return Zoo(width, FusedAttention(width))


def gqa_growing(width: int) -> nn.Module:
    """Attention whose key and value heads grow, half as many as query heads."""
    return Zoo(width, Attention(width, kv_heads=width // (2 * HEAD)))


def gqa_fixed(width: int) -> nn.Module:
    """Attention with one key and value head at every width."""
    return Zoo(width, Attention(width, kv_heads=1))


def growing_head(width: int) -> nn.Module:
    """Attention of two heads, whose size grows with the width."""
    return Zoo(width, Attention(width, head=width // 2))


def growing_head_scaled(width: int) -> nn.Module:
    """Attention of two growing heads, with logits scaled by 1/head size as µP asks."""

    class Scaled(Attention):
        def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, scale=HEAD**0.5 / q.shape[-1])

    return Zoo(width, Scaled(width, head=width // 2))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]


def mha(width: int) -> nn.Module:
    """`nn.MultiheadAttention` with heads of a fixed size."""
    return Zoo(width, SelfAttention(width, width // HEAD))


def mha_growing_head(width: int) -> nn.Module:
    """`nn.MultiheadAttention` of two heads, whose size grows with the width."""
    return Zoo(width, SelfAttention(width, 2))


def encoder(width: int) -> nn.Module:
    """`nn.TransformerEncoderLayer`."""
    return Zoo(width, nn.TransformerEncoderLayer(width, width // HEAD, width, batch_first=True))


class Experts(nn.Module):
    """Experts behind a router: of all, or of the two that it prefers."""

    def __init__(self, width: int, top: int) -> None:
        super().__init__()
        self.top = top
        self.router = nn.Linear(width, EXPERTS, bias=False)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        shares = torch.softmax(self.router(x), dim=-1)
        chosen, index = shares.topk(self.top, dim=-1)
        kept = torch.zeros_like(shares).scatter(-1, index, chosen / chosen.sum(-1, keepdim=True))
        outputs = torch.stack([torch.relu(expert(x)) for expert in self.experts], dim=-1)
        return (outputs * kept[..., None, :]).sum(-1)


def moe_soft(width: int) -> nn.Module:
    """Experts that are mixed by a router's softmax."""
    return Zoo(width, Experts(width, EXPERTS))


def moe_top2(width: int) -> nn.Module:
    """Experts of which a router chooses two."""
    return Zoo(width, Experts(width, 2))


def bottleneck(width: int) -> nn.Module:
    """A bottleneck of four channels, whose bias has four entries."""
    return Zoo(width, nn.Sequential(nn.Linear(width, 4), nn.GELU(), nn.Linear(4, width)))


def raw_projection(width: int) -> nn.Module:
    """A bottleneck of bare parameters, of which no layer tells the fan-in."""

    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Parameter(torch.randn(width, 6) / width**0.5)
            self.up = nn.Parameter(0.3 * torch.randn(6, width))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ self.down) @ self.up

    return Zoo(width, Raw())


def adaln_lora(width: int) -> nn.Module:
    """A modulation of shift and scale through a rank of four (adaLN-LoRA)."""

    class Modulated(Zoo):
        def __init__(self) -> None:
            super().__init__(width)
            self.down, self.up = nn.Linear(width, RANK), nn.Linear(RANK, 2 * width)

        def mixed(self, h: Tensor, c: Tensor) -> Tensor:
            shift, scale = self.up(self.down(F.silu(c)))[..., None, :].chunk(2, dim=-1)
            return self.mixer(h * (1 + scale) + shift)

    return Modulated()


def weight_norm(width: int) -> nn.Module:
    """An MLP whose matrices have torch's weight norm."""
    model = Zoo(width)
    parametrizations.weight_norm(model.fc1)
    parametrizations.weight_norm(model.fc2)
    return model


def gates(width: int) -> nn.Module:
    """Parameters of no dimension, and one of a fixed shape inside a parametrization."""

    class Times(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.ones(1))

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.by

    class Gated(Zoo):
        def __init__(self) -> None:
            super().__init__(width)
            self.gate, self.final = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(1.0))
            nn.utils.parametrize.register_parametrization(self.fc1, "weight", Times())

        def mixed(self, h: Tensor, c: Tensor) -> Tensor:
            return torch.tanh(self.gate) * self.mixer(h)

        def head(self, h: Tensor, x: Tensor) -> Tensor:
            return self.final * super().head(h, x)

    return Gated()


def conv1d(width: int) -> nn.Module:
    """A convolution along the tokens."""

    class Along(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(width, width, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return F.gelu(self.conv(x.transpose(-1, -2))).transpose(-1, -2)

    return Zoo(width, Along())


class SwiGLU(nn.Module):
    def __init__(self, width: int, multiple: int) -> None:
        super().__init__()
        inner = multiple * -(-8 * width // 3 // multiple)
        self.w1, self.w3 = nn.Linear(width, inner), nn.Linear(width, inner)
        self.w2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def swiglu(width: int) -> nn.Module:
    """A SwiGLU whose inner size is rounded to a multiple of 8."""
    return Zoo(width, SwiGLU(width, 8))


def swiglu_rounded(width: int) -> nn.Module:
    """A SwiGLU whose inner size is the same at widths 32 and 64."""
    return Zoo(width, SwiGLU(width, 192))


def unet(width: int) -> nn.Module:
    """A U-Net of one level with group norm, transposed convolution and a skip."""

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, width, 3, padding=1)
            self.label = nn.Embedding(11, width)
            self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, 2 * width)
            self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
            self.mid = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
            self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
            self.join = nn.Conv2d(2 * width, width, 3, padding=1)
            self.norm3 = nn.GroupNorm(4, width)
            self.last = nn.Conv2d(width, 1, 3, padding=1)
            nn.init.zeros_(self.last.weight)

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            h = self.first(x) + self.label(y)[..., None, None]
            low = self.down(F.silu(self.norm1(h)))
            low = low + self.mid(F.silu(self.norm2(low)))
            h = self.join(torch.cat([h, self.up(low)], dim=-3))
            return self.last(F.silu(self.norm3(h)))

    return UNet()


def tied_functional(width: int) -> nn.Module:
    """A table of patches' values that is also the readout, by F.linear on its weight."""

    class Tied(Zoo):
        def __init__(self) -> None:
            super().__init__(width)
            del self.readout
            self.table = nn.Embedding(4, width)

        def head(self, h: Tensor, x: Tensor) -> Tensor:
            h = self.norm(h) + self.table.weight.mean(0)
            return self.pixels(F.linear(h, self.table.weight), x)

    return Tied()


def tied_shared(width: int) -> nn.Module:
    model: Any = Zoo(width)
    model.readout.weight = model.fc2.weight = nn.Parameter(torch.randn(4, 2 * width))
    return model


def functional_readout(width: int) -> nn.Module:
    """A readout of a bare parameter."""

    class Bare(Zoo):
        def __init__(self) -> None:
            super().__init__(width)
            del self.readout
            self.out = nn.Parameter(torch.randn(width, 4) / width**0.5)

        def head(self, h: Tensor, x: Tensor) -> Tensor:
            return self.pixels(self.norm(h) @ self.out, x)

    return Bare()


def scaled_embedding(width: int) -> nn.Module:
    """A forward with a factor that grows with the width."""

    class Scaled(Zoo):
        def mixed(self, h: Tensor, c: Tensor) -> Tensor:
            return self.mixer(h * width**0.5)

    return Scaled(width)


def weight_norm_readout(width: int) -> nn.Module:
    """A readout under weight norm, whose size µP cannot scale."""
    model = Zoo(width)
    nn.init.normal_(model.readout.weight, std=width**-0.5)
    parametrizations.weight_norm(model.readout)
    return model


def weight_norm_inside(width: int) -> nn.Module:
    inner = nn.Linear(width, 4)
    parametrizations.weight_norm(inner)
    return Zoo(width, nn.Sequential(inner, nn.Linear(4, width)))


RIGHT: dict[str, Callable[[int], nn.Module]] = {
    make.__name__: make
    for make in (
        vit, unet, mha, encoder, gqa_growing, gqa_fixed, moe_soft, moe_top2, bottleneck,
        raw_projection, adaln_lora, weight_norm, gates, conv1d, swiglu, growing_head_scaled,
    )
}  # fmt: skip

# Models that are wrong by themselves, and right ones with the roles that make them wrong.
WRONG: dict[str, tuple[str, ...]] = {
    "tied_functional": (),
    "functional_readout": (),
    "growing_head": (),
    "mha_growing_head": (),
    "swiglu_rounded": (),
    "scaled_embedding": (),
    "gqa_fixed": ("mixer.k.weight=output", "mixer.v.weight=output"),
    "moe_soft": ("*.router.weight=output",),
    "vit": ("fc1.weight=input",),
    "conv1d": ("readout.weight=input",),
}


def trial(name: str, width: int = BASE, **model: Any) -> TrialConfig:
    """Return a trial of the model that a function of this module builds."""
    factory = f"{__name__}:{name}"
    return TrialConfig(
        model=CustomConfig(factory=factory, width=width, base_width=BASE, **model),
        optimizer=AdamWConfig(beta2=0.99),
        budget=BudgetConfig(steps=2, batch_size=32, eval_samples=16, eval_draws=1),
    )
