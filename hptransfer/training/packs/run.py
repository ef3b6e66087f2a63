"""The training of trials as packs, from configs to results; a single trial is a pack of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hptransfer.config import CheckpointConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Status
from hptransfer.models.weights import save_weights
from hptransfer.results.trial_result import TrialResult, closing_loss
from hptransfer.training.dataset import load_dataset
from hptransfer.training.device import (
    device_name,
    is_out_of_memory,
    release_memory,
    torch_device,
    trial_too_large,
)
from hptransfer.training.flops import trial_flops
from hptransfer.training.packs.checkpoint import PackCheckpoint, PackCheckpoints
from hptransfer.training.packs.loop import PackOutcome, train_pack
from hptransfer.training.packs.quality import PackQuality, measure_pack_quality
from hptransfer.training.packs.reports import Report
from hptransfer.training.sampling.quality import load_real_samples


def ignore_report(report: Report) -> None:
    """Do nothing with a report."""


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
        report: is called with the pack's losses about thirty times, see `training.reports`.
        checkpoints: where the pack's checkpoints are. A pack that was cut off continues from its
            checkpoint; `discard_pack` removes the checkpoints once the results are recorded.

    Raises:
        UserError: the config, the data or the model is at fault.
        MachineError: a single trial does not fit into the device's memory.
    """
    folder = None if checkpoints is None else PackCheckpoints.of(checkpoints, configs)
    return _run(configs, runtime, report, folder)


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
    folder: PackCheckpoints | None,
) -> list[TrialResult]:
    checkpoint = None if folder is None else folder.checkpoint(configs)
    try:
        return _trained(configs, runtime, report, checkpoint)[0]
    except RuntimeError as error:
        if len(configs) == 1 or not is_out_of_memory(error):
            raise
    # The exception is deleted here, and with it the traceback that keeps the pack's tensors alive.
    release_memory(torch_device(runtime))
    half = math.ceil(len(configs) / 2)
    parts = (configs[:half], configs[half:])
    return [result for part in parts for result in _run(part, runtime, report, folder)]


def _trained(
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
        real = load_real_samples(configs[0].data, runtime.data_folder)
    try:
        outcome = train_pack(configs, dataset, device, runtime, report, checkpoint)
        quality = PackQuality() if real is None else measure_pack_quality(outcome, real)
    except RuntimeError as error:
        if len(configs) == 1 and is_out_of_memory(error):
            raise trial_too_large(configs[0], device) from error
        raise
    notes = () if checkpoint is None else tuple(checkpoint.notes)
    results = [
        _result(config, outcome, index, quality, device=device_name(device), notes=notes)
        for index, config in enumerate(configs)
    ]
    return results, outcome


def _result(
    config: TrialConfig,
    outcome: PackOutcome,
    index: int,
    quality: PackQuality,
    *,
    device: str,
    notes: tuple[str, ...],
) -> TrialResult:
    diverged_at, stopped_at = int(outcome.diverged_at[index]), int(outcome.stopped_at[index])
    status = Status.completed
    if diverged_at >= 0:
        status = Status.diverged
    elif stopped_at >= 0:
        status = Status.stopped
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
        flops=trial_flops(config),
        seconds=(outcome.seconds + quality.seconds) / len(outcome.losses),
        device=device,
        curve=tuple(point for point in curve if point[1] == point[1]),
        held_out=tuple(point for point in held_out if point[1] == point[1]),
        quality=quality.qualities.get(index),
        pack_size=len(outcome.losses),
        notes=notes,
    )
