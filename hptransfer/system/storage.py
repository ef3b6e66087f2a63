"""The storage of packs' checkpoints: a folder, or a URL that fsspec knows.

A file is stored whole or not at all: locally by renaming, in an object store by a single put. Each
pack has a sub-folder named after its trials, so that all its files can be removed at once.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hptransfer.errors import MachineError, UserError
from hptransfer.system.files import write_whole

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def open_storage(folder: str) -> Storage:
    """Return the files below a path or URL; every failure of theirs is a `MachineError`.

    Raises:
        UserError: fsspec does not know the protocol, or lacks the package for it.
    """
    printed = without_credentials(folder)
    protocol, is_url, rest = folder.partition("://")
    if not is_url:
        return LocalStorage(Path(folder))
    if protocol == "file":
        return LocalStorage(Path(rest))
    try:
        from fsspec.core import url_to_fs

        filesystem, root = url_to_fs(folder)
    except ImportError as error:
        raise UserError(
            f"Storage {printed} needs a package that is not installed here: {error}. Install "
            "it on every node, or use a folder that all nodes share."
        ) from error
    except ValueError as error:
        raise UserError(
            f"Storage must be a folder, or a URL that fsspec knows such as s3://bucket/folder, but "
            f"got {printed}: {error}."
        ) from error
    return UrlStorage(filesystem, root, printed)


def without_credentials(folder: str) -> str:
    """Return a path or URL without a user's name and password, as it may be printed."""
    return re.sub(r"//[^/@]*@", "//", folder)


@dataclass(frozen=True)
class LocalStorage:
    """Files below a local or mounted folder."""

    folder: Path

    def read_bytes(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is no such file."""
        path = self.folder / name
        with _reaching(str(path), "read", OSError):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all."""
        path = self.folder / name
        with _reaching(str(path), "written", OSError):
            write_whole(path, content)

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with its content."""
        path = self.folder / name
        with _reaching(str(path), "removed", OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class UrlStorage:
    """Files below a URL; backends raise errors of many kinds, all of them the machine's fault."""

    filesystem: AbstractFileSystem
    root: str  # the folder, as the file system names it
    url: str  # the folder as it is printed

    def read_bytes(self, name: str) -> bytes | None:
        """Return an object's content, or None where there is none."""
        with _reaching(f"{self.url}/{name}", "read", Exception):
            try:
                content = self.filesystem.cat_file(self._path(name))
            except FileNotFoundError:
                return None
        assert isinstance(content, bytes), "fsspec returns bytes for all of a file"
        return content

    def write_bytes(self, name: str, content: bytes) -> None:
        """Put an object; if a file system has folders, missing ones are made."""
        path = self._path(name)
        with _reaching(f"{self.url}/{name}", "written", Exception):
            try:
                self.filesystem.pipe_file(path, content)
            except FileNotFoundError:
                self.filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
                self.filesystem.pipe_file(path, content)

    def remove(self, name: str) -> None:
        """Remove an object, or all objects below this folder."""
        with _reaching(f"{self.url}/{name}", "removed", Exception):
            self.filesystem.invalidate_cache()
            try:
                self.filesystem.rm(self._path(name), recursive=True)
            except FileNotFoundError:
                return

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}".rstrip("/")


Storage = LocalStorage | UrlStorage


@contextmanager
def _reaching(where: str, done: str, faults: type[Exception]) -> Iterator[None]:
    """Replace a storage's errors, in a `with` block, by a `MachineError` that says what failed."""
    try:
        yield
    except faults as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise MachineError(
            f"{where} could not be {done}: {reason}. Free or repair it, or name another folder in "
            "executor.storage."
        ) from error
