"""Trials under Muon and Lion, and plain per-matrix references of what packs do at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hptransfer.config import (
    AnyOptimizer,
    LionConfig,
    MuonConfig,
    ParametrizationConfig,
    TrialConfig,
)
from hptransfer.config.choices import MuonScale
from hptransfer.models.parametrization.rules import build_model
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.state import start_training
from tests.support.packs import base, dataset_of

CPU = torch.device("cpu")
MUON, LION = MuonConfig(lr=2**-5, adam_lr=2**-7), LionConfig(lr=2**-10)


def under(
    optimizer: AnyOptimizer,
    family: str = "dit",
    parametrization: ParametrizationConfig | None = None,
    **budget: Any,
) -> TrialConfig:
    """Return the smallest trial of a family under an optimizer."""
    plain = base(family, **budget)
    own = plain.parametrization if parametrization is None else parametrization
    return dataclasses.replace(plain, optimizer=optimizer, parametrization=own)


def varied(config: TrialConfig, rates: Sequence[float]) -> list[TrialConfig]:
    """Return trials of one pack that differ in rates, momenta, decay, clipping and multipliers."""
    return [
        dataclasses.replace(
            config, seed=index % 2, optimizer=dataclasses.replace(config.optimizer, **changes)
        )
        for index, rate in enumerate(rates)
        for changes in [
            {
                "lr": rate,
                "beta1": 0.9 - 0.05 * index,
                "clip_norm": None if index == 1 else 0.5 + 0.5 * index,
                "lr_mult_input": 2.0**index,
                "lr_mult_adaln": 0.5**index,
                **(
                    {"momentum": 0.95 - 0.1 * index} if "momentum" in vars(config.optimizer) else {}
                ),
            }
        ]
    ]


def newton_schulz(matrix: Tensor) -> Tensor:
    """Return one matrix after five steps of the quintic, as its definition says."""
    x = matrix / matrix.norm().clamp_min(1e-7)  # all of a first gradient may be zero
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


FUSED = {"qkv": 3, "kv_linear": 2, "t_block.1": 6}  # how many matrices a layer's weight is


class PlainMuon:
    """Muon and AdamW on one model, matrix by matrix, from published formulas alone."""

    def __init__(self, config: TrialConfig) -> None:
        self.config, self.model = config, build_model(config)
        self.momenta: dict[str, Tensor] = {}
        self.adam: dict[str, tuple[Tensor, Tensor]] = {}
        self.steps = 0

    def step(self, grads: dict[str, Tensor]) -> None:
        """Take one step at the schedule's multiplier 1."""
        self.steps += 1
        optimizer, m = self.config.optimizer, self.config.width_mult
        assert isinstance(optimizer, MuonConfig)
        for name, weight in self.model.named_parameters():
            if not weight.requires_grad:
                continue
            grad = grads[name]
            if self.is_matrix(name, weight):
                self.matrix_step(name, weight.data, grad, m)
            else:
                self.adam_step(name, weight.data, grad)

    def is_matrix(self, name: str, weight: Tensor) -> bool:
        """Whether both dimensions grow with the width: not of embeddings and of the readout."""
        fixed = ("table", "embedder.mlp.0", "y_proj.fc1", "context_embedder", "context_embed")
        readouts = ("final_layer.linear", "decoder_pred")
        embeds = any(part in name for part in (*fixed, "label_emb", "x_embedder", *readouts))
        return weight.ndim == 2 and not embeds and min(weight.shape) >= self.config.model.width

    def maps(self, name: str, weight: Tensor) -> int:
        if "adaLN" in name:
            return weight.shape[0] // weight.shape[1]
        layer = name.removesuffix(".weight")
        return next((n for ending, n in FUSED.items() if layer.endswith(ending)), 1)

    def matrix_step(self, name: str, weight: Tensor, grad: Tensor, m: float) -> None:
        optimizer = self.config.optimizer
        assert isinstance(optimizer, MuonConfig)
        momentum = self.momenta.setdefault(name, torch.zeros_like(weight))
        momentum.copy_(optimizer.momentum * momentum + (1 - optimizer.momentum) * grad)
        ahead = optimizer.momentum * momentum + (1 - optimizer.momentum) * grad
        weight.mul_(1 - optimizer.weight_decay * m**optimizer.decay_exponent)
        for rows, update in zip(
            weight.chunk(self.maps(name, weight)), ahead.chunk(self.maps(name, weight)), strict=True
        ):
            out, into = rows.shape
            scale = {
                MuonScale.spectral: math.sqrt(out / into),
                MuonScale.original: math.sqrt(max(1, out / into)),
                MuonScale.match_rms_adamw: 0.2 * math.sqrt(max(out, into) / m),
            }[optimizer.scale]
            rows.sub_(optimizer.lr * scale * newton_schulz(update))

    def adam_step(self, name: str, weight: Tensor, grad: Tensor) -> None:
        optimizer, zero = self.config.optimizer, torch.zeros_like(weight)
        assert isinstance(optimizer, MuonConfig)
        first, second = self.adam.setdefault(name, (zero, zero.clone()))
        first.lerp_(grad, 1 - optimizer.beta1)
        second.lerp_(grad.square(), 1 - optimizer.beta2)
        debiased = first / (1 - optimizer.beta1**self.steps)
        root = (second / (1 - optimizer.beta2**self.steps)).sqrt()
        weight.mul_(1 - optimizer.weight_decay)
        weight.sub_(optimizer.adam_lr * debiased / (root + optimizer.eps))


def first_updates(config: TrialConfig, steps: int = 2) -> dict[str, Tensor]:
    """Return every parameter's change in the last of a trial's first steps, by name."""
    state = start_training([config], dataset_of(config), CPU, Pack([config], CPU).runtime)
    for step in range(steps):
        before = {k: v.detach().clone() for k, v in state.pack.member_tensors(0).items()}
        state.train_step(step)
    state.close()
    return {k: v.detach() - before[k] for k, v in state.pack.member_tensors(0).items()}
