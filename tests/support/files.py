"""Files and folders that are damaged, or cannot be changed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def flip(path: Path) -> None:
    """Change one bit near the end of a file."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def rewrite_json(path: Path, change: dict[str, Any]) -> dict[str, Any]:
    """Change entries of a JSON object in a file; return what the file then holds."""
    changed = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps(changed))
    return changed


@contextmanager
def unchangeable(path: Path) -> Iterator[None]:
    """Make a file, or a folder with all that it holds, read-only; skip where that cannot be."""
    inside = [path, *path.rglob("*")]
    modes = {each: each.stat().st_mode for each in inside}
    for each in inside:
        each.chmod(modes[each] & ~0o222)
    immutable = os.access(path, os.W_OK)  # root may write whatever the mode says
    if immutable and subprocess.run(["chattr", "-R", "+i", str(path)], check=False).returncode:
        pytest.skip("this file system cannot make a folder read-only for root (chattr +i)")
    try:
        yield
    finally:
        if immutable:
            subprocess.run(["chattr", "-R", "-i", str(path)], check=True)
        for each, mode in modes.items():
            each.chmod(mode)
