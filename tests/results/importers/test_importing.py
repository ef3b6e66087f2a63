"""`hptransfer import`: rows of another ledger, appended by key."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.results import curves, ledger_rows
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import read_ledger
from tests.support.recorded_rows import append_rows, make_row, write_sweep

MINE = Path("results/mine")


@pytest.fixture
def slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[dict]]:
    """Return a slice of 40 rows and 2 of the target; ours has the last 30, so 10 are in both."""
    monkeypatch.chdir(tmp_path)
    other, rows = write_sweep(Path("slice"))
    mine, _ = write_sweep(MINE)
    append_rows(other.path, rows[:40])
    append_rows(other.target, [make_row(seed) for seed in range(2)])
    append_rows(mine.path, rows[30:])
    return other.path, rows


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_missing_rows_are_appended_once(
    slices: tuple[Path, list[dict]], capsys: pytest.CaptureFixture[str]
):
    source, rows = slices
    before, theirs = (MINE / "ledger.jsonl").read_bytes(), contents(source)
    assert main(["import", "slice", "results/mine"]) == 0
    out = capsys.readouterr().out
    assert (
        "imported 30 rows (30 of them the sweep wants) and 30 curves of slice/ledger.jsonl into "
        "results/mine; 10 were there already\n" in out
    )
    assert out.splitlines()[-1] == "next: hptransfer fit results/mine"
    assert (MINE / "ledger.jsonl").read_bytes().startswith(before)
    found = read_ledger(MINE).rows
    assert [row["trial_key"] for row in found[30:]] == [row["trial_key"] for row in rows[:30]]
    for row, original in zip(found[30:], rows, strict=False):
        assert list(row)[-3:] == ["provenance", "source", "check"] and row["source"] == "slice"
        assert {name: row[name] for name in original} == original
    assert [row["source"] for row in read_ledger(MINE / "target").rows] == ["slice/target"] * 2
    assert curves.read_curve(MINE, rows[0]["trial_key"]) == ((1, 0.5),)
    assert contents(source) == {**theirs, "slice/.lock": b""}
    after = contents(MINE)
    assert main(["import", "slice", "mine", "--json"]) == 0
    own, target = json.loads(capsys.readouterr().out)["ledgers"]
    assert (own["appended"], own["identical"], target["identical"]) == (0, 40, 2)
    assert contents(MINE) == after


def test_another_outcome_of_a_trial_is_told_and_ours_kept(
    slices: tuple[Path, list[dict]], capsys: pytest.CaptureFixture[str]
):
    source, rows = slices
    changed = [{**row, "loss": row["loss"] + 0.25 * i} for i, row in enumerate(rows[28:34])]
    changed[-1] |= {"status": "diverged", "loss": None, "diverged_at_step": 3}
    (source / "ledger.jsonl").write_bytes(b"".join(map(ledger_rows.encode_row, changed)))
    assert main(["import", "slice/ledger.jsonl", "results/mine"]) == 0
    out = capsys.readouterr().out
    assert "imported 2 rows" in out and "0 were there already" in out
    assert "4 trials have another outcome there, by up to 1 in loss: ours are kept" in out
    kept = {row["trial_key"]: row["loss"] for row in read_ledger(MINE).rows}
    assert [kept[row["trial_key"]] for row in rows[30:]] == [row["loss"] for row in rows[30:]]


def test_the_ledger_of_a_target_goes_into_the_target(slices: tuple[Path, list[dict]]):
    assert main(["import", "slice/ledger.jsonl", "results/mine"]) == 0
    assert len(read_ledger(MINE).rows) == 60 and not (MINE / "target").exists()
    assert main(["import", "slice/target", "results/mine"]) == 0
    assert len(read_ledger(MINE).rows) == 60 and len(read_ledger(MINE / "target").rows) == 2


def test_a_gzipped_ledger_is_to_be_unpacked_first(
    slices: tuple[Path, list[dict]], capsys: pytest.CaptureFixture[str]
):
    plain, before = slices[0] / "ledger.jsonl", contents(MINE)
    (slices[0] / "ledger.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    for source in ("slice", "slice/ledger.jsonl.gz"):
        assert main(["import", source, "results/mine"]) == 2
        assert "gunzip slice/ledger.jsonl.gz" in capsys.readouterr().err
    assert contents(MINE) == before


def test_a_folder_that_is_not_there_gets_the_question_too(
    slices: tuple[Path, list[dict]], capsys: pytest.CaptureFixture[str]
):
    assert main(["import", "slice/ledger.jsonl", "results/new"]) == 2
    assert "results/new holds no sweep.yaml" in capsys.readouterr().err
    assert not Path("results/new").exists()
    assert main(["import", "slice", "new"]) == 0
    assert "next: hptransfer sweep results/new/sweep.yaml" in capsys.readouterr().out
    assert Path("results/new/sweep.yaml").read_bytes() == Path("slice/sweep.yaml").read_bytes()
    assert len(read_ledger(Path("results/new")).rows) == 40


def test_rows_that_the_sweep_does_not_want_are_kept_and_counted(
    slices: tuple[Path, list[dict]], capsys: pytest.CaptureFixture[str]
):
    append_rows(Path("other"), [make_row(seed) for seed in range(5)])
    assert main(["import", "other", "results/mine", "--json"]) == 0
    (own,) = json.loads(capsys.readouterr().out)["ledgers"]
    assert (own["appended"], own["wanted"]) == (5, 0)
    assert main(["status", "mine"]) == 0
    assert "5 recorded rows are not used" in capsys.readouterr().out


def test_rows_of_schema_1_are_imported_as_they_would_be_written_now(
    slices: tuple[Path, list[dict]],
):
    source, rows = slices
    old = {key: value for key, value in rows[0].items() if key != "stopped_at_step"}
    (source / "ledger.jsonl").write_bytes(ledger_rows.encode_row({**old, "schema": 1}))
    assert main(["import", "slice/ledger.jsonl", "results/mine"]) == 0
    row = read_ledger(MINE).rows[-1]
    assert (row["schema"], row["stopped_at_step"]) == (ledger_rows.LEDGER_SCHEMA, None)
    assert main(["status", "mine", "--verify"]) == 0


def test_what_is_no_sound_ledger_is_refused_before_anything_is_written(
    slices: tuple[Path, list[dict]], capsys: pytest.CaptureFixture[str]
):
    source, rows = slices
    Path("rows.csv").write_text("width,loss\n")
    Path("empty").mkdir()
    Path("forged").mkdir()
    key = {**rows[0], "trial_key": "../../../escaped"}
    (Path("forged") / "ledger.jsonl").write_bytes(ledger_rows.encode_row(key))
    lines = (source / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"seed":', b'"seed": ')
    (source / "ledger.jsonl").write_bytes(b"".join(lines))
    before = contents(Path("results"))
    for name, sentence in (
        ("rows.csv", "results/mine holds a sweep of our own"),
        ("nowhere", "There is no ledger at"),
        ("empty", "There is no ledger at"),
        ("forged", "has the key ../../../escaped, but its config's is"),
        ("slice", "Line 4 of slice/ledger.jsonl"),
    ):
        assert main(["import", name, "results/mine"]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
    assert contents(Path("results")) == before


def test_links_are_not_followed_out_of_either_folder(
    slices: tuple[Path, list[dict]], capsys: pytest.CaptureFixture[str]
):
    source, rows = slices
    curve = source / "curves" / f"{rows[0]['trial_key']}.json"
    Path("secret").write_text("secret")
    curve.unlink()
    curve.symlink_to(Path("secret").absolute())
    assert main(["import", "slice", "results/mine"]) == 2
    assert "must stay in it" in capsys.readouterr().err
    Path("elsewhere").mkdir()
    ResultsFolder(MINE).target.symlink_to(Path("elsewhere").absolute())
    assert main(["import", "slice/target", "results/mine"]) == 2
    assert "must stay in it" in capsys.readouterr().err
    assert not list(Path("elsewhere").iterdir())
