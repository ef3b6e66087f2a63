"""A plain MLP on 8x8 grey images with labels: the least that `model=custom` asks for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PIXELS, CLASSES = 64, 10


class MLP(nn.Module):
    """Predict the target for images x (B, 1, 8, 8), timesteps t (B,) and labels y (B,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image = nn.Linear(PIXELS, width)
        self.time = nn.Linear(2, width)
        self.label = nn.Embedding(CLASSES + 1, width)  # the last row is the null label
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, PIXELS)
        nn.init.zeros_(self.readout.weight)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        angle = t * (torch.pi / 2000)  # t runs from 0 to 1000
        time = torch.stack([angle.cos(), angle.sin()], dim=-1)
        h = self.image(x.flatten(-3)) + self.time(time) + self.label(y)
        for layer in self.hidden:
            h = h + layer(torch.relu(h))
        return self.readout(self.norm(h)).view_as(x)


def build(width: int) -> nn.Module:
    """Build the MLP at a width."""
    return MLP(width)
