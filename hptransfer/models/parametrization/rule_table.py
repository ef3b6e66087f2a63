"""The tables of `hptransfer rules`: factors per role and per parameter of a model.

Beside them stand the vanilla Transformer's, which are Table 8 of arXiv 2203.03466 for Adam, written
down as exponents of the width. The model's exponents are computed from its rules at two widths, so
the two are independent. Under `complete` they are those of Table 1 of arXiv 2512.22382, of which
the dependence on depth, batch size and duration is compared too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from hptransfer.config import AdamWConfig, MuonConfig, TrialConfig
from hptransfer.config.choices import MuonScale, Scaling
from hptransfer.config.identity import with_width
from hptransfer.models.parametrization.factors import (
    Role,
    adam_betas,
    clock_of,
    matrix_momentum,
)
from hptransfer.models.parametrization.roles import shaped_parameters
from hptransfer.models.parametrization.rules import (
    ParameterRule,
    ReadoutForm,
    decay_timescale,
    lr_mult,
    parameter_count,
    parameter_rules,
    rules_in_form,
)

RULE_COLUMNS = ("init_std", "lr_factor", "weight_decay_factor", "eps_factor", "forward_factor")
EXPONENT_TOLERANCE = 0.1  # allowed error of an exponent; a custom model's stds are measured

Exponents = tuple[float, float, float, float, float]  # of the width, in the order of QUANTITIES

# Table 8 of arXiv 2203.03466, Adam: initial std, learning rate and multiplier; epsilon does not
# scale there. The decay keeps rate times decay constant, as the mup package does.
VANILLA_EXPONENTS: dict[Role, Exponents] = {
    Role.input: (0.0, 0.0, 0.0, 0.0, 0.0),
    Role.hidden: (-0.5, -1.0, 1.0, 0.0, 0.0),
    Role.output: (0.0, 0.0, 0.0, 0.0, -1.0),
    Role.vector: (0.0, 0.0, 0.0, 0.0, 0.0),
    Role.finite: (0.0, 0.0, 0.0, 0.0, 0.0),
}
# Table 1 of arXiv 2512.22382 (Complete(d)P), with the readout's 1/m acting on its input as here.
COMPLETE_EXPONENTS: dict[Role, Exponents] = {
    Role.input: (0.0, 0.0, 0.0, -1.0, 0.0),
    Role.hidden: (-0.5, -1.0, 1.0, -1.0, 0.0),
    Role.output: (0.0, 0.0, 0.0, -1.0, -1.0),
    Role.vector: (0.0, 0.0, 0.0, -1.0, 0.0),
    Role.finite: (0.0, 0.0, 0.0, 0.0, 0.0),
}
# The same table as it is printed, with the readout's 1/m in its weight: exponents of the width
# ratio m of learning rate, weight decay and epsilon. All have √κ, √κ and 1/√κ besides, and in
# blocks r^(a-1), 1 and r^-a. Gains of queries and keys are `finite` here.
PRINTED_EXPONENTS: dict[Role, tuple[float, float, float]] = {
    Role.input: (0.0, 0.0, -1.0),
    Role.hidden: (-1.0, 1.0, -1.0),
    Role.output: (-1.0, 1.0, 0.0),
    Role.vector: (0.0, 0.0, -1.0),
    Role.finite: (0.0, 0.0, 0.0),
}
PRINTED = ("lr", "weight_decay", "eps")  # the factors of PRINTED_EXPONENTS


def printed_table(config: TrialConfig) -> list[dict[str, Any]]:
    """Return the factors under `complete` in the form of the paper's Table 1, beside that table.

    There is a row for each role inside and outside of blocks, with `ours` and `published`. The
    table is for AdamW: what Muon updates has rows of its own, whose `published` is None.
    """
    model, layout = config.model, config.layout
    in_block = {shaped.name: shaped.in_block for shaped in shaped_parameters(model, layout)}
    ratio = {shaped.name: shaped.width_mult for shaped in shaped_parameters(model, layout)}
    rows: dict[tuple[Role, bool, bool], list[ParameterRule]] = {}
    for rule in rules_in_form(config, ReadoutForm.folded):
        kind = (rule.role, in_block[rule.name], rule.matrices is None)
        rows.setdefault(kind, []).append(rule)
    return [
        {
            "role": role.value,
            "in_blocks": inside,
            "optimizer": updated_by(config, rules[0]),
            "tensors": len(rules),
            "ours": {n: _as_json(_spread([getattr(r.factors, n) for r in rules])) for n in PRINTED},
            "published": {
                name: _as_json(
                    _spread([_printed(config, role, ratio[r.name], inside)[name] for r in rules])
                )
                for name in PRINTED
            }
            if plain
            else None,
        }
        for (role, inside, plain), rules in rows.items()
    ]


def _printed(config: TrialConfig, role: Role, m: float, inside: bool) -> dict[str, float]:
    """Return a role's factors by the paper's Table 1 at width ratio m."""
    a, kappa = config.parametrization.depth_alpha, clock_of(config)
    r = config.model.depth_mult if inside else 1.0
    by_depth_and_clock = (r ** (a - 1) * kappa**0.5, kappa**0.5, r**-a * kappa**-0.5)
    powers = zip(PRINTED_EXPONENTS[role], by_depth_and_clock, strict=True)
    return dict(zip(PRINTED, (m**power * rest for power, rest in powers), strict=True))


def decay_timescales(config: TrialConfig) -> dict[str, dict[str, float] | None]:
    """Return the `decay_timescale` by role; None for a role that does not decay."""
    found: dict[str, list[float | None]] = {}
    for rule in parameter_rules(config):
        found.setdefault(rule.role.value, []).append(decay_timescale(config, rule))
    return {role: _as_json(_spread(values)) for role, values in found.items()}


def parameter_table(config: TrialConfig) -> list[dict[str, Any]]:
    """Return the rule of every parameter, as a table for people who train in other code."""
    return [
        {
            "parameter": rule.name,
            "shape": list(rule.shape),
            "role": rule.role.value,
            **dict(zip(RULE_COLUMNS, _values(config, rule), strict=True)),
            "optimizer": updated_by(config, rule),
            **_of_matrices(config, rule),
        }
        for rule in parameter_rules(config)
    ]


def role_table(config: TrialConfig) -> dict[str, Any]:
    """Return the object of `hptransfer rules --json`.

    It holds, for every role of the model, the factors at this width, their exponents in width, and
    which of these differ from the vanilla Transformer's.
    """
    narrow, wide = _two_widths(config)
    ratio = wide.width_mult
    pairs = list(zip(parameter_rules(narrow), parameter_rules(wide), strict=True))
    timescales = decay_timescales(config)
    roles = {
        role.value: _role_entry(
            role,
            config,
            timescales[role.value],
            [_exponents(config, *pair, ratio) for pair in pairs if pair[0].role is role],
        )
        for role in Role
        if any(rule.role is role for rule, _ in pairs)
    }
    return {
        "family": config.model.family,
        "parametrization": config.parametrization.scaling.value,
        "optimizer": config.optimizer.name,
        "broken": config.parametrization.broken.value,
        "width": config.model.width,
        "base_width": config.model.base_width,
        "width_mult": config.width_mult,
        "depth_mult": config.model.depth_mult,
        "batch_mult": config.batch_mult,
        "duration_mult": config.duration_mult,
        "clock_ratio": clock_of(config),
        "betas": list(adam_betas(config)),
        "momentum": matrix_momentum(config),
        "printed": printed_table(config) if is_complete(config) else [],
        "parameters": parameter_count(config),
        "roles": roles,
        "coincide": not any(entry["differs"] for entry in roles.values()),
    }


class _Spread(NamedTuple):
    low: float
    high: float


def _two_widths(config: TrialConfig) -> tuple[TrialConfig, TrialConfig]:
    """Return the trial at base width and at its own width, or at twice the base width.

    Twice the base width is taken where its own is the base, at which every factor is 1.
    """
    base, own = config.model.base_width, config.model.width
    return with_width(config, base), with_width(config, own if own != base else 2 * base)


def updated_by(config: TrialConfig, rule: ParameterRule) -> str:
    """Return the name of what updates a parameter: adamw, muon or lion."""
    apart = isinstance(config.optimizer, MuonConfig) and rule.matrices is None
    return AdamWConfig().name if apart else config.optimizer.name


def _of_matrices(config: TrialConfig, rule: ParameterRule) -> dict[str, Any]:
    """Return what Muon makes of a parameter: the number of matrices, and an update's scale."""
    if rule.matrices is None or not isinstance(config.optimizer, MuonConfig):
        return {}
    scale = rule.matrices.scale(config.optimizer.scale)
    return {"matrices": rule.matrices.count, "update_scale": scale}


