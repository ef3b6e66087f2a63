"""µP and the standard parametrization: factors of every parameter, models, optimizer groups."""

from __future__ import annotations

from hptransfer.models.parametrization.factors import (
    Factors,
    Role,
    coupled_weight_decay,
    role_factors,
)
from hptransfer.models.parametrization.rules import (
    ParameterRule,
    ReadoutForm,
    build_model,
    build_template,
    forward_multipliers,
    initial_parameters,
    param_groups,
    parameter_count,
    parameter_rules,
    rules_in_form,
)

__all__ = [
    "Factors",
    "ParameterRule",
    "ReadoutForm",
    "Role",
    "build_model",
    "build_template",
    "coupled_weight_decay",
    "forward_multipliers",
    "initial_parameters",
    "param_groups",
    "parameter_count",
    "parameter_rules",
    "role_factors",
    "rules_in_form",
]
