"""Every line `next:` proposes a command that runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.cli.next_lines import QUICKSTART_WIDTHS, after_check, extended_axes
from hptransfer.config.compose.compose import compose_file, shipped_folder, sweep_config
from hptransfer.config.hyperparameters import hps
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.results.sweep_file import read_facts
from hptransfer.sweeping.design.trials import wanted
from tests.support.foreign_tables import records
from tests.support.recorded_rows import PROVENANCE, append_rows, diverged, result, write_sweep

FACTORY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        assert width % 10 == 0, "a head has ten channels"
        self.inner = nn.Linear(64 + 1, width)
        self.outer = nn.Linear(width, 64)

    def forward(self, x, t, label):
        import torch
        flat = torch.cat([x.flatten(1), t[:, None].float()], 1)
        return self.outer(self.inner(flat).tanh()).view_as(x)

def build(width):
    return Net(width)
"""
QUICK = (
    *("budget.steps=2", "budget.batch_size=4", "budget.eval_samples=8", "budget.eval_draws=1"),
    *("executor=local", "runtime.pack_size=8", "sweep.gate=false", "sweep.seeds=1"),
    *("sweep.parametrizations=mup", "search.lr.low=-4", "--quiet"),
)


def next_words(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Run a command that ends well; return the words of its line `next:`."""
    return explained_words(capsys, *words)[1]


def explained_words(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, list[str]]:
    """Run a command that ends well; return the line above `next:`, and the words of `next:`."""
    assert main(list(words)) == 0
    *_, above, line = capsys.readouterr().out.splitlines()
    assert line.startswith("next: ")
    program, *proposed = shlex.split(line.removeprefix("next: "))
    assert program == "hptransfer"
    return above, proposed


def test_a_checked_model_is_swept_at_widths_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("ten_channel_heads.py").write_text(FACTORY)
    words = ["model=custom", "model.factory=ten_channel_heads:build", "model.base_width=20"]
    asked = argparse.Namespace(
        overrides=[*words, "model.width=20"], config_dir=None, results=Path("results")
    )
    program, *proposed = shlex.split(after_check(asked, (20, 40, 80)))
    assert program == "hptransfer" and "sweep.widths=[20,40,80]" in proposed
    assert main([*proposed, *QUICK]) == 0
    assert "6 of 6 trials are finished" in capsys.readouterr().out  # 3 widths, 2 rates, 1 seed


def test_the_quickstart_needs_no_widths_where_they_are_its_own() -> None:
    quickstart = sweep_config(compose_file(shipped_folder("sweeps") / "quickstart.yaml"))
    assert quickstart.widths == QUICKSTART_WIDTHS
    asked = argparse.Namespace(overrides=[], config_dir=None, results=Path("results"))
    assert after_check(asked, QUICKSTART_WIDTHS) == "hptransfer sweep quickstart"


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ResultsFolder]:
    """Record the tiny sweep with an optimum at a place; return its folder."""
    monkeypatch.chdir(tmp_path)

    def make(optimum: float, *overrides: str, lost: Sequence[int] = ()) -> ResultsFolder:
        folder, _ = write_sweep(Path("results/tiny"), *overrides)
        sweep = sweep_config(compose_file(folder.sweep_file))
        rows = []
        for index, config in enumerate(wanted(sweep).values()):
            point = hps(config, sweep.axes)
            away = point["log2_lr"] - optimum
            loss = 0.6 + 0.02 * away**2 + 1e-4 * (index * 7 % 5 - 2)
            is_lost = config.model.width in lost
            trial = diverged(config.seed) if is_lost else result(loss=loss)
            trial = dataclasses.replace(trial, config=config)
            rows.append(ledger_row(trial, point, PROVENANCE))
        append_rows(folder.path, rows)
        return folder

    return make


@pytest.mark.parametrize(
    ("optimum", "words"), [(-9.0, ["search.lr.low=-10"]), (-2.0, ["search.lr.high=-1"])]
)
def test_a_minimum_at_the_end_of_an_axis_extends_the_sweep(
    optimum: float,
    words: list[str],
    swept: Callable[..., ResultsFolder],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = swept(optimum, "sweep.parametrizations=mup", "sweep.widths=[8,16,32]")
    proposed = next_words(capsys, "fit", str(folder.path))
    assert proposed == ["sweep", str(folder.sweep_file), *words]
    assert main([*proposed, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ran"] == 12  # 3 widths, 2 rates, 2 seeds


def test_points_that_end_within_the_axis_ask_for_no_wider_one(
    swept: Callable[..., ResultsFolder],
) -> None:
    facts = read_facts(swept(-5.5))
    wider = {"side": "low", "from": -8.0}
    arm = {"hp": "log2_lr", "extend": [wider]}
    assert list(extended_axes(facts, [arm])) == ["search.lr.low=-10"]
    assert list(extended_axes(facts, [arm | {"extend": [wider | {"from": -6.0}]}])) == []
    assert list(extended_axes(facts, [arm | {"extend": []}])) == []


def test_listed_rates_are_extended_as_a_list(
    swept: Callable[..., ResultsFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    rates = f"search.lr={[2.0**point for point in range(-8, -2)]}"
    folder = swept(-9.0, "sweep.parametrizations=mup", rates)
    proposed = next_words(capsys, "fit", str(folder.path))
    assert proposed[2:] == ["search.lr.points=[-10.0,-8.0,-7.0,-6.0,-5.0,-4.0,-3.0]"]
    assert main([*proposed, "--print-config"]) == 0


@pytest.mark.parametrize("lost", [(8, 16, 32), (32,)], ids=["everywhere", "at the widest"])
def test_where_every_trial_diverged_lower_rates_are_swept(
    lost: tuple[int, ...],
    swept: Callable[..., ResultsFolder],
    capsys: pytest.CaptureFixture[str],
) -> None:
    only_mup = ("sweep.parametrizations=mup", "sweep.widths=[8,16,32]")
    folder = swept(-5.5, *only_mup, lost=lost)
    proposed = next_words(capsys, "fit", str(folder.path))
    assert proposed == ["sweep", str(folder.sweep_file), "search.lr.low=-10"]
    assert main([*proposed, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ran"] == 12  # 3 widths, 2 rates, 2 seeds


@pytest.mark.parametrize("lost", [(64, 128, 256, 512), (512,)], ids=["everywhere", "at the widest"])
def test_where_every_imported_run_diverged_lower_rates_are_asked_for(
    lost: tuple[int, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row | ({"val_loss": None} if row["width"] in lost else {}) for row in records()]
    Path("rows.json").write_text(json.dumps(rows))
    fit = next_words(capsys, "import", "rows.json", "results/mine", "--columns", "loss=val_loss")
    assert main(fit) == 0
    *_, why, where, proposed = capsys.readouterr().out.splitlines()
    assert why.startswith("At width 512 every point failed.") and "log2 -11 to -13" in why
    assert where.startswith("hptransfer cannot train the trials of a wider grid")
    assert proposed == "next: hptransfer import MORE_ROWS.csv results/mine"


def test_a_grid_that_is_too_narrow_is_widened_before_the_target_is_trained(
    swept: Callable[..., ResultsFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = swept(-9.0, "sweep.parametrizations=mup", "sweep.widths=[8,16,32]")
    why, proposed = explained_words(capsys, "transfer", str(folder.path))
    assert why.startswith("The grid is too narrow for this value, so widen it")
    assert proposed == ["sweep", str(folder.sweep_file), "search.lr.low=-10"]


@pytest.mark.parametrize("command", [["fit"], ["transfer", "model.width=1024"]])
def test_a_grid_of_imported_rows_that_is_too_narrow_asks_for_more_rows(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row for row in records() if row["lr"] < 2**-7.5]
    Path("rows.json").write_text(json.dumps(rows))
    columns = ("--columns", "loss=val_loss")
    assert main(["import", "rows.json", "results/mine", *columns, "--quiet"]) == 0
    capsys.readouterr()
    assert main([command[0], "results/mine", *command[1:]]) == 0
    out = capsys.readouterr().out
    *_, where, proposed = out.splitlines()
    assert "The grid is too narrow." in out and "Extend the grid of the learning rate up" in out
    assert where.startswith("hptransfer cannot train the trials of a wider grid")
    assert proposed == "next: hptransfer import MORE_ROWS.csv results/mine"


@pytest.mark.parametrize("width", [16, 32])
def test_a_target_that_was_swept_is_not_transferred_to(
    width: int, swept: Callable[..., ResultsFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = swept(-5.5)
    named = f"sweep.target.model.width={width}"
    why, proposed = explained_words(capsys, "fit", str(folder.path), named)
    assert why == (
        "A transfer needs a target wider than 32, the widest that was swept, but the target's "
        f"width is {width}."
    )
    assert proposed == ["fit", str(folder.path), "sweep.target.model.width=64"]
    assert next_words(capsys, *proposed)[0] == "transfer"


def test_a_resolved_optimum_is_transferred(
    swept: Callable[..., ResultsFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = swept(-5.5)
    proposed = next_words(capsys, "fit", str(folder.path))
    assert proposed == ["transfer", str(folder.path)]
    trained = next_words(capsys, *proposed)
    assert trained == ["train", str(folder.target_file)]
    assert next_words(capsys, *trained)[0] == "sample"


def test_imported_arms_are_named_in_the_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [*records(arm="ours"), *records(arm="theirs", drift=-0.5)]
    Path("rows.json").write_text(json.dumps(rows))
    columns = ("loss=val_loss", "parametrization=param")
    proposed = next_words(capsys, "import", "rows.json", "results/mine", "--columns", *columns)
    assert proposed == ["fit", "results/mine"]
    transfer = next_words(capsys, *proposed)
    assert transfer == ["transfer", "results/mine", "parametrization=ours", "model.width=1024"]
    report = next_words(capsys, *transfer)
    assert report == ["report", "results/mine"]
    assert next_words(capsys, *report) == ["import", "TARGET_ROWS.csv", "results/mine/target"]


def test_a_config_dir_is_proposed_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine/budget").mkdir(parents=True)
    Path("mine/budget/seven.yaml").write_text("defaults: [short, _self_]\nsteps: 7\n")
    folder, _ = write_sweep(Path("sweeps/source"))
    words = (str(folder.sweep_file), "budget=seven", "--config-dir=mine", "name=tiny")
    assert next_words(capsys, "plan", *words) == ["sweep", *words[:2], words[3], words[2]]
    swept = ("sweep", *words, "sweep.widths=[8]", "sweep.parametrizations=mup", "--quiet")
    proposed = next_words(capsys, *swept)
    assert proposed == ["fit", "results/tiny"]
    assert main(list(swept)) == 0  # twice: the written file is no other question
    for again in (
        ["sweep", "results/tiny/sweep.yaml"],
        ["fit", "results/tiny", "verdict.max_regret=0.01"],
        ["transfer", "results/tiny", "model.width=128"],
    ):
        assert main(again) == 0
