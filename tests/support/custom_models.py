"""Models of a user's own for the tests, by name, and the trials that use them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.config import BudgetConfig, CustomConfig, TrialConfig

BASE = 8
BUDGET = BudgetConfig(steps=4, batch_size=8, eval_samples=16, eval_draws=1)


class Net(nn.Module):
    """Predict from pixels, time and label, with the initialisation of torch's own layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image = nn.Linear(64, width)
        self.time = nn.Linear(1, width)
        self.label = nn.Embedding(11, width)
        self.hidden = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, 64)

    def body(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h = self.image(x.flatten(-3)) + self.time(t[:, None] / 1000) + self.label(y)
        return self.norm(h + self.hidden(torch.relu(h)))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.readout(self.body(x, t, y)).view_as(x)


def net(width: int) -> nn.Module:
    return Net(width)


def steady(width: int) -> nn.Module:
    model = Net(width)
    nn.init.normal_(model.hidden.weight, std=0.02)
    return model


def trial(name: str = "net", width: int = 4 * BASE, **model: Any) -> TrialConfig:
    factory = name if ":" in name else f"{__name__}:{name}"
    config = CustomConfig(factory=factory, width=width, base_width=BASE, **model)
    return TrialConfig(model=config, budget=BUDGET)


def example(batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 1, 8, 8, generator=stream)
    return x, torch.rand(batch, generator=stream) * 1000, torch.arange(batch)


def patches(width: int) -> nn.Module:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(1, width, 2, stride=2)
            self.up = nn.ConvTranspose2d(width, 1, 2, stride=2)

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return self.up(torch.relu(self.down(x)))

    return Patches()


class Half(Net):
    """A net with half of its weights frozen, and with noise in a buffer."""

    noise: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_buffer("noise", torch.randn(width))
        self.label.requires_grad_(False)


def half(width: int) -> nn.Module:
    return Half(width)


class Attending(Net):
    """A net with torch's fused attention and its encoder layer, dropout included."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.encoder = nn.TransformerEncoderLayer(width, width // 4, width, batch_first=True)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        place = torch.linspace(0, 1, 4, device=x.device)[:, None]
        tokens = self.body(x, t, y)[:, None] + place
        q, k, v = self.qkv(tokens).unflatten(-1, (3, -1, 4)).movedim(-3, 0).transpose(-2, -3)
        tokens = tokens + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        return self.readout(self.encoder(tokens).mean(1)).view_as(x)


def attending(width: int) -> nn.Module:
    return Attending(width)


def silent(width: int) -> nn.Module:
    class Silent(Net):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:  # pyright: ignore
            return super().forward(x, t, torch.zeros_like(t, dtype=torch.long))

    return Silent(width)


def captioned(width: int) -> nn.Module:
    class Captioned(Net):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.tokens, self.pooled = nn.Linear(64, width), nn.Linear(64, width)

        def forward(  # pyright: ignore
            self, x: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor
        ) -> Tensor:
            words = (self.tokens(tokens) * mask[..., None]).mean(-2) + self.pooled(pooled)
            body = self.body(x, t, torch.zeros_like(t, dtype=torch.long))
            return self.readout(self.norm(body + words)).view_as(x)

    return Captioned(width)


class Mixture(Net):
    """A net with a soft mixture of experts and their load-balancing loss, in one of two forms."""

    def __init__(self, width: int, *, of_batch: bool) -> None:
        super().__init__(width)
        self.router = nn.Linear(width, 3)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.of_batch = of_batch

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, t: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        h = self.body(x, t, y)
        shares = self.router(h).softmax(-1)
        for expert, share in zip(self.experts, shares.unbind(-1), strict=True):
            h = h + share[:, None] * torch.relu(expert(h))
        loss = shares.mean(0).square().sum() if self.of_batch else shares.square().sum(-1)
        return self.readout(h).view_as(x), 3 * loss


def balanced(width: int) -> nn.Module:
    return Mixture(width, of_batch=False)


def balanced_from_zero(width: int) -> nn.Module:
    model = Mixture(width, of_batch=False)
    for parameter in model.router.parameters():
        nn.init.zeros_(parameter)
    return model


def balanced_together(width: int) -> nn.Module:
    return Mixture(width, of_batch=True)


class Aligned(Net):
    """A net with a head of its own, whose four tokens are aligned with an encoder's features."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.head = nn.Linear(width, 4 * 64)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, t: Tensor, y: Tensor, features: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        h = self.body(x, t, y)
        prediction = self.readout(h).view_as(x)
        if features is None:
            return prediction
        tokens = self.head(h).unflatten(-1, (4, 64))
        return prediction, -F.cosine_similarity(tokens, features, dim=-1).mean(-1)


def with_features(width: int) -> nn.Module:
    return Aligned(width)


def unbalanced(width: int) -> nn.Module:
    model = balanced(width)
    own = model.forward
    model.forward = lambda *arguments: own(*arguments)[0]
    return model


def reading(width: int) -> nn.Module:
    return Net(int(torch.tensor(width).item()))


def opening(width: int) -> nn.Module:
    class Opening(Net):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            with Path(os.devnull).open():  # which no compiler takes
                return super().forward(x, t, y)

    return Opening(width)
