"""The deciding loss: a fixed set of held-out (sample, noise, timestep) triples.

Every trial of a data set, whatever its seed, is evaluated on the same triples; the timesteps of a
sample's draws are stratified, one in each equal part of the time axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from hptransfer.config import TrialConfig
from hptransfer.data import Split
from hptransfer.objectives import noised, squared_error
from hptransfer.streams import torch_generator
from hptransfer.training.batches import Batch
from hptransfer.training.pack import Pack


def evaluation_batches(config: TrialConfig, validation: Split) -> Iterator[Batch]:
    """Yield one batch per stratified draw over the first `eval_samples` held-out samples."""
    count = min(config.budget.eval_samples, len(validation.labels))
    images, labels = validation.images[:count], validation.labels[:count]
    draws = config.budget.eval_draws
    for draw in range(draws):
        generator = torch_generator(0, "evaluation", draw)
        # Rotating the strata over the samples gives every draw the whole time axis.
        stratum = (torch.arange(count) + draw) % draws
        u = (stratum + torch.rand(count, generator=generator)) / draws
        yield Batch(images, labels, u, torch.randn(images.shape, generator=generator))


@torch.no_grad()
def validation_loss(pack: Pack, validation: Split, *, flat: Tensor, draws: int) -> Tensor:
    """Return each trial's mean loss over the first `draws` draws: (T,), in float64.

    `flat` (T, P) are the weights; all of `eval_draws` make the deciding loss.
    """
    config, device = pack.configs[0], flat.device
    total = torch.zeros(len(pack), dtype=torch.float64, device=device)
    for batch in islice(evaluation_batches(config, validation), draws):
        images, labels, u, noise = (part.to(device) for part in batch)
        x, t, target = noised(config.objective, images, noise, u)
        shared = (part.expand(len(pack), *part.shape) for part in (x, t, labels))
        total += squared_error(pack.predict(*shared, flat=flat), target).double()
    return total / draws
