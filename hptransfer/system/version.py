"""The installed version of this package."""

from __future__ import annotations

from functools import cache


@cache
def package_version() -> str:
    """Return hptransfer's version as it was installed, such as 0.1.0."""
    from importlib.metadata import version  # half of the time of `hptransfer --help`

    return version("hptransfer")
