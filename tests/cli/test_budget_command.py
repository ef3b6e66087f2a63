"""`hptransfer plan --budget`: what it prints, the pilot that it trains, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.config.compose.compose import compose_file, sweep_config
from hptransfer.results.ledger_writer import LedgerWriter
from tests.support.budget_rows import cost_of, recorded_rows
from tests.support.pack_costs import remember


@pytest.fixture
def cached(tiny_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put known costs of every width that is considered into the cache of packs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remember(sweep_config(compose_file(tiny_sweep, [])).base, range(4, 68, 4), cost_of)


def record(path: Path, widths: Sequence[int] = (8, 16, 32), *, lower: float = 0.0) -> None:
    """Record rows; every loss is lower by `lower`."""
    sweep = dataclasses.replace(sweep_config(compose_file(path, [])), widths=tuple(widths))
    with LedgerWriter(Path("results/tiny")) as writer:
        rows = recorded_rows(sweep)
        writer.append([{**row, "loss": row["loss"] - lower} for row in rows])


@pytest.mark.usefixtures("cached")
def test_the_command_proposes_a_sweep_whose_plan_costs_what_it_said(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tiny_sweep)
    words = ["sweep.target.model.width=128", "runtime.pack_size=null"]
    assert main(["plan", str(tiny_sweep), *words, "--budget", "1cpuh", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    half, whole, twice = (entry["proposal"] for entry in answer["proposals"])
    assert answer["knowledge"]["source"] == "rows"
    assert answer["pilot"] is None
    regrets = [entry["predicted_regret"]["mean"] for entry in (half, whole, twice)]
    assert regrets == sorted(regrets, reverse=True)
    assert whole["cost"]["amount"] <= 1.0
    assert answer["next"].startswith(f"hptransfer sweep {tiny_sweep}")
    assert main(["plan", str(tiny_sweep), *words, *answer["overrides"], "--json"]) == 0
    total = json.loads(capsys.readouterr().out)["total"]
    assert total["trials"]["to_run"] == whole["cost"]["trials_to_run"]
    recorded_ratio_is_one = pytest.approx(whole["cost"]["flops"], rel=1e-6)
    assert total["flops"]["to_run"] == recorded_ratio_is_one


@pytest.mark.usefixtures("cached")
@pytest.mark.slow
def test_a_pilot_is_trained_where_there_are_no_rows_and_leaves_none(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["budget.steps=60", "search.lr.low=-10", "search.lr.high=-2"]
    code = main(["plan", str(tiny_sweep), *words, "--budget", "9cpuh", "--measure"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "pilot    trains 24 trials of 60 steps at width 8" in said.err
    assert "pilot    24 of 24 trials have ended" in said.err
    assert "from a pilot of 24 trials" in said.out
    assert said.out.splitlines()[-1].startswith("next: hptransfer sweep")
    assert max(map(len, said.out.splitlines()[:-1])) <= 100
    assert not Path("results").exists()


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("words", "budget", "sentence"),
    [
        (["sweep.design.method=sobol"], "2h", "grid of one hyperparameter"),
        ([], "2gpuh", "Write it in cpuh"),
        ([], "2", "--budget must be"),
        ([], "1min", "pilot may take 5 % of the budget, which is 0.05min, but"),
        (["budget.steps=6"], "9cpuh", "Add --measure to train a small pilot (24 trials of 6 steps"),
    ],
)
def test_bad_input_is_one_sentence(
    tiny_sweep: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    budget: str,
    sentence: str,
) -> None:
    assert main(["plan", str(tiny_sweep), *words, "--budget", budget]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.usefixtures("cached")
def test_a_target_is_needed(tiny_sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_sweep.write_text(tiny_sweep.read_text().replace("  target: {model: {width: 64}}\n", ""))
    assert main(["plan", str(tiny_sweep), "--budget", "2h"]) == 2
    assert "the sweep names no target" in capsys.readouterr().err


@pytest.mark.usefixtures("cached")
def test_too_small_a_budget_is_told_the_least(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tiny_sweep, widths=[8])
    assert main(["plan", str(tiny_sweep), "--budget", "0.1min"]) == 2
    assert "smallest sensible one has 3 widths up to" in capsys.readouterr().err
    record(tiny_sweep, widths=[16, 32])
    assert main(["plan", str(tiny_sweep), "--budget", "0.1min"]) == 0
    assert " 0 trials to run" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("lower", "says_percent"), [(0.0, True), pytest.param(1.0, False, marks=pytest.mark.slow)]
)
def test_a_regret_is_told_in_percent_of_positive_losses(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str], lower: float, says_percent: bool
) -> None:
    record(tiny_sweep, lower=lower)
    words = ["plan", str(tiny_sweep), "sweep.target.model.width=128", "--budget", "1cpuh"]
    assert main(words) == 0
    assert ("% of the loss" in " ".join(capsys.readouterr().out.split())) == says_percent
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    regret = answer["proposals"][1]["proposal"]["predicted_regret"]
    assert 0.0 < regret["mean"] < regret["high"] < 0.05
    assert answer["knowledge"]["loss"] == pytest.approx(0.6 - lower, abs=0.02)
    assert answer["knowledge"]["loss_sd"] == pytest.approx(0.004, rel=0.5)
    assert 0.01 < answer["knowledge"]["rise"]["high"] < 0.04


@pytest.mark.usefixtures("cached")
def test_a_budget_beyond_every_design_is_said(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tiny_sweep)
    assert main(["plan", str(tiny_sweep), "--budget", "99999h", "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    said = "twice the budget gives the same plan: no larger plan that is considered is better."
    assert said in notes
    assert main(["plan", str(tiny_sweep), "--budget", "0.1cpuh", "--json"]) == 0
    assert said not in json.loads(capsys.readouterr().out)["notes"]


def test_without_anything_that_tells_seconds_it_is_one_sentence(
    tiny_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    assert main(["plan", str(tiny_sweep), "--budget", "2h"]) == 2
    error = capsys.readouterr().err
    assert "how long trials take" in error and "--measure" in error
    assert len(error.splitlines()) == 1
    record(tiny_sweep)  # rows tell it
    assert main(["plan", str(tiny_sweep), "sweep.target.model.width=128", "--budget", "2h"]) == 0
