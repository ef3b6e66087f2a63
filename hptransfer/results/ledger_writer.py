"""The one writer of a sweep's ledger."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from hptransfer.errors import UserError
from hptransfer.results.ledger_rows import (
    LEDGER_NAME,
    encode_row,
    find_ledger,
    scan_ledger,
    torn_line_notice,
)
from hptransfer.system.files import opening, require_inside, sync_folder, writing
from hptransfer.system.folder_lock import FolderLock

ROWS_PER_APPEND = 1000  # of `append_new`: each append is one fsync


class LedgerWriter:
    """A ledger that is open for appending, for use in a `with` block.

    Opening the ledger takes the folder's lock, if need be from an owner who ended without
    releasing it, and removes a last line that was cut off; `notice` says so. `keys` holds the keys
    of the trials that have a row; the rows themselves are not held in memory.

    Args:
        lock: the folder's lock where the caller holds it already, and keeps it afterwards.

    Raises:
        UserError: another process writes the folder, the folder cannot be written, or a line of
            the ledger was changed.
        MachineError: the disk failed.
    """

    def __init__(self, folder: str | Path, lock: FolderLock | None = None) -> None:
        self.folder = Path(folder)
        self.path = self.folder / LEDGER_NAME
        self.keys: set[str] = set()
        self._torn_bytes = 0  # of a cut-off last line that opening removed
        self._descriptor = -1
        self._lock = lock or FolderLock(self.folder)
        self._takes_lock = lock is None
        self._length = 0  # bytes of the ledger that we know of

    @property
    def notice(self) -> str | None:
        """What was repaired or taken over on opening, a sentence each; None if nothing was."""
        notes = (self._lock.note, torn_line_notice(self.path, self._torn_bytes))
        return " ".join(note for note in notes if note) or None

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
        find_ledger(self.folder)  # refuses a gzipped one
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        for stretch in scan_ledger(self.path):
            self.keys.update(row["trial_key"] for row in stretch.rows)
            self._torn_bytes = stretch.torn_bytes
        os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - self._torn_bytes)
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
        """Append rows with one fsync: when `append` returns all are on disk, if it fails none is.

        Raises:
            ValueError: a trial has a row already.
            MachineError: the disk is full or failed.
            UserError: another program changed the ledger meanwhile, or took the lock over.
        """
        keys = [row["trial_key"] for row in rows]
        repeated = len(set(keys)) < len(keys) or not self.keys.isdisjoint(keys)
        if repeated:
            raise ValueError(f"Some of these trials have a row in {self.path} already: {keys}.")
        data = b"".join(encode_row(row) for row in rows)
        with writing(self.path):
            self._lock.require_ours()
            self._require_unchanged()
            self._write(data)
        self.keys.update(keys)
        self._length += len(data)

    def append_new(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Append the rows of trials that have none, some at a time; return their number."""
        before, batch = len(self.keys), {}
        for row in rows:
            if row["trial_key"] not in self.keys:
                batch.setdefault(row["trial_key"], row)
            if len(batch) == ROWS_PER_APPEND:
                self.append(list(batch.values()))
                batch = {}
        self.append(list(batch.values()))
        return len(self.keys) - before

    def _write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError:
            # If truncating fails too, the next opening removes the cut-off line. An interruption
            # (KeyboardInterrupt) leaves what is written: whole lines count, and the next opening
            # removes a cut-off one.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._length)
            raise

    def _require_unchanged(self) -> None:
        held, named = os.fstat(self._descriptor), self.path.stat()
        if (held.st_ino, held.st_dev) != (named.st_ino, named.st_dev) or (
            held.st_size != self._length
        ):
            raise UserError(
                f"Only one program may write a ledger, but {self.path} was changed by another one "
                "while the sweep was running. Restore the file and run the same command again; "
                "trials that were not yet recorded run again."
            )
