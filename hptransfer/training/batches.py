"""What a step trains on: samples, labels, noise and timesteps from (seed, purpose, step).

Trials that share a seed see the same of all four, whatever their width and hyperparameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hptransfer.config import TrialConfig
from hptransfer.data import Dataset, Split, batch_indices
from hptransfer.streams import torch_generator


class Batch(NamedTuple):
    """Images (..., B, C, H, W), labels and time quantiles (..., B), noise of the images' shape."""

    images: Tensor
    labels: Tensor
    u: Tensor
    noise: Tensor


def train_batch(config: TrialConfig, train: Split, step: int) -> Batch:
    """Return step `step`'s batch for one seed, labels dropped to the null class as configured."""
    size, seed = config.budget.batch_size, config.seed
    chosen = torch.from_numpy(batch_indices(len(train.labels), size, seed, step))
    images, labels = train.images[chosen], train.labels[chosen]
    dropout = getattr(config.model, "label_dropout", 0.0)
    dropped = torch.rand(size, generator=torch_generator(seed, "label dropout", step)) < dropout
    return Batch(
        images=images,
        labels=torch.where(dropped, config.data.classes, labels),
        u=torch.rand(size, generator=torch_generator(seed, "timestep", step)),
        noise=torch.randn(images.shape, generator=torch_generator(seed, "noise", step)),
    )


class PackBatches:
    """Batches for the members of a pack: one per distinct seed, spread over the trial axis."""

    def __init__(
        self, configs: Sequence[TrialConfig], dataset: Dataset, device: torch.device
    ) -> None:
        self.by_seed = {config.seed: config for config in configs}
        seeds = list(self.by_seed)
        self.member = torch.tensor([seeds.index(c.seed) for c in configs], device=device)
        self.train, self.device = dataset.train, device

    def at(self, step: int) -> Batch:
        """Return the batch of a step with a leading trial axis."""
        batches = [train_batch(config, self.train, step) for config in self.by_seed.values()]
        stacked = (torch.stack(parts).to(self.device) for parts in zip(*batches, strict=True))
        return Batch(*(tensor[self.member] for tensor in stacked))
