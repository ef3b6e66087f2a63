"""A target in training as an ordinary torch module: the pack's steps, for large models.

Batches, noise, timesteps, schedule, clipping, moving average and deciding loss are the pack's, so
both give the same numbers within float tolerance, on one device or several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hptransfer.config import CustomConfig, RuntimeConfig, TrainerConfig, TrialConfig
from hptransfer.config.choices import Weights
from hptransfer.data import Dataset
from hptransfer.errors import require
from hptransfer.models.parametrization import build_model, parameter_rules
from hptransfer.training.batches import Batch, train_batch
from hptransfer.training.compile import refuse_uncompilable
from hptransfer.training.evaluation import deciding_bound_weight, evaluation_batches, sample_losses
from hptransfer.training.inputs import InputQueue
from hptransfer.training.objectives import noised, objective_loss
from hptransfer.training.precision import arithmetic, autocast, bound_terms_on
from hptransfer.training.target.optimizer import ModuleAdamW
from hptransfer.training.target.parallel import (
    ProcessGroup,
    assign,
    checkpoint_activations,
    compile_regions,
    distribute,
    gathered,
    gradients_kept,
    local_part,
)


class StepReport(NamedTuple):
    """What a step gave, equal in all processes."""

    loss: float  # mean over the whole batch
    grad_norm: float  # before clipping
    clipped: bool

    @property
    def is_sound(self) -> bool:
        """Whether loss and gradient were finite; where not, the run has diverged at this step."""
        return abs(self.loss) + self.grad_norm < float("inf")


class Engine:
    """One config in training; in a parallel run every process calls the same, in the same order."""

    def __init__(
        self,
        config: TrialConfig,
        runtime: RuntimeConfig,
        trainer: TrainerConfig,
        dataset: Dataset,
        group: ProcessGroup,
    ) -> None:
        self.config, self.dataset, self.group = config, dataset, group
        self.trainer = trainer
        self.micro = micro_batch(config, trainer, group)
        custom = isinstance(config.model, CustomConfig)
        self.compiled = runtime.compiles(custom=custom)
        self.model = build_model(config)
        if self.compiled:
            compile_regions(self.model, custom=custom)
        if trainer.activation_checkpointing:
            checkpoint_activations(self.model)
        self.trained = distribute(self.model, group, may_skip=custom)
        self.weights = {r.name: self.model.get_parameter(r.name) for r in parameter_rules(config)}
        self.optimizer = ModuleAdamW(self.model, config, self.weights, fused=runtime.on_gpu)
        averaged = config.budget.weights is Weights.ema
        self.ema = {n: w.detach().clone() for n, w in self.weights.items()} if averaged else None
        self.bound_terms = bound_terms_on(group.device, runtime)
        self.steps_taken = 0
        make = InputQueue(self._batch, config.budget.steps) if runtime.on_gpu else self._batch
        self.batches: Callable[[int], Batch] = make

    def _batch(self, step: int) -> Batch:
        """Return this process's part of a step's batch, on the CPU."""
        size = self.micro * self.trainer.accumulate
        part = slice(self.group.rank * size, (self.group.rank + 1) * size)
        return train_batch(self.config, self.dataset.train, step, part)

    def train_step(self, step: int) -> StepReport:
        """Take step `step` (from 0); where loss or gradient are not finite nothing is changed."""
        self.optimizer.forget_gradients()
        with self._arithmetic():
            loss = self._backward(self.batches(step))
        grads = self._gradients()
        norm = gathered(torch.nn.utils.get_total_norm(grads))
        loss_now, norm_now = torch.stack([self.group.mean(loss), norm]).tolist()
        clip_norm = self.config.optimizer.clip_norm
        scale = 1.0 if clip_norm is None else min(clip_norm / (norm_now + 1e-6), 1.0)
        report = StepReport(loss_now, norm_now, scale < 1.0)
        if report.is_sound:
            self._apply(step, grads, scale)
        return report

    def _backward(self, batch: Batch) -> Tensor:
        """Add up the gradients of the micro-batches; return this process's mean loss."""
        total = torch.zeros((), device=self.group.device)
        for index in range(self.trainer.accumulate):
            part = slice(index * self.micro, (index + 1) * self.micro)
            with gradients_kept(self.trained, last=index + 1 == self.trainer.accumulate):
                loss = self._loss(_part(batch, part, self.group.device)) / self.trainer.accumulate
                loss.backward()
            total += loss.detach()
        return total

    def _loss(self, batch: Batch) -> Tensor:
        objective = self.config.objective
        at = noised(objective, batch.images, batch.noise, batch.u)
        prediction = self._predict(self.trained, at.x, at.t, *batch.condition)
        return objective_loss(objective, prediction, at, self.bound_terms)

    def _predict(self, model: nn.Module, x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """Predict in the trial's precision; the result is float32."""
        own = self.config.model
        named = own.factory if self.compiled and isinstance(own, CustomConfig) else ""
        refused = refuse_uncompilable(named) if named else nullcontext()
        with autocast(self.config.precision, self.group.device), refused:
            return model(x, t, *condition).float()

    def _gradients(self) -> list[Tensor]:
        """Return all gradients; a parameter that took no part has a gradient of zero."""
        for weight in self.weights.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        return [weight.grad for weight in self.weights.values() if weight.grad is not None]

    @torch.no_grad()
    def _apply(self, step: int, grads: list[Tensor], scale: float) -> None:
        if scale < 1.0:
            ours = [local_part(grad) for grad in grads]
            torch._foreach_mul_(ours, scale)  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer.step(step)
        if self.ema is not None:
            average = get_ema_multi_avg_fn(self.config.budget.ema_decay)
            now = [local_part(weight) for weight in self.weights.values()]
            average([local_part(tensor) for tensor in self.ema.values()], now, step)
        self.steps_taken = step + 1

    def at_init_loss(self) -> float:
        """Return the held-out loss of the first draw, before the first step: it only scales."""
        assert self.steps_taken == 0, "the run has begun"
        return self.held_out_loss(draws=1)

    def held_out_loss(self, draws: int | None = None) -> float:
        """Return the deciding weights' loss over the first `draws` draws; all: the deciding one."""
        batches = evaluation_batches(self.config, self.dataset.validation)
        total = torch.zeros((), dtype=torch.float64, device=self.group.device)
        samples = 0
        with self.sampling_model() as predict:
            for batch in islice(batches, draws):
                samples += len(batch.u)
                total += self._sum_of_losses(batch, predict)
        return float(self.group.total(total)) / samples

    def _sum_of_losses(self, batch: Batch, predict: Callable[..., Tensor]) -> Tensor:
        """Return the sum over this process's samples of a batch, taken in turns of a micro-batch.

        Places beyond the last sample are filled up: all processes call the model equally often,
        and always with the shapes of training.
        """
        objective, rank, size = self.config.objective, self.group.rank, self.group.size
        count = len(batch.u)
        total = torch.zeros((), dtype=torch.float64, device=self.group.device)
        for first in range(0, count, self.micro * size):
            own = torch.arange(self.micro) + first + rank * self.micro
            images, u, noise, condition = _part(batch, own % count, self.group.device)
            at = noised(objective, images, noise, u)
            losses = sample_losses(
                objective, predict(at.x, at.t, *condition), at, deciding_bound_weight(objective)
            )
            total += losses[: int((own < count).sum())].double().sum()
        return total

    @contextmanager
    def sampling_model(self) -> Iterator[Callable[..., Tensor]]:
        """Give (x, t, *condition) -> prediction of the deciding weights, for a `with` block.

        Under FSDP2 all processes must call it equally often, with tensors of their own.
        """

        def predict(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
            return self._predict(self.model, x, t, *condition)

        with torch.no_grad(), self._arithmetic():
            self._exchange()
            try:
                yield predict
            finally:
                self._exchange()

    def _exchange(self) -> None:
        """Let the model's weights and their moving average change places, to the bit."""
        for name, average in (self.ema or {}).items():
            theirs, ours = local_part(self.weights[name]), local_part(average)
            kept = theirs.clone()
            theirs.copy_(ours)
            ours.copy_(kept)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all that a checkpoint must hold beside `steps_taken`, by name, whole, on the CPU.

        `weights/<parameter>`, `moment1/`, `moment2/` and, where there is one, `ema/`. Only the
        first process is given them, but all must go through: tensors are gathered one by one.
        """
        for name, tensor in self._tensors().items():
            complete = gathered(tensor.detach())
            if self.group.is_first:
                yield name, complete.cpu()

    def shapes(self) -> dict[str, torch.Size]:
        """Return the shapes of the tensors of `state`, by name."""
        return {name: tensor.shape for name, tensor in self._tensors().items()}

    @torch.no_grad()
    def restore(self, read: Callable[[str], Tensor], steps_taken: int) -> None:
        """Become what a run of the same config was after `steps_taken` steps.

        `read` gives a tensor of `state` by its name; it is called in the first process only.
        """
        for name, tensor in self._tensors().items():
            value = read(name) if self.group.is_first else torch.empty(tensor.shape)
            assign(tensor, self.group.from_first(value))
        self.optimizer.has_taken(steps_taken)
        self.steps_taken = steps_taken

    def _tensors(self) -> dict[str, Tensor]:
        moment1, moment2 = self.optimizer.moment1, self.optimizer.moment2
        kinds = {"weights": self.weights, "moment1": moment1, "moment2": moment2}
        kinds |= {"ema": self.ema or {}}
        return {f"{kind}/{n}": tensor for kind, own in kinds.items() for n, tensor in own.items()}

    def deciding_weights(self) -> dict[str, Tensor] | None:
        """Return the weights that decide by parameter, on the CPU; None but in the first process.

        All processes must call it.
        """
        decide = self.weights if self.ema is None else self.ema
        kept = {}
        for name, tensor in decide.items():
            complete = gathered(tensor.detach())
            if self.group.is_first:
                kept[name] = complete.cpu()
        return kept if self.group.is_first else None

    def close(self) -> None:
        """End the threads that make batches."""
        if isinstance(self.batches, InputQueue):
            self.batches.close()

    def _arithmetic(self) -> Any:
        return arithmetic(self.config.precision, self.group.device)


def micro_batch(config: TrialConfig, trainer: TrainerConfig, group: ProcessGroup) -> int:
    """Return how many samples a process takes at a time."""
    size, parts = config.budget.batch_size, group.size * trainer.accumulate
    require(
        size % parts == 0,
        "`budget.batch_size` must be a multiple of processes times train.accumulate, but got "
        f"batch_size={size} with {group.size} x {trainer.accumulate}. Choose a divisor of the "
        "batch: it is the trial's own and stays as it is.",
    )
    return size // parts


def _part(batch: Batch, index: slice | Tensor, device: torch.device) -> Batch:
    """Return some samples of a batch, on a device."""
    images, u, noise, *condition = (part[index].to(device) for part in (*batch[:3], *batch[3]))
    return Batch(images, u, noise, tuple(condition))
