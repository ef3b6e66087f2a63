"""A pack in training: weights, optimizer, moving averages, living members, reports, and its step.

On a GPU the step is one CUDA graph: forward, backward, optimizer and moving averages. The first
steps run operator by operator, so that everything is compiled and every library has its workspace.
Then one step is captured, and each later step copies its inputs and replays the graph. All steps
run on a CUDA stream of their own. That stream and the caller's wait for each other, so that nothing
runs beside a step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.config.choices import Weights
from hptransfer.data import Dataset
from hptransfer.system.memory import keep_freed_memory
from hptransfer.training.batches import Batch, InputQueue, PackBatches, StepInputs
from hptransfer.training.device import compiled
from hptransfer.training.objectives import Noised, noised, objective_loss
from hptransfer.training.packs.optimizer import PackedOptimizer, packed_optimizer
from hptransfer.training.packs.pack import Pack
from hptransfer.training.schedule import lr_multiplier


class Report(NamedTuple):
    """A pack's losses after `step` steps, of every trial that it began with.

    A loss is NaN once its trial has diverged or was stopped.
    """

    step: int
    train_losses: tuple[float, ...]  # mean training losses since the last report
    held_out_losses: tuple[float, ...] | None = None  # of the weights now, where asked for


@dataclass
class PackProgress:
    """The progress of a pack until now, of every trial that it began with."""

    losses_at_init: Tensor  # (T,) float64 on the CPU
    reports: list[Report] = field(default_factory=list)
    began: float = 0.0  # `time.perf_counter()` at the start, less the seconds of earlier processes

    @property
    def step(self) -> int:
        """The steps taken at the last report."""
        return self.reports[-1].step if self.reports else 0

    @property
    def seconds(self) -> float:
        """The wall time spent on the pack, by earlier processes too."""
        return time.perf_counter() - self.began

    def curve(self, member: int) -> list[float]:
        """Return the mean training losses of the trial at place `member` of the start."""
        return [report.train_losses[member] for report in self.reports]


WARM_UP = 3  # steps that run operator by operator before the capture
BUFFERS = 2  # pinned copies of a step's inputs: one is filled while the other is being sent


@cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which all packs of a device train and are captured, one at a time.

    Torch keeps a workspace of cuBLAS for every stream, 64 MiB on an H100, until the process ends.
    """
    return torch.cuda.Stream(device)


