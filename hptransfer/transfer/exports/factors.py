"""The parameters of a target run with their resolved values: as JSON, and as a file for torch."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.config import CustomConfig, MuonConfig, TrialConfig
from hptransfer.config.records import plain
from hptransfer.models.families import initializer
from hptransfer.models.parametrization.factors import (
    adam_betas,
    base_weight_decay,
    matrix_momentum,
)
from hptransfer.models.parametrization.measured import draw_multipliers
from hptransfer.models.parametrization.rules import (
    forward_multipliers,
    parameter_rules,
    readout_factor,
    resolved_values,
)

FACTORS_SCHEMA = 1
NAMES = {"adamw": "AdamW", "muon": "Muon", "lion": "Lion"}


@dataclass(frozen=True)
class Parameter:
    """One parameter, or several equal ones under a name that has * for their numbers."""

    name: str
    shape: tuple[int, ...]
    role: str
    lr: float
    weight_decay: float  # of a coupled AdamW
    eps: float
    forward: float  # of the layer's input: a readout's factor, the output scale included
    distribution: str  # zero, one, normal, uniform; `model` where a custom model draws it
    init_std: float  # root mean square of the entries at the start
    draw_multiplier: float = 1.0  # of the entries as a custom model draws them


def resolved(config: TrialConfig) -> list[Parameter]:
    """Return the trial's parameters in the model's order, each as its optimizer would have it."""
    multipliers = draw_multipliers(config) if isinstance(config.model, CustomConfig) else {}
    return [
        Parameter(
            name=rule.name,
            shape=rule.shape,
            role=rule.role.value,
            **resolved_values(config, rule),
            forward=readout_factor(config, rule),
            distribution=_distribution(config, rule.name),
            init_std=rule.init_std,
            draw_multiplier=multipliers.get(rule.name, 1.0),
        )
        for rule in parameter_rules(config)
    ]


def _distribution(config: TrialConfig, name: str) -> str:
    if isinstance(config.model, CustomConfig):
        return "model"
    how = initializer(config.model, config.layout, name, config.init)
    return how.distribution.value.rpartition("_")[2]  # fan_in_normal is a normal one


def with_factor_in_weight(parameter: Parameter) -> Parameter:
    """Return a parameter whose forward factor is in its weight; AdamW trains both the same."""
    f = parameter.forward
    return dataclasses.replace(
        parameter,
        lr=parameter.lr * f,
        weight_decay=parameter.weight_decay / f,
        eps=parameter.eps / f,
        forward=1.0,
        init_std=parameter.init_std * f,
        draw_multiplier=parameter.draw_multiplier * f,
    )


def patterns(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Return parameters, those merged that differ only in numbers of their names, with * there."""
    alike: dict[str, list[Parameter]] = {}
    for parameter in parameters:
        alike.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", parameter.name), []).append(parameter)
    merged: list[Parameter] = []
    for pattern, members in alike.items():
        named = {dataclasses.replace(member, name=pattern) for member in members}
        merged += named if len(named) == 1 < len(members) else members
    return merged


def folded_groups(config: TrialConfig) -> dict[tuple[float, float, float], list[Parameter]]:
    """Return the parameters, readouts folded, by their learning rate, weight decay and epsilon."""
    groups: dict[tuple[float, float, float], list[Parameter]] = {}
    for parameter in patterns([with_factor_in_weight(p) for p in resolved(config)]):
        key = (parameter.lr, parameter.weight_decay, parameter.eps)
        groups.setdefault(key, []).append(parameter)
    return groups


def factors_text(config: TrialConfig) -> str:
    """Return the target's values as JSON, a parameter a line.

    `parameters` holds absolute values; `folded` those of readouts whose forward has no factor.
    Under Muon `matrices` holds the weights whose updates are orthogonalised: as how many matrices
    one under another, and what multiplies each update besides its lr.
    """
    optimizer, budget, model = config.optimizer, config.budget, config.model
    momentum = matrix_momentum(config)
    head = {
        "schema": FACTORS_SCHEMA,
        "family": model.family,
        "width": model.width,
        "base_width": model.base_width,
        "parametrization": config.parametrization.scaling.value,
        "optimizer": {
            **plain(optimizer),
            "name": NAMES[optimizer.name],
            **resolved_adamw(config),
            **({} if momentum is None else {"momentum": momentum}),
        },
        "schedule": schedule(config),
        "batch_size": budget.batch_size,
        "forward_multipliers": forward_multipliers(config),
    }
    parameters = resolved(config)
    readouts = [
        with_factor_in_weight(parameter) for parameter in parameters if parameter.forward != 1.0
    ]
    if isinstance(optimizer, MuonConfig):
        head["matrices"] = {
            rule.name: {**rule.matrices._asdict(), "scale": rule.matrices.scale(optimizer.scale)}
            for rule in parameter_rules(config)
            if rule.matrices is not None
        }
    body = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
    body += [f'"parameters": {_lines(parameters)}', f'"folded": {_lines(readouts)}']
    return "{\n" + ",\n".join(body) + "\n}\n"


def resolved_adamw(config: TrialConfig) -> dict[str, float]:
    """Return the betas and the weight decay that the trial's batch size and duration give."""
    beta1, beta2 = adam_betas(config)
    return {"beta1": beta1, "beta2": beta2, "weight_decay": base_weight_decay(config)}


def schedule(config: TrialConfig) -> dict[str, Any]:
    """Return what decides the learning rate's multiplier over the run."""
    budget = config.budget
    return {
        "steps": budget.steps,
        "schedule": budget.schedule.value,
        "warmup_fraction": budget.warmup_fraction,
        "decay_fraction": budget.decay_fraction,
    }


def _lines(parameters: Sequence[Parameter]) -> str:
    rows = ",\n".join(json.dumps(dataclasses.asdict(parameter)) for parameter in parameters)
    return f"[\n{rows}\n]" if rows else "[]"


SNIPPET = Path(__file__).with_name("snippet.py")
START, END = "# table\n", "# end of table\n"


def torch_groups_text(
    config: TrialConfig, parameters: Sequence[Parameter], *, readout: str, says: Sequence[str] = ()
) -> str:
    """Return the snippet with its table filled in; `says` are comments above the table."""
    head, _, rest = SNIPPET.read_text(encoding="utf-8").partition(START)
    tail = rest.partition(END)[2]
    optimizer = config.optimizer
    lines = [
        *(f"# {line}" for line in says),
        f"# {config.model.family} of width {config.model.width}, base {config.model.base_width}, "
        f"{config.parametrization.scaling.value}",
        f"READOUT = {readout!r}",
        f"OPTIMIZER = {{'betas': {adam_betas(config)}, 'clip_norm': {optimizer.clip_norm}}}",
        f"SCHEDULE = {schedule(config)!r}",
        "# name: the fields of Rule",
        "PARAMETERS = {",
        *(f"    {p.name!r}: {_entry(p)!r}," for p in patterns(parameters)),
        "}",
    ]
    return head + "\n".join(lines) + "\n" + tail


def _entry(parameter: Parameter) -> tuple[object, ...]:
    p = parameter
    fields = (p.shape, p.lr, p.weight_decay, p.eps, p.forward, p.distribution, p.init_std)
    return (*fields, p.draw_multiplier) if p.distribution == "model" else fields
