"""Checks of config values, each of which raises `UserError` in a sentence."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from hptransfer.errors import UserError, require

TAG = {"tag": True}  # metadata of the field that names a group's member, e.g. model.family


def require_positive(name: str, value: float) -> None:
    """Refuse a value that is not positive and finite."""
    require(value > 0 and math.isfinite(value), f"`{name}` must be positive, but got {value}.")


def require_finite(name: str, value: float | None, *, least: float = -math.inf) -> None:
    """Refuse a number that is infinite, not a number or below `least`; None passes."""
    if value is None:
        return
    bound = "" if least == -math.inf else f" and at least {least:g}"
    if value < least == 0:
        raise UserError(f"`{name}` must not be negative, but got {value}.")
    require(
        math.isfinite(value) and value >= least,
        f"`{name}` must be finite{bound}, but got {value}.",
    )


def require_count(name: str, value: int | None, *, most: int = 2**31 - 1, least: int = 1) -> None:
    """Refuse a whole number below `least`, or so large that it can only be a slip; None passes."""
    if value is None:
        return
    if value < least:
        what = "positive" if least == 1 else "0 or more"
        raise UserError(f"`{name}` must be {what}, but got {value}.")
    require(value <= most, f"`{name}` must be at most {most:,}, but got {value}.")


def require_own_tag(group: str, record: Any) -> None:
    """Refuse a member of a group under another member's name, which is part of a trial's key."""
    for f in dataclasses.fields(record):
        value = getattr(record, f.name)
        require(
            not f.metadata.get("tag") or value == f.default,
            f"`{group}.{f.name}` is {f.default} here, but got {value!r}. Choose another with "
            f"{group}=.",
        )


def require_share(name: str, value: float) -> None:
    """Refuse a value outside 0 to 1."""
    require(0 <= value <= 1, f"`{name}` must lie between 0 and 1, but got {value}.")
