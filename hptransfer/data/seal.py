"""A folder's content hash, and the seal that lets nobody read the same files twice to get it.

The hash covers the name and bytes of every file. The seal is a small file that says `a data set of
this config, with files of these names, sizes and modification times, was scanned, found sound, and
has this hash`. A worker thus only lists the files; where any has changed there is no seal for them,
and it scans and hashes as the first run did. Remove the seals to have everything read again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from hptransfer.config import FolderConfig
from hptransfer.data.reading import reading
from hptransfer.errors import MachineError, UserError
from hptransfer.system.files import write_text

READER_THREADS = 4  # readers of a process; decoding and hashing leave Python's lock
_CHECKS = "1"  # counts up where a scan learns to refuse more


@cache
def reader_threads() -> ThreadPoolExecutor:
    """Return this process's readers."""
    return ThreadPoolExecutor(READER_THREADS, thread_name_prefix="data")


def content_hash(folder: Path, files: Sequence[str]) -> str:
    """Return the first 16 hex digits of the sha256 over every file's name and bytes."""
    digest = hashlib.sha256()
    for start in range(0, len(files), 1024):
        names = files[start : start + 1024]
        for name, part in zip(
            names, reader_threads().map(lambda n: _hash(folder / n), names), strict=True
        ):
            digest.update(f"{name}\0{part}\n".encode())
    return digest.hexdigest()[:16]


def _hash(path: Path) -> str:
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(config: FolderConfig, folder: Path, files: Sequence[str]) -> str:
    """Return a key of what a scan depends on, without opening a file."""
    asked = dataclasses.replace(config, sha256="", held_out=1)
    digest = hashlib.sha256(f"{_CHECKS} {asked!r}\n".encode())
    for name in files:
        status = os.stat(folder / name)  # noqa: PTH116  (a Path's is slower; there may be millions)
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _places(folder: Path) -> Iterator[Path]:
    """Yield where seals lie: with the data, for all who share them, or else with the user."""
    yield folder / ".hptransfer"
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hptransfer"


def sealed_hash(folder: Path, key: str) -> str | None:
    """Return the hash under a seal, or nothing where there is none."""
    for place in _places(folder):
        if (place / key).is_file():
            return (place / key).read_text(encoding="utf-8")
    return None


def write_seal(folder: Path, key: str, sha256: str) -> None:
    """Seal a folder where that may be written; elsewhere every process scans for itself."""
    for place in _places(folder):
        try:
            write_text(place / key, sha256)
            return
        except (UserError, MachineError):
            continue
