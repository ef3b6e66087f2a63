"""The optimizers of a target, as torch ones: AdamW is torch's, Muon and Lion are ours.

They say what packs say (packs/optimizer.py). `torch.optim.Muon` does the same for whole matrices of
two dimensions in bfloat16 (tests/training/test_muon.py); it has no other precision, does not take a
weight apart, and cannot gather what FSDP2 has cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hptransfer.config import LionConfig, TrialConfig
from hptransfer.config.choices import Precision
from hptransfer.models.parametrization.rules import param_groups
from hptransfer.training.orthogonal import orthogonalised
from hptransfer.training.target.parallel import gathered_like, local_part, part_like

# Names in a checkpoint of what the optimizers keep of a parameter.
KEPT = {"exp_avg": "moment1", "momentum": "moment1", "exp_avg_sq": "moment2"}


def make_optimizers(model: nn.Module, config: TrialConfig, *, fused: bool) -> list[Optimizer]:
    """Return the optimizers of a trial's model, with the state that a first step would make.

    A checkpoint is restored before the first step.
    """
    groups = param_groups(model, config)
    matrices = [group for group in groups if "matrices" in group]
    rest = [group for group in groups if "matrices" not in group]
    made: list[Optimizer] = []
    if matrices:
        made.append(Muon(matrices, config.precision))
    if isinstance(config.optimizer, LionConfig):
        made.append(Lion(rest))
    elif rest:
        adamw = torch.optim.AdamW(rest, fused=fused or None)
        for weight in _weights(adamw):
            adamw.state[weight] = {
                "step": torch.zeros((), device=weight.device if fused else "cpu"),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
        made.append(adamw)
    return made


def kept_tensors(
    optimizers: Sequence[Optimizer], weights: Mapping[str, Tensor]
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the kind (`moment1` or `moment2`), parameter and tensor of all that is kept."""
    for name, weight in weights.items():
        for optimizer in optimizers:
            for key, tensor in optimizer.state.get(weight, {}).items():
                if key in KEPT:
                    yield KEPT[key], name, tensor


def _weights(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


class Muon(Optimizer):
    """Muon on the groups of `param_groups` that have `matrices`.

    A matrix of which each process has a part is gathered, orthogonalised by all, and each takes its
    own part of the update.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], precision: Precision) -> None:
        super().__init__(list(groups), {})
        self.precision = precision
        for weight in _weights(self):
            self.state[weight] = {"momentum": torch.zeros_like(weight)}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the matrices from their gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                momentum = self.state[weight]["momentum"]
                mine, grad = local_part(momentum), local_part(weight.grad)
                mine.lerp_(grad, 1 - group["momentum"])
                ahead = grad.lerp(mine, group["momentum"]) if group["nesterov"] else mine
                change = self._orthogonalised(gathered_like(ahead, weight), group)
                own = local_part(weight)
                own.mul_(1 - group["lr"] * group["weight_decay"])
                own.add_(part_like(change, weight), alpha=-group["lr"] * group["scale"])

    def _orthogonalised(self, ahead: Tensor, group: Mapping[str, Any]) -> Tensor:
        change = orthogonalised(
            ahead.flatten(1).unflatten(0, (group["matrices"], -1)),
            steps=group["ns_steps"],
            least_norm=group["ns_eps"],
            precision=self.precision,
        )
        return change.reshape(ahead.shape)


class Lion(Optimizer):
    """Lion (arXiv 2302.06675, Algorithm 2)."""

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        super().__init__(list(groups), {})
        for weight in _weights(self):
            self.state[weight] = {"exp_avg": torch.zeros_like(weight)}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the parameters from their gradients."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for weight in group["params"]:
                own, grad = local_part(weight), local_part(weight.grad)
                momentum = local_part(self.state[weight]["exp_avg"])
                own.mul_(1 - group["lr"] * group["weight_decay"])
                own.add_(momentum.lerp(grad, 1 - beta1).sign_(), alpha=-group["lr"])
                momentum.lerp_(grad, 1 - beta2)
