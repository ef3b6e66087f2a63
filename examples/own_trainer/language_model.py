"""A small decoder-only Transformer under µP that learns to write Python, one character at a time.

Its text is the source of Python's own argparse module, so that nothing is downloaded. `run` trains
one trial of a sweep: `hptransfer run function.yaml`. train.py does the same as a script.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer

CHARACTERS, LENGTH, HEAD_DIM = 128, 32, 16  # ASCII; characters of an example; features of a head
BASE_WIDTH = 32  # the width at which µP changes nothing
HELD_OUT = 10_000  # characters at the end of the text that are never trained on


class Block(nn.Module):
    """Causal attention and an MLP, each behind a norm; the number of heads grows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, -1, HEAD_DIM)).movedim(2, 0)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class LanguageModel(nn.Module):
    """Characters (B, L) to logits of the next character (B, L, CHARACTERS)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(CHARACTERS, width)
        self.positions = nn.Parameter(torch.randn(LENGTH, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm, self.readout = nn.LayerNorm(width), nn.Linear(width, CHARACTERS)
        nn.init.zeros_(self.readout.weight)

    def forward(self, characters: Tensor) -> Tensor:
        x = self.embed(characters) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x))


def text() -> Tensor:
    """Return the text as numbers from 0 to 127."""
    source = Path(argparse.__file__).read_bytes()
    return torch.tensor(list(source)).clamp(max=CHARACTERS - 1)


def loss_of(model: nn.Module, examples: Tensor) -> Tensor:
    """Return the mean loss of examples (B, LENGTH + 1), in nats a character."""
    logits = model(examples[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), examples[:, 1:].flatten())


def train(
    *, width: int, lr: float, seed: int, steps: int, report: Callable[[int, float], Any]
) -> float:
    """Train a model and return its loss on text that it was not trained on."""
    learned, held_out = text()[:-HELD_OUT], text()[-HELD_OUT:]
    unseen = held_out.unfold(0, LENGTH + 1, LENGTH + 1)
    torch.manual_seed(seed)
    model = hptransfer.mup.build(LanguageModel, width=width, base_width=BASE_WIDTH)
    optimizer = torch.optim.AdamW(hptransfer.mup.param_groups(model, lr=lr))
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(1, steps + 1):
        starts = torch.randint(len(learned) - LENGTH, (16, 1))
        loss = loss_of(model, learned[starts + torch.arange(LENGTH + 1)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        if step % 10 == 0:
            report(step, loss.item())
    with torch.no_grad():
        return loss_of(model, unseen).item()


def run(trial: hptransfer.Trial) -> float:
    """Train one trial of a sweep."""
    return train(
        width=trial.width,
        lr=trial.hps["lr"],
        seed=trial.seed,
        steps=trial.fixed["steps"],
        report=trial.report,
    )
