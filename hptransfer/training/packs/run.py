"""From trial configs to trial results: a pure function; a single trial is a pack of one."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hptransfer.config import CheckpointConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Status
from hptransfer.data import load
from hptransfer.errors import MachineError, UserError
from hptransfer.results.trial_result import TrialResult, closing_loss
from hptransfer.training.flops import trial_flops
from hptransfer.training.packs.checkpoint import Checkpoint, PackFolder
from hptransfer.training.packs.loop import PackOutcome, train_pack
from hptransfer.training.packs.reports import Report
from hptransfer.training.sampling.quality import Judged, judged_pack, reference


def ignore(report: Report) -> None:
    """Take no notice of a pack's progress."""


def run_pack(
    configs: Sequence[TrialConfig],
    runtime: RuntimeConfig,
    report: Callable[[Report], None] = ignore,
    checkpoints: CheckpointConfig | None = None,
) -> list[TrialResult]:
    """Train trials of one shape signature together and return their results, in order.

    A pack that the device's memory does not hold runs as two halves, and these likewise; each
    result says in `pack_size` how large its pack was. Divergence is an outcome; any exception is a
    bug, the user's to fix (`UserError`) or the machine's (`MachineError`: one trial does not fit).
    With checkpoints the pack goes on where an earlier run of it was cut off; `discard_pack` removes
    them once the results are safe.
    """
    folder = None if checkpoints is None else PackFolder.of(checkpoints, configs)
    return _run(configs, runtime, report, folder)


def train_trial(
    config: TrialConfig, runtime: RuntimeConfig, report: Callable[[Report], None] = ignore
) -> tuple[TrialResult, dict[str, Tensor]]:
    """Train one trial as a pack of one; return its result and its deciding weights by name."""
    (result,), outcome = _trained([config], runtime, report, None)
    return result, outcome.parameters(0)


def _run(
    configs: Sequence[TrialConfig],
    runtime: RuntimeConfig,
    report: Callable[[Report], None],
    folder: PackFolder | None,
) -> list[TrialResult]:
    checkpoint = None if folder is None else folder.checkpoint(configs)
    try:
        return _trained(configs, runtime, report, checkpoint)[0]
    except RuntimeError as error:
        if len(configs) == 1 or not is_out_of_memory(error):
            raise
    # Here the exception is gone, and with it the traceback that holds the pack's tensors.
    release_memory(torch_device(runtime))
    half = math.ceil(len(configs) / 2)
    parts = (configs[:half], configs[half:])
    return [result for part in parts for result in _run(part, runtime, report, folder)]


def _trained(
    configs: Sequence[TrialConfig],
    runtime: RuntimeConfig,
    report: Callable[[Report], None],
    checkpoint: Checkpoint | None,
) -> tuple[list[TrialResult], PackOutcome]:
    device = torch_device(runtime)
    torch.set_num_threads(runtime.threads)
    data, folder = configs[0].data, runtime.data_folder
    dataset = load(data, folder)
    # Before training, so that what is amiss with it is said at once.
    known = reference(data, folder) if configs[0].quality.samples else None
    try:
        outcome = train_pack(configs, dataset, device, runtime, report, checkpoint)
        judged = Judged() if known is None else judged_pack(outcome, known)
    except RuntimeError as error:
        if len(configs) == 1 and is_out_of_memory(error):
            raise too_large(configs[0], device) from error
        raise
    notes = () if checkpoint is None else tuple(checkpoint.notes)
    results = [
        _result(config, outcome, index, judged, device=device_name(device), notes=notes)
        for index, config in enumerate(configs)
    ]
    return results, outcome


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether a device's memory ran out: torch's own error, or one that it led to.

    Raised while a CUDA graph is captured it reaches us as the context of the capture's own error.
    """
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def release_memory(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def too_large(config: TrialConfig, device: torch.device) -> MachineError:
    """Build the error of a single trial that does not fit into a device's memory."""
    layout, budget = config.data.layout, config.budget
    patch = getattr(config.model, "patch_size", 1)
    memory = ""
    if device.type == "cuda":
        gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        memory = f", which has {gib:.0f} GiB"
    return MachineError(
        f"One trial alone does not fit into the memory of {device_name(device)}{memory}: width "
        f"{config.model.width}, batch {budget.batch_size}, {(layout.image_size // patch) ** 2} "
        "tokens. Use a larger device, lower budget.batch_size (another question), or leave this "
        "width out; nothing recorded was lost."
    )


def torch_device(runtime: RuntimeConfig) -> torch.device:
    """Return the runtime's device, or say that it is not there."""
    if runtime.device.split(":")[0] not in ("cpu", "cuda"):
        raise UserError(
            f"`runtime.device` must be cpu, cuda or cuda:N, but got {runtime.device!r}."
        )
    device = torch.device(runtime.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"runtime.device={runtime.device} needs that GPU, but torch sees "
            f"{torch.cuda.device_count()} here. Set runtime.device=cpu or run on a GPU machine."
        )
    return device


def device_name(device: torch.device) -> str:
    """Return the kind of a device, as rows and runs tell it."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)


def _result(
    config: TrialConfig,
    outcome: PackOutcome,
    index: int,
    judged: Judged,
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
        seconds=(outcome.seconds + judged.seconds) / len(outcome.losses),
        device=device,
        curve=tuple(point for point in curve if point[1] == point[1]),
        held_out=tuple(point for point in held_out if point[1] == point[1]),
        quality=judged.qualities.get(index),
        pack_size=len(outcome.losses),
        notes=notes,
    )
