"""The only training loop: a pack from its first step to its deciding loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.data import Dataset
from hptransfer.objectives import noised, objective_loss
from hptransfer.training.batches import Batch, PackBatches
from hptransfer.training.evaluation import validation_loss
from hptransfer.training.optimizer import PackedAdamW
from hptransfer.training.pack import Pack
from hptransfer.training.schedule import lr_multiplier
from hptransfer.vocabulary import Weights

REPORTS = 30  # points of a training curve


class Report(NamedTuple):
    """Where a pack stands: the step, and each trial's mean training loss since the last report."""

    step: int
    train_losses: tuple[float, ...]


class PackOutcome(NamedTuple):
    """What a pack's training gave; all tensors (T,) on the CPU."""

    losses: Tensor  # the deciding loss, non-finite where a trial diverged
    losses_at_init: Tensor  # on the first draw only: it scales, it does not decide
    diverged_at: Tensor  # step, or -1
    clipped_share: Tensor
    reports: tuple[Report, ...]
    pack: Pack
    weights: Tensor  # those that decide, (T, P), on the pack's device

    def parameters(self, member: int) -> dict[str, Tensor]:
        """Return one trial's deciding weights by name."""
        return self.pack.member_parameters(self.weights, member)


def train_pack(
    configs: Sequence[TrialConfig],
    dataset: Dataset,
    device: torch.device,
    runtime: RuntimeConfig,
    report: Callable[[Report], None],
) -> PackOutcome:
    """Train trials of one shape signature for their budget, or until every one has diverged."""
    state = start_training(configs, dataset, device, runtime)
    pack = state.pack
    at_init = validation_loss(pack, dataset.validation, flat=pack.flat, draws=1)
    steps = pack.configs[0].budget.steps
    interval = math.ceil(steps / REPORTS)
    reports = []
    for step in range(steps):
        state.train_step(step)
        if (step + 1) % interval == 0 or step + 1 == steps:
            reports.append(state.report(step + 1))
            report(reports[-1])
            if not bool(state.alive.any()):
                break
    draws = pack.configs[0].budget.eval_draws
    weights = state.deciding_weights()
    losses = validation_loss(pack, dataset.validation, flat=weights, draws=draws)
    state.retire(torch.isfinite(losses), steps)
    return PackOutcome(
        losses.cpu(),
        at_init.cpu(),
        state.diverged_at.cpu(),
        state.clipped.cpu() / steps,
        tuple(reports),
        pack,
        weights.detach(),
    )


def start_training(
    configs: Sequence[TrialConfig], dataset: Dataset, device: torch.device, runtime: RuntimeConfig
) -> TrainingState:
    """Prepare the training of trials of one shape signature as a pack on a device."""
    return TrainingState(Pack(configs, device), dataset)


class TrainingState:
    """A pack in training: its optimizer, averages, and who is alive."""

    def __init__(self, pack: Pack, dataset: Dataset) -> None:
        device = pack.flat.device
        self.pack, self.budget = pack, pack.configs[0].budget
        self.batches = PackBatches(pack.configs, dataset, device)
        self.optimizer = PackedAdamW(pack.flat, pack.configs)
        self.ema = pack.flat.detach().clone() if self.budget.weights is Weights.ema else None
        warmup = [config.budget.warmup_fraction for config in pack.configs]
        self.warmup_fraction = torch.tensor(warmup, device=device)
        self.alive = torch.ones(len(pack), dtype=torch.bool, device=device)
        self.diverged_at = torch.full((len(pack),), -1, device=device)
        self.clipped = torch.zeros(len(pack), device=device)
        self.loss_sum = torch.zeros(len(pack), device=device)
        self.reported_step = 0

    def train_step(self, step: int) -> None:
        """Take one optimizer step; a trial whose loss or gradient is non-finite is retired."""
        losses = pack_losses(self.pack, self.batches.at(step))
        (grad,) = torch.autograd.grad(losses.sum(), self.pack.flat)
        with torch.no_grad():
            norm, clipped = self.optimizer.clip(grad)
            losses = losses.detach()
            died = self.retire(torch.isfinite(losses) & torch.isfinite(norm), step)
            if bool(died.any()):
                grad.masked_fill_(died.unsqueeze(1), 0.0)
                self.optimizer.quarantine(died)
            self.clipped += clipped
            self.loss_sum += torch.where(self.alive, losses, torch.nan)
            multiplier = lr_multiplier(self.budget, step, self.warmup_fraction)
            self.optimizer.step(grad, multiplier * self.alive)
            if self.ema is not None:
                self.ema.lerp_(self.pack.flat, 1 - self.budget.ema_decay)

    def retire(self, sound: Tensor, step: int) -> Tensor:
        """Mark trials that are alive but not sound as diverged at `step`; return which died."""
        died = self.alive & ~sound
        self.diverged_at.masked_fill_(died, step)
        self.alive &= sound
        return died

    def report(self, step: int) -> Report:
        """Return and reset the mean training losses."""
        means = self.loss_sum / (step - self.reported_step)
        self.loss_sum.zero_()
        self.reported_step = step
        return Report(step, tuple(means.tolist()))

    def deciding_weights(self) -> Tensor:
        """Return the weights that decide: raw, or their moving average."""
        return self.pack.flat if self.ema is None else self.ema


def pack_losses(pack: Pack, batch: Batch) -> Tensor:
    """Return each trial's loss on a batch with a leading trial axis: (T,)."""
    config = pack.configs[0]
    at = noised(config.objective, batch.images, batch.noise, batch.u)
    return objective_loss(config.objective, pack.predict(at.x, at.t, batch.condition), at)
