"""The deciding loss: a fixed set of held-out (sample, noise, timestep) triples.

Every trial of a data set, whatever its seed and whoever trains it, is evaluated on the same
triples. The timesteps of a sample's draws are stratified: one in each equal part of the time axis.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import DDPMConfig, ObjectiveConfig, TrialConfig
from hptransfer.data import Split
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.batches import Batch, conditions_at
from hptransfer.training.objectives import Noised, objective_loss


def evaluation_batches(config: TrialConfig, validation: Split) -> Iterator[Batch]:
    """Yield one batch per stratified draw over the first `eval_samples` held-out samples."""
    count = min(config.budget.eval_samples, len(validation))
    chosen = np.arange(count)
    images, condition = validation.images_at(chosen), conditions_at(config, validation, chosen)
    draws = config.budget.eval_draws
    for draw in range(draws):
        generator = torch_generator(0, "evaluation", draw)
        # Rotating the strata over the samples gives every draw the whole time axis.
        stratum = (torch.arange(count) + draw) % draws
        u = (stratum + torch.rand(count, generator=generator)) / draws
        yield Batch(images, u, torch.randn(images.shape, generator=generator), condition)


def sample_losses(
    objective: ObjectiveConfig, prediction: Tensor, at: Noised, weight: float | Tensor | None
) -> Tensor:
    """Return each sample's loss (..., B) of a prediction (..., B, C, H, W).

    `weight` is the weight of a learned variance's bound, as in `objective_loss`.
    """
    alone = Noised(at.x, at.t.unsqueeze(-1), *(part.unsqueeze(-4) for part in at[2:]))
    return objective_loss(objective, prediction.unsqueeze(-4), alone, weight=weight)


def deciding_bound_weight(objective: ObjectiveConfig) -> float | None:
    """Return the weight of a learned variance's bound in the deciding loss, equal for all trials.

    None where each trial decides under the weight that it was trained with, and where the objective
    has no such bound.
    """
    if not isinstance(objective, DDPMConfig) or objective.deciding_vlb_weight is None:
        return None
    return objective.deciding_vlb_weight * objective.timesteps
