"""The training loop of a pack, from its first step to the deciding losses: all rows of sweeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.data import Dataset
from hptransfer.training.flops import train_step_flops
from hptransfer.training.packs.checkpoint import PackCheckpoint
from hptransfer.training.packs.evaluation import validation_loss
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.reports import PackProgress, Report
from hptransfer.training.packs.state import TrainingState, start_training
from hptransfer.training.reports import has_point
from hptransfer.training.stopping import gives_up

# FLOPs that removing diverged and stopped trials from a compiled or captured pack must save.
# Compiling and capturing the step anew takes about 20 s, in which a pack of small models does
# 40 TFLOP/s.
RECAPTURE_FLOPS = 8e14


class PackOutcome(NamedTuple):
    """The outcome of a pack's training: tensors (T,) in the order of the start, on the CPU.

    `pack` holds only the members that were not removed while it trained.
    """

    losses: Tensor  # (T,) deciding losses; without meaning where a trial diverged or was stopped
    losses_at_init: Tensor  # (T,) on the first evaluation draw only, since it only scales
    diverged_at: Tensor  # (T,) step, or -1
    stopped_at: Tensor  # (T,) steps taken until the trial was given up, or -1
    clipped_share: Tensor  # (T,) share of the steps whose gradient was clipped
    reports: tuple[Report, ...]
    seconds: float  # wall time, of earlier processes too
    pack: Pack  # the members at the end
    members: tuple[int, ...]  # the place of each member of `pack` in the tensors above
    weights: Tensor  # (members, P) deciding weights, on the pack's device

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
            at_init = _loss_at_init(state, dataset)
            progress = PackProgress(at_init, began=began)
        _train(state, progress, report, checkpoint)
        return _outcome(state, progress, dataset)
    finally:
        state.close()


def _loss_at_init(state: TrainingState, dataset: Dataset) -> Tensor:
    pack = state.pack
    return validation_loss(pack, dataset.validation, flat=pack.flat, draws=1).cpu()


def _train(
    state: TrainingState,
    progress: PackProgress,
    report: Callable[[Report], None],
    checkpoint: PackCheckpoint | None,
) -> None:
    count, steps = len(state.started_with), state.budget.steps
    for step in range(progress.step, steps):
        state.train_step(step)
        if not has_point(step + 1, steps):
            continue
        progress.reports.append(_report(state, step + 1, count))
        report(progress.reports[-1])
        _stop_hopeless(state, progress)
        if not state.any_alive():
            break
        if compaction_pays(state, steps - step - 1):
            state.compact()
        if checkpoint is not None and step + 1 < steps:
            checkpoint.save(state, progress)


def _stop_hopeless(state: TrainingState, progress: PackProgress) -> None:
    at_init, budget, step = progress.losses_at_init.tolist(), state.budget, progress.step
    hopeless = [m for m in state.members if gives_up(budget, step, progress.curve(m), at_init[m])]
    if hopeless:
        state.give_up(hopeless, progress.step)


def _outcome(state: TrainingState, progress: PackProgress, dataset: Dataset) -> PackOutcome:
    count, budget = len(state.started_with), state.budget
    weights = state.deciding_weights()
    losses = validation_loss(state.pack, dataset.validation, flat=weights, draws=budget.eval_draws)
    state.retire(torch.isfinite(losses), budget.steps)
    diverged_at, stopped_at, clipped = map(torch.tensor, zip(*state.records(count), strict=True))
    return PackOutcome(
        _of_everybody(state, losses, count),
        progress.losses_at_init,
        diverged_at.long(),
        stopped_at.long(),
        clipped / budget.steps,
        tuple(progress.reports),
        progress.seconds,
        state.pack,
        tuple(state.members),
        weights.detach(),
    )


def _report(state: TrainingState, step: int, count: int) -> Report:
    """Return the report after `step` steps, held-out losses included where they are asked for.

    Held-out losses change nothing in the training; they cost a forward pass over all draws.
    """
    losses, held_out = state.mean_losses(step), None
    if state.pack.runtime.held_out_curve:
        weights, draws = state.deciding_weights(), state.budget.eval_draws
        now = validation_loss(state.pack, state.dataset.validation, flat=weights, draws=draws)
        held_out = _of_everybody(state, torch.where(state.alive, now, torch.nan), count)
    return Report(
        step,
        tuple(_of_everybody(state, losses, count).tolist()),
        None if held_out is None else tuple(held_out.tolist()),
    )


def _of_everybody(state: TrainingState, values: Tensor, count: int) -> Tensor:
    """Return values (members,) of the pack in the order of the start: (T,), NaN for the removed."""
    everybody = torch.full((count,), torch.nan, dtype=values.dtype)
    everybody[list(state.members)] = values.cpu()
    return everybody


def compaction_pays(state: TrainingState, steps_left: int) -> bool:
    """Whether removing diverged and stopped trials saves more than building the step anew costs.

    Both are computed from shapes and not from clocks, so that trials leave a pack at the same step
    whenever it runs.
    """
    dead = state.dead_count()
    if not dead or not steps_left:
        return False
    if not state.is_costly_to_rebuild:
        return True
    return dead * steps_left * train_step_flops(state.pack.configs[0]) > RECAPTURE_FLOPS