def vanilla_exponents(role: Role, config: TrialConfig) -> Exponents:
    """Return a role's exponents in a plain Transformer under the trial's optimizer."""
    known = COMPLETE_EXPONENTS if is_complete(config) else VANILLA_EXPONENTS
    optimizer, plain = config.optimizer, known[role]
    if role is not Role.hidden or not isinstance(optimizer, MuonConfig):
        return plain
    lr = -0.5 if optimizer.scale is MuonScale.match_rms_adamw else 0.0
    return (plain[0], lr, optimizer.decay_exponent - lr, 0.0, 0.0)  # Muon has no epsilon


def _values(config: TrialConfig, rule: ParameterRule) -> tuple[float, ...]:
    own, lr = rule.factors, rule.factors.lr * lr_mult(config, rule)
    return rule.init_std, lr, own.weight_decay, own.eps, own.forward


def _exponents(
    config: TrialConfig, narrow: ParameterRule, wide: ParameterRule, ratio: float
) -> tuple[Any, ...]:
    """Return the width exponents of a parameter's rule; None for values that are zero."""
    return tuple(
        math.log(after / before, ratio) if before else None
        for before, after in zip(_values(config, narrow), _values(config, wide), strict=True)
    )


def is_complete(config: TrialConfig) -> bool:
    """Say whether a trial's factors are those of Complete(d)P."""
    return config.parametrization.scaling is Scaling.complete


