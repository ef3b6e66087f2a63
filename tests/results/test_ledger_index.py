"""The index of a ledger: a cache that is used where it holds, and never believed elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hptransfer.analysis import of_folder
from hptransfer.errors import UserError
from hptransfer.results import ledger_index, ledger_writer
from hptransfer.results.folder import ResultsFolder
from tests.support.recorded_rows import append_rows, write_sweep


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ResultsFolder, list[dict]]:
    """Return a folder with 40 of 60 rows, and the others; every ledger is worth an index."""
    monkeypatch.setattr(ledger_index, "SMALLEST", 0)
    folder, rows = write_sweep(tmp_path / "tiny")
    append_rows(folder.path, rows[:40])
    return folder, rows[40:]


def scanned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the offset at which each further reading starts."""
    starts: list[int] = []
    scan = ledger_index.scan

    def noted(path: Path, start: int = 0, lines_before: int = 0):
        starts.append(start)
        return scan(path, start, lines_before)

    monkeypatch.setattr(ledger_index, "scan", noted)
    return starts


def test_only_the_rows_after_the_index_are_read(sweep, monkeypatch: pytest.MonkeyPatch):
    folder, rest = sweep
    starts = scanned(monkeypatch)
    first = of_folder.status(folder)
    assert (first["recorded"], first["wanted"], first["completed"]) == (40, 60, 40)
    size = (folder.path / "ledger.jsonl").stat().st_size
    assert of_folder.status(folder) == first
    append_rows(folder.path, rest)
    assert of_folder.status(folder)["recorded"] == 60
    assert starts == [0, size, size]
    lines = (folder.path / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    lines[50] = lines[50].replace(b"seed", b"sead")
    (folder.path / ledger_index.INDEX_NAME).unlink()
    (folder.path / "ledger.jsonl").write_bytes(b"".join(lines[:40]))
    of_folder.status(folder)
    (folder.path / "ledger.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(UserError, match="Line 51 "):  # numbered from the file's start
        of_folder.status(folder)


def test_an_index_is_forgotten_when_the_sweep_or_the_ledger_changes(sweep):
    folder, _ = sweep
    of_folder.status(folder)
    text = folder.sweep_file.read_text()
    tree = yaml.safe_load(text)
    tree["sweep"]["seeds"] = [0]
    folder.sweep_file.write_text(yaml.safe_dump(tree))
    state = of_folder.status(folder)
    assert state["recorded"] + state["outside_count"] == 40 and state["outside_count"] > 0
    folder.sweep_file.write_text(text)
    assert of_folder.status(folder)["outside_count"] == 0
    path = folder.path / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[5:]))
    assert of_folder.status(folder)["recorded"] == 35
    path.write_bytes(b"".join(reversed(lines)))
    assert of_folder.status(folder)["recorded"] == 40


@pytest.mark.parametrize("damage", ["", "{}", "[1]", "\x00", "edited"])
def test_a_damaged_index_is_made_anew(sweep, damage: str):
    folder, _ = sweep
    whole = of_folder.status(folder)
    index = folder.path / ledger_index.INDEX_NAME
    sound = index.read_text()
    assert '"completed": 40' in sound
    index.write_text(damage if damage != "edited" else sound.replace("40", "41", 1))
    assert of_folder.status(folder) == whole
    assert index.read_text() == sound


def test_a_folder_that_may_not_be_written_still_answers(sweep, monkeypatch: pytest.MonkeyPatch):
    folder, _ = sweep

    def refuse(path: Path, _: str) -> None:
        raise UserError(f"A sweep's folder must be writable, but {path} is not.")

    monkeypatch.setattr(ledger_index, "write_text", refuse)
    assert of_folder.status(folder)["recorded"] == 40


def test_an_index_is_not_read_through_a_link_out_of_the_folder(sweep, tmp_path: Path):
    folder, _ = sweep
    (tmp_path / "elsewhere").write_text("kept")
    (folder.path / ledger_index.INDEX_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="must stay in it"):
        of_folder.status(folder)
    assert (tmp_path / "elsewhere").read_text() == "kept"


def test_a_line_without_its_newline_is_counted_once(sweep):
    folder, rest = sweep
    path = folder.path / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert of_folder.status(folder)["recorded"] == 40
    assert of_folder.status(folder)["recorded"] == 40
    append_rows(folder.path, rest[:1])
    assert of_folder.status(folder)["recorded"] == 41


def test_a_cut_off_line_is_told_beside_the_index(sweep):
    folder, rest = sweep
    of_folder.status(folder)
    with (folder.path / "ledger.jsonl").open("ab") as file:
        file.write(ledger_writer.encode(rest[0])[:50])
    state = of_folder.status(folder)
    assert state["recorded"] == 40 and "50 bytes" in state["notice"]


def test_rows_outside_are_counted_and_the_first_are_named(sweep, monkeypatch: pytest.MonkeyPatch):
    folder, rest = sweep
    monkeypatch.setattr(ledger_index, "LISTED", 3)
    append_rows(folder.path, [{**row, "seed": 9} for row in rest[:5]])
    state = of_folder.status(folder)
    assert (state["recorded"], state["outside_count"]) == (40, 5)
    assert state["outside"] == [row["trial_key"] for row in rest[:3]]
    assert of_folder.status(folder) == state


def test_short_ledgers_have_no_index(tmp_path: Path):
    folder, rows = write_sweep(tmp_path / "tiny")
    assert of_folder.status(folder)["recorded"] == 0
    append_rows(folder.path, rows)
    assert of_folder.status(folder)["recorded"] == 60
    assert not (folder.path / ledger_index.INDEX_NAME).exists()
