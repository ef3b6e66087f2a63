"""What must be equal where a run was cut off and where it continues, for the same bits.

A pack refuses a checkpoint from elsewhere and trains anew. A target's run continues and says that
it does not continue to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hptransfer.system.version import package_version


def software_versions() -> dict[str, str]:
    """Return the versions of hptransfer and torch."""
    return {"hptransfer": package_version(), "torch": torch.__version__}


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the entries of `now` that `was` does not share, as text; empty if all are shared."""
    changed = [name for name in now if was.get(name) != now[name]]
    return ", ".join(f"{name} was {was.get(name)} and is {now[name]}" for name in changed)
