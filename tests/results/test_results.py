"""Files of a results folder are whole, and rows say where they come from."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hptransfer.errors import MachineError
from hptransfer.results import provenance as module
from hptransfer.results.folder import read_json, write_json
from hptransfer.results.provenance import provenance


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "folder" / "x.json"
    write_json(path, {"a": 1})
    before = path.stat().st_mtime_ns
    write_json(path, {"a": 1})
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(MachineError, match="No space left"):
        write_json(path, {"a": 2})
    assert read_json(path, "a") == {"a": 1}


def test_provenance_marks_a_dirty_checkout_and_is_in_utc(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "hptransfer" / "results").mkdir(parents=True)
    fake = tmp_path / "hptransfer" / "results" / "provenance.py"
    fake.write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(module, "__file__", str(fake))
    clean = provenance()["commit"]
    assert clean and not clean.endswith("+")
    fake.write_text("# changed\n")
    assert provenance()["commit"] == f"{clean}+"
    monkeypatch.setenv("TZ", "XXX-09")
    time.tzset()
    try:
        written = datetime.strptime(provenance()["time"], "%Y-%m-%dT%H:%M:%SZ")
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert abs((written.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()) < 60
