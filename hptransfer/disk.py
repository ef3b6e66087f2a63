"""Writing files whole or not at all, and what a full or read-only disk is answered with."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hptransfer.errors import MachineError, UserError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into a MachineError."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"{path} could not be written: {error.strerror}. Free space or repair the disk and "
            "run the same command again; nothing recorded was lost."
        ) from error


@contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Turn what the user can fix by naming another folder into a UserError."""
    fixable = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
    with writing(folder):
        try:
            yield
        except OSError as error:
            if error.errno not in fixable:
                raise
            raise UserError(
                f"A sweep's folder must be writable, but {error.filename or folder} is not: "
                f"{error.strerror}. Make it a folder that may be written, or choose another with "
                "--results."
            ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, and leave it untouched where it says the same."""
    with opening(path.parent):
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
