"""AdamW on flat parameters (T, P), each trial with its own hyperparameters (arXiv 1711.05101).

All parameters of a trial lie in one row, so a step is a dozen elementwise operations whatever the
model, and the µP factors are one vector over the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hptransfer.config import TrialConfig
from hptransfer.config.choices import WeightDecayMode
from hptransfer.models.parametrization.factors import adam_betas, base_weight_decay
from hptransfer.training.packs.pack import Pack

SMALL_ROOT = 10.0  # epsilons below which a root of the second moment is counted as small
CONTROLLED = ("lr", "beta1", "beta2", "eps")  # HPs that enter a step's bias corrections


def _per_trial(configs: Sequence[TrialConfig], name: str, device: torch.device) -> Tensor:
    values = [_values(config)[name] for config in configs]
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)


def _values(config: TrialConfig) -> dict[str, float]:
    """Return a trial's hyperparameters, before the factor of a parameter."""
    beta1, beta2 = adam_betas(config)
    own = {"lr": config.optimizer.lr, "beta1": beta1, "beta2": beta2, "eps": config.optimizer.eps}
    return {**own, "weight_decay": base_weight_decay(config)}


class PackedAdamW:
    """AdamW for T trials at once; equals `torch.optim.AdamW` on `param_groups` for each trial.

    Everything that depends on the step's number is computed on the host (`controls`). The step
    itself is then the same operations on the same tensors every time, and can be captured.
    """

    def __init__(self, pack: Pack) -> None:
        configs, device = pack.configs, pack.device
        self.pack = pack
        self.moment1 = torch.zeros_like(pack.flat, requires_grad=False)
        self.moment2 = torch.zeros_like(pack.flat, requires_grad=False)
        # Memory for intermediate results, since allocating it costs a third of a step; compiled
        # code needs none.
        compiled = pack.runtime.compiled
        self.scratch = None if compiled else torch.empty_like(pack.flat, requires_grad=False)
        cpu = torch.device("cpu")
        self.on_host = [_per_trial(configs, name, cpu).squeeze(1) for name in CONTROLLED]
        self.beta1, self.beta2 = (_per_trial(configs, name, device) for name in ("beta1", "beta2"))
        norms = [config.optimizer.clip_norm for config in configs]
        self.clip_norm = None
        if any(norm is not None for norm in norms):
            known = [math.inf if norm is None else norm for norm in norms]
            self.clip_norm = torch.tensor(known, device=device)
        factors = [rule.factors for rule in pack.rules]
        self.lr_factor = _over_entries(pack, [each.lr for each in factors])
        self.eps_factor = _over_entries(pack, [each.eps for each in factors])
        self.decay = _decay_per_step(pack)

    def keep(self, pack: Pack, members: Sequence[int]) -> PackedAdamW:
        """Return the optimizer of `pack`, which holds these members only, with their moments."""
        kept = PackedAdamW(pack)
        kept.moment1, kept.moment2 = (m[list(members)] for m in (self.moment1, self.moment2))
        return kept

    def controls(self, step: int, multiplier: Tensor) -> Tensor:
        """Return the controls of step `step` (from 0) at the schedule's multiplier (T,).

        They are (3, T) on the CPU: the multiplier, the rate with both bias corrections, and the
        corrected epsilon.
        """
        lr, beta1, beta2, eps = self.on_host
        debias1 = 1 - beta1.double() ** (step + 1)
        # m/(√(v/b) + ε) = √b·m/(√v + √b·ε) with b the second moment's bias correction.
        root = (1 - beta2.double() ** (step + 1)).sqrt()
        rate = (multiplier * lr * root / debias1).float()
        return torch.stack([multiplier, rate, (root * eps).float()])

    def clip(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Clip each trial's global norm of grad (T, P) in place.

        Returns the norms before (T,), and 1.0 for each trial that was clipped, else 0.0 (T,).
        """
        norm = torch.linalg.vector_norm(grad, dim=1)
        if self.clip_norm is None:
            return norm, torch.zeros_like(norm)
        scale = (self.clip_norm / (norm + 1e-6)).clamp_max(1.0)
        grad.mul_(scale.unsqueeze(1))
        return norm, (scale < 1.0).float()

    @torch.no_grad()
    def step(self, grad: Tensor, controls: Tensor, alive: Tensor) -> None:
        """Update the parameters from grad (T, P) and a step's `controls` (3, T).

        Trials that are not `alive` (T,) keep their parameters.
        """
        multiplier, rate, eps = controls.unsqueeze(2).unbind(0)
        # A product with zero would not do: a rate may be infinite.
        multiplier, rate = (torch.where(alive.unsqueeze(1), c, 0.0) for c in (multiplier, rate))
        flat, out = self.pack.flat, self.scratch
        if self.decay is not None:
            flat.mul_(1 - multiplier * self.decay)
        self.moment1.lerp_(grad, 1 - self.beta1)
        self.moment2.lerp_(torch.mul(grad, grad, out=out), 1 - self.beta2)
        root = torch.sqrt(self.moment2, out=out).add_(eps * self.eps_factor)
        change = torch.div(self.moment1, root, out=out).mul_(self.lr_factor)
        flat.addcmul_(change, rate, value=-1.0)

    def small_root_share(self, steps: int) -> Tensor:
        """Return the share of entries that epsilon holds back after so many steps: (T,).

        Their root of the second moment is below `SMALL_ROOT` epsilon. Entries that never had a
        gradient are left out; NaN where there are no others.
        """
        multiplier = torch.ones(len(self.pack))
        eps = self.controls(steps - 1, multiplier)[2].to(self.pack.device).unsqueeze(1)
        moved = self.moment2 > 0
        small = moved & (self.moment2.sqrt() < SMALL_ROOT * eps * self.eps_factor)
        return small.sum(1) / moved.sum(1)

    @torch.no_grad()
    def quarantine(self, dead: Tensor) -> None:
        """Zero the weights and moments of the trials in `dead` (T,), so that no NaN is left."""
        for tensor in (self.pack.flat, self.moment1, self.moment2):
            tensor.masked_fill_(dead.unsqueeze(1), 0.0)


def _over_entries(pack: Pack, values: Sequence[float]) -> Tensor:
    """Return a factor for each entry of a flat row: (P,), or a scalar where all are equal."""
    if len(set(values)) == 1:
        return torch.tensor(values[0], dtype=torch.float32, device=pack.device)
    return pack.over_entries(values)


def _decay_per_step(pack: Pack) -> Tensor | None:
    """Return the share that each entry decays per step at multiplier 1: (T, 1) or (T, P)."""
    lr, decay = (_per_trial(pack.configs, name, pack.device) for name in ("lr", "weight_decay"))
    if not bool((decay > 0).any()):
        return None
    # Rounded, so that factors of a rate and a decay that undo each other are one scalar.
    products = (rule.factors.lr * rule.factors.weight_decay for rule in pack.rules)
    shares = [float(f"{product:.12g}") for product in products]
    independent = pack.configs[0].parametrization.weight_decay_mode is WeightDecayMode.independent
    return (decay if independent else lr * decay) * _over_entries(pack, shares)
