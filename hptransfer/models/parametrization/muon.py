"""Muon's part of the parametrization: the matrices that it takes, and their factors.

Muon orthogonalises the update of a matrix, so all of its singular values are near 1. An update with
the spectral norm √(out/in) changes outputs by as much at every width (arXiv 2310.17813, Condition
1). So a matrix with that scale has one learning rate at all widths.

Under `complete` (arXiv 2512.22382, which has AdamW alone) depth, batch size and duration change a
matrix's rate as they change AdamW's. Both rules need only what the two updates share. An update's
size does not depend on the gradient's, so that r blocks, each times r^-a, need r^(a-1) of the rate.
And where the noise of gradients dominates, a batch of b times the samples shows √b times the signal
in an update of the same size: the path is kept with √κ of the rate, κ times the decay, and κ times
1 - momentum, as arXiv 2205.10287 derives for Adam. No published table has these for Muon; nanochat
(scripts/base_train.py) takes √b for Muon too, and calls that an assumption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import NamedTuple

from torch import nn

from hptransfer.config import CustomConfig, Layout, ModelConfig, MuonConfig, TrialConfig
from hptransfer.config.choices import TRANSFERRING, Broken, MuonScale
from hptransfer.errors import UserError
from hptransfer.models.families.layers import FusedLinear, Modulation
from hptransfer.models.parametrization.factors import Factors, Role, clock_of, role_factors
from hptransfer.models.parametrization.roles import ShapedParameter, on_meta, shaped_parameters


class Matrices(NamedTuple):
    """A weight as Muon takes it: `count` matrices of `rows` x `columns`, one under another."""

    count: int
    rows: int  # out
    columns: int  # in

    def scale(self, kind: MuonScale) -> float:
        """Return what multiplies an orthogonalised update."""
        match kind:
            case MuonScale.spectral:
                return math.sqrt(self.rows / self.columns)
            case MuonScale.original:
                return math.sqrt(max(1.0, self.rows / self.columns))
            case MuonScale.match_rms_adamw:  # arXiv 2502.16982, Eq. 4
                return 0.2 * math.sqrt(max(self.rows, self.columns))


@cache
def matrices_by_name(model: ModelConfig, layout: Layout) -> Mapping[str, Matrices]:
    """Return how Muon would take each weight that it can take, by the weight's name.

    Those are hidden weights of two dimensions, and of convolutions, whose kernels count as inputs.
    A weight that holds several maps (queries, keys and values; the values of an adaptive norm; the
    groups of a convolution; `model.chunks`) is as many matrices.
    """
    network = on_meta(model, layout, model.width)
    found = {}
    for shaped in shaped_parameters(model, layout):
        if shaped.role is Role.hidden and (count := _maps(network, shaped)):
            found[shaped.name] = _cut(shaped.shape, count)
    stated = model.chunks if isinstance(model, CustomConfig) else ()
    for text in reversed(stated):  # the first pattern that matches counts
        pattern, count = _stated(text)
        names = [n for n in found if fnmatchcase(n, pattern) or fnmatchcase(_layer(n), pattern)]
        if not names:
            raise UserError(
                "Every pattern of `model.chunks` must match a hidden weight or its layer, but "
                f"{pattern!r} matches none. The first hidden weights are "
                f"{', '.join(list(found)[:8]) or 'none'}."
            )
        for name in names:
            rows = found[name].count * found[name].rows
            if rows % count:
                raise UserError(
                    f"`model.chunks` must cut a weight into equal parts, but {name} has {rows} "
                    f"rows, which {count} does not divide."
                )
            found[name] = Matrices(count, rows // count, found[name].columns)
    return found


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _cut(shape: tuple[int, ...], count: int) -> Matrices:
    return Matrices(count, shape[0] // count, math.prod(shape[1:]))


def _maps(network: nn.Module, shaped: ShapedParameter) -> int:
    """Return how many matrices a hidden weight is, or 0 if it is none that Muon takes."""
    layer = network.get_submodule(_layer(shaped.name))
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer.groups
    if len(shaped.shape) != 2:
        return 0
    if isinstance(layer, FusedLinear):
        return layer.maps
    own = shaped.name.rpartition(".")[2]
    return 3 if isinstance(layer, nn.MultiheadAttention) and own == "in_proj_weight" else 1


def _stated(text: str) -> tuple[str, int]:
    pattern, _, count = text.rpartition("=")
    if not pattern or not count.isdecimal() or int(count) == 0:
        raise UserError(
            "`model.chunks` must hold entries pattern=n, where n is the number of matrices under "
            f"one another, but got {text!r}."
        )
    return pattern, int(count)


def rate_group(model: ModelConfig, layout: Layout, shaped: ShapedParameter) -> str:
    """Return the group of a parameter whose rate `optimizer.lr_mult_<group>` multiplies."""
    network = on_meta(model, layout, model.width)
    layer = network.get_submodule(_layer(shaped.name))
    adaptive = isinstance(layer, Modulation) and shaped.role is Role.hidden
    return "adaln" if adaptive else shaped.role.value


def matrices_of(config: TrialConfig, shaped: ShapedParameter) -> Matrices | None:
    """Return a parameter as the trial's Muon takes it; None if another rule updates it."""
    if not isinstance(config.optimizer, MuonConfig):
        return None
    return matrices_by_name(config.model, config.layout).get(shaped.name)


def muon_factors(
    matrices: Matrices, shaped: ShapedParameter, config: TrialConfig, r: float
) -> Factors:
    """Return the factors of a matrix under Muon, at depth ratio r.

    The rate's is that of depth and κ, times what makes the update's scale √(out/in) up to a
    constant. A step takes the share κ·m^decay_exponent of λ off the matrix, whatever the rate.
    """
    optimizer, parametrization = config.optimizer, config.parametrization
    assert isinstance(optimizer, MuonConfig)
    m, kappa = shaped.width_mult, clock_of(config)
    lr = role_factors(Role.vector, m, parametrization, r, kappa).lr
    if parametrization.scaling in TRANSFERRING:
        base = _cut(shaped.base_shape, matrices.count)
        wanted, own = (
            matrices.scale(kind) / base.scale(kind)
            for kind in (MuonScale.spectral, optimizer.scale)
        )
        fault = {Broken.hidden_lr: m, Broken.hidden_lr_squared: 1 / m}
        lr *= wanted / own * fault.get(parametrization.broken, 1.0)
    decay = kappa * m**optimizer.decay_exponent / lr
    return Factors(lr=lr, weight_decay=decay, eps=1.0, forward=1.0)
