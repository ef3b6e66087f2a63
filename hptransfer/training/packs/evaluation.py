"""The held-out loss of every member of a pack."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor

from hptransfer.data import Split
from hptransfer.training.batches import Batch
from hptransfer.training.evaluation import deciding_bound_weight, evaluation_batches, sample_losses
from hptransfer.training.objectives import noised
from hptransfer.training.packs.pack import Pack


def validation_loss(pack: Pack, validation: Split, *, flat: Tensor, draws: int) -> Tensor:
    """Return each trial's mean loss over the first `draws` evaluation batches: (T,), in float64.

    `flat` (T, P) are the weights. With all of `budget.eval_draws` it is the deciding loss. A
    compiled pack evaluates chunks of the training batch's size with gradients enabled as in
    training, so that no other variant of the model is compiled.
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
    """Return the sum of losses over the chosen samples: (T,).

    Indices beyond the last sample stand for samples from the first on, whose losses do not count.
    """
    count, objective = len(batch.u), pack.configs[0].objective
    part = batch.part(torch.tensor(chosen) % count, pack.device)
    at = noised(objective, part.images, part.noise, part.u)
    x, t, *condition = (
        tensor.expand(len(pack), *tensor.shape) for tensor in (at.x, at.t, *part.condition)
    )
    prediction = pack.predict(x, t, tuple(condition), flat=flat).detach()
    losses = sample_losses(objective, prediction, at, pack_bound_weight(pack))
    return losses[:, : count - chosen.start].double().sum(1)


def pack_bound_weight(pack: Pack) -> float | Tensor | None:
    """Return the weight of a learned variance's bound in the deciding loss: (T, 1), or a number.

    A number is the same for all trials: trials that trained under different weights can only be
    compared under one weight.
    """
    fixed = deciding_bound_weight(pack.configs[0].objective)
    own = None if pack.bound_weights is None else pack.bound_weights.unsqueeze(1)
    return own if fixed is None else fixed
