"""`status --verify` and `--export`."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import parquet

from hptransfer.analysis import of_folder
from hptransfer.cli.main import main
from hptransfer.results import ledger_rows
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.sweep_file import read_facts
from tests.support.files import unchangeable
from tests.support.recorded_rows import append_rows, diverged, make_row, result, write_sweep


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResultsFolder:
    """Return a folder with 60 rows and 3 of its target, in the current folder's results."""
    monkeypatch.chdir(tmp_path)
    found, rows = write_sweep(Path("results/tiny"))
    append_rows(found.path, rows)
    append_rows(found.target, [make_row(seed) for seed in range(3)])
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["status", "tiny", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_status_counts_every_row_and_names_the_first_outside(
    folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(of_folder, "MOST_OUTSIDE", 3)
    monkeypatch.setattr(ledger_rows, "CHUNK_BYTES", 1500)  # the ledger is read in many stretches
    append_rows(folder.path, [diverged_row := ledger_rows.ledger_row(diverged(9), {}, {})])
    append_rows(folder.path, [make_row(seed) for seed in range(20, 24)])
    with (folder.path / "ledger.jsonl").open("ab") as file:
        file.write(ledger_rows.encode_row(make_row(30))[:50])
    state = of_folder.status(folder)
    assert (state["wanted"], state["recorded"], state["completed"]) == (60, 60, 60)
    assert (state["diverged"], state["outside_count"]) == (0, 5)
    assert state["outside"] == [
        diverged_row["trial_key"],
        *(make_row(seed)["trial_key"] for seed in (20, 21)),
    ]
    assert "50 bytes" in state["notice"]


def test_a_folder_that_may_not_be_written_is_counted_and_verified(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
):
    with unchangeable(folder.path):
        assert main(["status", "tiny", "--verify", "--export", "rows.csv"]) == 0
        assert "60 of 60 trials are finished" in capsys.readouterr().out
        assert "must be writable, but results/tiny/" in refused(
            capsys, "--export", "results/tiny/rows.csv"
        )


def test_a_fit_of_a_folder_that_may_not_be_written_proposes_a_copy(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
):
    with unchangeable(folder.path):
        assert main(["fit", "results/tiny"]) == 2
    error = capsys.readouterr().err
    assert "run the command on a copy that may be written" in error and "--results" not in error


@pytest.mark.parametrize("command", ["status", "fit", "plot", "report"])
def test_a_root_beside_a_path_outside_it_is_refused(
    command: str, folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
):
    assert main([command, "results/tiny", "--results", "elsewhere"]) == 2
    assert "outside elsewhere. Leave --results out" in capsys.readouterr().err


def test_a_root_that_is_named_comes_before_a_folder_of_the_same_name(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
):
    folder.path.rename("tiny")
    write_sweep(Path("elsewhere/tiny"))
    assert main(["status", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recorded"] > 0
    for path in ("tiny", "elsewhere/tiny"):
        assert main(["status", path, "--results", "elsewhere", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["recorded"] == 0


def test_a_point_of_the_grid_is_one_up_to_rounding(folder: ResultsFolder):
    facts = read_facts(folder)
    row = ledger_rows.read_ledger(folder.path).rows[0]
    for away, wanted in ((0.0, True), (5e-7, True), (-5e-7, True), (1e-5, False)):
        moved = {**row, "hps": {"log2_lr": row["hps"]["log2_lr"] + away}}
        assert facts.wants(moved) == wanted, away
    assert not facts.wants({**row, "hps": {}})


def test_verify_says_what_was_read(folder: ResultsFolder, capsys: pytest.CaptureFixture[str]):
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert main(["status", "tiny", "--verify"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(";")[0].split(":")[1][:9] for line in out[1:3]] == [" 60 rows,", " 3 rows, "]
    assert main(["status", "tiny", "--verify", "--json"]) == 0
    own, target = json.loads(capsys.readouterr().out)["verified"]
    assert (own["rows"], own["curves"], target["rows"], target["curves"]) == (60, 60, 3, 3)
    assert own["bytes"] == len(before[folder.path / "ledger.jsonl"])
    assert {path: path.read_bytes() for path in before} == before


def test_verify_refuses_with_file_and_line(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
):
    for path in (folder.path / "ledger.jsonl", folder.target / "ledger.jsonl"):
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        for damaged, sentence in (
            (lines[1].replace(b'"seed":', b'"seed": '), "is not as it was written"),
            (
                ledger_rows.encode_row({**json.loads(lines[1]), "trial_key": "0" * 12}),
                "its config's is",
            ),
        ):
            path.write_bytes(b"".join([lines[0], damaged, *lines[2:]]))
            error = refused(capsys, "--verify")
            assert f"Line 2 of {path} " in error and sentence in error
        path.write_bytes(whole[:-9])
        assert f"Line {len(lines)} of {path} is cut off" in refused(capsys, "--verify")
        assert path.read_bytes() == whole[:-9]
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"trial_key": "other"}', '{"trial_key": "KEY", "curve": [1]}'),
        *(f'{{"trial_key": "KEY", "curve": [{point}]}}' for point in ("[1, NaN]", '["1", 2]')),
    ],
)
def test_verify_reads_the_curves(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str], text: str
):
    path = sorted((folder.path / "curves").iterdir())[7]
    path.write_text(text.replace("KEY", path.stem))
    assert f"{path} is not a curve" in refused(capsys, "--verify")


def test_verify_follows_no_link_out_of_the_folder(
    folder: ResultsFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder.target.rename(tmp_path / "elsewhere")
    folder.target.symlink_to(tmp_path / "elsewhere")
    assert "must stay in it" in refused(capsys, "--verify")


def test_rows_are_exported_as_csv_and_parquet_with_a_dictionary(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
):
    outside = ledger_rows.ledger_row(diverged(9), {"log2_lr": -7.5}, {})
    append_rows(folder.path, [outside])
    rows = ledger_rows.read_ledger(folder.path).rows
    assert main(["status", "tiny", "--export", "rows.csv"]) == 0
    assert "exported 61 rows to rows.csv" in capsys.readouterr().out
    assert main(["status", "tiny", "--export", "rows.parquet", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["exported"]
    assert answer == {"file": "rows.parquet", "dictionary": "rows.dictionary.csv", "rows": 61}
    csv, table = pd.read_csv("rows.csv"), pd.read_parquet("rows.parquet")
    for frame in (csv, table):
        assert frame["trial_key"].tolist() == [row["trial_key"] for row in rows]
        assert frame["loss"].tolist()[:60] == [row["loss"] for row in rows[:60]]
        assert frame["wanted"].tolist() == [True] * 60 + [False]
        assert frame["diverged_at_step"].tolist()[60] == 7
        arms = frame[["arm_mup", "arm_standard"]].to_numpy()[:60]
        expected = [
            [row["parametrization"] in (arm, "shared") for arm in ("mup", "standard")]
            for row in rows[:60]
        ]
        assert arms.tolist() == expected
    meanings = pd.read_csv("rows.dictionary.csv")
    assert meanings["name"].tolist() == list(csv.columns) == list(table.columns)
    assert not meanings["meaning"].isna().to_numpy().any()
    field = parquet.read_schema("rows.parquet").field("log2_lr")
    assert field.metadata == {b"unit": b"octaves", b"meaning": b"log2 of the swept lr"}


def test_export_refuses_what_it_cannot_write(
    folder: ResultsFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    Path("taken.csv").mkdir()
    for name, sentence in (
        ("rows.json", "as .csv or .parquet, but got rows.json"),
        ("rows", "as .csv or .parquet"),
        ("taken.csv", "taken.csv is a folder"),
        ("nowhere/rows.csv", "nowhere does not"),
    ):
        assert sentence in refused(capsys, "--export", name)
    (folder.path / "ledger.jsonl").unlink()
    assert "no finished trial" in refused(capsys, "--export", "rows.csv")
    (tmp_path / "outside").mkdir()
    (folder.path / "link").symlink_to(tmp_path / "outside")
    assert "must stay in it" in refused(capsys, "--export", "results/tiny/link/rows.csv")
    assert not list((tmp_path / "outside").iterdir())


def test_an_export_replaces_a_file_whole_or_not_at_all(
    folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    Path("rows.csv").write_text("before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        assert main(["status", "tiny", "--export", "rows.csv"]) == 3
    assert "No space left" in capsys.readouterr().err
    assert Path("rows.csv").read_text() == "before"
    assert not list(Path().glob(".rows*"))
    assert main(["status", "tiny", "--export", "rows.csv"]) == 0
    assert len(pd.read_csv("rows.csv")) == 60


def test_a_stopped_trial_is_counted(folder: ResultsFolder, capsys: pytest.CaptureFixture[str]):
    lines = (folder.path / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    changed = {**json.loads(lines[0]), "status": "stopped", "loss": None, "stopped_at_step": 5}
    (folder.path / "ledger.jsonl").write_bytes(
        b"".join([ledger_rows.encode_row(changed), *lines[1:]])
    )
    assert main(["status", "tiny"]) == 0
    assert "59 completed, 0 diverged, 1 stopped" in capsys.readouterr().out
    assert result().stopped_at_step is None
