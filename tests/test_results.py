"""Files of a results folder are whole, and rows say where they come from."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hptransfer.errors import MachineError
from hptransfer.results import folder as results


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "folder" / "x.json"
    results.write_json(path, {"a": 1})
    before = path.stat().st_mtime_ns
    results.write_json(path, {"a": 1})
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="JSON compliant"):
        results.write_json(path, {"a": float("nan")})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(MachineError, match="No space left"):
        results.write_json(path, {"a": 2})
    assert results.read_json(path, "a") == {"a": 1}


def test_provenance_marks_a_dirty_checkout_and_is_in_utc(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "hptransfer").mkdir()
    fake = tmp_path / "hptransfer" / "results.py"
    fake.write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(results, "__file__", str(fake))
    clean = results.provenance()["commit"]
    assert clean and not clean.endswith("+")
    fake.write_text("# changed\n")
    assert results.provenance()["commit"] == f"{clean}+"
    monkeypatch.setenv("TZ", "XXX-09")
    time.tzset()
    try:
        written = datetime.strptime(results.provenance()["time"], "%Y-%m-%dT%H:%M:%SZ")
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert abs((written.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()) < 60
