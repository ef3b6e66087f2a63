"""What a row remembers of the code that made it."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from hptransfer.system.version import package_version


def provenance() -> dict[str, str]:
    """Return what a row remembers of the code that made it."""
    return {
        "commit": _commit(),
        "hptransfer": package_version(),
        "torch": version("torch"),
        "time": utc_now(),
    }


def utc_now() -> str:
    """Return the time as rows and runs tell it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _commit() -> str:
    """Return the short commit of a source checkout, with + if it is dirty; empty elsewhere."""
    package = Path(__file__).resolve().parents[1]
    if not (package.parent / ".git").exists():
        return ""
    described = subprocess.run(
        ["git", "-C", str(package), "describe", "--always", "--dirty=+", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip()
