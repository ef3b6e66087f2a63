"""A results folder as it is committed: the evidence, and nothing that it gives."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from hptransfer.results.folder import find_folder
from hptransfer.system.folder_lock import LOCK_NAME, FolderLock

MIB = 1 << 20
FILE_LIMIT, TREE_LIMIT = 5 * MIB, 40 * MIB

# Made anew from what stays, or of use to the running sweep alone.
DROPPED = ("exports", "checkpoints", "tensorboard", "trials", "weights")
DROPPED_FILES = (
    "report.html", "log.jsonl", "timing.json", "optuna.db", "*.pdf", "*.svg",
    "*.safetensors",
)  # fmt: skip
# Pictures that answer a study's question; `hptransfer plot` draws the others again.
PICTURES = (
    "summary", "realised", "conditions", "over", "surface", "importance", "convergence",
    "agreement",
)  # fmt: skip


def tidy(path: Path) -> list[str]:
    """Bring a results folder into its committed form; say what was done.

    Raises:
        UserError: it holds no sweep, or somebody writes in it.
        SystemExit: a file of it is too large to be committed.
    """
    folder = find_folder(path)
    lock = FolderLock(folder.path).take()
    try:
        done = list(_dropped(folder.path))
    finally:
        lock.release()
    for left in folder.path.rglob(LOCK_NAME):
        left.unlink()
    require_small(folder.path, FILE_LIMIT)
    return done


def _dropped(folder: Path) -> Iterator[str]:
    """Remove what is not committed; yield what it was."""
    for name in DROPPED:
        for found in sorted(folder.rglob(name)):
            if found.is_dir():
                shutil.rmtree(found)
                yield f"removed {found.relative_to(folder)}/"
    for curves in (folder / "curves", folder / "target" / "curves"):  # of comparisons they stay
        if curves.is_dir():
            shutil.rmtree(curves)
            yield f"removed {curves.relative_to(folder)}/"
    for pattern in DROPPED_FILES:
        for found in sorted(folder.rglob(pattern)):
            found.unlink()
            yield f"removed {found.relative_to(folder)}"
    for found in sorted((folder / "figures").rglob("*.png")):
        if not found.stem.startswith(PICTURES):
            found.unlink()
            yield f"removed {found.relative_to(folder)}"


def require_small(folder: Path, limit: int, *, tree: int = TREE_LIMIT) -> None:
    """Refuse a file above `limit` bytes, and a folder above `tree` bytes in all."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    large = sorted((path for path in sizes if sizes[path] > limit), key=lambda path: -sizes[path])
    if large:
        raise SystemExit(
            f"A committed file must be at most {limit / MIB:g} MiB, but {large[0]} has "
            f"{sizes[large[0]] / MIB:.1f}. Remove it, or split the study."
        )
    if sum(sizes.values()) > tree:
        raise SystemExit(
            f"{folder} must stay under {tree / MIB:g} MiB to travel, but has "
            f"{sum(sizes.values()) / MIB:.1f}. Remove pictures or whole studies."
        )
