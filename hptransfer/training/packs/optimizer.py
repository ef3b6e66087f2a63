"""The optimizers of packs, each trial with its own hyperparameters.

All parameters of a trial lie in one row of (T, P), so a step is a dozen elementwise operations
whatever the model, and the µP factors are one vector over the row. Muon's matrices are the end of
the row, those of equal shape beside each other, so that its step is a few batched products over
layers and trials. In such a product no matrix depends on another one, and on a CPU a matrix has the
same bits in a batch of any size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple, Self

import torch
from torch import Tensor

from hptransfer.config import LionConfig, MuonConfig, TrialConfig
from hptransfer.config.choices import WeightDecayMode
from hptransfer.models.parametrization.factors import base_weight_decay, moment_decay
from hptransfer.models.parametrization.muon import Matrices
from hptransfer.models.parametrization.rules import lr_mult
from hptransfer.training.orthogonal import orthogonalised
from hptransfer.training.packs.pack import Pack, alike_under_muon

SMALL_ROOT = 10.0  # epsilons below which a root of the second moment is counted as small


def packed_optimizer(pack: Pack) -> PackedOptimizer:
    """Return the optimizer of a pack's trials, which share its kind."""
    match pack.configs[0].optimizer:
        case MuonConfig():
            return PackedMuon(pack)
        case LionConfig():
            return PackedLion(pack)
        case _:
            return PackedAdamW(pack)


def _per_trial(configs: Sequence[TrialConfig], name: str, device: torch.device) -> Tensor:
    """Return a hyperparameter of each trial, before the factor of a parameter: (T, 1)."""
    values = [getattr(config.optimizer, name) for config in configs]
    if name in ("beta1", "beta2", "momentum"):
        pairs = zip(configs, values, strict=True)
        values = [moment_decay(config, value) for config, value in pairs]
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)


class PackedOptimizer:
    """What the optimizers of packs share: moments, clipping, and the removal of dead trials.

    Everything that depends on the step's number is computed on the host (`controls`). The step
    itself is then the same operations on the same tensors every time, and can be captured.
    """

    MOMENTS: tuple[str, ...] = ("moment1",)  # the tensors of earlier steps, each (T, ...)

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self.moment1 = torch.zeros_like(pack.flat, requires_grad=False)
        norms = [config.optimizer.clip_norm for config in pack.configs]
        self.clip_norm = None
        if any(norm is not None for norm in norms):
            known = [math.inf if norm is None else norm for norm in norms]
            self.clip_norm = torch.tensor(known, device=pack.device)

    @property
    def moments(self) -> dict[str, Tensor]:
        """The tensors of earlier steps by name, each (T, ...)."""
        return {name: getattr(self, name) for name in self.MOMENTS}

    def keep(self, pack: Pack, members: Sequence[int]) -> Self:
        """Return the optimizer of `pack`, which holds these members only, with their moments."""
        kept = type(self)(pack)
        for name, moment in self.moments.items():
            setattr(kept, name, moment[list(members)])
        return kept

    def controls(self, step: int, multiplier: Tensor) -> Tensor:
        """Return the controls (n, T) of step `step` (from 0), on the CPU.

        `multiplier` (T,) is the schedule's.
        """
        raise NotImplementedError

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

    def step(self, grad: Tensor, controls: Tensor, alive: Tensor) -> None:
        """Update the parameters from grad (T, P) and a step's `controls` (n, T).

        Trials that are not `alive` (T,) keep their parameters.
        """
        raise NotImplementedError

    def small_root_share(self, steps: int) -> Tensor:
        """Return the share of entries that epsilon holds back after so many steps: (T,).

        It is NaN where the optimizer has no epsilon.
        """
        return torch.full((len(self.pack),), math.nan, device=self.pack.device)

    @torch.no_grad()
    def quarantine(self, dead: Tensor) -> None:
        """Zero the weights and moments of the trials in `dead` (T,), so that no NaN is left."""
        for tensor in (self.pack.flat, *self.moments.values()):
            tensor.masked_fill_(dead.unsqueeze(1), 0.0)


