"""The ledger: nothing recorded is lost or altered, and what is damaged is said."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hptransfer.config.choices import Status
from hptransfer.config.identity import trial_key
from hptransfer.errors import MachineError, UserError
from hptransfer.results import curves, ledger_rows, ledger_writer
from hptransfer.results import table as ledger_table
from tests.support.files import unchangeable
from tests.support.paths import ROOT
from tests.support.recorded_rows import HPS, PROVENANCE, diverged, make_row, result, write_rows


def test_rows_come_back_as_they_were_written(tmp_path: Path):
    rows = [make_row(0), ledger_rows.ledger_row(diverged(1), HPS, PROVENANCE)]
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        writer.append(rows[:1])
        writer.append(rows[1:])
    found = ledger_rows.read_ledger(tmp_path)
    assert [{**row, "check": None} for row in found.rows] == [{**r, "check": None} for r in rows]
    assert found.notice is None
    assert {row["trial_key"] for row in found.rows} == {
        trial_key(result(seed).config) for seed in (0, 1)
    }


def test_keys_of_a_line_stand_in_the_documented_order():
    line = ledger_rows.encode_row(make_row())
    assert list(json.loads(line)) == [
        *("trial_key", "status", "loss", "width", "parametrization", "hps", "seed", "schema"),
        *("config", "diverged_at_step", "stopped_at_step", "metrics", "cost", "provenance"),
        "check",
    ]
    assert line.endswith(b"\n")
    assert len(line) <= 640


def test_non_finite_metrics_are_null_and_a_non_finite_loss_is_refused():
    row = make_row(loss_at_init=math.inf, train_loss=math.nan)
    assert row["metrics"] == {"loss_at_init": None, "train_loss": None, "clipped_share": 0.125}
    with pytest.raises(ValueError, match="JSON compliant"):
        ledger_rows.encode_row(make_row(loss=math.nan))
    with pytest.raises(ValueError, match="a loss exactly if it completed"):
        ledger_rows.encode_row(make_row(status=Status.diverged))


def test_a_torn_last_line_is_told_by_read_and_removed_by_the_writer(tmp_path: Path):
    path = write_rows(tmp_path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + ledger_rows.encode_row(make_row(2))[:100])
    found = ledger_rows.read_ledger(tmp_path)
    assert len(found.rows) == 2
    assert found.torn_bytes == 100
    assert found.notice is not None
    assert "100 bytes" in found.notice
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        assert writer.notice == found.notice
        assert path.read_bytes() == whole
        writer.append([make_row(2)])
    assert len(ledger_rows.read_ledger(tmp_path).rows) == 3


def test_a_last_line_without_only_its_newline_is_a_row(tmp_path: Path):
    path = write_rows(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:-1])
    assert len(ledger_rows.read_ledger(path).rows) == 2
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        writer.append([make_row(2)])
    assert len(ledger_rows.read_ledger(path).rows) == 3


@pytest.mark.parametrize("damage", [(b"0.612345", b"0.512345"), (b'{"trial', b"{trial")])
def test_an_edited_line_is_refused_with_file_and_line(tmp_path: Path, damage: tuple):
    path = write_rows(tmp_path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"1.612345", b"0.612345").replace(*damage)
    path.write_bytes(b"".join(lines))
    message = f"Line 2 of {path} is not as it was written"
    with pytest.raises(UserError, match=re.escape(message)):
        ledger_rows.read_ledger(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)), ledger_writer.LedgerWriter(tmp_path):
        pass


def test_a_damaged_last_line_with_its_newline_is_not_taken_for_torn(tmp_path: Path):
    path = write_rows(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:-20] + b"\n")
    with pytest.raises(UserError, match="Line 2 "):
        ledger_rows.read_ledger(tmp_path)


def test_a_newer_schema_asks_for_an_upgrade(tmp_path: Path):
    path = write_rows(tmp_path, 1)
    path.write_bytes(path.read_bytes() + ledger_rows.encode_row({**make_row(1), "schema": 3}))
    with pytest.raises(UserError, match=r"Line 2 .* schema 3, .* up to 2\. Upgrade"):
        ledger_rows.read_ledger(tmp_path)
    path.write_bytes(b'{"schema":3,"of":"another kind"}\n')
    with pytest.raises(UserError, match=r"Line 1 .* schema 3"):
        ledger_rows.read_ledger(tmp_path)


def test_a_repeated_trial_is_refused(tmp_path: Path):
    path = write_rows(tmp_path, 2)
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        for rows in ([make_row(1)], [make_row(5), make_row(5)]):
            with pytest.raises(ValueError, match="have a row"):
                writer.append(rows)
    path.write_bytes(path.read_bytes() + ledger_rows.encode_row(make_row(0)))
    with pytest.raises(UserError, match="lines 1 and 3"):
        ledger_rows.read_ledger(tmp_path)


def test_a_ledger_changed_by_another_program_takes_no_more_rows(tmp_path: Path):
    path = write_rows(tmp_path, 1)
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        shutil.copy(path, tmp_path / "copy")
        (tmp_path / "copy").replace(path)
        with pytest.raises(UserError, match="changed by another one"):
            writer.append([make_row(1)])


def test_a_gzipped_ledger_is_refused_with_the_command_that_unpacks_it(tmp_path: Path):
    path = write_rows(tmp_path, 3)
    zipped = tmp_path / "ledger.jsonl.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    folder, whole = str(tmp_path), {file: file.read_bytes() for file in (path, zipped)}

    def write() -> None:
        with ledger_writer.LedgerWriter(folder):
            pass

    ways = (
        write,
        lambda: ledger_rows.read_ledger(folder),
        lambda: ledger_rows.read_ledger_rows(folder),
        lambda: list(ledger_rows.iterate_ledger_rows(folder)),
    )
    for way in ways:
        with pytest.raises(UserError, match=r"holds both ledger\.jsonl and ledger\.jsonl\.gz"):
            way()
    assert {file: file.read_bytes() for file in (path, zipped)} == whole
    path.unlink()
    for way in (*ways, lambda: ledger_rows.read_ledger(zipped)):
        with pytest.raises(UserError, match=f"gunzip {re.escape(str(zipped))}"):
            way()
    subprocess.run(["gunzip", str(zipped)], check=True)
    assert len(ledger_rows.read_ledger(folder).rows) == 3


def test_a_missing_ledger_is_the_users_to_fix(tmp_path: Path):
    for path in (tmp_path, tmp_path / "typo", tmp_path / "ledger.jsonl"):
        with pytest.raises(UserError, match="There is no ledger at"):
            ledger_rows.read_ledger(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_loses_nothing_recorded(small_disk: Path):
    recorded = 0
    with ledger_writer.LedgerWriter(small_disk) as writer:
        with pytest.raises(MachineError, match=r"No space left.*run the same command again"):
            for start in range(0, 1000, 10):
                writer.append([make_row(seed) for seed in range(start, start + 10)])
                recorded = start + 10
        found = ledger_rows.read_ledger(small_disk)
        assert (len(found.rows), found.torn_bytes) == (recorded, 0)
        assert recorded > 0
        rest = writer.path.stat().st_size
        with pytest.raises(MachineError, match="No space left"):
            curves.write_curve(small_disk, "key", [(step, 0.5) for step in range(20_000)])
        assert writer.path.stat().st_size == rest
        assert not (small_disk / "curves" / "key.json").exists()


def test_a_read_only_ledger_is_the_users_to_fix(tmp_path: Path):
    write_rows(tmp_path, 1)
    with (
        unchangeable(tmp_path / "ledger.jsonl"),
        pytest.raises(UserError, match=r"must be writable, but .*ledger\.jsonl is not"),
        ledger_writer.LedgerWriter(tmp_path),
    ):
        pass
    assert len(ledger_rows.read_ledger(tmp_path).rows) == 1


def test_a_folder_that_is_a_file_is_the_users_to_fix(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="must be writable"),
        ledger_writer.LedgerWriter(tmp_path / "file"),
    ):
        pass


APPENDER = """
import sys
sys.path.insert(0, {tests!r})
from tests.support.recorded_rows import make_row
from hptransfer.results import curves, ledger_rows, ledger_writer
with ledger_writer.LedgerWriter({folder!r}) as writer:
    for start in range(0, 10**6, 5):
        writer.append([make_row(seed) for seed in range(start, start + 5)])
        print(start + 5, flush=True)
