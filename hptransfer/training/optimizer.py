"""AdamW on flat parameters (T, P) with every hyperparameter per trial (arXiv 1711.05101).

All parameters of a trial lie in one row, so a step is a dozen elementwise operations whatever the
model, and the µP factors are one vector over the row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hptransfer.config import TrialConfig
from hptransfer.parametrization import parameter_rules
from hptransfer.vocabulary import WeightDecayMode


def _per_trial(configs: Sequence[TrialConfig], name: str, device: torch.device) -> Tensor:
    values = [getattr(config.optimizer, name) for config in configs]
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)


class PackedAdamW:
    """AdamW for T trials at once; equals `torch.optim.AdamW` on `param_groups` for each."""

    def __init__(self, flat: Tensor, configs: Sequence[TrialConfig]) -> None:
        device = flat.device
        self.flat = flat
        self.moment1 = torch.zeros_like(flat, requires_grad=False)
        self.moment2 = torch.zeros_like(flat, requires_grad=False)
        self.scratch = torch.empty_like(flat, requires_grad=False)  # allocating costs a third
        self.lr, self.beta1, self.beta2, self.eps = (
            _per_trial(configs, name, device) for name in ("lr", "beta1", "beta2", "eps")
        )
        self.clip_norm = _clip_norms(configs, device)
        self.lr_factor, self.eps_factor = (
            _over_parameters(configs[0], name, device) for name in ("lr", "eps")
        )
        self.decay = _decay_per_step(configs, self.lr, self.lr_factor, device)
        self.step_count = 0

    def clip(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Clip each trial's global norm in place; return the norms before and who was clipped."""
        norm = torch.linalg.vector_norm(grad, dim=1)
        if self.clip_norm is None:
            return norm, torch.zeros_like(norm)
        scale = (self.clip_norm / (norm + 1e-6)).clamp_max(1.0)
        grad.mul_(scale.unsqueeze(1))
        return norm, (scale < 1.0).float()

    @torch.no_grad()
    def step(self, grad: Tensor, multiplier: Tensor) -> None:
        """Update the parameters from grad (T, P) at the schedule's multiplier (T,).

        A trial whose multiplier is zero keeps its parameters, whatever its moments.
        """
        self.step_count += 1
        multiplier, scratch = multiplier.unsqueeze(1), self.scratch
        if self.decay is not None:
            self.flat.mul_(1 - multiplier * self.decay)
        self.moment1.lerp_(grad, 1 - self.beta1)
        self.moment2.lerp_(torch.mul(grad, grad, out=scratch), 1 - self.beta2)
        debias1 = 1 - self.beta1.double() ** self.step_count
        # m/(√(v/b) + ε) = √b·m/(√v + √b·ε) with b the second moment's bias correction.
        root = (1 - self.beta2.double() ** self.step_count).sqrt()
        torch.sqrt(self.moment2, out=scratch).add_((root * self.eps).float() * self.eps_factor)
        torch.div(self.moment1, scratch, out=scratch).mul_(self.lr_factor)
        rate = (multiplier * self.lr * root / debias1).float()
        self.flat.addcmul_(scratch, rate, value=-1.0)

    @torch.no_grad()
    def quarantine(self, dead: Tensor) -> None:
        """Zero the weights and moments of dead trials (T,), so that no NaN stays in memory."""
        for tensor in (self.flat, self.moment1, self.moment2):
            tensor.masked_fill_(dead.unsqueeze(1), 0.0)


def _clip_norms(configs: Sequence[TrialConfig], device: torch.device) -> Tensor | None:
    norms = [config.optimizer.clip_norm for config in configs]
    if all(norm is None for norm in norms):
        return None
    return torch.tensor([float("inf") if n is None else n for n in norms], device=device)


def _over_parameters(config: TrialConfig, name: str, device: torch.device) -> Tensor:
    """Return a factor for each entry of a flat row: (P,), or a scalar where all are equal."""
    rules = parameter_rules(config)
    values = torch.tensor([getattr(rule.factors, name) for rule in rules], dtype=torch.float32)
    if bool((values == values[0]).all()):
        return values[0].to(device)
    sizes = torch.tensor([torch.Size(rule.shape).numel() for rule in rules])
    return values.repeat_interleave(sizes).to(device)


def _decay_per_step(
    configs: Sequence[TrialConfig], lr: Tensor, lr_factor: Tensor, device: torch.device
) -> Tensor | None:
    """Return what each entry loses per step at multiplier 1: (T, 1) or (T, P)."""
    decay = _per_trial(configs, "weight_decay", device)
    if not bool((decay > 0).any()):
        return None
    match configs[0].parametrization.weight_decay_mode:
        case WeightDecayMode.independent:
            return decay
        case WeightDecayMode.mup:
            return lr * decay
        case WeightDecayMode.unscaled:
            return lr * decay * lr_factor
