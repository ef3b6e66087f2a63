"""A vanilla pre-norm Transformer in plain torch under the `mup` package, without our rules."""

from __future__ import annotations

import mup
import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY, LENGTH, FEATURES, HEAD_DIM, OUTPUTS = 16, 8, 12, 8, 16

# What Table 3 of arXiv 2203.03466 calls each parameter, by the end of its name.
ROLES = {
    "embed.weight": "input",
    "features.weight": "input",
    "positions": "input",
    "norm1.weight": "vector",
    "norm2.weight": "vector",
    "norm.weight": "vector",
    "qkv.weight": "hidden",
    "proj.weight": "hidden",
    "fc1.weight": "hidden",
    "fc2.weight": "hidden",
    "readout.weight": "output",
    "readout.bias": "finite",
    "bias": "vector",
}


class Block(nn.Module):
    """Attention and MLP with layer norms before them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, width // HEAD_DIM, HEAD_DIM)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.proj(mixed)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class PlainTransformer(nn.Module):
    """Tokens (B, LENGTH) and their features in, OUTPUTS values a token out; heads of HEAD_DIM."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.features = nn.Linear(FEATURES, width)
        self.positions = nn.Parameter(torch.randn(LENGTH, width))
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm = nn.LayerNorm(width)
        self.readout = mup.MuReadout(width, OUTPUTS)

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        x = self.embed(tokens) + self.features(features) + self.positions
        return self.readout(self.norm(self.blocks(x)))


def role_of(name: str) -> str:
    """Return what a parameter is called: the longest ending that names it."""
    return ROLES[max((end for end in ROLES if name.endswith(end)), key=len)]


def plain_transformer(width: int, base: int) -> PlainTransformer:
    """Build and initialise it as mup's guide says: torch's own init, then base shapes."""
    model = PlainTransformer(width)
    mup.set_base_shapes(model, PlainTransformer(base), delta=PlainTransformer(2 * base))
    return model
