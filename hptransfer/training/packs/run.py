"""The training of trials as packs, from configs to results: all rows of sweeps.

A single trial is a pack of one. The loop, the held-out losses, the quality of samples, and the
division of packs that do not fit into memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hptransfer.config import CheckpointConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Status
from hptransfer.data import Dataset, Split
from hptransfer.models.weights import save_weights
from hptransfer.results.metrics import NOISE_PARTS
from hptransfer.results.trial_result import Quality, TrialResult, closing_loss, named_metrics
from hptransfer.training.batches import (
    Batch,
    evaluation_batches,
    load_dataset,
    sums_by_noise,
)
from hptransfer.training.device import (
    device_name,
    is_out_of_memory,
    release_memory,
    torch_device,
    trial_too_large,
)
from hptransfer.training.flops import train_step_flops, trial_flops
from hptransfer.training.objectives import deciding_bound_weight, noised, sample_losses
from hptransfer.training.packs.checkpoint import PackCheckpoint
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.state import PackProgress, Report, TrainingState, start_training
from hptransfer.training.sampling.quality import (
    RealSamples,
    SampleJudge,
    quality_chunks,
)
from hptransfer.training.sampling.reference import load_real_samples
from hptransfer.training.schedule import gives_up, has_point


class HeldOut(NamedTuple):
    """Each trial's mean losses over held-out samples, in float64 on the pack's device."""

    loss: Tensor  # (T,) over all of them
    by_noise: Tensor  # (T, NOISE_PARTS) over those of each part of the noise levels; NaN if none


def validation_loss(pack: Pack, validation: Split, *, flat: Tensor, draws: int) -> Tensor:
    """Return each trial's mean loss over the first `draws` evaluation batches: (T,), in float64.

    `flat` (T, P) are the weights. With all of `budget.eval_draws` it is the deciding loss.
    """
    return held_out_losses(pack, validation, flat=flat, draws=draws).loss


def held_out_losses(pack: Pack, validation: Split, *, flat: Tensor, draws: int) -> HeldOut:
    """Return each trial's mean losses over the first `draws` evaluation batches.

    `flat` (T, P) are the weights. On a GPU and in a compiled pack chunks of the training batch's
    size are evaluated: so no more memory is taken than in training, and no other shape is compiled.
    A compiled pack has gradients enabled as in training, so that no other variant of the model is
    compiled.
    """
    config = pack.configs[0]
    in_chunks = pack.compiled or pack.device.type != "cpu"
    total = torch.zeros(len(pack), dtype=torch.float64, device=pack.device)
    by_noise = total.new_zeros(len(pack), NOISE_PARTS)
    samples = torch.zeros(NOISE_PARTS, dtype=torch.float64)
    with pack.arithmetic(), torch.set_grad_enabled(pack.compiled):
        flat = flat.detach().requires_grad_(pack.compiled)
        for batch in islice(evaluation_batches(config, validation), draws):
            samples += sums_by_noise(torch.ones_like(batch.u), batch.u)
            size = config.budget.batch_size if in_chunks else len(batch.u)
            for first in range(0, len(batch.u), size):
                losses, u = _chunk_losses(pack, batch, flat, range(first, first + size))
                total += losses.sum(1)
                by_noise += sums_by_noise(losses, u)
    return HeldOut(total / int(samples.sum()), by_noise / samples.to(pack.device))


def _chunk_losses(pack: Pack, batch: Batch, flat: Tensor, chosen: range) -> tuple[Tensor, Tensor]:
    """Return the losses (T, n) of the chosen samples in float64, and their quantiles of time (n,).

    Indices beyond the last sample stand for samples from the first on, which are left out of both.
    """
    count, objective = len(batch.u), pack.configs[0].objective
    part = batch.part(torch.tensor(chosen) % count, pack.device)
    at = noised(objective, part.images, part.noise, part.u)
    x, t, *condition = (
        tensor.expand(len(pack), *tensor.shape) for tensor in (at.x, at.t, *part.condition)
    )
    if pack.compiled:  # inputs with strides of zero would be compiled for once more
        x, t, *condition = (tensor.contiguous() for tensor in (x, t, *condition))
    prediction = pack.predict(x, t, tuple(condition), flat=flat).detach()
    # Trials that trained under different weights of the bound are compared under one, if it is set.
    weight: float | Tensor | None = deciding_bound_weight(objective)
    if weight is None and pack.bound_weights is not None:
        weight = pack.bound_weights.unsqueeze(1)
    losses = sample_losses(objective, prediction, at, weight)
    own = count - chosen.start
    return losses[:, :own].double(), part.u[:own]


# FLOPs that removing diverged and stopped trials from a compiled or captured pack must save.
# Compiling and capturing the step anew takes about 20 s on a GPU, in which a pack of small models
# does 40 TFLOP/s, and 40 s on a CPU, in which it does 0.1 TFLOP/s.
RECAPTURE_FLOPS, RECOMPILE_FLOPS = 8e14, 4e12


class PackOutcome(NamedTuple):
    """The outcome of a pack's training: tensors (T,) in the order of the start, on the CPU.

    `pack` holds only the members that were not removed while it trained.
    """

    losses: Tensor  # (T,) deciding losses; without meaning where a trial diverged or was stopped
    losses_at_init: Tensor  # (T,) on the first evaluation draw only, since it only scales
    diverged_at: Tensor  # (T,) step, or -1
    stopped_at: Tensor  # (T,) steps taken until the trial was given up, or -1
    clipped_share: Tensor  # (T,) share of the steps whose gradient was clipped
    small_root_share: Tensor  # (T,) `PackedAdamW.small_root_share` at the end; NaN: not known
    reports: tuple[Report, ...]
    seconds: float  # wall time, of earlier processes too
    pack: Pack  # the members at the end
    members: tuple[int, ...]  # the place of each member of `pack` in the tensors above
    weights: Tensor  # (members, P) deciding weights, on the pack's device
    by_noise: Tensor  # (T, NOISE_PARTS) deciding losses at parts of the noise levels
    judged: dict[float, Tensor]  # (members, P) averages that decide nothing, by their horizons
    judged_losses: dict[float, Tensor]  # (T,) held-out losses of those averages

    @property
    def sound(self) -> list[int]:
        """The places in `pack` of the members that completed."""
        return [
            place
            for place, member in enumerate(self.members)
            if self.diverged_at[member] < 0 and self.stopped_at[member] < 0
        ]

    def parameters(self, member: int) -> dict[str, Tensor]:
        """Return by name the deciding weights of the trial at place `member` of the start."""
        return self.pack.member_parameters(self.weights, self.members.index(member))


def train_pack(
    configs: Sequence[TrialConfig],
    dataset: Dataset,
    device: torch.device,
    runtime: RuntimeConfig,
    report: Callable[[Report], None],
    checkpoint: PackCheckpoint | None = None,
) -> PackOutcome:
    """Train trials of one shape signature for their budget, or until none takes part any more.

    With a checkpoint, training begins at the step where the checkpoint was made, and new ones are
    written at reports.
    """
    began = time.perf_counter()
    state = start_training(configs, dataset, device, runtime)
    try:
        progress = None if checkpoint is None else checkpoint.restore(state)
        if progress is None:
            flat = state.pack.flat
            at_init = validation_loss(state.pack, dataset.validation, flat=flat, draws=1).cpu()
            progress = PackProgress(at_init, began=began)
        _train(state, progress, report, checkpoint)
        return _outcome(state, progress)
    finally:
        state.close()


def _train(
    state: TrainingState,
    progress: PackProgress,
    report: Callable[[Report], None],
    checkpoint: PackCheckpoint | None,
) -> None:
    budget, at_init = state.budget, progress.losses_at_init.tolist()
    for step in range(progress.step, budget.steps):
        state.train_step(step)
        if not has_point(step + 1, budget.steps):
            continue
        progress.reports.append(_report(state, step + 1))
        report(progress.reports[-1])
        curves = {member: progress.curve(member) for member in state.members}
        hopeless = [m for m, c in curves.items() if gives_up(budget, step + 1, c, at_init[m])]
        if hopeless:
            state.give_up(hopeless, step + 1)
        if not bool(state.alive.any()):
            break
        if compaction_pays(state, budget.steps - step - 1):
            state.compact()
        if checkpoint is not None and step + 1 < budget.steps:
            checkpoint.save(state, progress)


def _outcome(state: TrainingState, progress: PackProgress) -> PackOutcome:
    held_out, steps = _held_out(state, state.deciding_weights()), state.budget.steps
    state.retire(torch.isfinite(held_out.loss), steps)
    judged_losses = {
        fraction: _of_everybody(state, _held_out(state, average).loss)
        for fraction, average in state.judged.items()
    }
    diverged_at, stopped_at, clipped = map(torch.tensor, zip(*state.records(), strict=True))
    return PackOutcome(
        _of_everybody(state, held_out.loss),
        progress.losses_at_init,
        diverged_at.long(),
        stopped_at.long(),
        clipped / steps,
        _of_everybody(state, state.optimizer.small_root_share(steps)),
        tuple(progress.reports),
        progress.seconds,
        state.pack,
        tuple(state.members),
        state.deciding_weights().detach(),
        _of_everybody(state, held_out.by_noise),
        state.judged,
        judged_losses,
    )


def _report(state: TrainingState, step: int) -> Report:
    """Return the report after `step` steps, held-out losses included where they are asked for."""
    losses, held_out = _of_everybody(state, state.mean_losses(step)).tolist(), None
    if state.pack.runtime.held_out_curve:
        losses_now = _held_out(state, state.deciding_weights()).loss
        now = torch.where(state.alive, losses_now, torch.nan)
        held_out = tuple(_of_everybody(state, now).tolist())
    return Report(step, tuple(losses), held_out)


def _held_out(state: TrainingState, flat: Tensor) -> HeldOut:
    """Return the losses of the members' weights `flat` over all evaluation draws."""
    draws = state.budget.eval_draws
    return held_out_losses(state.pack, state.dataset.validation, flat=flat, draws=draws)


