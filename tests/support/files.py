"""Changing files under a test's hands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def rewrite_json(path: Path, change: dict[str, Any]) -> dict[str, Any]:
    """Change entries of a JSON object in a file; return what the file then holds."""
    changed = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps(changed))
    return changed
