"""The trial axis: trials of equal shapes as one program over stacked parameters.

One plain model serves as the template; all trials' parameters are rows of one flat tensor (T, P),
and `torch.func.vmap` maps the template over them. The gradient of the summed losses is each
trial's own gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from hptransfer.config import CustomConfig, TrialConfig
from hptransfer.identity import shape_signature
from hptransfer.models.custom import packable_attention
from hptransfer.parametrization import (
    build_template,
    forward_multipliers,
    initial_parameters,
    parameter_rules,
)

Condition = tuple[Tensor, ...]  # labels, or a caption's tokens, mask and pooled features


class Pack:
    """T trials of one shape signature. `flat` (T, P) is the only leaf that requires a gradient."""

    def __init__(self, configs: Sequence[TrialConfig], device: torch.device) -> None:
        signatures = {shape_signature(config) for config in configs}
        assert len(signatures) == 1, "trials of a pack must share their shape signature"
        self.configs = tuple(configs)
        self.template = build_template(configs[0]).to(device)
        self.template.requires_grad_(False)
        rules = parameter_rules(configs[0])
        self.names = [rule.name for rule in rules]
        self.shapes = [rule.shape for rule in rules]
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes]
        rows = [_flat_row(config, self.names) for config in configs]
        self.flat = torch.stack(rows).to(device).requires_grad_()
        multipliers = [forward_multipliers(config) for config in configs]
        self.multipliers = {
            name: torch.tensor([m[name] for m in multipliers], device=device)
            for name in multipliers[0]
        }

    def __len__(self) -> int:
        return len(self.configs)

    def predict(
        self, x: Tensor, t: Tensor, condition: Condition, *, flat: Tensor | None = None
    ) -> Tensor:
        """Predict for x (T, B, C, H, W), t (T, B) and a condition of tensors (T, B, ...), with the
        weights `flat` if given.
        """
        stacked = self._stacked(self.flat if flat is None else flat)
        custom = isinstance(self.configs[0].model, CustomConfig)  # its attention may be fused
        with packable_attention() if custom else nullcontext():
            return vmap(self._member)(stacked, x, t, condition)

    def member_tensors(self, member: int) -> dict[str, Tensor]:
        """Return one trial's parameters and multipliers by name, for a call of the template."""
        return {name: tensor[member] for name, tensor in self._stacked(self.flat).items()}

    def member_parameters(self, flat: Tensor, member: int) -> dict[str, Tensor]:
        """Return one trial's parameters by name from weights `flat` (T, P)."""
        stacked = self._stacked(flat)
        return {name: stacked[name][member] for name in self.names}

    def _stacked(self, flat: Tensor) -> dict[str, Tensor]:
        columns = flat.split(self.sizes, dim=1)
        stacked = {
            name: column.unflatten(1, shape)
            for name, column, shape in zip(self.names, columns, self.shapes, strict=True)
        }
        return {**stacked, **self.multipliers}

    def _member(
        self, tensors: dict[str, Tensor], x: Tensor, t: Tensor, condition: Condition
    ) -> Tensor:
        return functional_call(self.template, tensors, (x, t, *condition))


def _flat_row(config: TrialConfig, names: Sequence[str]) -> Tensor:
    parameters = initial_parameters(config)
    return torch.cat([parameters[name].flatten() for name in names])
