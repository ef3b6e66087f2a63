"""The only training loop: a pack from its first step to its deciding loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.data import Dataset
from hptransfer.training.evaluation import validation_loss
from hptransfer.training.flops import step_flops
from hptransfer.training.pack import Pack
from hptransfer.training.state import TrainingState, start_training

REPORTS = 30  # points of a training curve

# Trials that diverged leave a captured pack where this many FLOPs are saved: compiling and
# capturing for fewer members takes about 20 s, in which a pack of small models does 40 TFLOP/s.
RECAPTURE_FLOPS = 8e14


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
) -> PackOutcome:
    """Train trials of one shape signature for their budget, or until every one has diverged."""
    state = start_training(configs, dataset, device, runtime)
    try:
        return _trained(state, dataset, report)
    finally:
        state.close()


def _trained(
    state: TrainingState, dataset: Dataset, report: Callable[[Report], None]
) -> PackOutcome:
    count, budget = len(state.pack), state.pack.configs[0].budget
    at_init = validation_loss(state.pack, dataset.validation, flat=state.pack.flat, draws=1)
    interval = math.ceil(budget.steps / REPORTS)
    reports = []
    for step in range(budget.steps):
        state.train_step(step)
        if (step + 1) % interval == 0 or step + 1 == budget.steps:
            reports.append(_report(state, step + 1, count))
            report(reports[-1])
            if not state.any_alive():
                break
            if _pays_to_compact(state, budget.steps - step - 1):
                state.compact()
    weights = state.deciding_weights()
    losses = validation_loss(state.pack, dataset.validation, flat=weights, draws=budget.eval_draws)
    state.retire(torch.isfinite(losses), budget.steps)
    everybody = torch.full((count,), torch.nan, dtype=losses.dtype)
    everybody[list(state.members)] = losses.cpu()
    diverged_at, clipped = state.records(count)
    return PackOutcome(
        everybody,
        at_init.cpu(),
        diverged_at,
        clipped / budget.steps,
        tuple(reports),
        state.pack,
        tuple(state.members),
        weights.detach(),
    )


def _report(state: TrainingState, step: int, count: int) -> Report:
    losses = torch.full((count,), torch.nan)
    losses[list(state.members)] = state.mean_losses(step).cpu()
    return Report(step, tuple(losses.tolist()))


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
