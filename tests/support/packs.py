"""Packs of varied trials, trained whole or in part."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from hptransfer.config import (
    FashionMNISTConfig,
    Layout,
    ParametrizationConfig,
    RuntimeConfig,
    TrialConfig,
)
from hptransfer.config.choices import Init
from hptransfer.config.compose.compose import compose_file
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.data import Dataset, MemorySplit, load_data
from hptransfer.training.packs.run import PackOutcome, train_pack
from hptransfer.training.packs.state import TrainingState, start_training

FAMILIES = ("dit", "dit_modern", "uvit", "pixart", "mmdit", "custom")


STABLE = (-9.0, -8.0, -7.5, -7.0)


ABSURD = 120.0


def base(family: str, **budget: Any) -> TrialConfig:
    """Return the smallest trial of a family that has everything the family has."""
    small = ["model.width=16", "model.base_width=8"]
    sizes = ["model.depth=2", "model.head_dim=4"]
    own = ["model.factory=tests.support.custom_models:net"] if family == "custom" else sizes
    config = compose_file(None, [f"model={family}", *small, *own]).trial
    asked = {"batch_size": 8, "steps": 50, "eval_samples": 16, "eval_draws": 2, **budget}
    return dataclasses.replace(
        config, init=Init.paper, budget=dataclasses.replace(config.budget, **asked)
    )


def varied(family: str, rates: Sequence[float] = STABLE, **budget: Any) -> list[TrialConfig]:
    """Return trials that differ in all that members may differ in."""
    return [
        dataclasses.replace(
            with_hyperparameters(config, {"log2_lr": log2_lr}),
            seed=index % 2,
            optimizer=dataclasses.replace(
                config.optimizer,
                lr=2**log2_lr,
                beta1=0.9 - 0.05 * index,
                beta2=0.999 - 0.01 * index,
                weight_decay=0.1 * index,
                clip_norm=None if index == 1 else 0.3 + 0.5 * index,
                eps=10.0 ** (-8 - index),
            ),
            parametrization=ParametrizationConfig(
                init_scale=1 + 0.1 * index, output_scale=1 + 0.2 * index
            ),
            budget=dataclasses.replace(config.budget, warmup_fraction=0.1 * index),
        )
        for config in [base(family, **budget)]
        for index, log2_lr in enumerate(rates)
    ]


def dataset_of(config: TrialConfig) -> Dataset:
    if isinstance(config.data, FashionMNISTConfig):  # larger images than the digits, in no file
        return Dataset(*[noise_of(config.data.layout)] * 2)
    return load_data(config.data, None)


def noise_of(layout: Layout, samples: int = 64) -> MemorySplit:
    """Return samples of noise in a data set's shapes, all with the same caption."""
    generator = torch.Generator().manual_seed(0)
    size = layout.image_size
    images = torch.rand(samples, layout.channels, size, size, generator=generator) * 2 - 1
    tokens = torch.rand(1, layout.caption_tokens, layout.caption_channels, generator=generator)
    mask = torch.ones(1, layout.caption_tokens, dtype=torch.bool)
    pooled = torch.rand(1, layout.pooled_channels, generator=generator)
    rows = torch.arange(samples)
    return MemorySplit(images, rows % layout.classes, 0 * rows, (tokens, mask, pooled))


def of_256_tokens(configs: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Return trials of a family on images of 32 x 32, in patches of 2 x 2.

    From 128 keys on the gradients of fused attention are sums over several blocks of keys, whose
    order a kernel may not keep.
    """
    return [
        dataclasses.replace(
            config,
            data=FashionMNISTConfig(),
            model=dataclasses.replace(config.model, patch_size=2, head_dim=8),
        )
        for config in configs
    ]


def trained(configs: Sequence[TrialConfig], runtime: RuntimeConfig | None = None) -> PackOutcome:
    runtime = RuntimeConfig() if runtime is None else runtime
    device = torch.device(runtime.device)
    return train_pack(configs, dataset_of(configs[0]), device, runtime, lambda report: None)


def stepped(
    configs: Sequence[TrialConfig], steps: int, runtime: RuntimeConfig | None = None
) -> TrainingState:
    """Take some steps of a pack, nobody left out."""
    runtime = RuntimeConfig() if runtime is None else runtime
    device = torch.device(runtime.device)
    state = start_training(configs, dataset_of(configs[0]), device, runtime)
    for step in range(steps):
        state.train_step(step)
    state.close()
    return state


def assert_isolated(calm: TrainingState, beside: TrainingState, dead: int) -> None:
    others = [member for member in range(len(calm.pack)) if member != dead]
    assert beside.alive.tolist() == [member != dead for member in range(len(calm.pack))]
    for mine, theirs in zip(memory(calm), memory(beside), strict=True):
        assert torch.equal(mine[others], theirs[others])
        assert bool(theirs.isfinite().all())
    assert torch.equal(calm.loss_sum[others], beside.loss_sum[others])
    for weights in (beside.pack.flat, beside.deciding_weights()):
        assert not weights[dead].any()


def memory(state: TrainingState) -> list[torch.Tensor]:
    """Return what a pack keeps from step to step."""
    ema = [] if state.ema is None else [state.ema]
    return [state.pack.flat, *state.optimizer.moments.values(), *ema, *state.judged.values()]
