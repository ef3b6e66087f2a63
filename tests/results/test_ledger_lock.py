"""The lock: one writer at a time, whoever ended without releasing it is taken over from."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hptransfer.errors import UserError
from hptransfer.results import ledger_rows, ledger_writer
from hptransfer.system import folder_lock
from tests.support.paths import ROOT
from tests.support.recorded_rows import make_row

HOLDER = """
import sys, time
sys.path.insert(0, {tests!r})
from tests.support.recorded_rows import make_row
from hptransfer.results import ledger_rows, ledger_writer
with ledger_writer.LedgerWriter({folder!r}) as writer:
    writer.append([make_row(0)])
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Start a process that has the folder's lock."""
    program = HOLDER.format(tests=str(ROOT), folder=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def foreign(folder: Path, silent_s: float, **changes: object) -> bytes:
    """Write the lock of a sweep on another host, last seen so long ago."""
    owner = {"host": "elsewhere", "pid": 7, "process_start": 1, "since": "then", **changes}
    path = folder / ".lock"
    path.write_text(json.dumps(owner) + "\n")
    then = time.time() - silent_s
    os.utime(path, (then, then))
    return path.read_bytes()


def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_live_process_is_not_disturbed(tmp_path: Path, holder: subprocess.Popen):
    with (
        pytest.raises(UserError, match=rf"host .+ pid {holder.pid} is writing"),
        ledger_writer.LedgerWriter(tmp_path),
    ):
        pass


def test_a_killed_process_is_taken_over_from_with_a_note(tmp_path: Path, holder: subprocess.Popen):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        assert writer.notice is not None
        assert re.fullmatch(
            rf"The sweep of host .+ pid {holder.pid} ended without releasing .+; its lock was "
            r"taken over\.",
            writer.notice,
        )
        writer.append([make_row(1)])
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        assert writer.notice is None  # the one before released it
        assert len(writer.keys) == 2
    assert (tmp_path / ".lock").read_bytes() == b""


def test_a_second_writer_of_the_process_is_told_who_holds_the_lock(tmp_path: Path):
    with (
        ledger_writer.LedgerWriter(tmp_path),
        pytest.raises(UserError, match=f"host .+ pid {os.getpid()} is writing"),
        ledger_writer.LedgerWriter(tmp_path),
    ):
        pass
    with ledger_writer.LedgerWriter(tmp_path):  # the lock is free again
        pass


def test_another_host_that_gave_a_sign_of_life_is_waited_for(tmp_path: Path):
    before = foreign(tmp_path, 50)
    with (
        pytest.raises(UserError, match=r"host elsewhere pid 7 is writing.*sign of life is 5\d s"),
        ledger_writer.LedgerWriter(tmp_path),
    ):
        pass
    assert (tmp_path / ".lock").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_another_host_that_is_silent_is_taken_over_from(tmp_path: Path):
    foreign(tmp_path, 70)
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        assert writer.notice is not None
        assert "host elsewhere pid 7 ended without releasing" in writer.notice
        writer.append([make_row(0)])


def test_who_lost_the_lock_appends_no_more(tmp_path: Path):
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        writer.append([make_row(0)])
        taken = foreign(tmp_path, 0)
        with pytest.raises(UserError, match="taken from this sweep by host elsewhere pid 7"):
            writer.append([make_row(1)])
    assert (tmp_path / ".lock").read_bytes() == taken  # it is not ours to clear
    (tmp_path / ".lock").unlink()
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        (tmp_path / ".lock").unlink()
        with pytest.raises(UserError, match="by another program"):
            writer.append([make_row(1)])
    assert len(ledger_rows.read_ledger(tmp_path).rows) == 1


def test_the_owner_gives_signs_of_life_until_it_lost_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(folder_lock, "HEARTBEAT_S", 0.01)
    path = tmp_path / ".lock"
    with ledger_writer.LedgerWriter(tmp_path):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline, "there was no heartbeat"
            time.sleep(0.005)
        taken = foreign(tmp_path, 0)
        time.sleep(0.1)
        assert path.read_bytes() == taken


def test_without_flock_the_process_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    without_flock(monkeypatch)
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        assert writer.notice is not None and "has no flock" in writer.notice
        writer.append([make_row(0)])
        with (
            pytest.raises(UserError, match=f"pid {os.getpid()} is writing"),
            ledger_writer.LedgerWriter(tmp_path),
        ):
            pass
        here = json.loads((tmp_path / ".lock").read_bytes())
    # The pid lives, but another process has it now.
    foreign(tmp_path, 0, **{**here, "process_start": here["process_start"] - 1})
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        assert writer.notice is not None and "ended without releasing" in writer.notice


def test_without_flock_a_dead_process_is_taken_over_from(
    tmp_path: Path, holder: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
):
    without_flock(monkeypatch)
    with (
        pytest.raises(UserError, match=f"pid {holder.pid} is writing"),
        ledger_writer.LedgerWriter(tmp_path),
    ):
        pass
    holder.kill()
    holder.wait()
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        assert writer.notice is not None
        assert f"pid {holder.pid} ended without releasing" in writer.notice


def test_a_file_system_that_fails_otherwise_is_not_taken_for_one_without_flock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(Exception, match="Input/output error"), ledger_writer.LedgerWriter(tmp_path):
        pass


def test_a_lock_of_an_earlier_version_holds_nobody(tmp_path: Path):
    (tmp_path / ".lock").write_text("host elsewhere pid 7\n")
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        assert writer.notice is None


def test_who_holds_a_lock_is_read_without_taking_it(tmp_path: Path) -> None:
    assert folder_lock.lock_holder(tmp_path) is None
    with folder_lock.FolderLock(tmp_path):
        held = folder_lock.lock_holder(tmp_path)
        assert held is not None and held.pid == os.getpid()
    assert folder_lock.lock_holder(tmp_path) is None


def test_an_owner_that_ended_or_is_silent_holds_no_lock(tmp_path: Path, holder) -> None:
    assert folder_lock.lock_holder(tmp_path) is not None
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert folder_lock.lock_holder(tmp_path) is None
    foreign(tmp_path, 0.0)
    assert folder_lock.lock_holder(tmp_path) is not None
    foreign(tmp_path, folder_lock.SILENCE_S + 1)
    assert folder_lock.lock_holder(tmp_path) is None
