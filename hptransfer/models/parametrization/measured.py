"""The initial stds of a custom model, measured at three widths and rescaled where µP needs it.

Shapes tell a parameter's role, but not how its initial std depends on width. So the std is measured
as the root mean square (RMS) of the entries over several draws, at three widths, and an exponent in
width is fitted. µP needs -1/2 for hidden weights and 0 for all others (arXiv 2203.03466, Table 8).
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from hptransfer.config import CustomConfig, ParametrizationConfig, TrialConfig
from hptransfer.config.choices import TRANSFERRING
from hptransfer.errors import UserError
from hptransfer.models.families.custom import build_custom_model
from hptransfer.models.parametrization.factors import Role, init_factor
from hptransfer.models.parametrization.roles import ShapedParameter, shaped_parameters
from hptransfer.system.random_streams import torch_generator

INIT_EXPONENT_TOLERANCE = 0.1  # allowed error of an exponent, beside twice its standard error
MEASURED_DRAWS = 16  # draws at the measured widths; at wider ones fewer, of as many entries
FEW_ENTRIES = 1024  # of a tensor, over draws: its std is then known no better than within 2 %
_MULTIPLES = (1, 2, 4)  # measured widths, in multiples of the base width
ROUNDING = 1e-3  # relative error of a constant that is stored in few bits


@dataclass(frozen=True)
class MeasuredSpread:
    """The RMS of a parameter's entries over draws."""

    rms: float
    entries: int  # number of entries, of all draws
    constant: bool  # all entries of all draws are equal: a norm's gain, a zero bias


@dataclass(frozen=True)
class MeasuredInit:
    """A parameter's initial spread at base width, and the measured exponent in width."""

    base: MeasuredSpread
    exponent: float  # 0 if all entries are zero
    error: float  # the exponent's standard error


@cache
def _spreads(model: CustomConfig, width: int) -> dict[str, MeasuredSpread]:
    """Return the measured spread of every trainable parameter at a width, for any trial seed."""
    draws = max(2, math.ceil(MEASURED_DRAWS * min(1.0, _MULTIPLES[-1] * model.base_width / width)))
    at_width = dataclasses.replace(model, width=width)
    streams = (measuring_stream(draw) for draw in range(draws))
    return spreads_of(build_custom_model(at_width, stream) for stream in streams)


def measuring_stream(draw: int) -> torch.Generator:
    """Return the random stream of a model that is drawn to be measured, for any trial seed."""
    return torch_generator(0, "init exponents", draw)


def spreads_of(models: Iterable[nn.Module]) -> dict[str, MeasuredSpread]:
    """Return the spread of every parameter over models that differ in their draw alone."""
    seen: dict[str, list[tuple[float, float, float, int]]] = defaultdict(list)
    for drawn in models:
        for name, value in drawn.named_parameters():
            low, high = torch.aminmax(value.detach())
            squares = float(value.detach().double().square().mean())
            seen[name].append((squares, float(low), float(high), value.numel()))
    found = {}
    for name, rows in seen.items():
        squares, lows, highs, sizes = zip(*rows, strict=True)
        rms = math.sqrt(sum(squares) / len(rows))
        found[name] = MeasuredSpread(rms, sum(sizes), min(lows) == max(highs))
    return found


@cache
def measured_inits(model: CustomConfig) -> dict[str, MeasuredInit]:
    """Return the measured initialisation of every parameter, at base width and above."""
    at_base = dataclasses.replace(model, width=model.base_width)
    spreads = [_spreads(at_base, multiple * model.base_width) for multiple in _MULTIPLES]
    return {name: _start(name, [s[name] for s in spreads]) for name in spreads[0]}


def _start(name: str, spreads: list[MeasuredSpread]) -> MeasuredInit:
    if _starts_at_zero(name, spreads):
        return MeasuredInit(spreads[0], 0.0, 0.0)
    sizes = np.array([spread.rms for spread in spreads])
    log2_widths = np.log2(_MULTIPLES)
    centred = log2_widths - log2_widths.mean()
    weights = centred / (centred @ centred)
    relative = np.array([_relative_error(spread) for spread in spreads])
    error = float(np.linalg.norm(weights * relative / math.log(2)))
    return MeasuredInit(spreads[0], float(weights @ np.log2(sizes)), error)


def _starts_at_zero(name: str, spreads: Sequence[MeasuredSpread]) -> bool:
    sizes = [spread.rms for spread in spreads]
    if any(sizes) and not all(sizes):
        raise UserError(
            "A parameter must start at zero either at every width or at none, but the mean sizes "
            f"of {name} at {len(sizes)} widths are {', '.join(f'{size:.3g}' for size in sizes)}. "
            "Initialise it in the same way at every width."
        )
    return not any(sizes)


def _relative_error(spread: MeasuredSpread) -> float:
    """Return the relative standard error of a spread: a Gaussian's over n entries is 1/√(2n)."""
    return 0.0 if spread.constant else (2 * spread.entries) ** -0.5


