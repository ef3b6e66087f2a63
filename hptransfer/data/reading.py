"""What goes on while files are read: their failures as sentences, threads, and how far it is."""

from __future__ import annotations

import struct
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from zipfile import BadZipFile

from safetensors import SafetensorError

from hptransfer.errors import UserError

# Exceptions that numpy, safetensors, Pillow, Arrow, tarfile and json raise on broken files.
_FAILURES = (
    *(OSError, ValueError, SyntaxError, KeyError, EOFError, OverflowError),
    *(BadZipFile, zlib.error, struct.error, SafetensorError, tarfile.TarError),
)
READER_THREADS = 4  # threads per process; decoding and hashing release Python's lock
TOLD_EVERY_S = 10.0  # seconds between two lines about a folder that is being read


@contextmanager
def reading(path: Path | str | Callable[[], str]) -> Iterator[None]:
    """Replace an error of reading a file, in a `with` block, by a `UserError` that names it.

    Args:
        path: the file or place, or what returns its name where that takes time.
    """
    try:
        yield
    except UserError:
        raise
    except _FAILURES as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        name = path() if callable(path) else path
        raise UserError(
            f"{name} is broken or cannot be read: {reason}. Copy or write it again."
        ) from error


@cache
def reader_threads() -> ThreadPoolExecutor:
    """The threads that read and decode files."""
    return ThreadPoolExecutor(READER_THREADS, thread_name_prefix="data")


_TELL: ContextVar[Callable[[str], None] | None] = ContextVar("tell", default=None)


@contextmanager
def progress_to(tell: Callable[[str], None] | None) -> Iterator[None]:
    """Hand lines about long reading, in a `with` block, to `tell`; None: say nothing."""
    token = _TELL.set(tell)
    try:
        yield
    finally:
        _TELL.reset(token)


class Progress:
    """A line every ten seconds on how far the reading of `total` things is."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total  # such as "hashing the files of /data"
        self._began = self._told = time.monotonic()

    def at(self, done: int) -> None:
        """Say that so many are read, if the last line is ten seconds old."""
        tell, now = _TELL.get(), time.monotonic()
        if tell is None or now - self._told < TOLD_EVERY_S:
            return
        self._told = now
        minutes = (now - self._began) * (self._total - done) / max(done, 1) / 60
        tell(
            f"{self._what}: {done:,} of {self._total:,} ({done / self._total:.0%}), "
            f"about {minutes:.1f} min left"
        )
