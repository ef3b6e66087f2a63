"""Reading JSON strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn


def strict(path: Path) -> dict[str, Any]:
    """Read JSON in which NaN and infinity are errors."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