"""


def test_a_killed_writer_leaves_a_readable_ledger(tmp_path: Path):
    program = APPENDER.format(tests=str(ROOT), folder=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    recorded = int(lines[-1])
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        assert len(writer.keys) >= recorded
        writer.append([make_row(10**6)])
    assert len(ledger_rows.read_ledger(tmp_path).rows) > recorded


def test_curves_round_trip(tmp_path: Path):
    curves.write_curve(tmp_path, "0123456789ab", [(10, 0.5), (20, math.nan)])
    assert curves.read_curve(tmp_path, "0123456789ab") == ((10, 0.5), (20, None))
    assert curves.read_curve(tmp_path, "none") == ()
    assert [path.name for path in (tmp_path / "curves").iterdir()] == ["0123456789ab.json"]


def test_the_table_has_the_documented_columns():
    rows = [make_row(0), ledger_rows.ledger_row(diverged(1), HPS, PROVENANCE)]
    table = ledger_table.rows_table(rows)
    names = [c.name.replace("<hp>", "lr") for c in ledger_table.TABLE_COLUMNS]
    assert list(table.columns) == names
    for column in ledger_table.TABLE_COLUMNS:
        dtype = str(table[column.name.replace("<hp>", "lr")].dtype)
        assert dtype in (column.dtype, "object"), column.name
    assert table["loss"].isna().tolist() == [False, True]
    assert table["diverged_at_step"].tolist()[1] == 7
    assert table["log2_lr"].tolist() == [-7.5, -7.5]
    assert table["family"].tolist() == ["dit", "dit"]
    assert list(ledger_table.rows_table([]).columns) == [n for n in names if n != "log2_lr"]


def test_rows_are_on_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    write, fsync = os.write, os.fsync
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        monkeypatch.setattr(os, "write", lambda *a: (calls.append("write"), write(*a))[1])
        monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
        writer.append([make_row(0), make_row(1)])
    assert calls == ["write", "fsync"]


def test_a_curve_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    replace, fsync = Path.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    curves.write_curve(tmp_path, "key", [(1, 0.5)])
    assert calls[:2] == ["fsync", "replace"]


def test_a_writer_remembers_what_it_appended(tmp_path: Path):
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        writer.append([make_row(0)])
        with pytest.raises(ValueError, match="have a row"):
            writer.append([make_row(0)])


def test_a_ledger_that_grew_meanwhile_takes_no_more_rows(tmp_path: Path):
    path = write_rows(tmp_path, 1)
    with ledger_writer.LedgerWriter(tmp_path) as writer:
        with path.open("ab") as other:
            other.write(ledger_rows.encode_row(make_row(1)))
        with pytest.raises(UserError, match="changed by another one"):
            writer.append([make_row(2)])
