"""The units in which a compute budget may be given."""

from __future__ import annotations

# Unit -> what is counted in it.
UNITS = {
    "gpuh": "GPU-hours",
    "cpuh": "core-hours",
    "h": "hours of wall time",
    "min": "minutes of wall time",
    "usd": "money, by executor.price_per_hour",
    "%": "the target run's FLOPs",
}


def written(amount: float, unit: str) -> str:
    """Write a budget as it is typed."""
    return f"{amount:.3g}{unit}"
