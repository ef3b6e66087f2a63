"""The deciding loss: a fixed set of held-out (sample, noise, timestep) triples.

Every trial of a data set, whatever its seed, is evaluated on the same triples; the timesteps of a
sample's draws are stratified, one in each equal part of the time axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import TrialConfig
from hptransfer.data import Split
from hptransfer.objectives import noised, objective_loss
from hptransfer.streams import torch_generator
from hptransfer.training.batches import Batch, condition_of
from hptransfer.training.pack import Pack


def evaluation_batches(config: TrialConfig, validation: Split) -> Iterator[Batch]:
    """Yield one batch per stratified draw over the first `eval_samples` held-out samples."""
    count = min(config.budget.eval_samples, len(validation))
    chosen = np.arange(count)
    images, condition = validation.images_at(chosen), condition_of(config, validation, chosen)
    draws = config.budget.eval_draws
    for draw in range(draws):
        generator = torch_generator(0, "evaluation", draw)
        # Rotating the strata over the samples gives every draw the whole time axis.
        stratum = (torch.arange(count) + draw) % draws
        u = (stratum + torch.rand(count, generator=generator)) / draws
        yield Batch(images, u, torch.randn(images.shape, generator=generator), condition)


@torch.no_grad()
def validation_loss(pack: Pack, validation: Split, *, flat: Tensor, draws: int) -> Tensor:
    """Return each trial's mean loss over the first `draws` draws: (T,), in float64.

    `flat` (T, P) are the weights; all of `eval_draws` make the deciding loss.
    """
    config, device = pack.configs[0], flat.device
    total = torch.zeros(len(pack), dtype=torch.float64, device=device)
    for batch in islice(evaluation_batches(config, validation), draws):
        images, u, noise = (part.to(device) for part in batch[:3])
        at = noised(config.objective, images, noise, u)
        condition = tuple(_for_all(pack, part.to(device)) for part in batch.condition)
        prediction = pack.predict(_for_all(pack, at.x), _for_all(pack, at.t), condition, flat=flat)
        total += objective_loss(config.objective, prediction, at).double()
    return total / draws


def _for_all(pack: Pack, shared: Tensor) -> Tensor:
    """Give every member of a pack the same tensor, without copying it."""
    return shared.expand(len(pack), *shared.shape)
