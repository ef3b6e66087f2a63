"""A target in training as an ordinary torch module, on one device or several.

Batches, noise, timesteps, schedule, objective, clipping, moving average and deciding loss are those
of packs, so that a pack and an engine give the same losses within float tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from hptransfer.models.families.custom import has_batch_loss, prediction_of
from hptransfer.models.parametrization.rules import build_model, parameter_rules
from hptransfer.results.metrics import NOISE_PARTS
from hptransfer.training.batches import (
    Batch,
    InputQueue,
    evaluation_batches,
    sums_by_noise,
    train_batch,
)
from hptransfer.training.device import (
    arithmetic,
    autocast,
    bound_terms_on,
    refuse_uncompilable,
    require_device_fits,
)
from hptransfer.training.objectives import (
    asked_in_training,
    auxiliary_loss,
    deciding_bound_weight,
    noised,
    objective_loss,
    sample_losses,
)
from hptransfer.training.schedule import lr_multiplier
from hptransfer.training.target.optimizers import kept_tensors, make_optimizers
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
    """The outcome of one step, equal in all processes."""

    loss: float  # mean over the whole batch
    grad_norm: float  # before clipping
    clipped: bool

    @property
    def is_sound(self) -> bool:
        """Whether loss and gradient were finite; if not, the run has diverged at this step."""
        return abs(self.loss) + self.grad_norm < float("inf")


class HeldOut(NamedTuple):
    """The mean losses over held-out samples, equal in all processes."""

    loss: float  # over all of them
    by_noise: tuple[float, ...]  # over those of each part of the noise levels; NaN if none


class Engine:
    """One config in training. In a parallel run all processes make the same calls in one order."""

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
        # A target's steps are not captured, so its model may copy from the host.
        require_device_fits(config, runtime, captured=False)
        custom = isinstance(config.model, CustomConfig)
        self.compiled = runtime.compiles(custom=custom)
        self.model = build_model(config)
        if self.compiled:
            compile_regions(self.model, custom=custom)
        if trainer.activation_checkpointing:
            checkpoint_activations(self.model)
        self.trained = distribute(self.model, group, may_skip=custom)
        self.weights = {r.name: self.model.get_parameter(r.name) for r in parameter_rules(config)}
        self.optimizers = make_optimizers(self.model, config, fused=runtime.on_gpu)
        self.base_rates = [float(group["lr"]) for group in self._groups()]
        averaged = config.budget.weights is Weights.ema
        self.ema = self._copies() if averaged else None
        # Averages of other horizons by their share of the steps, which decide nothing.
        self.judged = {f: self._copies() for f in config.budget.judged_ema_fractions}
        self.bound_terms = bound_terms_on(group.device, runtime)
        self.steps_taken = 0
        self.batches = InputQueue(self._batch, config.budget.steps, ahead=runtime.on_gpu)

    def _copies(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self.weights.items()}

    def _batch(self, step: int) -> Batch:
        """Return this process's part of a step's batch, on the CPU; for a GPU in pinned memory."""
        size = self.micro * self.trainer.accumulate
        part = slice(self.group.rank * size, (self.group.rank + 1) * size)
        batch = train_batch(self.config, self.dataset.train, step, part)
        return batch.pinned() if self.group.device.type == "cuda" else batch

    def train_step(self, step: int) -> StepReport:
        """Take step `step` (from 0); if loss or gradient is not finite, nothing changes."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        with self._arithmetic():
            loss = self._backward(self.batches(step))
        for weight in self.weights.values():
            if weight.grad is None:  # the step did not use it
                weight.grad = torch.zeros_like(weight)
        grads = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        norm = gathered(torch.nn.utils.get_total_norm(grads))
        loss_now, norm_now = torch.stack([self.group.mean(loss), norm]).tolist()
        clip_norm = self.config.optimizer.clip_norm
        scale = 1.0 if clip_norm is None else min(clip_norm / (norm_now + 1e-6), 1.0)
        report = StepReport(loss_now, norm_now, scale < 1.0)
        if report.is_sound:
            self._apply(step, grads, scale)
        return report

    def _backward(self, batch: Batch) -> Tensor:
        """Sum the gradients of the micro-batches, and return this process's mean loss."""
        total = torch.zeros((), device=self.group.device)
        for index in range(self.trainer.accumulate):
            part = slice(index * self.micro, (index + 1) * self.micro)
            with gradients_kept(self.trained, last=index + 1 == self.trainer.accumulate):
                trained, loss = self._losses(batch.part(part, self.group.device))
                (trained / self.trainer.accumulate).backward()
            total += loss.detach() / self.trainer.accumulate
        return total

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what the gradient is taken of, and the objective's loss alone, which is reported.

        The second is NaN where the first is not finite.
        """
        objective, weight = self.config.objective, self.config.auxiliary_weight
        at = noised(objective, batch.images, batch.noise, batch.u)
        asked = asked_in_training(self.config, batch.features)
        output = self._called(self.trained, at.x, at.t, *batch.condition, **asked)
        loss = objective_loss(objective, prediction_of(output).float(), at, self.bound_terms)
        if weight is None:
            return loss, loss
        total = loss + weight * auxiliary_loss(self.config.model, output, batch.features)
        return total, torch.where(total.isfinite(), loss, torch.nan)

    def _predict(self, model: nn.Module, x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """Return a prediction in float32, computed in the trial's precision."""
        return prediction_of(self._called(model, x, t, *condition)).float()

    def _called(self, model: nn.Module, *arguments: Tensor, **asked: Any) -> Any:
        """Return what a model returns, computed in the trial's precision."""
        own = self.config.model
        named = own.factory if self.compiled and isinstance(own, CustomConfig) else ""
        refused = refuse_uncompilable(named) if named else nullcontext()
        with autocast(self.config.precision, self.group.device), refused:
            return model(*arguments, **asked)

    @torch.no_grad()
    def _apply(self, step: int, grads: list[Tensor], scale: float) -> None:
        if scale < 1.0:
            ours = [local_part(grad) for grad in grads]
            torch._foreach_mul_(ours, scale)  # pyright: ignore[reportPrivateImportUsage]
        multiplier = self.lr_multiplier(step)
        for group, rate in zip(self._groups(), self.base_rates, strict=True):
            group["lr"] = rate * multiplier  # an absolute value would undo µP's factors
        with self._arithmetic():
            for optimizer in self.optimizers:
                optimizer.step()
        budget = self.config.budget
        averages = {} if self.ema is None else {budget.ema_fraction: self.ema}
        for fraction, average in [*averages.items(), *self.judged.items()]:
            now = [local_part(weight) for weight in self.weights.values()]
            take_in = get_ema_multi_avg_fn(budget.decay_over(fraction))
            take_in([local_part(tensor) for tensor in average.values()], now, step)
        self.steps_taken = step + 1

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def lr_multiplier(self, step: int) -> float:
        """Return the schedule's multiplier of step `step`."""
        budget = self.config.budget
        return float(lr_multiplier(budget, step, torch.tensor([budget.warmup_fraction])))

    def held_out_loss(self, draws: int | None = None) -> float:
        """Return the deciding weights' loss over the first `draws` evaluation batches, or all."""
        return self.held_out_losses(draws).loss

    def held_out_losses(
        self, draws: int | None = None, weights: Mapping[str, Tensor] | None = None
    ) -> HeldOut:
        """Return the mean losses over the first `draws` evaluation batches, or all.

        They are those of the deciding weights, or of `weights` by parameter.
        """
        batches = evaluation_batches(self.config, self.dataset.validation)
        total = torch.zeros((), dtype=torch.float64, device=self.group.device)
        by_noise, samples = total.new_zeros(NOISE_PARTS), torch.zeros(NOISE_PARTS)
        with self.sampling_model(weights) as predict:
            for batch in islice(batches, draws):
                samples += sums_by_noise(torch.ones_like(batch.u), batch.u)
                for losses, u in self._sample_losses(batch, predict):
                    total += losses.sum()
                    by_noise += sums_by_noise(losses, u)
        sums = self.group.total(by_noise).cpu() / samples
        return HeldOut(float(self.group.total(total)) / int(samples.sum()), tuple(sums.tolist()))

    def _sample_losses(
        self, batch: Batch, predict: Callable[..., Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the losses of this process's samples of an evaluation batch in float64, and their
        quantiles of time.

        Processes take micro-batches in turns. Indices beyond the last sample stand for samples from
        the first on, which are left out: so all processes call the model equally often, and always
        with the shapes of training.
        """
        objective, rank, size = self.config.objective, self.group.rank, self.group.size
        count = len(batch.u)
        for first in range(0, count, self.micro * size):
            own = torch.arange(self.micro) + first + rank * self.micro
            part = batch.part(own % count, self.group.device)
            at = noised(objective, part.images, part.noise, part.u)
            prediction = predict(at.x, at.t, *part.condition)
            losses = sample_losses(objective, prediction, at, deciding_bound_weight(objective))
            there = int((own < count).sum())
            yield losses[:there].double(), part.u[:there]

    @contextmanager
    def sampling_model(
        self, weights: Mapping[str, Tensor] | None = None
    ) -> Iterator[Callable[..., Tensor]]:
        """Provide the model with the deciding weights in a `with` block: (x, t, *condition) ->
        prediction, of x (B, C, H, W) and t (B,).

        `weights` by parameter take the place of the deciding ones. Under FSDP2 all processes must
        call the model equally often.
        """
        shown = (self.ema or {}) if weights is None else weights

        def predict(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
            with self._arithmetic():  # the model's alone, not that of the features of samples
                return self._predict(self.model, x, t, *condition)

        with torch.no_grad():
            self._exchange(shown)
            try:
                yield predict
            finally:
                self._exchange(shown)

    def _exchange(self, shown: Mapping[str, Tensor]) -> None:
        """Exchange the model's weights and `shown` ones by parameter, exactly."""
        for name, average in shown.items():
            theirs, ours = local_part(self.weights[name]), local_part(average)
            kept = theirs.clone()
            theirs.copy_(ours)
            ours.copy_(kept)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Return the tensors of a checkpoint by name, complete and on the CPU.

        Names are `weights/<parameter>`, `moment1/<parameter>`, of AdamW `moment2/<parameter>` and,
        with moving averages, `ema/<parameter>` of the deciding and `ema 0.1/<parameter>` of a
        judged one. Tensors are yielded in the first process only, but all processes must iterate to
        the end: tensors are gathered one by one.
        """
        return self._complete(self._tensors())

    def _complete(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors.items():
            complete = gathered(tensor.detach())
            if self.group.is_first:
                yield name, complete.cpu()

    def shapes(self) -> dict[str, torch.Size]:
        """Return the shapes of the tensors that `state` yields, by name."""
        return {name: tensor.shape for name, tensor in self._tensors().items()}

    @torch.no_grad()
    def restore(self, read: Callable[[str], Tensor], steps_taken: int) -> None:
        """Restore what a run of the same config was after `steps_taken` steps.

        `read` returns a tensor of `state` by its name; it is called in the first process only.
        """
        for name, tensor in self._tensors().items():
            value = read(name) if self.group.is_first else torch.empty(tensor.shape)
            assign(tensor, self.group.from_first(value))
        for optimizer in self.optimizers:
            for entry in optimizer.state.values():
                if "step" in entry:  # AdamW's bias corrections depend on it
                    entry["step"].fill_(steps_taken)
        self.steps_taken = steps_taken

    def _tensors(self) -> dict[str, Tensor]:
        kinds: dict[str, dict[str, Tensor]] = {
            "weights": {**self.weights},
            "moment1": {},
            "moment2": {},
        }
        for kind, name, tensor in kept_tensors(self.optimizers, self.weights):
            kinds[kind][name] = tensor
        kinds["ema"] = self.ema or {}
        kinds |= {f"ema {fraction:.12g}": average for fraction, average in self.judged.items()}
        return {f"{kind}/{n}": tensor for kind, own in kinds.items() for n, tensor in own.items()}

    def deciding_weights(self) -> dict[str, Tensor] | None:
        """Return the deciding weights by parameter, on the CPU; None except in the first process.

        All processes must call this.
        """
        kept = dict(self._complete(self.weights if self.ema is None else self.ema))
        return kept if self.group.is_first else None

    def close(self) -> None:
        """End the threads that make batches."""
        self.batches.close()

    def _arithmetic(self) -> Any:
        return arithmetic(self.config, self.group.device)


def micro_batch(config: TrialConfig, trainer: TrainerConfig, group: ProcessGroup) -> int:
    """Return the number of samples of a process's micro-batch.

    Raises:
        UserError: the batch cannot be divided evenly among processes and micro-batches.
    """
    size, parts = config.budget.batch_size, group.size * trainer.accumulate
    require(
        size % parts == 0,
        "`budget.batch_size` must be a multiple of the number of processes times "
        f"train.accumulate, but got batch_size={size} with {group.size} x {trainer.accumulate}. "
        "Change train.accumulate or the number of processes; the batch size is part of the trial "
        "and stays as it is.",
    )
    model = config.model
    require(
        parts == 1
        or not isinstance(model, CustomConfig)
        or not has_batch_loss(model, config.layout),
        "A batch may be divided only if the auxiliary loss has one number for each sample, (B,), "
        "but that of the model is one number for its batch, and so would be another loss in each "
        f"of the {parts} parts. Return one for each sample, or train in one process with "
        "train.accumulate=1.",
    )
    return size // parts