def continuing_multiplier(
    shaped: ShapedParameter, base: MeasuredSpread, drawn: MeasuredSpread, width_ratio: float
) -> float:
    """Return what multiplies a drawn tensor so that its std continues that at base width.

    `drawn` is the spread at the tensor's own width, `base` that at the base width, and the widths'
    ratio is `width_ratio`. Where the two spreads differ by a power of m, within their errors, that
    power is taken: so the multiplier of torch's own layers is exact, and 1 for a tensor that is as
    µP needs it. Other initialisers (Xavier's of a readout) are no powers of the width, and the
    measured spreads are taken.
    """
    if _starts_at_zero(shaped.name, (base, drawn)):
        return 1.0
    wanted = init_factor(shaped.role, shaped.width_mult, ParametrizationConfig())
    growth = drawn.rms / base.rms
    error = 3 * math.hypot(_relative_error(base), _relative_error(drawn)) + ROUNDING
    m = width_ratio if shaped.role is Role.finite else shaped.width_mult
    powers = [m**exponent for exponent in (-0.5, 0.0, -1.0)]
    nearest = min(powers, key=lambda power: abs(math.log(growth / power)))
    exact = abs(math.log(growth / nearest)) <= error
    return wanted / (nearest if exact else growth)


def wanted_exponent(role: Role) -> float:
    """Return the exponent in width that µP needs for the initial std of a role."""
    return math.log2(init_factor(role, 2.0, ParametrizationConfig()))


def _breaks_mup(start: MeasuredInit, role: Role) -> bool:
    off = abs(start.exponent - wanted_exponent(role))
    return start.base.rms > 0 and off > INIT_EXPONENT_TOLERANCE + 2 * start.error


@cache
def _to_rescale(config: TrialConfig) -> dict[str, Role]:
    """Return the parameters whose std does not depend on width as µP needs, with their roles.

    Raises:
        UserError: there are some, but `model.rescale_init` is false.
    """
    model = _custom(config)
    if config.parametrization.scaling not in TRANSFERRING:
        return {}
    measured = measured_inits(model)
    at_base = dataclasses.replace(model, width=model.base_width)
    roles = {shaped.name: shaped.role for shaped in shaped_parameters(at_base, config.layout)}
    breaking = {name: role for name, role in roles.items() if _breaks_mup(measured[name], role)}
    if breaking and not model.rescale_init:
        name, role = next(iter(breaking.items()))
        more = f", and {len(breaking) - 1} more break µP" if len(breaking) > 1 else ""
        raise UserError(
            f"Under µP the initial standard deviation of {name} (role {role.value}) must be "
            f"proportional to the width to the power {wanted_exponent(role):g}, but the measured "
            f"power of {model.factory} is {measured[name].exponent:.2f}{more}. Set "
            "model.rescale_init=true, change the factory, or give other roles in model.roles."
        )
    return breaking


def _custom(config: TrialConfig) -> CustomConfig:
    assert isinstance(config.model, CustomConfig), "only a custom model is drawn and measured"
    return config.model


def measured_std(config: TrialConfig, shaped: ShapedParameter) -> float:
    """Return a parameter's std at the trial's width: that at base width, scaled by its exponent."""
    model = _custom(config)
    start = measured_inits(model)[shaped.name]
    scale = 1.0 if start.base.constant else config.parametrization.init_scale
    if shaped.name in _to_rescale(config):
        growth = init_factor(shaped.role, shaped.width_mult, config.parametrization)
    else:
        growth = (model.width / model.base_width) ** start.exponent
    return scale * start.base.rms * growth


def drawn_parameters(config: TrialConfig) -> dict[str, Tensor]:
    """Return a custom model's parameters as its factory draws them, rescaled where µP needs it.

    At base width they are the factory's own to the bit, in every parametrization.
    """
    drawn = build_custom_model(_custom(config), torch_generator(config.seed, "init"))
    return {
        name: drawn.get_parameter(name).detach() * multiplier
        for name, multiplier in draw_multipliers(config).items()
    }


def draw_multipliers(config: TrialConfig) -> dict[str, float]:
    """Return what multiplies each parameter of a custom model as its factory draws it."""
    model = _custom(config)
    measured, to_rescale, found = measured_inits(model), _to_rescale(config), {}
    for shaped in shaped_parameters(model, config.layout):
        name, base = shaped.name, measured[shaped.name].base
        found[name] = 1.0 if base.constant else config.parametrization.init_scale
        if name in to_rescale and model.width != model.base_width:
            at_base = dataclasses.replace(model, width=model.base_width)
            drawn = _spreads(at_base, model.width)[name]
            if drawn.entries < FEW_ENTRIES:
                ratio = model.width / model.base_width
                found[name] *= continuing_multiplier(shaped, base, drawn, ratio)
            else:
                growth = init_factor(shaped.role, shaped.width_mult, config.parametrization)
                found[name] *= base.rms * growth / drawn.rms
    return found
