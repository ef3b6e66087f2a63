"""The record of the code that made a row: commit, versions and time."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from hptransfer.system.version import package_version

GIT_SECONDS = 10.0  # seconds that git may take to name the commit


def provenance() -> dict[str, str]:
    """Return the commit, the versions and the time that a row records of the code that made it."""
    return {
        "commit": _commit(),
        "hptransfer": package_version(),
        "torch": version("torch"),
        "time": utc_now(),
    }


def utc_now() -> str:
    """Return the present time as rows and runs record it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _commit() -> str:
    """Return the short commit of a source checkout, with + where files differ from it.

    The text is empty for an installed package, and where git is missing, fails or hangs.
    """
    package = Path(__file__).resolve().parents[1]
    if not (package.parent / ".git").exists():
        return ""
    try:
        described = subprocess.run(
            ["git", "-C", str(package), "describe", "--always", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return described.stdout.strip()
