"""Samples that measure a trial's quality, from the same noise and conditions for every trial.

The samples of two trials of a data set differ by the trials' weights alone.
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
    leading: tuple[int, ...] = (),
) -> Tensor:
    """Return `quality.samples` samples (*leading, n, C, H, W) of a model, on the CPU.

    `leading` is the shape of the axes before the batch axis in the model's inputs: () for a plain
    model, (T,) for a pack. The model is never given more images at once than in a training step:
    so the samples fit into memory, and a compiled model is not compiled for another size.
    """
    noise, chosen = quality_noise(config), quality_rows(config, train)
    sampler = SamplerConfig(steps=config.quality.steps, guidance=config.quality.guidance)
    chunks = []
    for index in _chunks(config):
        condition = conditions_at(config, train, chosen[index])
        null = with_null_condition(config, condition, torch.ones(len(index), dtype=torch.bool))
        start, told, untold = (
            [part.to(device).expand(*leading, *part.shape) for part in parts]
            for parts in ((noise[index],), condition, null)
        )
        drawn = sample(config.objective, model, start[0], told, untold, sampler)
        chunks.append(drawn.cpu())
    return torch.cat(chunks, -4)[..., : len(noise), :, :, :]


def quality_noise(config: TrialConfig) -> Tensor:
    """Return the noise (n, C, H, W) of samples; a sample's noise does not depend on n."""
    layout = config.data.layout
    shape = (layout.channels, layout.image_size, layout.image_size)
    rows = range(config.quality.samples)
    return torch.stack(
        [torch.randn(shape, generator=torch_generator(0, "quality", row)) for row in rows]
    )


def quality_rows(config: TrialConfig, train: Split) -> np.ndarray:
    """Return the indices (n,) of the training samples for whose conditions samples are drawn.

    They are evenly spaced in the training split ordered by class, so that each class has the share
    that it has in the split.
    """
    by_class = np.argsort(train.labels_at(np.arange(len(train))).numpy(), kind="stable")
    samples = config.quality.samples
    return by_class[(2 * np.arange(samples) + 1) * len(by_class) // (2 * samples)]


def _chunks(config: TrialConfig) -> Iterator[np.ndarray]:
    """Yield indices of samples in chunks of one size; the last chunk is filled from the first."""
    quality = config.quality
    # With guidance the model is given every sample twice.
    size = max(1, config.budget.batch_size // (1 if quality.guidance == 1 else 2))
    for first in range(0, quality.samples, size):
        yield np.arange(first, first + size) % quality.samples