class CapturedStep:
    """A training step that is captured as a CUDA graph after `WARM_UP` calls, then replayed.

    It does not keep the function that takes a step, which would keep it in turn: a graph's memory
    is free as soon as nobody refers to the graph.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = capture_stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.static: list[Tensor] = []
        self.on_their_way: deque[tuple[list[Tensor], torch.cuda.Event]] = deque()
        self.taken = 0

    def __call__(self, take: Callable[[StepInputs], None], inputs: StepInputs) -> None:
        """Take one step with these inputs, by `take` or as a replay of what it did."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self._send(inputs.tensors())
            if self.graph is not None:
                self.graph.replay()
            elif self.taken < WARM_UP:
                take(StepInputs.from_tensors(self.static))
            else:
                graph = torch.cuda.CUDAGraph()
                # Other threads make inputs on the host meanwhile: this thread's calls are captured.
                with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                    take(StepInputs.from_tensors(self.static))
                self.graph = graph
                self.graph.replay()
        self.taken += 1
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def _send(self, parts: list[Tensor]) -> None:
        """Copy a step's inputs to the graph's own tensors, without waiting for the device."""
        if not self.static:
            self.static = [torch.empty_like(part, device=self.device) for part in parts]
        if len(self.on_their_way) < BUFFERS:
            pinned = [torch.empty_like(part, pin_memory=True) for part in parts]
        else:  # the tensors of the oldest copy, once it has arrived
            pinned, arrived = self.on_their_way.popleft()
            arrived.synchronize()
        for part, buffer, static in zip(parts, pinned, self.static, strict=True):
            buffer.copy_(part)
            static.copy_(buffer, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(self.stream)
        self.on_their_way.append((pinned, arrived))


class MemberRecord(NamedTuple):
    """The outcome of one member so far, whether it still takes part or not."""

    diverged_at: float  # the step, from 0, whose loss or gradient was not finite, or -1
    stopped_at: float  # steps taken until the trial was given up, or -1
    clipped: float  # number of steps whose gradient was clipped


def start_training(
    configs: Sequence[TrialConfig], dataset: Dataset, device: torch.device, runtime: RuntimeConfig
) -> TrainingState:
    """Return the state of a pack of trials of one shape signature before its first step."""
    if device.type == "cpu":
        keep_freed_memory()
    return TrainingState(Pack(configs, device, runtime), dataset)


class TrainingState:
    """A pack in training.

    All tensors have a leading axis over the members that still take part. `compact` removes members
    that have diverged or were stopped; `members` are the places of the others at the start.
    """

    def __init__(self, pack: Pack, dataset: Dataset) -> None:
        self.pack, self.dataset, self.budget = pack, dataset, pack.configs[0].budget
        self.started_with = pack.configs
        self.members = list(range(len(pack)))  # their places at the start
        self.optimizer = packed_optimizer(pack)
        self.ema = pack.flat.detach().clone() if self.budget.weights is Weights.ema else None
        # Averages of other horizons (T, P) by their share of the steps, which decide nothing.
        self.judged = {f: pack.flat.detach().clone() for f in self.budget.judged_ema_fractions}
        zeros = torch.zeros(len(pack), device=pack.device)
        self.alive = torch.ones_like(zeros, dtype=torch.bool)
        self.diverged_at, self.stopped_at = zeros - 1, zeros - 1
        self.clipped, self.loss_sum = zeros.clone(), zeros.clone()
        self.reported_step = 0
        self.left: dict[int, MemberRecord] = {}  # records of the removed members
        self._arrange()

    def _arrange(self) -> None:
        """Set up everything that depends on the members of the pack.

        Nothing of it refers to this state, so that a state's memory is free when its last user is
        gone, and not when Python next looks for cycles: several packs would lie on the device.
        """
        pack, runtime = self.pack, self.pack.runtime
        make = partial(_step_inputs, PackBatches(pack.configs, self.dataset), self.optimizer)
        self.inputs = InputQueue(make, self.budget.steps, ahead=runtime.on_gpu)
        finish = TrainingState._finish
        by_parts = runtime.compiled and not pack.compiles_step
        self._apply = compiled(finish) if by_parts else finish
        as_one = TrainingState._advance_as_one
        self._take = compiled(as_one) if pack.compiles_step else TrainingState._advance
        self.captured = CapturedStep(pack.device) if runtime.captured else None

    def train_step(self, step: int) -> None:
        """Take step `step` (from 0); a trial whose loss or gradient is not finite has diverged."""
        inputs = self.inputs(step)
        with self.pack.arithmetic():
            if self.captured is None:
                self._step(inputs)
            else:
                self.captured(self._step, inputs)

    def batch(self, step: int) -> Batch:
        """Return the batches of step `step` by seed (S, B, ...), on the pack's device."""
        return self.inputs.make(step).on(self.pack.device).batch

    def _step(self, inputs: StepInputs) -> None:
        self._take(self, inputs)
        self._average()

    @torch.no_grad()
    def _average(self) -> None:
        """Take the trained weights into the judged averages; those of trials that died are zero.

        It is outside of all compiled code, so that a trial has the same bits without averages.
        """
        if not self.judged:
            return
        if self.pack.device.type != "cpu" or not bool(self.alive.all()):
            self._zero_judged(~self.alive)
        for fraction, average in self.judged.items():
            average.lerp_(self.pack.flat, 1 - self.budget.decay_over(fraction))

    def _zero_judged(self, dead: Tensor) -> None:
        for average in self.judged.values():
            average.masked_fill_(dead.unsqueeze(1), 0.0)

    def _advance(self, inputs: StepInputs) -> None:
        batch, controls = inputs.on(self.pack.device)
        totals, losses = trained_losses(self.pack, batch)
        (grad,) = torch.autograd.grad(totals.sum(), self.pack.flat)
        self._apply(self, grad, losses.detach(), controls)

    @torch.no_grad()
    def _advance_as_one(self, inputs: StepInputs) -> None:
        """Take a step as `_advance` does, in a form that is compiled as a whole."""
        batch, controls = inputs

        def summed(flat: Tensor) -> tuple[Tensor, Tensor]:
            totals, losses = trained_losses(self.pack, batch, flat)
            return totals.sum(), losses

        grad, (_, losses) = grad_and_value(summed, has_aux=True)(self.pack.flat)
        self._finish(grad, losses, controls)

    @torch.no_grad()
    def _finish(self, grad: Tensor, losses: Tensor, controls: Tensor) -> None:
        """Apply a step's gradient (T, P), losses (T,) and controls (n, T), the last the step.

        Nothing that is not finite stays in weights, moments or averages.
        """
        norm, clipped = self.optimizer.clip(grad)
        died = self.retire(torch.isfinite(losses) & torch.isfinite(norm), controls[-1])
        # On a GPU asking whether any trial died would wait for the device.
        unconditional = self.pack.runtime.compiled or self.pack.device.type != "cpu"
        if unconditional or bool(died.any()):
            grad.masked_fill_(died.unsqueeze(1), 0.0)
            self.optimizer.quarantine(died)
            if self.ema is not None:
                self.ema.masked_fill_(died.unsqueeze(1), 0.0)
        self.clipped += clipped
        self.loss_sum += torch.where(self.alive, losses, torch.nan)
        self.optimizer.step(grad, controls[:-1], self.alive)
        if self.ema is not None:
            self.ema.lerp_(self.pack.flat, 1 - self.budget.ema_decay)

    def retire(self, sound: Tensor, step: Tensor | int) -> Tensor:
        """Mark living trials that are not `sound` (T,) as diverged at `step`; return which (T,)."""
        died = self.alive & ~sound
        self.diverged_at.copy_(torch.where(died, step, self.diverged_at))
        self.alive &= sound
        return died

    @torch.no_grad()
    def give_up(self, hopeless: Sequence[int], step: int) -> None:
        """Stop the training of members, given by their places at the start, after `step` steps."""
        stopped = torch.tensor([member in hopeless for member in self.members])
        stopped = stopped.to(self.pack.device) & self.alive
        self.stopped_at.masked_fill_(stopped, step)
        self.alive &= ~stopped
        self.optimizer.quarantine(stopped)
        if self.ema is not None:
            self.ema.masked_fill_(stopped.unsqueeze(1), 0.0)
        self._zero_judged(stopped)

    def mean_losses(self, step: int) -> Tensor:
        """Return the mean training losses since the last report (T,), and begin the next mean."""
        means = self.loss_sum / (step - self.reported_step)
        self.loss_sum.zero_()
        self.reported_step = step
        return means

    def compact(self) -> None:
        """Remove the members that have diverged or were stopped; the others train on as before."""
        kept = self.alive.nonzero().squeeze(1).tolist()
        self.left |= self._records()
        self._keep(kept)

    def _keep(self, kept: Sequence[int]) -> None:
        self.close()
        self.pack = self.pack.keep(kept)
        self.optimizer = self.optimizer.keep(self.pack, kept)
        self.ema = None if self.ema is None else self.ema[kept]
        self.judged = {fraction: average[kept] for fraction, average in self.judged.items()}
        for name in ("alive", "diverged_at", "stopped_at", "clipped", "loss_sum"):
            setattr(self, name, getattr(self, name)[kept])
        self.members = [self.members[index] for index in kept]
        self._arrange()

    def tensors(self) -> dict[str, Tensor]:
        """Return by name the tensors that change in training, as a checkpoint must hold them."""
        named = {
            "flat": self.pack.flat.detach(),
            **self.optimizer.moments,
            "alive": self.alive,
            "diverged_at": self.diverged_at,
            "stopped_at": self.stopped_at,
            "clipped": self.clipped,
        }
        named |= {f"ema {fraction:.12g}": average for fraction, average in self.judged.items()}
        return named if self.ema is None else {**named, "ema": self.ema}

    def restore(
        self,
        tensors: Mapping[str, Tensor],
        *,
        members: Sequence[int],
        left: Mapping[int, MemberRecord],
        step: int,
    ) -> None:
        """Restore what a state of the same trials was at the report after `step` steps.

        It must be called before the first step, since a captured step reads these tensors.

        Args:
            tensors: as `tensors()` returned them.
            members: the places at the start of the members that took part.
            left: the records of the removed members.
        """
        if list(members) != self.members:
            self._keep(members)
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self.left, self.reported_step = dict(left), step

    def records(self) -> list[MemberRecord]:
        """Return the records of all members of the start, in their order."""
        records = {**self.left, **self._records()}
        return [records[member] for member in range(len(self.started_with))]

    def _records(self) -> dict[int, MemberRecord]:
        rows = torch.stack([self.diverged_at, self.stopped_at, self.clipped], 1).tolist()
        return {member: MemberRecord(*row) for member, row in zip(self.members, rows, strict=True)}

    def deciding_weights(self) -> Tensor:
        """Return the deciding weights (T, P): the trained ones, or their moving average."""
        return self.pack.flat if self.ema is None else self.ema

    def close(self) -> None:
        """End the threads that make inputs."""
        self.inputs.close()


def _step_inputs(batches: PackBatches, optimizer: PackedOptimizer, step: int) -> StepInputs:
    """Return the inputs of a pack's step `step` (from 0), on the CPU."""
    configs = optimizer.pack.configs
    warmup_fraction = torch.tensor([config.budget.warmup_fraction for config in configs])
    controls = optimizer.controls(step, lr_multiplier(configs[0].budget, step, warmup_fraction))
    return StepInputs(batches.at(step), torch.cat([controls, torch.full_like(controls[:1], step)]))


def pack_losses(pack: Pack, batch: Batch, flat: Tensor | None = None) -> Tensor:
    """Return each trial's loss (T,) on the batches of the pack's seeds (S, B, ...).

    It is the objective's, without what is trained beside it. `flat` (T, P) are weights to use
    instead of the pack's own.
    """
    return trained_losses(pack, batch, flat)[1]


def trained_losses(pack: Pack, batch: Batch, flat: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return what each trial's gradient is taken of (T,), and its objective's loss alone (T,).

    Both are one tensor where nothing is trained beside the objective: neither REPA's loss nor one
    that a custom model returns. The second is what reports and curves are of, so that trials with
    different weights of such a loss compare. It is NaN where the first is not finite.
    """
    config = pack.configs[0]
    per_seed = noised(config.objective, batch.images, batch.noise, batch.u)
    at = Noised(*(pack.of_seeds(part) for part in per_seed))
    condition = tuple(pack.of_seeds(part) for part in batch.condition)
    beside = None
    if pack.auxiliary_weights is None:
        prediction = pack.predict(at.x, at.t, condition, flat=flat)
    else:
        features = pack.of_seeds(batch.features)
        prediction, beside = pack.predict_with_auxiliary(at.x, at.t, condition, features, flat=flat)
    losses = objective_loss(
        config.objective, prediction, at, pack.bound_terms, weight=pack.bound_weights
    )
    if beside is None or pack.auxiliary_weights is None:
        return losses, losses
    totals = losses + pack.auxiliary_weights * beside
    return totals, torch.where(totals.isfinite(), losses, torch.nan)
