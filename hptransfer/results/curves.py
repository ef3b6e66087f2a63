"""The losses of each trial by step, a JSON file each in `curves/` beside the ledger."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from hptransfer.system.files import require_inside, write_text

LossCurve = tuple[tuple[int, float | None], ...]  # (step, loss); None: it was not finite


def curve_file(folder: Path, key: str) -> Path:
    """Return the path of a trial's curves; a link that leads out of the folder is refused."""
    path = folder / "curves" / f"{key}.json"
    require_inside(folder, path)
    return path


def write_curve(
    folder: str | Path,
    key: str,
    curve: Sequence[tuple[int, float]],
    held_out: Sequence[tuple[int, float]] = (),
) -> None:
    """Write a trial's curves to `curves/<key>.json`, whole or not at all.

    Call it before the trial's row is appended, so that no row is without its curves.

    Args:
        curve: (step, mean training loss since the point before); a loss may be infinite or NaN.
        held_out: (step, deciding loss), empty where it was only measured at the end.
    """
    sidecar = {"trial_key": key, "curve": _points(curve)}
    if held_out:
        sidecar["held_out"] = _points(held_out)
    text = json.dumps(sidecar, separators=(",", ":"), allow_nan=False)
    write_text(curve_file(Path(folder), key), text + "\n")


def _points(curve: Sequence[tuple[int, float]]) -> list[list[float | None]]:
    return [[step, loss if math.isfinite(loss) else None] for step, loss in curve]


def read_curve(folder: str | Path, key: str) -> LossCurve:
    """Read a trial's (step, mean training loss) points; empty where it has no file."""
    return _read_points(folder, key, "curve")


def read_held_out(folder: str | Path, key: str) -> LossCurve:
    """Read a trial's (step, deciding loss) points; empty where they were not measured."""
    return _read_points(folder, key, "held_out")


def _read_points(folder: str | Path, key: str, name: str) -> LossCurve:
    path = curve_file(Path(folder), key)
    if not path.exists():
        return ()
    return tuple((step, loss) for step, loss in json.loads(path.read_text()).get(name, ()))
