"""A folder's content hash, and the seal that saves reading all files again to compute it.

The hash covers the name and bytes of every file. A seal is a small file which records that a data
set of this config, with files of these names, sizes and modification times, was read without fault
and has this hash. A worker then only lists the files. If any file has changed, there is no seal for
the new state, and the worker reads and hashes all files. Remove the seals to have that done anew.
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

READER_THREADS = 4  # threads per process; decoding and hashing release Python's lock
_CHECKS = "1"  # version of the scan's checks; seals of another version do not count


@cache
def reader_threads() -> ThreadPoolExecutor:
    """Return this process's threads for reading files."""
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
    """Return a key of everything that a scan depends on, without opening a file."""
    asked = dataclasses.replace(config, sha256="", held_out=1)
    digest = hashlib.sha256(f"{_CHECKS} {asked!r}\n".encode())
    for name in files:
        status = os.stat(folder / name)  # noqa: PTH116  (faster than Path.stat, for millions of files)
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _places(folder: Path) -> Iterator[Path]:
    """Yield the folders of seals: beside the data, for all users of them, or else the user's."""
    yield folder / ".hptransfer"
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hptransfer"


def sealed_hash(folder: Path, key: str) -> str | None:
    """Return the hash that a seal records; None if there is no seal."""
    for place in _places(folder):
        if (place / key).is_file():
            return (place / key).read_text(encoding="utf-8")
    return None


def write_seal(folder: Path, key: str, sha256: str) -> None:
    """Write a folder's seal; if no place can be written, every process scans for itself."""
    for place in _places(folder):
        try:
            write_text(place / key, sha256)
            return
        except (UserError, MachineError):
            continue
