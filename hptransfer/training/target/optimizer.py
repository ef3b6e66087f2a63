"""`torch.optim.AdamW` with the groups of a parametrization and the schedule of a budget."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hptransfer.config import TrialConfig
from hptransfer.models.parametrization import param_groups
from hptransfer.training.schedule import lr_multiplier
from hptransfer.training.target.parallel import local_part


class ModuleAdamW:
    """`torch.optim.AdamW` in which each parameter has its own rate, decay and epsilon."""

    def __init__(
        self, model: nn.Module, config: TrialConfig, weights: Mapping[str, Tensor], *, fused: bool
    ) -> None:
        self.budget = config.budget
        self.adamw = torch.optim.AdamW(param_groups(model, config), fused=fused or None)
        self.base_rates = [float(group["lr"]) for group in self.adamw.param_groups]
        # The state that AdamW would make in its first step: a checkpoint is restored before that.
        for weight in weights.values():
            self.adamw.state[weight] = {
                "step": torch.zeros((), device=local_part(weight).device if fused else "cpu"),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
        self.moment1, self.moment2 = (
            {name: self.adamw.state[weight][key] for name, weight in weights.items()}
            for key in ("exp_avg", "exp_avg_sq")
        )

    def step(self, step: int) -> None:
        """Update the parameters from their gradients, as step `step` (from 0)."""
        multiplier = self.multiplier(step)
        for group, rate in zip(self.adamw.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * multiplier  # an absolute value would undo µP's factors
        self.adamw.step()

    def multiplier(self, step: int) -> float:
        """Return the schedule's multiplier of step `step`."""
        warmup = torch.tensor([self.budget.warmup_fraction])
        return float(lr_multiplier(self.budget, step, warmup))

    def forget_gradients(self) -> None:
        """Set all gradients to None."""
        self.adamw.zero_grad(set_to_none=True)

    def has_taken(self, steps: int) -> None:
        """Set the number of steps taken, on which the bias corrections depend."""
        for entry in self.adamw.state.values():
            entry["step"].fill_(steps)
