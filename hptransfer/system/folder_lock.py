"""The lock that lets one process at a time write a folder.

flock decides between processes that it reaches, and ends with its process. Some file systems have
no flock, or one that other hosts do not see. So the lock file also names its owner (host, pid,
since when) and is written every `HEARTBEAT_S`: an owner on another host that is silent for
`SILENCE_S` counts as ended. The file is empty once its owner released it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from hptransfer.errors import UserError
from hptransfer.system.files import opening, require_inside

LOCK_NAME = ".lock"
HEARTBEAT_S = 10.0  # seconds between two writes of the lock file by its owner
SILENCE_S = 60.0  # seconds without a write after which an owner on another host has ended
_WITHOUT_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class LockOwner:
    """The process that holds a lock."""

    host: str
    pid: int
    process_start: int | None  # clock ticks since boot, as pids are reused; None: no /proc
    since: str  # UTC, ISO 8601

    def __str__(self) -> str:
        return f"host {self.host} pid {self.pid}"

    @property
    def head(self) -> bytes:
        """The bytes that the lock file begins with while this owner holds the lock."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()[:-1] + b',"heartbeat":"'


class FolderLock:
    """The lock of a results folder, held from `take` to `release` or in a `with` block.

    `note` says what was unusual when the lock was taken, or is None.

    The age of a heartbeat is that of the lock file by the file system's clock, since the clocks of
    two hosts may differ by more than `SILENCE_S`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / LOCK_NAME
        self.note: str | None = None
        self._owner = LockOwner(
            socket.gethostname(), os.getpid(), _started(os.getpid()), datetime.now(UTC).isoformat()
        )
        self._descriptor = -1
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat_on, name="ledger-lock", daemon=True)

    def __enter__(self) -> Self:
        """Make the folder if it is not there, and take its lock."""
        with opening(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            return self.take()

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> Self:
        """Take the lock, and keep it alive until `release`.

        Raises:
            UserError: somebody else holds it.
        """
        require_inside(self.folder, self.path)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._take()
        except BaseException:
            os.close(self._descriptor)
            self._descriptor = -1
            raise
        self._heart.start()
        return self

    def _take(self) -> None:
        notes = []
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            flocked = True
        except BlockingIOError:
            raise self._refusal(_owner(self._content()), "") from None
        except OSError as error:
            if error.errno not in _WITHOUT_FLOCK:
                raise
            flocked = False
            notes.append(
                f"The file system of {self.folder} has no flock ({error.strerror}); the heartbeat "
                f"in {self.path.name} guards it alone, so start no two sweeps at the same moment."
            )
        if (holder := _owner(self._content())) is not None:
            self._require_ended(holder, flocked=flocked)
            notes.append(
                f"The sweep of {holder} ended without releasing {self.folder}; its lock was taken "
                "over."
            )
        self._beat()
        self.note = " ".join(notes) or None

    def _require_ended(self, holder: LockOwner, *, flocked: bool) -> None:
        """Refuse to take the lock over from an owner who may still write."""
        if holder.host == self._owner.host:
            # Here the kernel releases a flock with its process, however that ends.
            if not flocked and _lives(holder):
                raise self._refusal(holder, "")
            return
        silence = self._silence()
        if silence < SILENCE_S:
            raise self._refusal(
                holder,
                f" Its last sign of life is {max(silence, 0.0):.0f} s old; after {SILENCE_S:g} s "
                "of silence it is taken over.",
            )

    def _silence(self) -> float:
        """Return the age of the lock file in seconds, by the file system's clock."""
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=f"{LOCK_NAME}.") as now:
            now.write(b"\n")
            now.flush()
            return os.fstat(now.fileno()).st_mtime - os.fstat(self._descriptor).st_mtime

    def _refusal(self, holder: LockOwner | None, more: str) -> UserError:
        return UserError(
            f"One command at a time writes {self.folder}, but {holder or 'another process'} is "
            f"writing it. Wait until it is done or stop it.{more}"
        )

    def _content(self) -> bytes:
        """Read the file that has the lock's name now, which may have replaced the one we opened."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return b""
        try:
            return os.read(descriptor, 1000)
        finally:
            os.close(descriptor)

    def _beat(self) -> None:
        """Write our name and the time into the lock file, in one write."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        content = self._owner.head + now.encode() + b'"}\n'
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))

    def _beat_on(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            # A heartbeat that cannot be written is left out; if that costs the lock,
            # `require_ours` says so before the next row is written.
            with suppress(OSError):
                if not self._is_ours():
                    return
                self._beat()

    def _is_ours(self) -> bool:
        return self._content().startswith(self._owner.head)

    def require_ours(self) -> None:
        """Refuse to write once somebody else has taken the lock over.

        Raises:
            UserError: the lock file names somebody else, or is gone.
        """
        if not self._is_ours():
            holder = _owner(self._content()) or "another program"
            raise UserError(
                f"The lock of {self.folder} was taken from this sweep by {holder}, as happens when "
                f"it is silent for {SILENCE_S:g} s. Nothing more is recorded; run the same command "
                "again once the other is done."
            )

    def release(self) -> None:
        """Release the lock and leave its file empty, so that the next owner sees that we ended."""
        if self._descriptor < 0:
            return
        self._released.set()
        try:
            self._heart.join()
            with suppress(OSError):  # the next owner then says that we ended without releasing
                if self._is_ours():
                    os.ftruncate(self._descriptor, 0)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1


def lock_holder(folder: str | Path) -> LockOwner | None:
    """Return who writes a folder now; None where nobody does. Nothing is written.

    The age of another host's heartbeat is read by this host's clock.
    """
    path = Path(folder) / LOCK_NAME
    try:
        holder, written = _owner(path.read_bytes()), path.stat().st_mtime
    except OSError:
        return None
    if holder is None:
        return None
    if holder.host == socket.gethostname():
        return holder if _lives(holder) else None
    return holder if time.time() - written < SILENCE_S else None


def _owner(content: bytes) -> LockOwner | None:
    """Return the owner that a lock file names; None where it is empty or of an earlier version."""
    try:
        value = json.loads(content)
        return LockOwner(
            str(value["host"]), int(value["pid"]), value["process_start"], str(value["since"])
        )
    except (ValueError, KeyError, TypeError):
        return None


def _lives(owner: LockOwner) -> bool:
    """Say whether the very process that took a lock on this host still runs."""
    try:
        os.kill(owner.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it runs as somebody else
    return _started(owner.pid) == owner.process_start


def _started(pid: int) -> int | None:
    """Return the start of a process in clock ticks since boot; None where there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[19])  # field 22 of proc(5), the name is field 2
