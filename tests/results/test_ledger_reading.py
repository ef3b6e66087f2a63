"""Reading a ledger: older schemas, what is no row, stretches of long files, links."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hptransfer.config.choices import Status
from hptransfer.errors import UserError
from hptransfer.results import curves, ledger_rows, ledger_writer, table
from tests.support.recorded_rows import make_row, write_rows


def test_rows_of_schema_1_are_read_as_they_were_written(tmp_path: Path):
    path = write_rows(tmp_path, 1)
    old = {key: value for key, value in make_row(1).items() if key != "stopped_at_step"}
    path.write_bytes(path.read_bytes() + ledger_rows.encode_row({**old, "schema": 1}))
    before = path.read_bytes()
    first, migrated = ledger_rows.read_ledger(tmp_path).rows
    assert list(migrated) == list(first)
    assert migrated["stopped_at_step"] is None and migrated["schema"] == ledger_rows.LEDGER_SCHEMA
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        writer.append([make_row(2)])
    assert path.read_bytes().startswith(before)
    path.write_bytes(path.read_bytes().replace(b'"schema":1', b'"schema":2'))
    with pytest.raises(UserError, match=r"Line 2 .* checksum does not match"):
        ledger_rows.read_ledger(tmp_path)


def test_a_stopped_trial_has_its_step_and_no_loss(tmp_path: Path):
    stopped = make_row(status=Status.stopped, loss=None, train_loss=None, stopped_at_step=9)
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        writer.append([stopped])
    (found,) = ledger_rows.read_ledger(tmp_path).rows
    assert (found["status"], found["loss"], found["stopped_at_step"]) == ("stopped", None, 9)
    assert table.rows_table([found])["stopped_at_step"].tolist() == [9]
    with pytest.raises(ValueError, match="a loss exactly if it completed"):
        ledger_rows.encode_row({**stopped, "loss": 0.5})


def _sealed(body: bytes) -> bytes:
    return body[:-1] + b',"check":"' + hashlib.sha256(body).hexdigest()[:12].encode() + b'"}\n'


@pytest.mark.parametrize(
    "body", [b'{"schema":2}', b'{"trial_key":}', b'{"schema":2,"loss":NaN}', b'1,{"schema":2}']
)
def test_a_checksum_does_not_make_a_row(tmp_path: Path, body: bytes):
    path = write_rows(tmp_path, 1)
    path.write_bytes(path.read_bytes() + _sealed(body))
    with pytest.raises(UserError, match=r"Line 2 of .* is no row of a ledger"):
        ledger_rows.read_ledger(tmp_path)


def test_long_ledgers_are_read_in_stretches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_rows(tmp_path, 20)
    whole = ledger_rows.read_ledger(path).rows
    monkeypatch.setattr(ledger_rows, "CHUNK_BYTES", 1500)
    stretches = list(ledger_rows.scan_ledger(path))
    assert len(stretches) > 4
    assert ledger_rows.read_ledger(path).rows == whole
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[2]]))
    with pytest.raises(UserError, match="lines 3 and 21"):
        ledger_rows.read_ledger(path)
    path.write_bytes(b"".join([*lines[:17], lines[17].replace(b"seed", b"sead"), *lines[18:]]))
    with pytest.raises(UserError, match="Line 18 "):
        ledger_rows.read_ledger(path)


def test_links_out_of_the_folder_are_refused(tmp_path: Path):
    outside = write_rows(tmp_path / "outside", 1)
    before = outside.read_bytes()
    names = ("ledger.jsonl", ".lock")
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).symlink_to(outside)
        with pytest.raises(UserError, match="must stay in it"), ledger_writer.LedgerWriter(folder):
            pass
    folder = tmp_path / "dangling"
    folder.mkdir()
    (folder / "ledger.jsonl").symlink_to(tmp_path / "new.jsonl")
    with pytest.raises(UserError, match="must stay in it"), ledger_writer.LedgerWriter(folder):
        pass
    (folder / "curves").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="must stay in it"):
        curves.write_curve(folder, "key", [(1, 0.5)])
    assert outside.read_bytes() == before
    assert not (tmp_path / "new.jsonl").exists() and not (tmp_path / "outside/key.json").exists()
