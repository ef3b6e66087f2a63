"""The folder that an import makes: its question, its growth, its target, and what may join it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hptransfer.analysis.of_folder import status
from hptransfer.cli.main import main
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.importers.sweep_file import overridden
from hptransfer.results.ledger_rows import read_ledger
from hptransfer.results.sweep_file import ImportedFacts, read_facts
from hptransfer.system.safe_yaml import read_mapping
from tests.support.foreign_tables import EXPECTED, WIDTHS, outcomes, records, write_csv
from tests.support.recorded_rows import append_rows, write_sweep

MINE = Path("results/mine")
Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_split_over_files_in_any_order_and_imported_twice_gives_the_same(capsys: Printed):
    whole = records()
    write_csv(Path("whole.csv"), whole)
    shuffled = list(whole)
    random.Random(1).shuffle(shuffled)
    write_csv(Path("a.csv"), shuffled[:40])
    write_csv(Path("b.csv"), shuffled[30:])
    for name, folder in (("whole.csv", "one"), ("b.csv", "two"), ("a.csv", "two")):
        assert main(["import", name, folder]) == 0
    one, two = (Path("results") / name for name in ("one", "two"))
    assert outcomes(one) == outcomes(two) == EXPECTED
    ledger = (two / "ledger.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["import", "b.csv", "two", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["appended"], again["identical"]) == (0, len(whole) - 30)
    assert (two / "ledger.jsonl").read_bytes() == ledger
    estimates = []
    for name in ("one", "two"):
        assert main(["fit", name, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        estimates.append({**answer, "sweep": "", "inputs_sha256": ""})
    assert estimates[0] == estimates[1]


def test_the_question_grows_with_the_rows_and_keeps_what_was_set():
    rows = records()
    write_csv(Path("small.csv"), [row for row in rows if row["width"] == 64])
    write_csv(Path("large.csv"), rows)
    assert main(["import", "small.csv", "mine"]) == 0
    asked = ResultsFolder(MINE).sweep_file
    assert read_mapping(asked)["sweep"]["widths"] == [64]
    asked.write_text(asked.read_text().replace("target: {}", "target: {model: {width: 1024}}"))
    assert main(["import", "large.csv", "mine"]) == 0
    facts = read_facts(ResultsFolder(MINE))
    assert isinstance(facts, ImportedFacts)
    assert (facts.target_width, facts.rows, facts.axes) == (1024, len(rows), ("log2_lr",))
    assert facts.tree["sweep"]["widths"] == list(WIDTHS)
    assert sorted(facts.tree["imported"]["files"]) == ["large.csv", "small.csv"]
    assert status(ResultsFolder(MINE))["wanted"] == len(rows)


def test_a_targets_rows_go_into_our_own_sweeps_target(capsys: Printed):
    own, rows = write_sweep(MINE)
    append_rows(own.path, rows)
    Path("target.csv").write_text("width,lr,seed,loss\n64,0.01,0,0.5\n64,0.02,0,0.4\n")
    assert main(["import", "target.csv", "results/mine"]) == 2
    assert "holds one" in capsys.readouterr().err
    assert main(["import", "target.csv", "results/mine/target"]) == 0
    assert "next: hptransfer report results/mine\n" in capsys.readouterr().out
    (first, _) = read_ledger(own.target).rows
    assert (first["parametrization"], first["config"]["model"]["family"]) == ("shared", "dit")
    assert not (own.target / "sweep.yaml").exists()


def test_the_target_of_a_named_folder_is_found_where_the_name_is(capsys: Printed):
    write_csv(Path("rows.csv"), records())
    assert main(["import", "rows.csv", "mine"]) == 0
    capsys.readouterr()
    assert main(["import", "rows.csv", "mine/target"]) == 0
    out = capsys.readouterr().out
    assert "into results/mine/target; 0 more were already there" in out
    assert out.endswith("next: hptransfer report results/mine\n")
    assert not Path("mine").exists()
    Path("mine").mkdir()  # a path that is there is meant
    assert main(["import", "rows.csv", "mine/other"]) == 0
    assert "into mine/other; 0 more were" in capsys.readouterr().out
    assert Path("mine/other/ledger.jsonl").is_file()


def test_quiet_prints_what_was_imported_and_where_it_went_alone(capsys: Printed):
    write_csv(Path("rows.csv"), [{**row, "val_loss": ""} for row in records()])
    assert main(["import", "rows.csv", "mine", "--quiet"]) == 0
    told = f"imported {len(records())} trials from rows.csv into results/mine; "
    told += "0 more were already there\n"
    assert capsys.readouterr() == (told, "")
    assert main(["import", "results/mine", "results/copy", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1 and " into results/copy; " in captured.out


def test_our_own_ledger_may_join_an_imported_folder():
    write_csv(Path("rows.csv"), records())
    other, rows = write_sweep(Path("slice"))
    append_rows(other.path, rows[:5])
    assert main(["import", "rows.csv", "mine"]) == 0
    assert main(["import", "slice", "mine"]) == 0
    assert read_mapping(ResultsFolder(MINE).sweep_file)["imported"]["rows"] == len(EXPECTED) + 5


def test_an_imported_sweeps_target_and_rule_can_be_overridden():
    write_csv(Path("rows.csv"), records())
    assert main(["import", "rows.csv", "mine"]) == 0
    tree = read_mapping(ResultsFolder(MINE).sweep_file)
    changed = overridden(tree, ["sweep.target.model.width=4096", "verdict.max_regret=0.01"])
    assert changed["sweep"]["target"] == {"model": {"width": 4096}}
    assert changed["verdict"] == {"max_regret": 0.01} and tree["verdict"] == {}
    for override, sentence in (
        ("sweep.target.width=3", "Did you mean sweep.target.model.width?"),
        ("model=dit", "the target and the verdict's rule can be set"),
        ("sweep.target.model.width=4k", "must be a positive whole number, but got '4k'"),
        ("verdict.max_regret=small", "must be a number"),
    ):
        with pytest.raises(ValueError) as refused:
            overridden(tree, [override])
        assert sentence in str(refused.value)


def test_several_hyperparameters(capsys: Printed):
    Path("rows.csv").write_text("width,lr,wd,loss\n8,0.5,0.25,1\n8,0.5,0.125,2\n")
    Path("other.csv").write_text("width,lr,loss\n16,0.5,1\n")
    assert main(["import", "rows.csv", "mine"]) == 0
    hps = [row["hps"] for row in read_ledger(MINE).rows]
    assert hps == [{"log2_lr": -1, "log2_weight_decay": wd} for wd in (-2, -3)]
    capsys.readouterr()
    assert main(["import", "other.csv", "mine"]) == 2
    assert "must have the same hyperparameters" in capsys.readouterr().err


def test_names_that_a_config_may_not_hold_leave_a_folder_that_can_be_read():
    header = 'width,lr,"loss ${x}\t???"'
    Path("a${b}.csv").write_text(f"{header}\n8,0.5,1\n")
    assert main(["import", "a${b}.csv", "mine", "--columns", "loss=loss ${x}\t???"]) == 0
    assert main(["status", "mine", "--verify"]) == 0


def test_links_are_not_followed_out_of_the_folder(capsys: Printed):
    write_csv(Path("rows.csv"), records())
    write_sweep(MINE)
    Path("elsewhere").mkdir()
    (MINE / "target").symlink_to(Path("elsewhere").absolute())
    assert main(["import", "rows.csv", "results/mine/target"]) == 2
    assert "must stay in it" in capsys.readouterr().err
    assert not list(Path("elsewhere").iterdir())
