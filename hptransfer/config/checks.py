"""What must hold of a config, in one sentence where it does not."""

from __future__ import annotations

import math

from hptransfer.errors import UserError

TAG = {"tag": True}  # marks the field that names a group's member: it is always written out


def require(holds: bool, message: str) -> None:
    """Raise a `UserError` unless a condition holds."""
    if not holds:
        raise UserError(message)


def require_positive(name: str, value: float) -> None:
    """Refuse a value that is not positive and finite."""
    require(value > 0 and math.isfinite(value), f"`{name}` must be positive, but got {value}.")


def require_share(name: str, value: float) -> None:
    """Refuse a value outside 0 to 1."""
    require(0 <= value <= 1, f"`{name}` must lie between 0 and 1, but got {value}.")
