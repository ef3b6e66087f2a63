"""From another program's rows to values for its own target, or for one of our models."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hptransfer.cli.main import main
from hptransfer.config.compose.compose import compose_file
from hptransfer.results.folder import ResultsFolder
from tests.support.recorded_rows import write_sweep

MINE = Path("results/mine")


def write_rows(path: Path, *, widths=(24, 48, 96), arms=("mup",), best=-6.0, **more: Any) -> None:
    """Write a table as a user would have it: a basin per width, three seeds."""
    noise = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["width", "lr", "loss", "seed", "arm", *more])
        for arm in arms:
            for width in widths:
                for seed in range(3):
                    for theta in np.arange(-9.0, -2.0):
                        loss = 1.0 - 0.05 * np.log2(width) + 0.02 * (theta - best) ** 2
                        loss += 0.002 * noise.standard_normal() + 0.003 * seed
                        writer.writerow([width, 2.0**theta, loss, seed, arm, *more.values()])


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResultsFolder:
    monkeypatch.chdir(tmp_path)
    write_rows(Path("rows.csv"))
    assert main(["import", "rows.csv", str(MINE), "--quiet"]) == 0
    return ResultsFolder(MINE)


def transfer(*words: str) -> dict[str, Any]:
    assert main(["transfer", "mine", *words, "--quiet"]) == 0
    return json.loads((MINE / "transfer.json").read_text())


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main([*words, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_wider_model_of_theirs_gets_values_with_where_they_came_from(
    mine: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    record = transfer("model.width=192")
    value = record["hps"]["log2_lr"]
    assert value["low"] < -6.0 < value["high"]
    assert record["verdict"] == "transfers" and record["expected_regret"]["mean"] >= 0
    assert record["target"] == {
        **{"family": "imported", "width": 192, "params": None},
        **{"parametrization": "mup", "config": None},
        "conditions": {"depth": None, "batch_size": None, "steps": None},
    }
    assert record["cost"]["sweep_flops"] is None
    assert record["files"] == [str(mine.target_file), str(mine.transfer_file)]
    written = yaml.safe_load(mine.target_file.read_text())
    assert written["values"]["lr"] == pytest.approx(2 ** value["value"])
    assert mine.target_file.read_text().startswith("# Values transferred from mine")
    error = refusal(capsys, "train", str(mine.target_file))
    assert "for the model of another program" in error


def test_what_cannot_be_transferred_is_one_sentence(
    mine: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "needs the target's width" in refusal(capsys, "transfer", "mine")
    assert "at least as wide as the widest" in refusal(capsys, "transfer", "mine", "model.width=48")
    error = refusal(capsys, "transfer", "mine", "model.width=192", "parametrization=standard")
    assert "must be one of those that were swept" in error
    error = refusal(capsys, "transfer", "mine", "model=dit", "model.width=48")
    assert "at least as wide as the widest" in error


def test_among_several_arms_mup_is_taken_and_else_one_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(Path("rows.csv"), arms=("mup", "standard"))
    assert main(["import", "rows.csv", str(MINE), "--quiet"]) == 0
    capsys.readouterr()
    taken = transfer("model.width=192")
    assert taken["target"]["parametrization"] == "mup"
    said = (
        "The rows have several parametrizations, and these values are those of µP. To take the "
        "values of standard, add parametrization=standard."
    )
    assert said in taken["warnings"]
    out = capsys.readouterr().out
    assert said in out and f"written  {MINE / 'target.yaml'}\n" in out
    named = transfer("model.width=192", "parametrization=standard")
    assert named["target"]["parametrization"] == "standard"
    assert not any("several parametrizations" in warning for warning in named["warnings"])


def test_rows_that_name_no_family_go_to_one_of_our_models(mine: ResultsFolder) -> None:
    record = transfer("model=dit", "model.width=192")
    trial = compose_file(mine.target_file, []).trial
    assert (trial.model.family, trial.model.width) == ("dit", 192)
    assert np.log2(trial.optimizer.lr) == pytest.approx(record["hps"]["log2_lr"]["value"])
    assert record["target"]["params"] > 0 and record["cost"]["target_flops"] > 0
    assert any("taken to be model.base_width=24" in warning for warning in record["warnings"])
    assert (mine.exports / "factors.json").is_file()


def test_a_target_of_other_steps_is_predicted_only_where_the_law_covers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(Path("rows.csv"), steps=100)
    assert main(["import", "rows.csv", str(MINE), "--quiet"]) == 0
    record = transfer("model.width=192", "budget.steps=200")
    assert record["expected_regret"]["mean"] is None and record["predicted_loss"] is None
    reason = "budget.steps is 200 at the target and 100 at the proxies (2 times)"
    assert record["expected_regret"]["reason"] == reason
    write_rows(Path("longer.csv"), widths=(48,), best=-6.5, steps=200)
    assert main(["import", "longer.csv", str(MINE), "--quiet"]) == 0
    record = transfer("model.width=192", "budget.steps=200")
    assert record["expected_regret"]["mean"] > 0
    assert record["hps"]["log2_lr"]["value"] == pytest.approx(-6.5, abs=0.4)
    assert not any("what was swept" in warning for warning in record["warnings"])


def test_rows_of_another_family_are_not_for_our_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(Path("rows.csv"), family="gpt")
    assert main(["import", "rows.csv", str(MINE), "--quiet"]) == 0
    error = refusal(capsys, "transfer", "mine", "model=dit", "model.width=192")
    assert "it is a dit and they are of gpt" in error
    assert transfer("model.width=192")["target"]["family"] == "gpt"


def test_their_target_run_comes_back_as_realised(
    mine: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    transfer("model.width=192")
    write_rows(Path("target.csv"), widths=(192,), best=-6.5)
    assert main(["import", "target.csv", str(mine.target), "--quiet"]) == 0
    record = transfer("model.width=192")
    regret = record["realised_regret"]
    assert regret["low"] <= 0.02 * 0.5**2 <= regret["high"]
    assert (mine.target / "realised.json").is_file()


def test_a_momentum_is_told_and_compared_on_its_own_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0)

    def write(name: str, widths: tuple[int, ...], values: np.ndarray) -> None:
        with Path(name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["width", "momentum", "lr", "loss", "seed"])
            for width in widths:
                for seed, value in np.ndindex(3, len(values)):
                    momentum = values[value]
                    loss = 1.0 - 0.05 * np.log2(width) + 2.0 * (momentum - 0.9) ** 2
                    loss += 1e-4 * noise.standard_normal()
                    writer.writerow([width, momentum, 0.01, loss, seed])

    write("rows.csv", (24, 48, 96), np.linspace(0.8, 0.99, 8))
    assert main(["import", "rows.csv", str(MINE), "--quiet"]) == 0
    capsys.readouterr()
    value = transfer("model.width=192")["hps"]["momentum"]["value"]
    assert value == pytest.approx(0.9, abs=0.02)
    shown = capsys.readouterr().out
    assert f"momentum {value:.4g}" in shown
    assert "; momentum =" not in shown  # which is no logarithm
    write("target.csv", (192,), value + np.array([-0.08, -0.04, 0.04, 0.08]))
    assert main(["import", "target.csv", str(MINE / "target"), "--quiet"]) == 0
    realised = transfer("model.width=192")["realised"]
    assert realised["loss_at_transferred"] is None  # 0.04 is far, though no tenth of 1
    assert main(["report", str(MINE)]) == 0
    page = (MINE / "report.html").read_text()
    assert f"{value:.4f}" in page and f"({2.0**value:.3g})" not in page


@pytest.mark.parametrize("name", ["sweep", "plan", "run"])
def test_imported_rows_are_no_sweep_to_train(
    name: str, mine: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["mine"], [str(mine.path)], [str(mine.sweep_file)]):
        assert refusal(capsys, name, *words) == (
            "hptransfer: hptransfer can plan and train only its own sweeps, but "
            "results/mine/sweep.yaml is of rows that were imported from another program, whose "
            "model hptransfer does not have. Train further trials with that program and add them "
            "with `hptransfer import MORE_ROWS.csv results/mine`, or read what the rows say with "
            "`hptransfer fit results/mine`.\n"
        )
    error = refusal(capsys, name, "quickstart", "name=mine")
    assert "results/mine holds rows that were imported from another program. Set name=" in error


def test_a_results_folder_in_the_place_of_a_sweep_is_refused_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sweep(Path("results/tiny"))
    for words in (["tiny"], ["results/tiny"]):
        error = refusal(capsys, "plan", *words)
        assert "results/tiny is a results folder" in error
        assert error.endswith("give its file: results/tiny/sweep.yaml.\n")
