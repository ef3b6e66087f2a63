"""Files written whole or not at all, links kept inside a folder, the user's cache, a full disk."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hptransfer.errors import MachineError, UserError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes `path`, into a MachineError with a remedy."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"{path} could not be written: {error.strerror}. Free space or repair the disk and "
            "run the same command again; nothing recorded was lost."
        ) from error


@contextmanager
def opening(folder: Path, otherwise: str = "choose another with --results") -> Iterator[None]:
    """Turn an OSError of the block, which writes into `folder`, into a sentence with a remedy.

    An error that another folder would mend becomes a UserError; any other becomes a MachineError.

    Args:
        otherwise: what to do where the folder cannot be made writable.
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
                f"{error.strerror}. Make it a folder that may be written, or {otherwise}."
            ) from error


def require_inside(folder: Path, path: Path) -> None:
    """Refuse a path that lies outside a folder, or that links lead out of it.

    The folder itself may be a link. This keeps a folder that was received from somebody from naming
    files elsewhere; it does not guard against a process that swaps links while hptransfer runs.
    """
    real, root = (Path(os.path.realpath(each)) for each in (path, folder))
    if not real.is_relative_to(root):
        raise UserError(
            f"What is in a results folder must stay in it, but {path} leads to {real}, outside "
            f"{folder}. Replace the link by a file or folder of its own; {folder} itself may be a "
            "link."
        )


def require_links_inside(folder: Path) -> None:
    """Refuse a results folder that holds a link to somewhere outside it.

    The folders of training runs are searched too. `curves/` is not: it holds a file for each trial.
    """
    names = ("", "target", "target/runs", "trials", "figures", "exports")
    for inner in (*(folder / name for name in names), *folder.glob("target/runs/*")):
        for path in inner.iterdir() if inner.is_dir() else ():
            if path.is_symlink():
                require_inside(folder, path)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; a file that holds the same text already stays untouched."""
    with opening(path.parent, "run the command on a copy that may be written"):
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        write_whole(path, text.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and make the folder that it lies in.

    The content is written to a file of a random name, which is then renamed. So several processes
    may write one file at a time, and a link of the file's name is replaced and not followed.

    Raises:
        OSError: the disk is full, or may not be written.
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


def user_cache() -> Path:
    """Return `$XDG_CACHE_HOME/hptransfer`, by default in `~/.cache`; it may be deleted any time."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return root / "hptransfer"


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names to the disk, so that a new file survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
