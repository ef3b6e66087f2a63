"""What `hptransfer import` refuses, in one sentence and before anything is written, or says."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.results.ledger_rows import read_ledger

HEAD = "width,lr,seed,loss\n"
ROW = "64,0.01,0,3.1\n"
Printed = pytest.CaptureFixture[str]

REFUSED = {
    "empty": ("", "must hold a header and rows, but it is empty"),
    "blank": (" \n\n", "but it is empty"),
    "header only": (HEAD, "holds a header alone"),
    "comments only": ("# width,lr,loss\n", "holds only comments"),
    "no header": ("64,0.01,0,3.1\n", "must begin with a header"),
    "no loss": (
        "width,lr,acc\n64,0.01,3\n",
        "its columns are width, lr, acc. Say which column is which with --columns OURS=THEIRS.",
    ),
    "no width": ("size,lr,loss\n64,0.01,3\n", "rows.csv results/mine --columns width=size"),
    "no lr": ("width,step size,loss\n64,0.1,3\n", "no column is known as a learning rate"),
    "two losses named": (
        "width,lr,loss,val_loss\n64,0.01,3,4\n",
        "'loss' or 'val_loss' could be the loss",
    ),
    "twice the same name": ("width,lr,loss,loss\n64,1,2,3\n", "more than one 'loss'"),
    "negative": (HEAD + ROW + "64,-0.1,0,3\n", "in line 3 of rows.csv it is -0.1"),
    "no rate": (HEAD + "64,,0,3\n", "must be zero or more, but in line 2 of rows.csv it is empty"),
    "log2 as lr": (HEAD + "64,-11,0,3\n64,-3,0,3\n", "results/mine --columns log2_lr=lr\n"),
    "log10 as lr": (
        HEAD + "64,-4,0,3\n64,-2,0,3\n",
        "results/mine --columns log10_lr=lr\n",
    ),
    "lr as log2": (
        "width,log2_lr,loss\n64,0.001,3\n64,0.1,3\n",
        "look like the lr itself. Say which is which: hptransfer import rows.csv results/mine "
        "--columns lr=log2_lr log2_lr=",
    ),
    "huge log2": ("width,log2_lr,loss\n64,-1000,3\n", "must lie within ±120"),
    "odd width": (HEAD + "64.5,0.1,0,3\n", "in line 2 of rows.csv it is '64.5'"),
    "named width": (HEAD + "d64,0.1,0,3\n", "The width in line 2 of rows.csv is no number: 'd64'"),
    "no seed": (HEAD + "64,0.1,,3\n", "in line 2 of rows.csv it is empty"),
    "a word": (HEAD + "64,0.1,0,good\n", "The loss in line 2 of rows.csv is no number: 'good'"),
    "a formula": (HEAD + "64,0.1,0,=B2*2\n", "is a formula; save the values"),
    "a dict": (
        "width,lr,loss\n64,\"{'lr': 0.1}\",3\n",
        "Write nested configs as JSON",
    ),
    "two losses": (
        HEAD + ROW + "128,0.01,0,3\n64,0.01,0,3.2\n",
        "line 4 of rows.csv gives loss 3.2 where line 2 of rows.csv gave loss 3.1",
    ),
    "a cut-off row": (HEAD + ROW + "64,0.1\n", "line 3 of rows.csv has 2"),
    "commas": (HEAD + "64,0,01,0,3,1\n", "quote numbers that have a decimal comma"),
    "both marks": (
        "width;lr;loss\n64;0,01;3\n64;0.02;3\n",
        "a decimal comma (line 2) and a decimal point (line 3)",
    ),
    "an endless line": (HEAD + "x" * 5_000_000, "line may have"),
    "quotes within cells": (
        HEAD + '64,0.1,0",3\n64,0.2,0",3\n',
        "Line 3 of rows.csv cannot be read",
    ),
    "carriage returns": (
        HEAD + "64,0.1,0,3\r" * 4 + "\n",
        "line 2 of rows.csv has a carriage return",
    ),
    "a carriage return": (HEAD + "64,0.1\r,0,3\n", "line 2 of rows.csv has a carriage return"),
    "quotes": (HEAD + '64,0.1,0,"3\n', "Check its quotes"),
    "a long label": (f"width,lr,loss,arm\n64,0.1,3,{'x' * 50}\n", "at most 40 characters"),
    "a count of parameters": (
        "width,lr,loss,param\n64,0.1,3,124M\n",
        "and no number, but in line 2",
    ),
    "truth": ("width,lr,loss,diverged\n64,0.1,3,maybe\n", "must be true or false"),
    "broken JSON": ('{"width": 64,\n', "must be JSON"),
    "no rows in JSON": ("[1, 2]", "must be an object"),
    "all left out": ("width,lr,loss,state\n64,0.1,3,running\n", "with status 'running', ignored"),
}


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: Printed, *words: str) -> str:
    """Return the one sentence that an import is refused with; nothing was written."""
    assert main(["import", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert not Path("results").exists()
    return captured.err


@pytest.mark.parametrize("name", REFUSED)
def test_bad_tables_are_refused_in_a_sentence(name: str, capsys: Printed):
    content, sentence = REFUSED[name]
    Path("rows.csv").write_text(content)
    assert sentence in refused(capsys, "rows.csv", "mine")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("width,lr,loss\n64,0.1,3 # später\n".encode("latin-1"), "byte 14 of line 2 (0xe4) is not"),
        ((HEAD + ROW).encode("utf-16"), "is UTF-16. Convert it: iconv -f UTF-16"),
        (b"PK\x03\x04rest", "is a spreadsheet or archive"),
        (b"\xd0\xcf\x11\xe0rest", "an old Excel file"),
        (b"\x80\x04\x95pickle", "a pickle, which may run code"),
        (b"\x1f\x8brest", "is gzipped"),
        (b"abc\x00def", "some other binary file"),
        (b"SQLite format 3\x00" + bytes(84), "must be a SQLite file that Optuna wrote"),
        (b"PAR1rest", "must be a sound Parquet file"),
    ],
)
def test_other_files_are_refused_with_what_to_do(content: bytes, sentence: str, capsys: Printed):
    Path("rows.csv").write_bytes(content)
    assert sentence in refused(capsys, "rows.csv", "mine")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["wdith=d"], "Did you mean width?"),
        (["wdith=d"], "seconds, lr, log2_<hp>, log10_<hp> or ln_<hp>), but got 'wdith'"),
        (["width"], "takes OURS=THEIRS"),
        (["width=d_model"], "has no column 'd_model'"),
        (["loss=run{sed}"], "'sed'. Did you mean seed?"),
        (["loss=run{seed}"], "has no column of the form 'run{seed}'"),
        (["lr=lr", "lr=lr"], "must name lr once"),
        (["width:=wide"], "The width in line 2 of rows.csv is no number: 'wide'"),
        (["lr=lr", "log2_lr=seed"], "must give lr in one unit, but gives it in several"),
        (["width="], "no column is known as a width"),
    ],
)
def test_wrong_columns_are_refused(words: list[str], sentence: str, capsys: Printed):
    Path("rows.csv").write_text(HEAD + ROW)
    assert sentence in refused(capsys, "rows.csv", "mine", "--columns", *words)


def test_paths_that_lead_nowhere(capsys: Printed):
    Path("empty").mkdir()
    assert "There is no file rows.csv" in refused(capsys, "rows.csv", "mine")
    assert "There is no ledger at" in refused(capsys, "empty", "mine")
    assert "File name too long" in refused(capsys, "x" * 300 + ".csv", "mine")
    assert "read from a SQLite file" in refused(capsys, "mysql://host/studies", "mine")
    Path("rows.csv").write_text(HEAD + ROW)
    Path("file").write_text("")
    assert main(["import", "rows.csv", "file/mine"]) == 2


def test_a_trial_may_not_have_another_loss_in_another_file(capsys: Printed):
    Path("a.csv").write_text(HEAD + ROW)
    Path("b.csv").write_text(HEAD + "64,0.01,0,3.2\n")
    assert main(["import", "a.csv", "mine"]) == 0
    before = Path("results/mine/ledger.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["import", "b.csv", "mine"]) == 2
    error = capsys.readouterr().err
    assert "line 2 of b.csv gives loss 3.2 where a.csv (in results/mine) gave loss 3.1" in error
    assert error.endswith("hptransfer import b.csv results/mine --repeats seeds\n")
    assert error.count("epeated runs") == 2 and error.count("If these are repeated runs") == 1
    assert Path("results/mine/ledger.jsonl").read_bytes() == before


def write_chart(runs: dict[str, float]) -> None:
    """Write a chart as W&B exports it: a column for each run, with its least and greatest value."""
    heads = [f"{run} - val/loss{end}" for run in runs for end in ("", "__MIN", "__MAX")]
    lines = [
        [step, *(loss - step / 100 for loss in runs.values() for _ in range(3))]
        for step in (0, 100)
    ]
    text = [",".join(f'"{head}"' for head in ["Step", *heads])]
    text += [",".join(map(str, line)) for line in lines]
    Path("chart.csv").write_text("\n".join(text) + "\n")


def test_the_runs_of_a_chart_are_read_by_the_pattern_that_is_proposed(capsys: Printed):
    write_chart({f"w{w}-lr{lr}": 3 + lr for w in (64, 128) for lr in (0.01, 0.02)})
    error = refused(capsys, "chart.csv", "mine")
    assert "seem to hold the losses of one run each" in error
    words = shlex.split(error[error.index("hptransfer import chart.csv") :])
    assert words[-1] == "loss=w{width}-lr{lr} - val/loss"
    assert main(words[1:]) == 0
    assert "4 rows at step 0, before any training; ignored" in capsys.readouterr().out
    found = read_ledger("results/mine").rows
    assert {(row["width"], round(2 ** row["hps"]["log2_lr"], 6)): row["loss"] for row in found} == {
        (w, lr): 2 + lr for w in (64, 128) for lr in (0.01, 0.02)
    }


def test_a_chart_of_runs_whose_names_tell_nothing_is_refused_with_what_to_export(capsys: Printed):
    write_chart({"sunny-sea-12": 3.0, "blue-sky-3": 2.5})
    error = refused(capsys, "chart.csv", "mine")
    assert "look like a chart that W&B exported" in error and "{width}-lr{lr}" in error


def test_a_step_that_is_always_zero_is_no_checkpoint():
    Path("rows.csv").write_text("width,lr,step,loss\n64,0.01,0,3.1\n128,0.01,0,3.0\n")
    assert main(["import", "rows.csv", "mine"]) == 0
    assert len(read_ledger("results/mine").rows) == 2


def test_more_rows_than_a_sweep_may_have(capsys: Printed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hptransfer.results.importers.table.MOST_TRIALS", 2)
    Path("rows.csv").write_text(HEAD + "".join(f"64,0.01,{s},3\n" for s in range(3)))
    assert "may have at most 2 rows, but rows.csv has more" in refused(capsys, "rows.csv", "mine")


def test_nothing_is_left_out_or_changed_without_a_word(capsys: Printed):
    Path("rows.csv").write_text(
        "width,lr,seed,loss,diverged\n"
        "256,0.01,0,nan,\n256,0.02,0,,no\n64,0.01,0,inf,0\n64,0.02,0,9.5,true\n"
        "64,0.04,0,3.1,false\n64,0.04,0,3.1,false\n\n"
    )
    assert main(["import", "rows.csv", "mine"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "2 rows without a loss, counted as diverged trials (first: line 2)" in said
    assert "1 row with an infinite loss, counted as diverged trials (first: line 4)" in said
    assert "1 row flagged as diverged (first: line 5)" in said
    assert "1 row given twice and kept once (first: line 7)" in said
    assert [r["status"] for r in read_ledger("results/mine").rows] == ["diverged"] * 4 + [
        "completed"
    ]
    assert main(["import", "rows.csv", "other", "--missing", "drop"]) == 0
    assert "2 rows without a loss, ignored (--missing drop)" in capsys.readouterr().out
    assert len(read_ledger("results/other").rows) == 3


@pytest.mark.parametrize(
    ("label", "arm"),
    [
        *((name, "standard") for name in ("sp", "SP", "standard", "Std", " STD ")),
        *((name, "mup") for name in ("mup", "muP", "µP", "μP", "mu-p", "MUP")),
        *((name, name) for name in ("shared", "u-µP".replace("µ", "μ"), "Muon", "NTK")),
    ],
)
def test_labels_of_arms(label: str, arm: str):
    Path("rows.jsonl").write_text(json.dumps({"width": 8, "lr": 0.1, "loss": 1, "arm": label}))
    assert main(["import", "rows.jsonl", "mine"]) == 0
    assert read_ledger("results/mine").rows[0]["parametrization"] == arm


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("lr", "0.0625"),
        ("log2_lr", "-4"),
        ("Log2 learning-rate", "-4"),
        ("log10_lr", "-1.2041199826559248"),
        ("Log10(LR)", "-1.2041199826559248"),
        ("ln_lr", "-2.772588722239781"),
        ("ln(learning rate)", "-2.772588722239781"),
        ("Base LR", "6.25e-2"),
    ],
)
def test_units_of_the_learning_rate(header: str, value: str):
    Path("rows.csv").write_text(f"width,{header},loss\n8,{value},1\n")
    assert main(["import", "rows.csv", "mine"]) == 0
    assert read_ledger("results/mine").rows[0]["hps"] == {"log2_lr": -4.0}


def test_of_two_units_one_is_to_be_named(capsys: Printed):
    Path("rows.csv").write_text("width,lr,log2_lr,loss\n8,0.0624,-4,1\n")
    assert "'log2_lr' and 'lr' both give the lr" in refused(capsys, "rows.csv", "mine")
    assert main(["import", "rows.csv", "mine", "--columns", "log2_lr=log2_lr"]) == 0
    assert read_ledger("results/mine").rows[0]["hps"] == {"log2_lr": -4.0}


@pytest.mark.parametrize(
    "text",
    [
        "width\tlr\tloss\n8\t0.0625\t1\n",
        "width|lr|loss\n8|0.0625|1\n",
        "width  lr   loss\n8  0.0625  1\n",
        "sep=;\nwidth;lr;loss\n8;0,0625;1\n",
        '# a note with one " in it\n\nwidth,lr,loss,notes\n8,0.0625,1,"two\nlines, and ""#"""\n',
        "width,lr,loss,notes\n8,0.0625,1,it is #1\n,,,\n",
        '"width","lr","loss (a, b)",\r\n"8","0.0625","1",\r\n',
    ],
)
def test_dialects(text: str):
    Path("rows.csv").write_text(text, newline="")
    assert main(["import", "rows.csv", "mine"]) == 0
    (row,) = read_ledger("results/mine").rows
    assert (row["width"], row["hps"], row["loss"]) == (8, {"log2_lr": -4.0}, 1.0)


