"""The trial axis: trials of equal shapes as one program over stacked parameters.

One plain model serves as the template. The parameters of each trial are one row of a flat tensor
(T, P). The families' layers accept parameters stacked along the trial axis; a custom model is
mapped over that axis by `torch.func.vmap`. Since the trials share no parameter, the gradient of the
summed losses with respect to a row is the gradient of that trial's loss.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from hptransfer.config import CustomConfig, DDPMConfig, RuntimeConfig, TrialConfig
from hptransfer.config.identity import shape_signature
from hptransfer.models.families.custom import packable_attention, prediction_of
from hptransfer.models.parametrization.factors import Factors
from hptransfer.models.parametrization.muon import Matrices
from hptransfer.models.parametrization.rules import (
    ParameterRule,
    build_template,
    forward_multipliers,
    initial_parameters,
    parameter_rules,
)
from hptransfer.training.batches import seeds_of
from hptransfer.training.device import (
    arithmetic,
    autocast,
    bound_terms_on,
    compile_blocks,
    compiled,
    compiles_whole,
    products_library,
    refuse_uncompilable,
    require_device_fits,
    settled,
)
from hptransfer.training.objectives import asked_in_training, auxiliary_loss

ConditionTensors = tuple[Tensor, ...]  # labels, or a caption's tokens, mask and pooled features

# Floats of which each parameter's place in a row is a multiple. On a GPU compiled kernels copy
# parameters at other places before they use them.
ALIGNMENT = {"cpu": 1, "cuda": 16}


class Pack:
    """T trials of one shape signature. Their weights `flat` (T, P) alone require a gradient."""

    def __init__(
        self,
        configs: Sequence[TrialConfig],
        device: torch.device,
        runtime: RuntimeConfig | None = None,
    ) -> None:
        signatures = {shape_signature(config) for config in configs}
        assert len(signatures) == 1, "trials of a pack must share their shape signature"
        self.configs = tuple(configs)
        self.device = device
        runtime = RuntimeConfig(device=str(device)) if runtime is None else runtime
        self.runtime = settled(runtime, configs[0])
        require_device_fits(configs[0], self.runtime, captured=self.runtime.captured)
        self.template = build_template(configs[0]).to(device)
        self.template.requires_grad_(False)
        self.rules = parameter_rules(configs[0])
        self.plain_rules = [rule for rule in self.rules if rule.matrices is None]
        self.matrix_rules = in_runs([rule for rule in self.rules if rule.matrices is not None])
        alignment = ALIGNMENT[device.type]
        plain = row_layout(self.plain_rules, alignment)
        self.entries_before_matrices = sum(segment.size for segment in plain)
        self.segments = [*plain, *row_layout(self.matrix_rules, alignment)]
        rows = []
        for initial in map(initial_parameters, configs):
            parts = (initial.get(c.name, torch.zeros(c.shape)) for c in self.segments)
            rows.append(torch.cat([part.flatten() for part in parts]))
        self.flat = torch.stack(rows).to(device).requires_grad_()
        self._of_members()
        custom = isinstance(configs[0].model, CustomConfig)
        compiles = self.runtime.compiles(custom=custom)
        # Whether a step is compiled as a whole, and else whether the model is by itself.
        self.compiles_step = compiles and not custom and compiles_whole(self.template, device)
        self.compiled = compiles and not self.compiles_step
        # Bound to the template and not to this pack, whose rows a smaller pack must not keep alive.
        mapped = partial(_mapped, self.template)
        self.mapped = compiled(mapped) if self.compiled and custom else mapped
        if self.compiled and not custom:
            compile_blocks(self.template)
        self.bound_terms = bound_terms_on(device, self.runtime)

    def __len__(self) -> int:
        return len(self.configs)

    @property
    def mode(self) -> str:
        """How the pack computes, on which the last digits of its results depend."""
        parts = [name] if (name := products_library(self.configs[0], self.device)) else []
        if self.compiles_step:
            parts.append("step compiled")
        else:
            parts.append("model compiled" if self.compiled else "not compiled")
        return ", ".join([*parts, "captured"] if self.runtime.captured else parts)

    def predict(
        self, x: Tensor, t: Tensor, condition: ConditionTensors, *, flat: Tensor | None = None
    ) -> Tensor:
        """Return predictions (T, B, C', H, W) in float32, whatever the precision.

        Args:
            x: noised images (T, B, C, H, W).
            t: timesteps of the embedding (T, B), 0 to 1000.
            condition: labels, or tokens, mask and pooled features (T, B, ...).
            flat: weights (T, P) to use instead of the pack's own.
        """
        return prediction_of(self._called(x, t, condition, flat)).float()

    def predict_with_auxiliary(
        self,
        x: Tensor,
        t: Tensor,
        condition: ConditionTensors,
        features: Tensor,
        *,
        flat: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return predictions as `predict` does, and each trial's `auxiliary_loss` (T,).

        `features` (T, B, tokens, D) are a frozen encoder's, where the loss takes them.
        """
        asked = asked_in_training(self.configs[0], features)
        output = self._called(x, t, condition, flat, **asked)
        beside = auxiliary_loss(self.configs[0].model, output, features)
        return prediction_of(output).float(), beside

    def _called(
        self,
        x: Tensor,
        t: Tensor,
        condition: ConditionTensors,
        flat: Tensor | None,
        **asked: Any,
    ) -> Any:
        """Return what the model returns for all trials, called with `asked_in_training` or not."""
        stacked = self._stacked(self.flat if flat is None else flat)
        model = self.configs[0].model
        with autocast(self.configs[0].precision, self.device):
            if isinstance(model, CustomConfig):
                refused = refuse_uncompilable(model.factory) if self.compiled else nullcontext()
                with packable_attention(compiled=self.compiled), refused:
                    return self.mapped(stacked, x, t, condition, asked)
            return functional_call(self.template, stacked, (x, t, *condition), asked)

    def arithmetic(self) -> AbstractContextManager[None]:
        """Set the device's arithmetic to the trials' for forward and backward in a `with` block."""
        return arithmetic(self.configs[0], self.device)

    def of_seeds(self, shared: Tensor) -> Tensor:
        """Return each member's part (T, ...) of a tensor by seed (S, ...); a view if S is 1."""
        if len(shared) == 1:
            return shared.expand(len(self), *shared.shape[1:])
        return shared.index_select(0, self.seed_index)

    def keep(self, members: Sequence[int]) -> Pack:
        """Return a pack of these members only, with their present weights."""
        kept = copy.copy(self)
        kept.configs = tuple(self.configs[member] for member in members)
        kept.flat = self.flat.detach()[list(members)].requires_grad_()
        kept._of_members()
        return kept

    def _of_members(self) -> None:
        """Set the tensors that hold one value per member: (T,)."""
        each = [forward_multipliers(config) for config in self.configs]
        seeds = seeds_of(self.configs)
        objectives = [config.objective for config in self.configs]
        bounds = [o.vlb_weight * o.timesteps for o in objectives if isinstance(o, DDPMConfig)]
        with self.device:
            # forward multipliers by buffer name
            self.multipliers = {n: torch.tensor([own[n] for own in each]) for n in each[0]}
            self.seed_index = torch.tensor([seeds.index(config.seed) for config in self.configs])
            # weights of a learned variance's bound, times the timesteps
            self.bound_weights = torch.tensor(bounds) if bounds else None
            # weights of REPA's loss or the model's own; None where there is none, as then for all
            beside = [config.auxiliary_weight for config in self.configs]
            weights = [weight for weight in beside if weight is not None]
            self.auxiliary_weights = torch.tensor(weights) if weights else None

    def over_entries(self, values: Sequence[float]) -> Tensor:
        """Return one value per rule of `plain_rules` for each of their entries; padding gets 1."""
        by_name = dict(zip((rule.name for rule in self.plain_rules), values, strict=True))
        segments = row_layout(self.plain_rules, ALIGNMENT[self.device.type])
        parts = [torch.full((c.size,), by_name.get(c.name, 1.0)) for c in segments]
        return torch.cat(parts).to(self.device)

    def aligned(self, entries: int) -> int:
        """Return the entries of a parameter in a row, padding included."""
        return aligned(entries, ALIGNMENT[self.device.type])

    def member_tensors(self, member: int) -> dict[str, Tensor]:
        """Return one trial's parameters and multipliers by name, for a functional call."""
        return {name: tensor[member] for name, tensor in self._stacked(self.flat).items()}

    def member_parameters(self, flat: Tensor, member: int) -> dict[str, Tensor]:
        """Return one trial's parameters by name from weights `flat` (T, P)."""
        stacked = self._stacked(flat)
        return {rule.name: stacked[rule.name][member] for rule in self.rules}

    def _stacked(self, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split([segment.size for segment in self.segments], dim=1)
        stacked = {
            segment.name: part.unflatten(1, segment.shape) if segment.shape else part.squeeze(1)
            for segment, part in zip(self.segments, parts, strict=True)
            if segment.name
        }
        return {**stacked, **self.multipliers}


def _mapped(
    template: nn.Module,
    stacked: dict[str, Tensor],
    x: Tensor,
    t: Tensor,
    condition: ConditionTensors,
    asked: dict[str, Tensor],
) -> Any:
    """Call a custom model once per trial, mapped over the trial axis of tensors and inputs."""
    call = partial(functional_call, template)
    return vmap(call)(stacked, (x, t, *condition), asked)


def alike_under_muon(rule: ParameterRule) -> tuple[Matrices, Factors, str]:
    """Return what the parameters of one run of matrices share."""
    assert rule.matrices is not None
    return rule.matrices, rule.factors, rule.rate_group


def in_runs(rules: Sequence[ParameterRule]) -> list[ParameterRule]:
    """Return matrices with those beside each other that are alike; else in the model's order."""
    runs: dict[tuple[Matrices, Factors, str], list[ParameterRule]] = {}
    for rule in rules:
        runs.setdefault(alike_under_muon(rule), []).append(rule)
    return [rule for run in runs.values() for rule in run]


class RowSegment(NamedTuple):
    """A segment of a flat row: a parameter, or padding, whose name is empty."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)


def row_layout(rules: Sequence[ParameterRule], alignment: int) -> list[RowSegment]:
    """Return the layout of parameters in a row, each at a multiple of `alignment` entries."""
    segments = []
    for rule in rules:
        segments.append(RowSegment(rule.name, tuple(rule.shape)))
        if padding := aligned(segments[-1].size, alignment) - segments[-1].size:
            segments.append(RowSegment("", (padding,)))
    return segments


def aligned(entries: int, alignment: int) -> int:
    """Return the entries of a parameter in a row, padding included."""
    return entries + -entries % alignment
