"""Models and training steps of a user's own loop, for the tests of `hptransfer.mup`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY, LENGTH, HEAD_DIM = 24, 12, 8
FEATURES, CLASSES = 12, 4


class Block(nn.Module):
    """Causal attention and MLP with norms before them; heads of HEAD_DIM."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.RMSNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, -1, HEAD_DIM)).movedim(2, 0)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = x + self.proj(mixed.flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class LanguageModel(nn.Module):
    """A decoder-only Transformer: tokens (B, L) to logits (B, L, VOCABULARY)."""

    def __init__(
        self, width: int, readout: type[nn.Linear] = nn.Linear, *, tied: bool = False
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(torch.randn(LENGTH, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.readout = readout(width, VOCABULARY, bias=False)
        self.scale = nn.Parameter(torch.ones(1))  # which does not grow
        if tied:
            self.readout.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.scale * self.readout(self.norm(x))


def mlp(width: int, readout: type[nn.Linear] = nn.Linear) -> nn.Sequential:
    """Build an MLP from FEATURES to CLASSES."""
    return nn.Sequential(
        nn.Linear(FEATURES, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        readout(width, CLASSES),
    )


def conv_net(width: int) -> nn.Sequential:
    """Build a convolutional net from 1-channel images to CLASSES."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.GroupNorm(4, width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, CLASSES),
    )


def tokens_of(step: int) -> Tensor:
    """Return a batch of token sequences (B, L + 1) that count up, each from a start of its own."""
    draw = torch.Generator().manual_seed(step)
    start = torch.randint(VOCABULARY, (16, 1), generator=draw)
    return (start + torch.arange(LENGTH + 1)) % VOCABULARY


def language_loss(model: Callable[[Tensor], Tensor], step: int) -> Tensor:
    tokens = tokens_of(step)
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def class_loss(model: Callable[[Tensor], Tensor], step: int) -> Tensor:
    draw = torch.Generator().manual_seed(step)
    x = torch.randn(64, FEATURES, generator=draw)
    return F.cross_entropy(model(x), x[:, :CLASSES].argmax(-1))


def image_loss(model: Callable[[Tensor], Tensor], step: int) -> Tensor:
    draw = torch.Generator().manual_seed(step)
    y = torch.randint(CLASSES, (32,), generator=draw)
    x = torch.randn(32, 1, 6, 6, generator=draw) + y.view(-1, 1, 1, 1)
    return F.cross_entropy(model(x), y)


Loss = Callable[[Callable[[Tensor], Tensor], int], Tensor]


def stepping(loss_of: Loss) -> Callable[[nn.Module, torch.optim.Optimizer, int], Tensor]:
    """Return a training step on a loss."""

    def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
        loss = loss_of(model, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return train_step
