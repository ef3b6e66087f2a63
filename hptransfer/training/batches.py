"""What a step trains on: samples, labels, noise and timesteps from (seed, purpose, step).

Trials that share a seed see the same of all four, whatever their width and hyperparameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Conditioning
from hptransfer.data import Dataset, Split, batch_indices
from hptransfer.system.random_streams import torch_generator


class Batch(NamedTuple):
    """Images (..., B, C, H, W), time quantiles u (..., B), noise of the images' shape, and the
    condition: labels (..., B), or a caption's tokens, mask and pooled features (..., B, ...).
    """

    images: Tensor
    u: Tensor
    noise: Tensor
    condition: tuple[Tensor, ...]


WHOLE = slice(None)


def train_batch(config: TrialConfig, train: Split, step: int, part: slice = WHOLE) -> Batch:
    """Return step `step`'s batch for one seed, or a `part` of it, conditions dropped to the null
    one as configured.
    """
    size, seed = config.budget.batch_size, config.seed
    chosen = batch_indices(len(train), size, seed, step)[part]
    images = train.images_at(chosen)
    uniform = torch.rand(size, generator=torch_generator(seed, "label dropout", step))
    whole = (size, *images.shape[1:])  # drawn whole, so that a part is the same however it is cut
    condition = conditions_at(config, train, chosen)
    return Batch(
        images=images,
        u=torch.rand(size, generator=torch_generator(seed, "timestep", step))[part],
        noise=torch.randn(whole, generator=torch_generator(seed, "noise", step))[part],
        condition=with_null_condition(
            config, condition, (uniform < config.model.label_dropout)[part]
        ),
    )


def conditions_at(config: TrialConfig, split: Split, chosen: np.ndarray) -> tuple[Tensor, ...]:
    """Return what the model is told of the chosen samples."""
    if config.model.conditioning is Conditioning.caption:
        return split.captions_at(chosen)
    return (split.labels_at(chosen),)


def with_null_condition(
    config: TrialConfig, condition: tuple[Tensor, ...], where: Tensor
) -> tuple[Tensor, ...]:
    """Replace conditions by the null one `where` (B,): the last label, or an empty caption (tokens
    and pooled features zero, everything masked).
    """
    if config.model.conditioning is Conditioning.caption:
        return tuple(
            part.masked_fill(where.view(-1, *[1] * (part.ndim - 1)), 0) for part in condition
        )
    (labels,) = condition
    return (torch.where(where, config.data.layout.classes, labels),)


class PackBatches:
    """Batches of a pack's distinct seeds; members that share a seed share its batch."""

    def __init__(self, configs: Sequence[TrialConfig], dataset: Dataset) -> None:
        by_seed = {config.seed: config for config in configs}
        self.configs = [by_seed[seed] for seed in seeds_of(configs)]
        self.train = dataset.train

    def at(self, step: int) -> Batch:
        """Return the batches of a step, on the CPU, with a leading axis over the seeds (S, ...)."""
        batches = [train_batch(config, self.train, step) for config in self.configs]
        conditions = zip(*(batch.condition for batch in batches), strict=True)
        return Batch(
            images=torch.stack([batch.images for batch in batches]),
            u=torch.stack([batch.u for batch in batches]),
            noise=torch.stack([batch.noise for batch in batches]),
            condition=tuple(torch.stack(part) for part in conditions),
        )


def seeds_of(configs: Sequence[TrialConfig]) -> list[int]:
    """Return the distinct seeds of trials in the order of a pack's batches."""
    return list(dict.fromkeys(config.seed for config in configs))
