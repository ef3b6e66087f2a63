"""Folders and URLs: files that are there whole or not at all, and sentences where that fails."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import pytest

from hptransfer.errors import MachineError, UserError
from hptransfer.execution.ray.cluster import seen
from hptransfer.system.storage import LocalStorage, Storage, open_storage, without_credentials


@pytest.fixture(params=["path", "file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    folder = {
        "path": str(tmp_path / "kept"),
        "file": f"file://{tmp_path}/kept",
        "memory": f"memory://{tmp_path.name}/kept",
    }
    return open_storage(folder[request.param])


def test_files_are_written_replaced_and_removed(storage: Storage) -> None:
    assert storage.read_bytes("pack/one") is None
    storage.write_bytes("pack/one", b"first")
    storage.write_bytes("pack/one", b"second")
    storage.write_bytes("pack/two", b"")
    storage.write_bytes("packs", b"\x00")
    assert storage.read_bytes("pack/one") == b"second" and storage.read_bytes("pack/two") == b""
    storage.remove("pack")
    storage.remove("pack")
    assert storage.read_bytes("pack/one") is None and storage.read_bytes("pack/two") is None
    assert storage.read_bytes("packs") == b"\x00"
    storage.remove("packs")
    assert storage.read_bytes("packs") is None


def test_a_token_is_read_where_it_was_written(tmp_path: Path) -> None:
    open_storage(str(tmp_path / "shared")).write_bytes("probe/token", b"abc")
    assert seen(str(tmp_path / "shared"), "probe/token") == "abc"
    assert seen(str(tmp_path / "other"), "probe/token") is None


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_is_cut_off_leaves_the_old_file_and_no_other(
    fault: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    storage.write_bytes("one", b"old")

    def fails(_: int) -> None:
        raise fault

    monkeypatch.setattr(os, "fsync", fails)
    expected = MachineError if isinstance(fault, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        storage.write_bytes("one", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert storage.read_bytes("one") == b"old"
    if expected is MachineError:
        for part in (str(tmp_path / "one"), "No space left on device", "executor.storage"):
            assert part in str(caught.value)


def test_what_a_kill_left_half_written_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / ".one.0a1b").write_bytes(b"half")
    storage = LocalStorage(tmp_path)
    assert storage.read_bytes("pack/one") is None
    storage.remove("pack")
    assert list(tmp_path.iterdir()) == []


def test_what_a_backend_raises_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    storage: Any = open_storage("memory://broken")

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("token expired")

    for operation in ("cat_file", "pipe_file", "rm"):
        monkeypatch.setattr(type(storage.filesystem), operation, fails)
    for attempt in (
        lambda: storage.read_bytes("one"),
        lambda: storage.write_bytes("one", b""),
        lambda: storage.remove("one"),
    ):
        with pytest.raises(MachineError, match="token expired"):
            attempt()


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(UserError, match="fsspec knows") as caught:
        open_storage("nosuch://me:secret@host/folder")
    assert "secret" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "s3fs":
            raise ImportError("No module named 's3fs'")
        return really(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="s3fs"):
        open_storage("s3://bucket/folder")


def test_passwords_are_not_shown() -> None:
    assert without_credentials("sftp://me:secret@host/folder") == "sftp://host/folder"
    assert without_credentials("/a/folder@home") == "/a/folder@home"