def test_nested_values_keep_the_names_of_what_they_are_in():
    row = {"width": 8, "config": {"lr": 0.5}, "summary": {"loss": 1, "lr": 0.0}}
    Path("runs.json").write_text(json.dumps([row]))
    assert main(["import", "runs.json", "mine", "--columns", "lr=config.lr"]) == 0
    assert read_ledger("results/mine").rows[0]["hps"] == {"log2_lr": -1.0}


def test_trials_are_told_apart_whatever_their_values_hash_to():
    """In CPython hash(-1.0) equals hash(-2.0), the log2 of the rates 0.5 and 0.25."""
    Path("rows.csv").write_text("width,lr,loss\n8,0.5,1\n8,0.25,2\n8,0.125,3\n")
    assert main(["import", "rows.csv", "mine"]) == 0
    found = {row["hps"]["log2_lr"]: row["loss"] for row in read_ledger("results/mine").rows}
    assert found == {-1.0: 1.0, -2.0: 2.0, -3.0: 3.0}


def test_a_label_that_pandas_takes_for_nothing_is_a_label():
    Path("rows.csv").write_text(
        "width,lr,loss,arm\n8,0.5,1,NULL-init\n8,0.5,2,1e5a\n8,0.5,3,NAN1\n"
    )
    assert main(["import", "rows.csv", "mine"]) == 0
    arms = {row["parametrization"] for row in read_ledger("results/mine").rows}
    assert arms == {"NULL-init", "1e5a", "NAN1"}


def test_losses_keep_every_digit_and_seeds_stay_whole_beside_missing_cells():
    loss = 3.0000000000000004
    Path("rows.jsonl").write_text(
        f'{{"width": 8, "lr": 0.5, "seed": 9007199254740991, "loss": {loss!r}, "depth": 2}}\n'
        '{"width": 8, "lr": 0.25, "seed": 1, "loss": null, "diverged": true}\n'
    )
    Path("rows.csv").write_text(f"width,lr,loss\n8,0.5,{loss!r}\n")
    assert main(["import", "rows.jsonl", "mine"]) == main(["import", "rows.csv", "csv"]) == 0
    first, second = read_ledger("results/mine").rows
    assert (first["seed"], first["loss"]) == (9007199254740991, loss)
    assert first["config"]["model"]["depth"] == 2 and "depth" not in second["config"]["model"]
    assert (second["status"], second["loss"]) == ("diverged", None)
    assert read_ledger("results/csv").rows[0]["loss"] == loss