def _of_everybody(state: TrainingState, values: Tensor) -> Tensor:
    """Return values (members, ...) of the pack in the order of the start: (T, ...), NaN for the
    removed.
    """
    shape = (len(state.started_with), *values.shape[1:])
    everybody = torch.full(shape, torch.nan, dtype=values.dtype)
    everybody[state.members] = values.cpu()
    return everybody


def compaction_pays(state: TrainingState, steps_left: int) -> bool:
    """Whether removing diverged and stopped trials saves more than building the step anew costs.

    Both are computed from shapes and not from clocks, so that trials leave a pack at the same step
    whenever it runs.
    """
    dead, runtime = len(state.pack) - int(state.alive.sum()), state.pack.runtime
    if not dead or not steps_left:
        return False
    if not runtime.compiled and not runtime.captured:
        return True
    cost = RECAPTURE_FLOPS if runtime.on_gpu else RECOMPILE_FLOPS
    return dead * steps_left * train_step_flops(state.pack.configs[0]) > cost


def judge_members(
    pack: Pack, flat: Tensor, members: Sequence[int], real: RealSamples
) -> list[Quality | None]:
    """Return the quality of samples of the given members of a pack with weights `flat` (T, P)."""
    judges = {member: SampleJudge(pack.configs[0], real, pack.device) for member in members}
    for chosen, drawn in pack_sample_chunks(pack, real.train, flat, members):
        for member, samples in zip(chosen, drawn, strict=True):
            judges[member].add(samples)
    return [judges[member].quality() for member in members]


