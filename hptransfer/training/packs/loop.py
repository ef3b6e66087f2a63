"""The loop of all rows of sweeps: a pack from its first step to its deciding loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.data import Dataset
from hptransfer.training.flops import step_flops
from hptransfer.training.packs.checkpoint import PackCheckpoint
from hptransfer.training.packs.evaluation import validation_loss
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.reports import PackProgress, Report
from hptransfer.training.packs.state import TrainingState, start_training
from hptransfer.training.reports import has_point
from hptransfer.training.stopping import first_step, is_hopeless

# The dead leave a captured pack where this many FLOPs are saved: compiling and capturing for fewer
# members takes about 20 s, in which a pack of small models does 40 TFLOP/s.
RECAPTURE_FLOPS = 8e14


class PackOutcome(NamedTuple):
    """What a pack's training gave; all tensors (T,) on the CPU."""

    losses: Tensor  # the deciding loss, of no meaning where a trial diverged or was stopped
    losses_at_init: Tensor  # on the first draw only: it scales, it does not decide
    diverged_at: Tensor  # step, or -1
    stopped_at: Tensor  # steps taken until it was given up, or -1
    clipped_share: Tensor
    reports: tuple[Report, ...]
    seconds: float  # wall time, of earlier processes too
    pack: Pack  # of the members that were left
    members: tuple[int, ...]  # where those stand in the tensors above
    weights: Tensor  # those of theirs that decide, on the pack's device

    def parameters(self, member: int) -> dict[str, Tensor]:
        """Return one trial's deciding weights by name."""
        return self.pack.member_parameters(self.weights, self.members.index(member))


def train_pack(
    configs: Sequence[TrialConfig],
    dataset: Dataset,
    device: torch.device,
    runtime: RuntimeConfig,
    report: Callable[[Report], None],
    checkpoint: PackCheckpoint | None = None,
) -> PackOutcome:
    """Train trials of one shape signature for their budget, or until none is left.

    With a checkpoint training begins where that was made, and at reports a new one is left.
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
        if step + 1 < steps:
            _stop_hopeless(state, progress)
        if not state.any_alive():
            break
        if _pays_to_compact(state, steps - step - 1):
            state.compact()
        if checkpoint is not None and step + 1 < steps:
            checkpoint.save(state, progress)


def _stop_hopeless(state: TrainingState, progress: PackProgress) -> None:
    if progress.step < first_step(state.budget.stop_after, state.budget.steps):
        return
    at_init = progress.losses_at_init.tolist()
    hopeless = [m for m in state.members if is_hopeless(progress.curve(m), at_init[m])]
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
    """Say where the pack stands; the held-out losses are read off its weights and change nothing.

    They cost a pass forward over all draws each: half as much again as training on as many samples.
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
    """Return values of the members left (T,) in the order of the start, NaN for the others."""
    everybody = torch.full((count,), torch.nan, dtype=values.dtype)
    everybody[list(state.members)] = values.cpu()
    return everybody


def _pays_to_compact(state: TrainingState, steps_left: int) -> bool:
    """Whether leaving the dead out saves more than building the step anew costs.

    Both are reckoned from shapes and not from clocks, so that a pack is compacted at the same step
    whenever it runs.
    """
    dead = state.dead_count()
    if not dead or not steps_left:
        return False
    if not state.is_costly_to_rebuild:
        return True
    config = state.pack.configs[0]
    _, both = step_flops(config.model, config.data.layout, config.budget.batch_size)
    return dead * steps_left * both > RECAPTURE_FLOPS
