"""The unit of a hyperparameter's axis, in which optima are fitted.

An axis `log2_<hp>` is fitted as it is, in octaves. An HP that is searched linearly (a momentum, a
dropout) has no octaves: its axis is fitted in units of which the trained range spans OCTAVES, so
that the constants of basins and laws fit it too. Records and sentences have the HP's own values.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import number

OCTAVES = 4.0  # units that a linear HP's trained range spans


def unit_of(axis: str, values: Floats) -> float:
    """Return the unit of an axis: 1 of `log2_<hp>`, else a share of the range of the values."""
    finite = values[np.isfinite(values)]
    span = float(np.ptp(finite)) if len(finite) else 0.0
    return 1.0 if axis.startswith("log2_") or span == 0.0 else span / OCTAVES


def in_own_units(told: Any, unit: float, *names: str) -> Any:
    """Return a record with every number in its fields `names` multiplied by the unit.

    Without names all numbers are meant. Fields that are absent or null are left alone.
    """
    if unit == 1.0 or told is None:
        return told
    if names:
        return {k: in_own_units(v, unit) if k in names else v for k, v in told.items()}
    if isinstance(told, dict):
        return {name: in_own_units(value, unit) for name, value in told.items()}
    if isinstance(told, list):
        return [in_own_units(value, unit) for value in told]
    return number(unit * told)
