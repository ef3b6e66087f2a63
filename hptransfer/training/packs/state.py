"""A pack in training: weights, optimizer, averages, who is alive, and how a step is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.config.choices import Weights
from hptransfer.data import Dataset
from hptransfer.training.batches import Batch, PackBatches
from hptransfer.training.compile import compiled
from hptransfer.training.inputs import InputQueue, StepInputs
from hptransfer.training.objectives import Noised, noised, objective_loss
from hptransfer.training.packs.capture import CapturedStep
from hptransfer.training.packs.optimizer import PackedAdamW
from hptransfer.training.packs.pack import Pack
from hptransfer.training.schedule import lr_multiplier


class MemberRecord(NamedTuple):
    """What is kept of a member, taking part or not: steps are -1 where there is none."""

    diverged_at: float
    stopped_at: float
    clipped: float  # steps whose gradient was clipped


def start_training(
    configs: Sequence[TrialConfig], dataset: Dataset, device: torch.device, runtime: RuntimeConfig
) -> TrainingState:
    """Prepare the training of trials of one shape signature as a pack on a device."""
    return TrainingState(Pack(configs, device, runtime), dataset)


class TrainingState:
    """A pack in training. All of its tensors have a leading trial axis over the members left."""

    def __init__(self, pack: Pack, dataset: Dataset) -> None:
        self.pack, self.dataset, self.budget = pack, dataset, pack.configs[0].budget
        self.started_with = pack.configs
        self.members = list(range(len(pack)))  # where the members left stood at the start
        self.optimizer = PackedAdamW(pack)
        self.ema = pack.flat.detach().clone() if self.budget.weights is Weights.ema else None
        self.alive = torch.ones(len(pack), dtype=torch.bool, device=pack.device)
        self.diverged_at = torch.full((len(pack),), -1.0, device=pack.device)
        self.stopped_at = torch.full((len(pack),), -1.0, device=pack.device)
        self.clipped = torch.zeros(len(pack), device=pack.device)
        self.loss_sum = torch.zeros(len(pack), device=pack.device)
        self.reported_step = 0
        self.left: dict[int, MemberRecord] = {}  # of those compacted away
        self._arrange()

    def _arrange(self) -> None:
        """Set up what depends on who is in the pack."""
        pack, runtime = self.pack, self.pack.runtime
        self.batches = PackBatches(pack.configs, self.dataset)
        self.warmup_fraction = torch.tensor([c.budget.warmup_fraction for c in pack.configs])
        ahead = runtime.on_gpu
        self.inputs = InputQueue(self._inputs, self.budget.steps) if ahead else self._inputs
        self._apply = compiled(self._finish) if runtime.compiled else self._finish
        self._take = CapturedStep(self._advance, pack.device) if runtime.captured else self._advance

    def _inputs(self, step: int) -> StepInputs:
        multiplier = lr_multiplier(self.budget, step, self.warmup_fraction)
        controls = self.optimizer.controls(step, multiplier)
        return StepInputs(
            self.batches.at(step), torch.cat([controls, torch.full_like(controls[:1], step)])
        )

    def train_step(self, step: int) -> None:
        """Take one optimizer step; a trial whose loss or gradient is non-finite is retired."""
        with self.pack.arithmetic():
            self._take(self.inputs(step))

    def batch(self, step: int) -> Batch:
        """Return the batches that a step trains on, on the pack's device."""
        return self._inputs(step).on(self.pack.device).batch

    def _advance(self, inputs: StepInputs) -> None:
        batch, controls = inputs.on(self.pack.device)
        losses = pack_losses(self.pack, batch)
        (grad,) = torch.autograd.grad(losses.sum(), self.pack.flat)
        self._apply(grad, losses.detach(), controls)

    @torch.no_grad()
    def _finish(self, grad: Tensor, losses: Tensor, controls: Tensor) -> None:
        """Apply a step's gradient (T, P) and losses (T,); nothing non-finite is left in memory."""
        norm, clipped = self.optimizer.clip(grad)
        died = self.retire(torch.isfinite(losses) & torch.isfinite(norm), controls[3])
        # Elsewhere than on the host asking who died would wait for the device.
        unconditional = self.pack.runtime.compiled or self.pack.device.type != "cpu"
        if unconditional or bool(died.any()):
            grad.masked_fill_(died.unsqueeze(1), 0.0)
            self.optimizer.quarantine(died)
            if self.ema is not None:
                self.ema.masked_fill_(died.unsqueeze(1), 0.0)
        self.clipped += clipped
        self.loss_sum += torch.where(self.alive, losses, torch.nan)
        self.optimizer.step(grad, controls[:3], self.alive)
        if self.ema is not None:
            self.ema.lerp_(self.pack.flat, 1 - self.budget.ema_decay)

    def retire(self, sound: Tensor, step: Tensor | int) -> Tensor:
        """Mark trials that are alive but not sound as diverged at `step`; return which died."""
        died = self.alive & ~sound
        self.diverged_at.copy_(torch.where(died, step, self.diverged_at))
        self.alive &= sound
        return died

    @torch.no_grad()
    def give_up(self, hopeless: Sequence[int], step: int) -> None:
        """Stop training members, given as they stood at the start, after `step` steps."""
        stopped = torch.tensor([member in hopeless for member in self.members])
        stopped = stopped.to(self.pack.device) & self.alive
        self.stopped_at.masked_fill_(stopped, step)
        self.alive &= ~stopped
        self.optimizer.quarantine(stopped)
        if self.ema is not None:
            self.ema.masked_fill_(stopped.unsqueeze(1), 0.0)

    def mean_losses(self, step: int) -> Tensor:
        """Return and reset the mean training losses since the last report (T,)."""
        means = self.loss_sum / (step - self.reported_step)
        self.loss_sum.zero_()
        self.reported_step = step
        return means

    def any_alive(self) -> bool:
        """Whether a member has neither diverged nor been stopped."""
        return bool(self.alive.any())

    def dead_count(self) -> int:
        """Count the members that have diverged or been stopped and still take part."""
        return len(self.pack) - int(self.alive.sum())

    @property
    def is_costly_to_rebuild(self) -> bool:
        """Whether other shapes must be compiled or captured anew."""
        return self.pack.runtime.compiled or self.pack.runtime.captured

    def compact(self) -> None:
        """Leave the dead members out from now on; for the others nothing else changes."""
        kept = self.alive.nonzero().squeeze(1).tolist()
        self.left |= self._records()
        self._keep(kept)

    def _keep(self, kept: Sequence[int]) -> None:
        self.close()
        self.pack = self.pack.keep(kept)
        self.optimizer = self.optimizer.keep(self.pack, kept)
        self.ema = None if self.ema is None else self.ema[kept]
        self.alive, self.diverged_at, self.stopped_at, self.clipped, self.loss_sum = (
            tensor[kept]
            for tensor in (
                self.alive,
                self.diverged_at,
                self.stopped_at,
                self.clipped,
                self.loss_sum,
            )
        )
        self.members = [self.members[index] for index in kept]
        self._arrange()

    def tensors(self) -> dict[str, Tensor]:
        """Return by name what is not as at the start at a report, with an axis over those left."""
        named = {
            "flat": self.pack.flat.detach(),
            "moment1": self.optimizer.moment1,
            "moment2": self.optimizer.moment2,
            "alive": self.alive,
            "diverged_at": self.diverged_at,
            "stopped_at": self.stopped_at,
            "clipped": self.clipped,
        }
        return named if self.ema is None else {**named, "ema": self.ema}

    def restore(
        self,
        tensors: Mapping[str, Tensor],
        *,
        members: Sequence[int],
        left: Mapping[int, MemberRecord],
        step: int,
    ) -> None:
        """Become what a state of the same trials was after `step` steps, at a report.

        To be called before the first step, so that a captured one reads what is put here.
        """
        if list(members) != self.members:
            self._keep(members)
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self.left, self.reported_step = dict(left), step

    def records(self, count: int) -> list[MemberRecord]:
        """Return everybody's record in the order of the start."""
        records = {**self.left, **self._records()}
        return [records[member] for member in range(count)]

    def _records(self) -> dict[int, MemberRecord]:
        columns = (self.diverged_at, self.stopped_at, self.clipped)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return {member: MemberRecord(*row) for member, row in zip(self.members, rows, strict=True)}

    def deciding_weights(self) -> Tensor:
        """Return the weights that decide: raw, or their moving average."""
        return self.pack.flat if self.ema is None else self.ema

    def close(self) -> None:
        """End the threads that make inputs."""
        if isinstance(self.inputs, InputQueue):
            self.inputs.close()


def pack_losses(pack: Pack, batch: Batch) -> Tensor:
    """Return each trial's loss (T,) on the batches of the pack's seeds (S, B, ...)."""
    config = pack.configs[0]
    per_seed = noised(config.objective, batch.images, batch.noise, batch.u)
    at = Noised(*(pack.of_seeds(part) for part in per_seed))
    condition = tuple(pack.of_seeds(part) for part in batch.condition)
    prediction = pack.predict(at.x, at.t, condition)
    return objective_loss(
        config.objective, prediction, at, pack.bound_terms, weight=pack.bound_weights
    )
