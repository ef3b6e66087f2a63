"""Samples by which a trial is judged: the same noise and conditions for every trial of a data set.

Two trials' samples then differ by their weights alone, whatever pack those were trained in.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import TrialConfig
from hptransfer.data import Split
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.batches import conditions_at, with_null_condition
from hptransfer.training.sampling.samplers import Model, SamplerConfig, sample


def draw_quality_samples(
    config: TrialConfig,
    train: Split,
    model: Model,
    device: torch.device,
    trials: tuple[int, ...] = (),
) -> Tensor:
    """Draw `quality.samples` samples (*trials, n, C, H, W) of a model, on the CPU.

    `trials` are the axes that the model's inputs have before the batch's. Samples are drawn in
    chunks that take the model no more images than a training step did: they fit where training did,
    and a compiled model need not be compiled for another size.
    """
    noise, chosen = quality_noise(config), quality_rows(config, train)
    sampler = SamplerConfig(steps=config.quality.steps, guidance=config.quality.guidance)
    chunks = []
    for index in _chunks(config):
        condition = conditions_at(config, train, chosen[index])
        null = with_null_condition(config, condition, torch.ones(len(index), dtype=torch.bool))
        start, told, untold = (
            [part.to(device).expand(*trials, *part.shape) for part in parts]
            for parts in ((noise[index],), condition, null)
        )
        drawn = sample(config.objective, model, start[0], told, untold, sampler)
        chunks.append(drawn.cpu())
    return torch.cat(chunks, -4)[..., : len(noise), :, :, :]


def quality_noise(config: TrialConfig) -> Tensor:
    """Return the noise (n, C, H, W) of samples: each has its own, however many there are."""
    layout = config.data.layout
    shape = (layout.channels, layout.image_size, layout.image_size)
    rows = range(config.quality.samples)
    return torch.stack(
        [torch.randn(shape, generator=torch_generator(0, "quality", row)) for row in rows]
    )


def quality_rows(config: TrialConfig, train: Split) -> np.ndarray:
    """Return the training samples (n,) whose conditions samples are drawn for.

    They are evenly spaced in the order of classes: each class has its share of the training split.
    """
    by_class = np.argsort(train.labels_at(np.arange(len(train))).numpy(), kind="stable")
    samples = config.quality.samples
    return by_class[(2 * np.arange(samples) + 1) * len(by_class) // (2 * samples)]


def _chunks(config: TrialConfig) -> Iterator[np.ndarray]:
    """Yield indices of samples in chunks of one size; places beyond the last are filled up."""
    quality = config.quality
    # Guidance shows the model every sample twice.
    size = max(1, config.budget.batch_size // (1 if quality.guidance == 1 else 2))
    for first in range(0, quality.samples, size):
        yield np.arange(first, first + size) % quality.samples
