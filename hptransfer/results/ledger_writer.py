"""The ledger: append-only results of a sweep, one checksummed JSON line per finished trial.

Rows and reading are in `ledger_rows`, their table in `ledger_table`; here is the one writer, and
the curve sidecars.
"""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from hptransfer.errors import UserError
from hptransfer.results.curves import read_curve, read_held_out, write_curve
from hptransfer.results.ledger_rows import (
    FILE_NAME,
    SCHEMA,
    Ledger,
    encode,
    locate,
    read,
    row,
    scan,
)
from hptransfer.system.files import opening, require_inside, sync_folder, writing
from hptransfer.system.folder_lock import LOCK_NAME, FolderLock

__all__ = [
    "FILE_NAME",
    "LOCK_NAME",
    "SCHEMA",
    "Ledger",
    "LedgerWriter",
    "encode",
    "locate",
    "read",
    "read_curve",
    "read_held_out",
    "row",
    "write_curve",
]


class LedgerWriter:
    """The one writer of a sweep's ledger, for use in a `with` block.

    Opening takes the folder's lock, if need be from an owner who ended without releasing it,
    unpacks a gzipped ledger and removes a cut-off last line (`notice` tells). `keys` are those of
    the trials that have a row; the rows themselves are not held.

    Args:
        lock: the folder's lock where the caller holds it already, and keeps it afterwards.
    """

    def __init__(self, folder: str | Path, lock: FolderLock | None = None) -> None:
        self.folder = Path(folder)
        self.path = self.folder / FILE_NAME
        self.keys: set[str] = set()
        self._torn = Ledger(self.path)  # for its notice
        self._descriptor = -1
        self._lock = lock or FolderLock(self.folder)
        self._takes_lock = lock is None
        self._length = 0

    @property
    def notice(self) -> str | None:
        """What opening had to repair or take over, in a sentence each, or None."""
        notes = [note for note in (self._lock.note, self._torn.notice) if note]
        return " ".join(notes) or None

    def __enter__(self) -> Self:
        if self._takes_lock:
            self._lock.__enter__()
        try:
            with opening(self.folder):
                self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self) -> None:
        require_inside(self.folder, self.path)
        found = locate(self.folder)
        if found is not None and found != self.path:
            _unpack(found, self.path)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        torn_bytes = 0
        for stretch in scan(self.path):
            self.keys.update(row["trial_key"] for row in stretch.rows)
            torn_bytes = stretch.torn_bytes
        self._torn = Ledger(self.path, torn_bytes=torn_bytes)
        os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - torn_bytes)
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")
        os.fsync(self._descriptor)
        sync_folder(self.folder)
        self._length = os.fstat(self._descriptor).st_size

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._takes_lock:
            self._lock.release()

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows with one fsync: afterwards all are on disk, or after an error none is.

        Raises:
            ValueError: a trial has a row already.
            MachineError: the disk is full or failed.
            UserError: another program changed the file meanwhile, or took the lock over.
        """
        keys = [row["trial_key"] for row in rows]
        repeated = len(set(keys)) < len(keys) or not self.keys.isdisjoint(keys)
        if repeated:
            raise ValueError(f"Some of these trials have a row in {self.path} already: {keys}.")
        data = b"".join(encode(row) for row in rows)
        with writing(self.path):
            self._lock.require_ours()
            self._require_unchanged()
            self._write(data)
        self.keys.update(keys)
        self._length += len(data)

    def _write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError:
            # If this fails too, the next opening removes the cut-off line. An interruption leaves
            # what is written: whole lines count, and a cut-off one is removed likewise.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._length)
            raise

    def _require_unchanged(self) -> None:
        held, named = os.fstat(self._descriptor), self.path.stat()
        if (held.st_ino, held.st_dev) != (named.st_ino, named.st_dev) or (
            held.st_size != self._length
        ):
            raise UserError(
                f"{self.path} was changed by another program while the sweep was running. Restore "
                "the file and run the same command again; the rows not yet recorded run again."
            )


def _unpack(zipped: Path, target: Path) -> None:
    for _ in scan(zipped):  # a damaged file is refused before anything is written
        pass
    partial = target.with_suffix(".tmp")
    with gzip.open(zipped) as source, partial.open("wb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    sync_folder(target.parent)
    zipped.unlink()