def pack_sample_chunks(
    pack: Pack, train: Split, flat: Tensor, members: Sequence[int]
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Yield members of a pack with weights `flat` (T, P), and their samples (members, b, C, H, W).

    All chunks together hold `quality.samples` samples of each of the given members, in order.

    On a CPU each member draws alone, so that its samples are the same to the bit in any pack: drawn
    together, samples of U-ViTs and narrow MMDiTs differ by 1e-6. On a GPU the whole pack draws at
    once, since one small model leaves a GPU idle, and a part of a compiled pack would be compiled
    anew.
    """
    if pack.device.type == "cpu":
        for m in members:
            for drawn in _draw_together(pack.keep([m]), train, flat[m : m + 1]):
                yield [m], drawn
    elif members:
        for drawn in _draw_together(pack, train, flat):
            yield members, drawn[list(members)]


def _draw_together(pack: Pack, train: Split, flat: Tensor) -> Iterator[Tensor]:
    weights = flat.detach().requires_grad_(pack.compiled)

    def predict(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        # Gradients are enabled as in training, since a compiled pack was compiled for that. The
        # pack's arithmetic is the model's alone, and not that of the features of samples.
        with pack.arithmetic(), torch.set_grad_enabled(pack.compiled):
            return pack.predict(x, t, condition, flat=weights).detach()

    return quality_chunks(pack.configs[0], train, predict, pack.device, (len(pack),))


def ignore_report(_: Report) -> None:
    """The callback of a pack whose reports nobody reads."""


def run_pack(
    configs: Sequence[TrialConfig],
    runtime: RuntimeConfig,
    report: Callable[[Report], None] = ignore_report,
    checkpoints: CheckpointConfig | None = None,
) -> list[TrialResult]:
    """Train trials of one shape signature together and return their results, in the same order.

    A pack that does not fit into the device's memory runs as two halves, and each half likewise;
    `pack_size` of a result is the number of trials that really ran together. A trial that diverges
    has a result, too.

    Args:
        report: is called with the pack's losses about thirty times, see `has_point`.
        checkpoints: where the pack's checkpoints are. A pack that was cut off continues from its
            checkpoint; `discard_pack` removes the checkpoints once the results are recorded.

    Raises:
        UserError: the config, the data or the model is at fault.
        MachineError: a single trial does not fit into the device's memory.
    """
    return _run(configs, runtime, report, checkpoints, configs)


def train_trial(
    config: TrialConfig,
    runtime: RuntimeConfig,
    report: Callable[[Report], None] = ignore_report,
    *,
    weights_file: Path | None = None,
) -> tuple[TrialResult, dict[str, Tensor]]:
    """Train one trial as a pack of one; return its result and its deciding weights by name.

    Args:
        weights_file: where the weights of a completed trial are written too (safetensors).
    """
    (result,), outcome = _trained([config], runtime, report, None)
    weights = outcome.parameters(0)
    if weights_file is not None and result.status is Status.completed:
        save_weights(weights_file, config, weights)
    return result, weights


def _run(
    configs: Sequence[TrialConfig],
    runtime: RuntimeConfig,
    report: Callable[[Report], None],
    checkpoints: CheckpointConfig | None,
    whole: Sequence[TrialConfig],
) -> list[TrialResult]:
    """Train a pack, or in halves what does not fit; `whole` is the pack that this is a part of."""
    checkpoint = None if checkpoints is None else PackCheckpoint(checkpoints, whole, configs)
    try:
        return _trained(configs, runtime, report, checkpoint)[0]
    except RuntimeError as error:
        if len(configs) == 1 or not is_out_of_memory(error):
            raise
    release_memory(torch_device(runtime))  # here the exception, and so its traceback, is deleted
    half = math.ceil(len(configs) / 2)
    first = _run(configs[:half], runtime, report, checkpoints, whole)
    return [*first, *_run(configs[half:], runtime, report, checkpoints, whole)]


def _trained(
    configs: Sequence[TrialConfig],
    runtime: RuntimeConfig,
    report: Callable[[Report], None],
    checkpoint: PackCheckpoint | None,
) -> tuple[list[TrialResult], PackOutcome]:
    """Train a pack; a single trial that runs out of memory is tried once more, then refused."""
    device = torch_device(runtime)
    try:
        return _trained_once(configs, runtime, report, checkpoint)
    except RuntimeError as error:
        if len(configs) > 1 or not is_out_of_memory(error):
            raise
    # The exception is deleted here, and with it the traceback that keeps the pack's tensors alive.
    release_memory(device)
    try:
        return _trained_once(configs, runtime, report, checkpoint)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise trial_too_large(configs[0], device) from error
        raise


def _trained_once(
    configs: Sequence[TrialConfig],
    runtime: RuntimeConfig,
    report: Callable[[Report], None],
    checkpoint: PackCheckpoint | None,
) -> tuple[list[TrialResult], PackOutcome]:
    device = torch_device(runtime)
    torch.set_num_threads(runtime.threads)
    dataset = load_dataset(configs[0], runtime)
    real = None
    if configs[0].quality.samples > 0:  # read before training, so that it is refused at once
        real = load_real_samples(configs[0], runtime.data_folder, device)
    if runtime.on_gpu:  # what an earlier pack left; torch does not collect it before a capture
        release_memory(device)
    outcome = train_pack(configs, dataset, device, runtime, report, checkpoint)
    seconds, qualities = outcome.seconds, {}
    if real is not None:
        began = time.perf_counter()
        qualities = _qualities(outcome, real)
        seconds += time.perf_counter() - began
    of_pack = {
        "seconds": seconds / len(configs),
        "device": device_name(device),
        "mode": outcome.pack.mode,
        "pack_size": len(configs),
        "notes": () if checkpoint is None else tuple(checkpoint.notes),
    }
    results = [
        _result(config, outcome, index, qualities.get(index, {}), **of_pack)
        for index, config in enumerate(configs)
    ]
    return results, outcome


# The quality of samples of the deciding weights (None), and of averages by their horizons.
Qualities = Mapping[float | None, Quality | None]


def _qualities(outcome: PackOutcome, real: RealSamples) -> dict[int, Qualities]:
    """Return the quality of samples of the members that completed, by their places at the start."""
    measured = {
        fraction: judge_members(outcome.pack, flat, outcome.sound, real)
        for fraction, flat in {None: outcome.weights, **outcome.judged}.items()
    }
    return {
        outcome.members[place]: {fraction: found[index] for fraction, found in measured.items()}
        for index, place in enumerate(outcome.sound)
    }


def _result(
    config: TrialConfig, outcome: PackOutcome, index: int, qualities: Qualities, **known: Any
) -> TrialResult:
    """Return a trial's result; `known` are the fields that its training does not say."""
    diverged_at, stopped_at = int(outcome.diverged_at[index]), int(outcome.stopped_at[index])
    status = Status.stopped if stopped_at >= 0 else Status.completed
    status = Status.diverged if diverged_at >= 0 else status
    completed = status is Status.completed
    curve = tuple((r.step, r.train_losses[index]) for r in outcome.reports)
    held_out = tuple(
        (r.step, r.held_out_losses[index]) for r in outcome.reports if r.held_out_losses is not None
    )
    return TrialResult(
        config=config,
        status=status,
        loss=float(outcome.losses[index]) if completed else None,
        loss_at_init=float(outcome.losses_at_init[index]),
        train_loss=closing_loss(curve, config.budget.steps) if completed else None,
        diverged_at_step=diverged_at if diverged_at >= 0 else None,
        stopped_at_step=stopped_at if stopped_at >= 0 else None,
        clipped_share=float(outcome.clipped_share[index]),
        small_root_share=float(outcome.small_root_share[index]) if completed else math.nan,
        metrics=_metrics(outcome, index, qualities) if completed else {},
        quality=qualities.get(None),
        flops=trial_flops(config),
        curve=tuple(point for point in curve if point[1] == point[1]),
        held_out=tuple(point for point in held_out if point[1] == point[1]),
        **known,
    )


def _metrics(outcome: PackOutcome, index: int, qualities: Qualities) -> dict[str, float]:
    """Return a completed trial's metrics beside its deciding loss and its samples' quality."""
    return named_metrics(
        outcome.by_noise[index].tolist(),
        {fraction: float(losses[index]) for fraction, losses in outcome.judged_losses.items()},
        {f: quality for f, quality in qualities.items() if f is not None},
    )
