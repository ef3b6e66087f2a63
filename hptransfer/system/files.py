"""Writing files whole or not at all, and what a full or read-only disk is answered with."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hptransfer.errors import MachineError, UserError, abbreviate


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
def opening(folder: Path, another: str = "--results") -> Iterator[None]:
    """Turn what the user can fix by naming another folder into a UserError.

    `another` is the option that names it.
    """
    fixable = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
    with writing(folder):
        try:
            yield
        except OSError as error:
            if error.errno not in fixable:
                raise
            raise UserError(
                f"A folder to write into must be writable, but {error.filename or folder} is not: "
                f"{error.strerror}. Make it a folder that may be written, or choose another with "
                f"{another}."
            ) from error


def require_inside(folder: Path, path: Path) -> None:
    """Refuse a path that links lead out of a folder; the folder itself may be a link.

    This keeps a received folder from naming files elsewhere, not a process that swaps links while
    hptransfer runs.
    """
    real, root = (Path(os.path.realpath(each)) for each in (path, folder))
    if not real.is_relative_to(root):
        raise UserError(
            f"What is in a results folder must stay in it, but {path} leads to {real}, outside "
            f"{folder}. Replace the link by a file or folder of its own; {folder} itself may be a "
            "link."
        )


def require_links_inside(folder: Path) -> None:
    """Refuse a results folder in which a link leads out of it, down to what a training run left.

    Curves are not looked through: there are as many as trials.
    """
    names = ("", "target", "target/runs", "trials", "figures", "exports")
    for inner in (*(folder / name for name in names), *folder.glob("target/runs/*")):
        for path in inner.iterdir() if inner.is_dir() else ():
            if path.is_symlink():
                require_inside(folder, path)


def checked_key(key: object) -> str:
    """Return a trial's key read from a file if it is one, since files are named after it."""
    if not isinstance(key, str) or not re.fullmatch(r"[0-9a-f]{12}", key):
        raise UserError(
            f"A trial's key must be 12 hex digits, but got {abbreviate(key)}. The file "
            "was changed by "
            "hand, or is not from hptransfer; restore it."
        )
    return key


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, and leave it untouched where it says the same."""
    with opening(path.parent):
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        write_whole(path, text.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, and the folder it lies in, whole or not at all; what fails is an OSError.

    It is written under a name of its own and renamed: several may write it at a time, and a link
    of its name is replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have a folder's new names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
