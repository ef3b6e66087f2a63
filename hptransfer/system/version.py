"""The version of this package."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def package_version() -> str:
    """Return hptransfer's version as it was installed, such as 0.1.0.

    Of a checkout that is used without an installation it is the version of its `pyproject.toml`.
    """
    from importlib.metadata import PackageNotFoundError, version  # half of the time of `--help`

    try:
        return version("hptransfer")
    except PackageNotFoundError:
        return checkout_version(Path(__file__).parents[2])


def checkout_version(folder: Path) -> str:
    """Return the version that a checkout's `pyproject.toml` states."""
    import tomllib

    stated = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    return stated["project"]["version"]