def _of_living(control: Tensor, alive: Tensor) -> Tensor:
    """Return a control (T, 1) that is zero for the dead, even if it is infinite."""
    return torch.where(alive.unsqueeze(1), control, 0.0)


class PackedAdamW(PackedOptimizer):
    """AdamW for T trials at once; equals `torch.optim.AdamW` on `param_groups` for each trial.

    It updates the first entries of a row: all of them, unless Muon has matrices at the end.
    """

    MOMENTS = ("moment1", "moment2")
    LR = "lr"  # field of the base learning rate

    def __init__(self, pack: Pack) -> None:
        super().__init__(pack)
        configs, device = pack.configs, pack.device
        self.entries = pack.entries_before_matrices
        self.moment2 = torch.zeros_like(pack.flat[:, : self.entries], requires_grad=False)
        # Memory for intermediate results, since allocating it costs a third of a step; compiled
        # code needs none.
        self.scratch = None if pack.runtime.compiled else torch.empty_like(self.moment2)
        cpu = torch.device("cpu")
        names = (self.LR, "beta1", "beta2", "eps")  # what the bias corrections take
        self.on_host = [_per_trial(configs, name, cpu).squeeze(1) for name in names]
        self.beta1, self.beta2 = (_per_trial(configs, name, device) for name in ("beta1", "beta2"))
        self.eps_factor = _over_entries(pack, [rule.factors.eps for rule in pack.plain_rules])
        self.decay = _decay_per_step(pack, self.LR)
        self.lr_factor = _multiplied(pack, _lr_factor(pack))

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

    @torch.no_grad()
    def step(self, grad: Tensor, controls: Tensor, alive: Tensor) -> None:
        """Update the entries before the matrices from grad (T, P) and `controls` (3, T)."""
        multiplier, rate, eps = controls.unsqueeze(2).unbind(0)
        multiplier, rate = (_of_living(control, alive) for control in (multiplier, rate))
        flat, grad, moment1 = (t[:, : self.entries] for t in (self.pack.flat, grad, self.moment1))
        out = self.scratch
        if self.decay is not None:
            flat.mul_(1 - multiplier * self.decay)
        moment1.lerp_(grad, 1 - self.beta1)
        self.moment2.lerp_(torch.mul(grad, grad, out=out), 1 - self.beta2)
        root = torch.sqrt(self.moment2, out=out).add_(eps * self.eps_factor)
        change = torch.div(moment1, root, out=out).mul_(self.lr_factor)
        flat.addcmul_(change, rate, value=-1.0)

    def small_root_share(self, steps: int) -> Tensor:
        """Return the share of entries that epsilon holds back after so many steps: (T,).

        Their root of the second moment is below `SMALL_ROOT` epsilon. Entries that never had a
        gradient are left out; NaN where there are no others.
        """
        multiplier = torch.ones(len(self.pack))
        eps = self.controls(steps - 1, multiplier)[2].to(self.pack.device)
        shares = []
        # One trial after another, since all at once would take more memory than a training step.
        for squares, own in zip(self.moment2, eps, strict=True):
            moved = squares > 0
            small = moved & (squares.sqrt() < SMALL_ROOT * own * self.eps_factor)
            shares.append(small.sum() / moved.sum())
        return torch.stack(shares)