def _role_entry(
    role: Role,
    config: TrialConfig,
    timescale: dict[str, float] | None,
    exponents: Sequence[tuple[Any, ...]],
) -> dict[str, Any]:
    m = config.width_mult
    rules = [rule for rule in parameter_rules(config) if rule.role is role]
    values = [_spread(column) for column in zip(*(_values(config, r) for r in rules), strict=True)]
    spreads = [_spread(column) for column in zip(*exponents, strict=True)]
    vanilla = vanilla_exponents(role, config)
    return {
        "tensors": len(rules),
        "parameters": sum(math.prod(rule.shape) for rule in rules),
        "optimizers": list(dict.fromkeys(updated_by(config, rule) for rule in rules)),
        **{name: _as_json(spread) for name, spread in zip(RULE_COLUMNS, values, strict=True)},
        "decay_timescale": timescale,
        "exponents": {n: _as_json(s, 4) for n, s in zip(RULE_COLUMNS, spreads, strict=True)},
        "vanilla_exponents": dict(zip(RULE_COLUMNS, vanilla, strict=True)),
        "vanilla_factors": {
            name: m**exponent for name, exponent in zip(RULE_COLUMNS, vanilla, strict=True)
        },
        "differs": [
            name
            for name, spread, exponent in zip(RULE_COLUMNS, spreads, vanilla, strict=True)
            if spread and max(abs(end - exponent) for end in spread) > EXPONENT_TOLERANCE
        ],
    }


def _spread(values: Sequence[float | None]) -> _Spread | None:
    """Return the lowest and highest of the values that are not None."""
    there = [value for value in values if value is not None]
    return _Spread(min(there), max(there)) if there else None


def _as_json(spread: _Spread | None, digits: int | None = None) -> dict[str, float] | None:
    if spread is None:
        return None
    low, high = (end if digits is None else round(end, digits) + 0.0 for end in spread)
    return {"low": low, "high": high}
