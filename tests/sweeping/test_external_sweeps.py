"""Whole sweeps of a command or function of the user's own, from plan to report."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import hptransfer
from hptransfer.cli.main import main
from hptransfer.config import ExecutorConfig
from hptransfer.errors import TrialsFailed, UserError
from hptransfer.results.folder import ResultsFolder
from tests.support.external import BASIN, FILE, python, write_sweep
from tests.support.live_pages import get, news, serving
from tests.support.sweeps import rows

FOLDER = Path("results/mine")
LEDGER = FOLDER / "ledger.jsonl"

Answer = Callable[..., Any]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a sweep of a planted basin into an empty folder, and go there."""
    monkeypatch.chdir(tmp_path)
    return write_sweep(tmp_path / "mine.yaml")


@pytest.fixture
def answer(mine: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Run a command with --json and return its answer."""

    def ask(*words: str) -> Any:
        capsys.readouterr()
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


@pytest.fixture
def refused(mine: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused with exit code 2; return its sentence."""

    def ask(*words: str) -> str:
        capsys.readouterr()
        assert main([*words]) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said and said.count("\n") == 1, said
        return said

    return ask


def sweep(*words: str) -> int:
    return main(["sweep", "mine.yaml", "--quiet", *words])


def recorded() -> list[dict[str, Any]]:
    return list(rows(LEDGER).values())


# From plan to report


@pytest.mark.slow
def test_every_step_of_a_sweep_works_on_a_command(answer: Answer, capsys) -> None:
    before = answer("plan", "mine.yaml")
    assert before["total"]["trials"] == {"wanted": 15, "recorded": 0, "to_run": 15}
    assert before["wall_seconds"] is None and "nothing tells how long" in before["notes"][0]
    assert answer("sweep", "mine.yaml", "sweep.widths=[64,128]")["ran"] == 10
    after = answer("plan", "mine.yaml", "--workers=2")
    assert after["total"]["trials"] == {"wanted": 15, "recorded": 10, "to_run": 5}
    (wide,) = [shape for shape in after["shapes"] if shape["width"] == 256]
    assert wide["source"] == "trials of other widths" and wide["seconds"] > 0
    assert after["wall_seconds"] == pytest.approx(max(5 * wide["seconds"] / 2, wide["seconds"]))
    ran = answer("sweep", "mine.yaml")
    assert (ran["ran"], ran["recorded"], ran["wanted"]) == (5, 15, 15)
    assert answer("sweep", "mine.yaml")["ran"] == 0

    for row in recorded():
        assert row["config"]["external"]["command"] == FILE["train"]["command"]
        assert row["parametrization"] == "trainer" and row["config"]["fixed"] == {"steps": 100}
        log = FOLDER / "trials" / row["trial_key"] / "log.txt"
        assert f"val_loss={row['loss']:.9f}"[:14] in log.read_text()
    found = answer("logs", "mine", recorded()[0]["trial_key"][:7])
    assert found["lines"][1].startswith("val_loss=")

    assert main(["train", "results/mine", "--trial", recorded()[0]["trial_key"]]) == 2
    assert "was trained by another program" in capsys.readouterr().err

    fitted = answer("fit", "mine")
    (arm,) = fitted["arms"]
    assert arm["verdict"] == "transfers"
    transferred = answer("transfer", "mine")
    assert transferred["hps"]["log2_lr"]["value"] == pytest.approx(-7, abs=0.15)
    start = transferred["target"]["start"]
    assert re.search(r" 1024 0\.00\d+ 0$", start)
    script = Path("results/mine/target.sh")
    assert start in script.read_text()
    assert "val_loss=0.3" in subprocess.check_output(["bash", str(script)], text=True)
    values = yaml.safe_load(Path("results/mine/target.yaml").read_text())
    assert values["values"]["lr"] == pytest.approx(2**-7, rel=0.1)
    assert values["start"] == start and values["fixed"] == {"steps": 100}

    for picture in answer("plot", "mine")["files"]:
        assert Path(picture).stat().st_size > 1000
    (page,) = answer("report", "mine")["files"]
    text = Path(page).read_text()
    assert "1024" in text and "python" in text and "NaN" not in text
    assert main(["plot", "mine", "--terminal"]) == 0
    assert main(["status", "mine", "--verify", "--export", "rows.csv"]) == 0
    assert "15 rows" in capsys.readouterr().out
    with Path("rows.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {float(row["loss"]) for row in table} == {row["loss"] for row in recorded()}
    assert any((FOLDER / "tensorboard").rglob("*tfevents*"))


def test_run_does_it_all_and_trains_the_target_where_the_file_asks(answer: Answer) -> None:
    found = answer("run", "mine.yaml", "sweep.realise={seeds: 1, points: 3}")
    assert found["transfer"]["verdict"] == "transfers"
    target = rows(FOLDER / "target" / "ledger.jsonl")
    assert [row["width"] for row in target.values()] == [1024] * 4
    assert found["realised"]["loss_at_transferred"] == pytest.approx(1.5 * 1024**-0.2, abs=0.01)
    assert found["realised"]["regret"] is not None
    (row,) = {row["hps"]["log2_lr"] for row in target.values()} - {-8.0, -7.0, -6.0}
    value = found["transfer"]["hps"]["log2_lr"]["value"]
    assert row == pytest.approx(value)
    key = next(iter(target))
    assert answer("logs", "mine", key)["file"].startswith("results/mine/target/trials")
    assert (FOLDER / "report.html").is_file()


def test_the_served_page_shows_such_a_sweep_while_it_runs(mine: Path) -> None:
    assert sweep("sweep.widths=[64,128]") == 0
    with serving(ResultsFolder(FOLDER)) as server:
        page = get(server.url)
        assert page.status == 200
        told = news(server.url)
        assert "<b>Done</b>: 10 of 10 trials" in told["parts"]["state"]
        assert told["charts"]["panels"][0]["title"].startswith("trainer")


@pytest.mark.slow
def test_several_parametrizations_are_judged_apart(mine: Path, answer: Answer) -> None:
    script = BASIN + (
        "if sys.argv[4] == 'sp':\n"
        "    print(f'val_loss={loss + 0.06 * math.log2(width / 64) * (math.log2(lr) + 7):.9f}')\n"
    )
    train = {**FILE["train"], "command": python(script, "{width} {lr} {seed} {parametrization}")}
    write_sweep(mine, train=train, search={"lr": {"low": -11, "high": -4}})
    assert sweep("sweep.parametrizations=[mup,sp]") == 0
    arms = {arm["parametrization"]: arm for arm in answer("fit", "mine")["arms"]}
    assert arms["mup"]["verdict"] == "transfers" != arms["sp"]["verdict"]
    assert len(recorded()) == 2 * 3 * 8
    assert answer("transfer", "mine", "parametrization=mup")["target"]["parametrization"] == "mup"
    assert "mup" in answer("transfer", "mine")["target"]["start"]


def test_a_function_with_curves_and_metrics(mine: Path, answer: Answer) -> None:
    Path("lab.py").write_text(
        "import math\n"
        "def run(trial):\n"
        "    loss = trial.width ** -0.2 + 0.03 * (math.log2(trial.hps['lr']) + 7) ** 2\n"
        "    for step in (0, 50, 100):\n"
        "        trial.report(step, loss=loss * (3 - step / 50), grad_norm=1.0)\n"
        "    return {'loss': loss, 'accuracy': 1 - loss, 'flops': 6.0 * trial.width ** 2,\n"
        "            'width': 3.0, 'seed': 9, 'train_loss': loss / 2}\n"
    )
    write_sweep(mine, train={"function": "lab:run"}, search={"lr": {"low": -8, "high": -6}})
    assert answer("sweep", "mine.yaml", "sweep.widths=[64,128]")["ran"] == 6
    for row in recorded():
        assert row["metrics"]["accuracy"] == pytest.approx(1 - row["loss"])
        assert row["metrics"]["train_loss"] == pytest.approx(row["loss"] / 2)
        assert row["cost"]["flops"] == 6 * row["width"] ** 2
        assert row["width"] in (64, 128) and row["seed"] == 0
        assert (FOLDER / "curves").is_dir()
    assert answer("status", "mine", "--export=rows.csv")["exported"]["rows"] == 6
    with Path("rows.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["width"] for row in table} == {"64", "128"}
    assert {row["seed"] for row in table} == {"0"}
    answer("fit", "mine")
    start = answer("transfer", "mine")["target"]["start"]
    assert start.startswith("run(Trial(width=1024")
    code = Path("results/mine/target.py").read_text()
    assert "from lab import run" in code
    done = subprocess.run(
        [sys.executable, "results/mine/target.py"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
    )
    assert "'loss': 0.2" in done.stdout, done.stderr


def test_early_stopping_and_divergence_are_results(mine: Path, answer: Answer) -> None:
    script = (
        "import json, math, sys\n"
        "width, lr = int(sys.argv[1]), float(sys.argv[2])\n"
        "start, end = 2.0, width ** -0.2 + 0.03 * (math.log2(lr) + 7) ** 2\n"
        "worst = {2 ** -4: 9.0, 2 ** -3: math.nan}.get(lr, end)\n"
        "for step, loss in enumerate([start, worst, worst]):\n"
        "    print(json.dumps({'step': step, 'loss': loss}), flush=True)\n"
        "print(json.dumps({'loss': worst}))\n"
    )
    train = {"command": python(script, "{width} {lr}"), "stop_hopeless": True}
    write_sweep(mine, train=train, search={"lr": {"low": -9, "high": -3}})
    assert sweep() == 0
    status = {row["hps"]["log2_lr"]: row["status"] for row in recorded()}
    assert status == {
        **dict.fromkeys((-9, -8, -7, -6, -5), "completed"),
        **{-4: "stopped", -3: "diverged"},
    }
    assert answer("fit", "mine")["arms"][0]["verdict"]
    assert answer("status", "mine")["recorded"] == 21


# Adaptive designs, conditions, and changes of the question


def test_refine_asks_in_rounds(mine: Path, answer: Answer) -> None:
    write_sweep(mine, search={"lr": {"low": -12, "high": -3}})
    words = ("sweep.design.method=refine", "sweep.widths=[64,128]")
    plan = answer("plan", "mine.yaml", *words)
    found = answer("sweep", "mine.yaml", *words)
    assert 0 < found["ran"] <= plan["total"]["trials"]["wanted"]
    assert answer("sweep", "mine.yaml", *words)["ran"] == 0
    near = [row for row in recorded() if abs(row["hps"]["log2_lr"] + 7) < 1.1]
    assert len(near) >= 6
    assert answer("fit", "mine")["arms"]


def test_tpe_searches_two_hyperparameters(mine: Path, answer: Answer) -> None:
    script = BASIN + "print(f'val_loss={loss + 0.02 * (math.log2(float(sys.argv[4])) - 1) ** 2}')"
    train = {**FILE["train"], "command": python(script, "{width} {lr} {seed} {beta}")}
    search = {"lr": {"low": -9, "high": -5}, "beta": {"low": -1, "high": 3}}
    design = {"method": "tpe", "points": 8, "round": 4}
    write_sweep(mine, train=train, search=search, sweep={"widths": [64, 128], "design": design})
    assert answer("sweep", "mine.yaml")["ran"] == 16
    assert {tuple(row["hps"]) for row in recorded()} == {("log2_lr", "log2_beta")}
    assert answer("sweep", "mine.yaml")["ran"] == 0
    assert answer("fit", "mine", "sweep.target.width=512")["arms"]


def test_vary_trains_under_each_number_of_steps(mine: Path, answer: Answer) -> None:
    train = {**FILE["train"], "command": python(BASIN, "{width} {lr} {seed} {steps}")}
    write_sweep(mine, train=train, search={"lr": {"low": -8, "high": -6}})
    assert answer("sweep", "mine.yaml", "sweep.vary.steps=[200,400]")["ran"] == 3 * 3 * 3
    assert {row["config"]["fixed"]["steps"] for row in recorded()} == {100, 200, 400}
    assert answer("fit", "mine")["arms"]
    target = answer("transfer", "mine", "fixed.steps=800", "width=2048")["target"]
    assert target["start"].endswith(" 0 800") and target["width"] == 2048


def test_a_sweep_may_grow_and_shrinks_only_when_told(
    mine: Path, answer: Answer, refused: Callable[..., str]
) -> None:
    assert answer("sweep", "mine.yaml", "sweep.widths=[64,128]")["ran"] == 10
    assert answer("sweep", "mine.yaml", "sweep.seeds=2")["ran"] == 20
    said = refused("sweep", "mine.yaml")
    assert "holds 15 that this command does not ask for" in said and "sweep.seeds=" in said
    assert main(["sweep", "mine.yaml", "--quiet", "--shrink"]) == 0
    assert answer("status", "mine")["wanted"] == 15 and len(recorded()) == 30


@pytest.mark.parametrize(
    "word",
    [
        "fixed.steps=200",
        "fixed.more=1",
        "train.command=python other.py {width} {lr} {seed}",
        "train.version=2",
        "train.result=loss=(.*)",
        "sweep.base_width=64",
    ],
)
def test_another_question_is_refused_with_a_name_for_it(
    refused: Callable[..., str], word: str
) -> None:
    assert sweep("sweep.widths=[64,128]", "search.lr.low=-6") == 0
    before = LEDGER.read_bytes()
    said = refused("sweep", "mine.yaml", "sweep.widths=[64,128]", "search.lr.low=-6", word)
    assert word.partition("=")[0] in said and "name=" in said, said
    assert LEDGER.read_bytes() == before


# Failures


def test_a_failed_trial_is_told_kept_apart_and_mended(
    mine: Path, answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "import os\nif sys.argv[1] == '128' and lr == 2 ** -6 and not os.path.exists('ok'):\n"
    script = BASIN + script + "    print('out of luck', flush=True); os._exit(9)\n"
    write_sweep(mine, train={**FILE["train"], "command": python(script, "{width} {lr} {seed}")})
    assert sweep() == 1
    said = capsys.readouterr().err
    assert "1 of 15 trials failed; all other trials are finished" in said
    assert "width 128, trainer, log2_lr=-6, seed 0: it ended with exit code 9" in said
    assert "last line: 'out of luck'. Log: results/mine/failed/" in said
    (failed,) = json.loads((FOLDER / "failed.json").read_text())["failed"]
    told = (FOLDER / failed["log"]).read_text()
    assert f"trials/{failed['trial_key']}/log.txt" in told and told.rstrip().endswith("luck")
    assert len(recorded()) == 14
    assert len(answer("status", "mine")["failed"]) == 1
    Path("ok").touch()
    assert sweep() == 0
    assert len(recorded()) == 15 and not answer("status", "mine")["failed"]


def test_a_sweep_whose_trials_all_fail_stops_soon(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(mine, train={"command": "false"})
    assert sweep() == 1
    said = capsys.readouterr().err
    assert "3 failed one after another, so the sweep was stopped" in said
    assert said.count("it ended with exit code 1; last line: 'it printed nothing'") == 3


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"command": "./gone.sh"}, "but './gone.sh' is no program that can be started. Give"),
        ({"command": "no-such-program {width} {lr}"}, "'no-such-program' is no program"),
        ({"command": "plain.py"}, "'plain.py' is no program that can be started"),
        ({"function": "gone:run"}, "gone:run is not, in the folder"),
        ({"function": "plain:run"}, "plain:run is not, in the folder"),
        ({"function": "broken:run"}, "ZeroDivisionError: division by zero"),
        ({"function": "plain:x"}, "must be a function, but plain:x is 1"),
    ],
)
def test_a_trainer_that_is_not_there_is_refused_before_anything_is_written(
    mine: Path, refused: Callable[..., str], train: dict[str, str], said: str
) -> None:
    Path("plain.py").write_text("x = 1\n")
    Path("plain.py").chmod(0o755)
    Path("broken.py").write_text("1 / 0\n")
    write_sweep(mine, train=train)
    assert said in refused("sweep", "mine.yaml")
    assert not FOLDER.exists()


def test_a_program_may_be_chosen_by_a_placeholder(mine: Path) -> None:
    for width in (64, 128):
        Path(f"train_{width}.sh").write_text("#!/bin/sh\necho val_loss=$1\n")
        Path(f"train_{width}.sh").chmod(0o755)
    write_sweep(mine, train={**FILE["train"], "command": "./train_{width}.sh {lr}"})
    assert sweep("sweep.widths=[64,128]", "search.lr.low=-6") == 0
    assert len(recorded()) == 4


# Other commands


@pytest.mark.parametrize(
    "words",
    [
        ("train", "mine.yaml"),
        ("check", "mine.yaml"),
        ("rules", "mine.yaml"),
        ("sample", "mine.yaml"),
        ("train", "results/mine/sweep.yaml"),
        ("train", "results/mine/target.yaml"),
        ("sample", "results/mine/target.yaml"),
        ("plan", "mine.yaml", "--budget=1h"),
        ("plan", "mine.yaml", "--measure"),
        ("logs", "mine", "zzz"),
        ("logs", "mine", ""),
        ("logs", "gone", "a"),
        ("fit", "mine", "model.width=7"),
        ("transfer", "mine", "width=96"),
        ("transfer", "mine", "fixed.stepz=128"),
        ("transfer", "mine", "parametrization=sp"),
        ("transfer", "mine", "lr=0.1"),
        ("sweep", "mine.yaml", "model=dit"),
    ],
)
def test_what_such_a_sweep_cannot_have_is_refused_in_one_sentence(
    mine: Path, refused: Callable[..., str], words: tuple[str, ...]
) -> None:
    assert sweep("sweep.widths=[64,128]", "search.lr={low: -8, high: -6}") == 0
    assert main(["transfer", "mine", "--quiet"]) == 0
    before = LEDGER.read_bytes()
    said = refused(*words)
    assert said.rstrip().endswith((".", "?")), said
    assert LEDGER.read_bytes() == before


def test_a_ledger_is_imported_into_a_sweep_of_the_same_question(mine: Path, answer: Answer) -> None:
    assert sweep("sweep.widths=[64,128]") == 0
    assert sweep("sweep.widths=[128,256]", "name=other") == 0
    assert answer("import", "results/other", "mine")["ledgers"][0]["appended"] == 5
    assert answer("sweep", "mine.yaml")["ran"] == 0
    assert len(recorded()) == 15


# From Python


LAB = """\
from math import log2

def curve(trial):
    return trial.width ** -0.2 + 0.03 * (log2(trial.hps["lr"]) + 7) ** 2

class Lab:
    def __init__(self, by):
        self.by = by

    def run(self, trial):
        return curve(trial) + self.by
"""


SMALL: dict[str, Any] = {
    "widths": [64, 128],
    "search": {"lr": {"low": -8, "high": -6}},
    "folder": "results/mine",
}


@pytest.fixture
def lab(mine: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the folder, as a user's own process does."""
    Path("lab_of_test.py").write_text(LAB)
    monkeypatch.syspath_prepend(str(mine.parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    yield importlib.import_module("lab_of_test")
    del sys.modules["lab_of_test"]


def test_a_function_is_swept_from_python(lab: Any) -> None:
    found = hptransfer.sweep(lab.curve, "executor=local", **SMALL, target_width=512)
    assert found.status["recorded"] == 6
    target = found.fit().target
    assert target is not None and target.value == pytest.approx(2**-7, rel=0.15)
    (name,) = {row["config"]["external"]["function"] for row in recorded()}
    assert name == "lab_of_test:curve"
    assert (
        hptransfer.sweep(lab.curve, "executor=local", **SMALL, target_width=512).status
        == found.status
    )
    with pytest.raises(UserError, match="name="):
        hptransfer.sweep(lab.curve, "executor=local", **SMALL, version="2")


def test_closures_and_bound_methods_are_swept_by_their_value(lab: Any) -> None:
    shift = 2.0
    hptransfer.sweep(lambda trial: lab.curve(trial) + shift, "executor=local", **SMALL)
    assert all(2.3 < row["loss"] < 2.5 for row in recorded())
    where = {**SMALL, "folder": "results/lab"}
    hptransfer.sweep(lab.Lab(4.0).run, "executor=local", **where)
    found = rows(Path("results/lab/ledger.jsonl")).values()
    assert all(4.3 < row["loss"] < 4.5 for row in found)


def test_calls_from_python_are_refused_in_sentences(lab: Any) -> None:
    with pytest.raises(UserError, match="needs a results folder"):
        hptransfer.sweep(lab.curve, widths=[64, 128])
    with pytest.raises(UserError, match="The arguments widths are for the sweep of a function"):
        hptransfer.sweep("mine.yaml", widths=[64, 128])
    with pytest.raises(UserError, match="fixed"):
        hptransfer.sweep(lab.curve, "executor=local", **SMALL, fixed={"a": [1]})
    with pytest.raises(TrialsFailed, match=r"ZeroDivisionError: division by zero .*in <lambda>"):
        hptransfer.sweep(lambda trial: 1 / 0, "executor=local", **SMALL)


# On Ray


@pytest.mark.slow
@pytest.mark.cluster
def test_failures_and_answers_are_the_same_on_ray(
    mine: Path, running_ray: ExecutorConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "import sys\nif sys.argv[1] == '128': sys.exit('out of luck')\n" + BASIN
    train = {**FILE["train"], "command": python(script, "{width} {lr} {seed}")}
    write_sweep(mine, train=train, search={"lr": {"low": -8, "high": -7}}, executor=...)
    on_ray = ("executor=ray", f"executor.address={running_ray.address}")
    assert sweep(*on_ray) == sweep("executor=local", "name=near") == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "width 128" in line]
    assert len(said) == 4
    assert said[0].replace("/mine/", "/near/") in said[2:]
    assert "it ended with exit code 1; last line: 'out of luck'. Log: " in said[0]
    near = rows(Path("results/near/ledger.jsonl"))
    assert {row["trial_key"]: row["loss"] for row in recorded()} == {
        key: row["loss"] for key, row in near.items()
    }
    Path("lab.py").write_text("def run(trial):\n    return trial.hps['lr'] * trial.width\n")
    write_sweep(mine, train={"function": "lab:run"}, executor=...)
    assert sweep(*on_ray, "name=function", "sweep.widths=[64,128]", "search.lr.low=-6") == 0
    found = rows(Path("results/function/ledger.jsonl")).values()
    assert all(row["loss"] == 2.0 ** row["hps"]["log2_lr"] * row["width"] for row in found)