class PackedLion(PackedOptimizer):
    """Lion for T trials at once (arXiv 2302.06675, Algorithm 2)."""

    def __init__(self, pack: Pack) -> None:
        super().__init__(pack)
        configs, device = pack.configs, pack.device
        self.lr = _per_trial(configs, "lr", torch.device("cpu")).squeeze(1)
        self.beta1, self.beta2 = (_per_trial(configs, name, device) for name in ("beta1", "beta2"))
        self.decay = _decay_per_step(pack, "lr")
        self.lr_factor = _multiplied(pack, _lr_factor(pack))

    def controls(self, step: int, multiplier: Tensor) -> Tensor:
        """Return the controls (2, T) on the CPU: the schedule's multiplier (T,), and the rate."""
        return torch.stack([multiplier, multiplier * self.lr])

    @torch.no_grad()
    def step(self, grad: Tensor, controls: Tensor, alive: Tensor) -> None:
        """Update the parameters from grad (T, P) and `controls` (2, T)."""
        multiplier, rate = (_of_living(c, alive) for c in controls.unsqueeze(2).unbind(0))
        flat = self.pack.flat
        if self.decay is not None:
            flat.mul_(1 - multiplier * self.decay)
        change = self.moment1.lerp(grad, 1 - self.beta1).sign_().mul_(self.lr_factor)
        flat.addcmul_(change, rate, value=-1.0)
        self.moment1.lerp_(grad, 1 - self.beta2)


class MatrixRun(NamedTuple):
    """Weights beside each other in a row that Muon treats alike."""

    matrices: Matrices  # of each weight
    first: int  # the entry of the row at which they begin
    weights: int
    stride: int  # entries from one weight to the next; more than its own if there is padding
    lr_factor: Tensor  # (T, 1, 1, 1, 1): of the rate, with the scale of an update
    decay: Tensor | None  # (T, 1, 1, 1, 1): share that is lost per step at multiplier 1

    @property
    def sides(self) -> tuple[int, int]:
        """The smaller and the larger side of a matrix."""
        small, large = sorted((self.matrices.rows, self.matrices.columns))
        return small, large

    def of(self, rows: Tensor) -> Tensor:
        """Return these weights in a tensor (T, P) as (T, weights, matrices, rows, columns)."""
        count, height, width = self.matrices
        run = rows[:, self.first : self.first + self.weights * self.stride]
        each = run.unflatten(1, (self.weights, self.stride))[..., : count * height * width]
        return each.unflatten(2, (count, height, width))

    def lying(self, rows: Tensor) -> Tensor:
        """Return all matrices in a tensor (T, P) as (T, n, small side, large side)."""
        matrices = self.of(rows).flatten(1, 2)
        return matrices.mT if self.matrices.rows > self.matrices.columns else matrices

    def standing(self, lying: Tensor) -> Tensor:
        """Return matrices (T, n, small side, large side) in the shape of `of`."""
        matrices = lying.mT if self.matrices.rows > self.matrices.columns else lying
        return matrices.unflatten(1, (self.weights, self.matrices.count))


class PackedMuon(PackedAdamW):
    """Muon on the matrices at the end of a row, AdamW on all entries before them.

    `moment1` holds the matrices' momentum and AdamW's first moment. Matrices whose sides are equal
    share their products, tall ones transposed.
    """

    LR = "adam_lr"

    def __init__(self, pack: Pack) -> None:
        super().__init__(pack)
        configs = pack.configs
        assert isinstance(configs[0].optimizer, MuonConfig)
        self.common, self.precision = configs[0].optimizer, configs[0].precision
        self.matrix_lr = _per_trial(configs, "lr", torch.device("cpu")).squeeze(1)
        self.momentum = _per_trial(configs, "momentum", pack.device)
        runs = sorted(_matrix_runs(pack), key=lambda run: run.sides)
        self.batches = [list(alike) for _, alike in groupby(runs, lambda run: run.sides)]

    def controls(self, step: int, multiplier: Tensor) -> Tensor:
        """Return the controls (4, T) on the CPU: those of AdamW, and the matrices' rate."""
        rate = multiplier * self.matrix_lr
        return torch.cat([super().controls(step, multiplier), rate.unsqueeze(0)])

    @torch.no_grad()
    def step(self, grad: Tensor, controls: Tensor, alive: Tensor) -> None:
        """Update the parameters from grad (T, P) and `controls` (4, T)."""
        super().step(grad, controls[:3], alive)
        multiplier, rate = (
            _of_living(control.unsqueeze(1), alive)[..., None, None, None]
            for control in (controls[0], controls[3])
        )
        momentum, ahead = self.moment1[:, self.entries :], grad[:, self.entries :]
        momentum.lerp_(ahead, 1 - self.momentum)
        ahead = ahead.lerp(momentum, self.momentum) if self.common.nesterov else momentum
        for batch in self.batches:
            changes = orthogonalised(
                torch.cat([run.lying(ahead) for run in batch], dim=1),
                steps=self.common.ns_steps,
                least_norm=self.common.ns_eps,
                precision=self.precision,
            )
            parts = changes.split([run.weights * run.matrices.count for run in batch], dim=1)
            for run, change in zip(batch, parts, strict=True):
                weights = run.of(self.pack.flat[:, self.entries :])
                if run.decay is not None:
                    weights.mul_(1 - multiplier * run.decay)
                weights.addcmul_(run.standing(change), rate * run.lr_factor, value=-1.0)


