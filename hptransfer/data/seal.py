"""Seals: what is known of a folder that was read wholly, so that it is not read again.

A seal is a small file. It records that a data set of this config, with files of these names, sizes
and modification times, was read without fault, its hash, and the statistics of its latents. If any
file changes there is no seal for the new state, and all files are read again. Remove the seals to
have that done anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hptransfer.config import FeaturesConfig, FolderConfig
from hptransfer.data.reading import Progress, reader_threads, reading
from hptransfer.data.statistics import Statistics
from hptransfer.errors import MachineError, UserError
from hptransfer.system.files import user_cache, write_text

_CHECKS = "2"  # version of the scan's checks; seals of another version do not count


@dataclass(frozen=True)
class Seal:
    """What reading a folder wholly tells of it."""

    sha256: str  # first 16 hex digits over every file's name and bytes
    classes: int  # the largest label and 1
    statistics: Statistics  # of the images or latents as they are stored


def content_hash(folder: Path, files: Sequence[str]) -> str:
    """Return the first 16 hex digits of the sha256 over every file's name and bytes."""
    digest, progress = hashlib.sha256(), Progress(f"hashing the files of {folder}", len(files))
    for start in range(0, len(files), 1024):
        names = files[start : start + 1024]
        for name, part in zip(
            names, reader_threads().map(lambda n: _hash(folder / n), names), strict=True
        ):
            digest.update(f"{name}\0{part}\n".encode())
        progress.at(start + len(names))
    return digest.hexdigest()[:16]


def _hash(path: Path) -> str:
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(config: FolderConfig, folder: Path, files: Sequence[str]) -> str:
    """Return a key of everything that a scan depends on, without opening a file."""
    asked = dataclasses.replace(config, sha256="", held_out=1)
    if isinstance(asked, FeaturesConfig):  # a scan is of latents as they are stored
        asked = dataclasses.replace(asked, scale=1.0, shift=0.0)
    digest = hashlib.sha256(f"{_CHECKS} {asked!r}\n".encode())
    for name in files:
        status = os.stat(folder / name)  # noqa: PTH116  (faster than Path.stat, for millions of files)
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _places(folder: Path) -> Iterator[Path]:
    """Yield the folders of seals: beside the data, for all users of them, or else the user's."""
    yield folder / ".hptransfer"
    yield user_cache()


def read_seal(folder: Path, key: str) -> Seal | None:
    """Return the seal with this key; None if there is none that can be read."""
    for place in _places(folder):
        if (place / key).is_file():
            try:
                tree = json.loads((place / key).read_text(encoding="utf-8"))
                of = tree["statistics"]
                statistics = Statistics(of["samples"], tuple(of["mean"]), tuple(of["std"]))
                return Seal(tree["sha256"], tree["classes"], statistics)
            except (OSError, ValueError, KeyError, TypeError):
                return None
    return None


def write_seal(folder: Path, key: str, seal: Seal) -> Path | None:
    """Write a seal and return its path; None: nowhere, so that every process scans for itself."""
    for place in _places(folder):
        try:
            write_text(place / key, json.dumps(dataclasses.asdict(seal)) + "\n")
            return place / key
        except (UserError, MachineError):
            continue
    return None
