"""What there is by name: sweeps, models, data."""

from __future__ import annotations

from pathlib import Path

from hptransfer.config.compose.compose import shipped_folder
from hptransfer.config.records import nearest
from hptransfer.errors import UserError

LISTS = {
    "models": "hptransfer list models: families, and every released size as a preset",
    "sweeps": "hptransfer list sweeps: the sweeps that ship, and those in ./sweeps",
    "data": "hptransfer list data: data sets, embedded or in a folder",
}


def find_sweep(name: str) -> Path:
    """Return a sweep's file: a path, or a bare name in ./sweeps, then among those that ship."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UserError(f"There is no sweep file {path}. Check the path.")
        return path
    folders = (Path("sweeps"), shipped_folder("sweeps"))
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise UserError(f"There is no sweep {name!r}. {nearest(name, known)}")


def entries_of(kind: str) -> dict[str, str]:
    """Return what there is of a kind, each with the first line of its file."""
    kinds = {
        "models": [shipped_folder("conf") / "model"],
        "sweeps": [shipped_folder("sweeps"), Path("sweeps")],
        "data": [shipped_folder("conf") / "data"],
    }
    if kind not in kinds:
        raise UserError(f"There is a list of {', '.join(kinds)}, but not of {kind!r}.")
    found = {path.stem: path for folder in kinds[kind] for path in folder.glob("*.yaml")}
    return {name: _first_comment(found[name]) for name in sorted(found)}


def _first_comment(path: Path) -> str:
    line = path.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0]
    return line.removeprefix("#").strip() if line.startswith("#") else ""