def _matrix_runs(pack: Pack) -> list[MatrixRun]:
    """Return the runs of the row's matrices, their first entries counted from the matrices on."""
    configs, optimizer = pack.configs, pack.configs[0].optimizer
    assert isinstance(optimizer, MuonConfig)
    decays = any(config.optimizer.weight_decay > 0 for config in configs)

    def over_trials(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=pack.device).view(-1, 1, 1, 1, 1)

    runs, first = [], 0
    for (matrices, _, _), alike in groupby(pack.matrix_rules, alike_under_muon):
        rules = list(alike)
        rule, stride = rules[0], pack.aligned(math.prod(rules[0].shape))
        factor = rule.factors.lr * matrices.scale(optimizer.scale)
        share = rule.factors.lr * rule.factors.weight_decay  # the rate cancels out
        run = MatrixRun(
            matrices=matrices,
            first=first,
            weights=len(rules),
            stride=stride,
            lr_factor=over_trials([factor * lr_mult(config, rule) for config in configs]),
            decay=over_trials([c.optimizer.weight_decay * share for c in configs])
            if decays
            else None,
        )
        runs.append(run)
        first += len(rules) * stride
    return runs


def _lr_factor(pack: Pack) -> Tensor:
    return _over_entries(pack, [rule.factors.lr for rule in pack.plain_rules])


def _over_entries(pack: Pack, values: Sequence[float]) -> Tensor:
    """Return a factor for each entry before the matrices: (P',), or a scalar if all are equal."""
    if len(set(values)) == 1:
        return torch.tensor(values[0], dtype=torch.float32, device=pack.device)
    return pack.over_entries(values)


def _multiplied(pack: Pack, lr_factor: Tensor) -> Tensor:
    """Return the rate's factors with those of groups: (T, P') if any is not 1."""
    multipliers = _group_multipliers(pack)
    return lr_factor if multipliers is None else lr_factor * multipliers


def _group_multipliers(pack: Pack) -> Tensor | None:
    """Return what multiplies each entry's base rate: (T, P'), or None where all are 1."""
    each = [[lr_mult(config, rule) for rule in pack.plain_rules] for config in pack.configs]
    if all(value == 1.0 for values in each for value in values):
        return None
    return torch.stack([pack.over_entries(values) for values in each])


def _decay_per_step(pack: Pack, lr_field: str) -> Tensor | None:
    """Return the share that each entry loses per step at multiplier 1: (T, 1) or (T, P')."""
    configs, device = pack.configs, pack.device
    decays = [base_weight_decay(config) for config in configs]
    if not any(decay > 0 for decay in decays):
        return None
    decay = torch.tensor(decays, dtype=torch.float32, device=device).unsqueeze(1)
    # Rounded, so that factors of a rate and a decay that undo each other are one scalar.
    products = (rule.factors.lr * rule.factors.weight_decay for rule in pack.plain_rules)
    shares = _over_entries(pack, [float(f"{product:.12g}") for product in products])
    if configs[0].parametrization.weight_decay_mode is WeightDecayMode.independent:
        return decay * shares
    return _multiplied(pack, _per_trial(configs, lr_field, device) * decay) * shares
