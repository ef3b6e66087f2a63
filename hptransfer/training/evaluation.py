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

from hptransfer.config import DDPMConfig, ObjectiveConfig, TrialConfig
from hptransfer.data import Split
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.batches import Batch, condition_of
from hptransfer.training.objectives import Noised, noised, objective_loss
from hptransfer.training.packs.pack import Pack


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


def validation_loss(pack: Pack, validation: Split, *, flat: Tensor, draws: int) -> Tensor:
    """Return each trial's mean loss over the first `draws` draws: (T,), in float64.

    `flat` (T, P) are the weights; all of `eval_draws` make the deciding loss. A compiled pack sees
    chunks of the training batch's size under the training's own rules of differentiation, so that
    no other shape has to be compiled.
    """
    config = pack.configs[0]
    total = torch.zeros(len(pack), dtype=torch.float64, device=pack.device)
    samples = 0
    with pack.arithmetic(), torch.set_grad_enabled(pack.compiled):
        flat = flat.detach().requires_grad_(pack.compiled)
        for batch in islice(evaluation_batches(config, validation), draws):
            samples += len(batch.u)
            size = config.budget.batch_size if pack.compiled else len(batch.u)
            for first in range(0, len(batch.u), size):
                total += _chunk_loss(pack, batch, flat, range(first, first + size))
    return total / samples


def _chunk_loss(pack: Pack, batch: Batch, flat: Tensor, chosen: range) -> Tensor:
    """Return the sum of losses over some samples (T,); places beyond the last are filled up."""
    count = len(batch.u)
    index = torch.tensor(chosen) % count
    parts = [part[index].to(pack.device) for part in (*batch[:3], *batch.condition)]
    images, u, noise, *condition = parts
    objective = pack.configs[0].objective
    at = noised(objective, images, noise, u)
    x, t, *told = (part.expand(len(pack), *part.shape) for part in (at.x, at.t, *condition))
    prediction = pack.predict(x, t, tuple(told), flat=flat).detach()
    losses = sample_losses(objective, prediction, at, deciding_weight(pack))
    return losses[:, : count - chosen.start].double().sum(1)


def sample_losses(
    objective: ObjectiveConfig, prediction: Tensor, at: Noised, weight: float | Tensor | None
) -> Tensor:
    """Return each sample's loss (..., B) of a prediction (..., B, C, H, W); `weight` is as for
    `objective_loss`.
    """
    alone = Noised(at.x, at.t.unsqueeze(-1), *(part.unsqueeze(-4) for part in at[2:]))
    return objective_loss(objective, prediction.unsqueeze(-4), alone, weight=weight)


def fixed_weight(objective: ObjectiveConfig) -> float | None:
    """Return the weight of a learned variance's bound that decides whatever trials trained under;
    None where that is their own, or there is none.
    """
    if not isinstance(objective, DDPMConfig) or objective.deciding_vlb_weight is None:
        return None
    return objective.deciding_vlb_weight * objective.timesteps


def deciding_weight(pack: Pack) -> float | Tensor | None:
    """Return the weight of a learned variance's bound in the deciding loss: (T, 1), or one for all.

    Trials that were trained under different weights compare only under one.
    """
    fixed = fixed_weight(pack.configs[0].objective)
    own = None if pack.bound_weights is None else pack.bound_weights.unsqueeze(1)
    return own if fixed is None else fixed
