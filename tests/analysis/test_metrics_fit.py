"""Rows judged by another metric than the loss, and how far its optima are from the loss's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hptransfer
from hptransfer.analysis.answer.agreement import agreement
from hptransfer.analysis.answer.estimates import estimate
from hptransfer.cli.main import main
from hptransfer.errors import UserError
from hptransfer.reporting import figures
from hptransfer.reporting.figures import agreement_pictures
from hptransfer.reporting.text.basins import basins_text
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.metrics import LOSS, METRICS, metric_named
from hptransfer.results.table import rows_table
from tests.support.artists import marked, texts
from tests.support.paths import ROOT
from tests.support.planted import Cell, draw
from tests.support.planted import table as planted_table
from tests.support.planted_estimates import MUP, STANDARD, both_arms, planted
from tests.support.recorded_rows import append_rows, make_row, write_sweep

STUDY = ROOT / "results" / "studies" / "quickstart"
FRECHET = METRICS["frechet_distance"]
BEST = {"loss": -6.0, "frechet_distance": -5.0, "precision": -5.5, "recall": -5.5}


def compared(by_loss: pd.DataFrame, by_metric: pd.DataFrame) -> list[dict[str, Any]]:
    found = agreement(by_loss, by_metric, axes=["log2_lr"])
    json.dumps(found, allow_nan=False)
    return found


def as_metric(found: pd.DataFrame) -> pd.DataFrame:
    """Put a table's losses on another metric's scale."""
    return found.assign(loss=100.0 * (found["loss"] - 0.4), loss_at_init=np.nan)


def inside(told: dict[str, Any], value: float) -> bool:
    return told["low"] <= value <= told["high"]


def test_optima_that_are_apart_are_found_apart_and_cost_what_the_basin_says() -> None:
    moved = {width: optimum + 0.8 for width, optimum in MUP.items()}
    [arm] = compared(planted(MUP), as_metric(planted(moved, rng=5)))
    assert (arm["family"], arm["parametrization"], arm["hp"]) == ("dit", "mup", "log2_lr")
    assert [at["width"] for at in arm["widths"]] == [24, 48, 96]
    assert arm["mean_difference"]["widths"] == 3
    assert inside(arm["mean_difference"], 0.8)
    assert arm["mean_difference"]["low"] > 0.3
    for at in arm["widths"]:
        assert inside(at["difference"], 0.8)
        chosen, lost = at["by_metric"]["optimum"], at["by_loss"]["optimum"]
        truth = MUP[at["width"]]
        costs = 0.012 * 1.4 * (chosen - truth) ** 2, 1.2 * (lost - truth - 0.8) ** 2
        assert at["loss_regret"]["estimate"] == pytest.approx(costs[0], rel=0.4)
        assert at["metric_regret"]["estimate"] == pytest.approx(costs[1], rel=0.4)


def test_optima_at_one_value_agree_in_every_arm() -> None:
    found = compared(both_arms(), as_metric(pd.concat([planted(MUP, rng=7), standard_alone(8)])))
    assert [arm["parametrization"] for arm in found] == ["mup", "standard"]
    for arm in found:
        assert inside(arm["mean_difference"], 0.0)
        assert arm["widths"][1]["loss_regret"]["estimate"] < 0.002


def standard_alone(rng: int) -> pd.DataFrame:
    return planted(STANDARD, "standard", rng=rng).query("width != 24")


def test_errors_of_the_two_measures_are_drawn_independently() -> None:
    """The same rows twice differ by nothing, but by how much is known only from both errors."""
    [arm] = compared(planted(MUP), planted(MUP))
    for at in arm["widths"]:
        own = at["by_loss"]["high"] - at["by_loss"]["low"]
        assert at["by_metric"] == at["by_loss"]
        apart = at["difference"]["high"] - at["difference"]["low"]
        assert 1.25 * own < apart < 2.6 * own  # and the shapes of two measures differ


def test_the_mean_over_widths_holds_planted_truths_whatever_the_shapes() -> None:
    """Were the error of a shape averaged over the widths, the interval would hold half of them."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(30):
        optima = {width: -6.0 + rng.uniform(-0.3, 0.3) for width in (16, 32, 64)}
        moved = {width: optimum + 0.7 for width, optimum in optima.items()}
        seed = int(rng.integers(1 << 30))  # of the grid, which both measures share, and the noise
        drawn = [
            planted_table(draw(Cell(3, 1.0, shape, 0.003), at, np.random.default_rng(seed)))
            for shape, at in (("wall", optima), ("asymmetric", moved))
        ]
        [arm] = compared(drawn[0], drawn[1].assign(loss_at_init=np.nan))
        held += inside(arm["mean_difference"], 0.7)
    assert held >= 25


def test_an_optimum_that_is_not_resolved_has_no_difference() -> None:
    edge = {24: -5.7, 48: -5.5, 96: -11.0}
    arm = compared(planted(MUP), as_metric(planted(edge, rng=5)))[0]
    assert arm["widths"][2]["by_metric"]["censored"] == "grid_low"
    assert arm["widths"][2]["difference"] == {"estimate": None, "low": None, "high": None}
    assert arm["mean_difference"]["widths"] == 2


def measured(row: dict[str, Any], *, theta: float) -> dict[str, Any]:
    """Give a row of the tiny sweep a loss and metrics with their own optima."""
    rng = np.random.default_rng([row["width"], row["seed"], round(-10 * theta)])
    rise = {name: (theta - best) ** 2 for name, best in BEST.items()}
    level, noise = 8.0 / row["width"], rng.normal(0.0, 0.002, 4)
    wall = 4.0 * max(0.0, theta - BEST["frechet_distance"] - 1.0)  # where samples are noise
    octaves = 3.0 + 0.5 * level + 0.12 * rise["frechet_distance"] + wall
    quality = {
        "frechet_distance": 2.0 ** (octaves + noise[1]),
        "precision": 0.9 - 0.1 * level - 0.01 * rise["precision"] + noise[2],
        "recall": 0.8 - 0.1 * level - 0.01 * rise["recall"] + noise[3],
    }
    loss = 0.5 + 0.1 * level + 0.012 * rise["loss"] + noise[0]
    return {**row, "loss": loss, "metrics": {**row["metrics"], **quality}}


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    """A swept folder whose rows tell the quality of samples."""
    written, rows = write_sweep(tmp_path / "swept")
    append_rows(written.path, [measured(row, theta=row["hps"]["log2_lr"]) for row in rows])
    return written


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("name", "sign"), [("frechet_distance", 1), ("precision", -1)])
def test_fit_judges_rows_by_the_metric_and_leaves_the_losses_estimates(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str], name: str, sign: int
) -> None:
    by_loss = answered(capsys, "fit", str(folder.path))
    before = folder.estimates_file.read_bytes()
    found = answered(capsys, "fit", str(folder.path), "--metric", name)
    assert folder.estimates_file.read_bytes() == before
    assert json.loads((folder.path / f"estimates-{name}.json").read_text()) == found
    assert (by_loss["metric"], found["metric"]) == ("loss", name)
    assert "agreement" not in by_loss
    for told, best in ((by_loss, BEST["loss"]), (found, BEST[name])):
        for optimum in told["arms"][0]["optima"]:
            assert optimum["optimum"] == pytest.approx(best, abs=0.25)
    assert np.sign(found["arms"][0]["optima"][0]["loss"]) == sign
    assert inside(found["agreement"][0]["mean_difference"], BEST[name] - BEST["loss"])
    told, label = " ".join(sentences(found)), METRICS[name].label
    assert "loss" not in told.split()
    if name == "precision":  # of which the judged number is negative, so that no share is told
        assert f"of the {label}" not in told
    assert " of the loss" in " ".join(sentences(by_loss))


def sentences(record: Any) -> Iterator[str]:
    """Yield what a record says in words."""
    if isinstance(record, dict | list):
        for each in record.values() if isinstance(record, dict) else record:
            yield from sentences(each)
    elif isinstance(record, str) and " " in record:
        yield record


def test_fit_says_in_text_what_agrees_and_what_to_type_next(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(folder.path), "--metric", "frechet_distance"]) == 0
    out = capsys.readouterr().out
    assert "by log2 Fréchet distance, beside that by loss" in out
    assert "lies +" in out and "octaves from that by loss on average" in out
    assert max(len(line) for line in out.splitlines() if "─" in line) <= 104
    assert out.endswith(f"next: hptransfer plot {folder.path} --metric=frechet_distance\n")


def test_plot_draws_the_metric_in_a_folder_of_its_own(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "FORMATS", {".svg": figures.FORMATS[".svg"]})  # to be quick
    answered(capsys, "fit", str(folder.path), "--metric", "frechet_distance")
    words = ("plot", str(folder.path), "--metric", "frechet_distance")
    files = [Path(name) for name in answered(capsys, *words)["files"]]
    assert {path.parent for path in files} == {folder.figures / "frechet_distance"}
    names = {path.stem for path in files}
    assert {"agreement", "summary", "basins-mup", "optimum_width"} <= names
    assert not names & {"coordinate_check", "cost", "realised"}
    drawn = hptransfer.plot(folder.path, metric=FRECHET.name)
    assert set(drawn) == names
    [mup, _] = json.loads(folder.estimates_by(FRECHET).read_text())["arms"]
    (basins,) = drawn["basins-mup"].axes
    assert [x for x, _ in marked(basins, "o", "D")] == [o["optimum"] for o in mup["optima"]]
    assert basins.get_ylabel().startswith("log2 Fréchet distance")
    assert main([*words, "--terminal"]) == 0
    assert "log2 Fréchet distance over log2" in capsys.readouterr().out


def test_the_picture_shows_both_measures_of_each_arm(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    by_loss = answered(capsys, "fit", str(folder.path))
    by_metric = answered(capsys, "fit", str(folder.path), "--metric", "frechet_distance")
    (picture,) = agreement_pictures(by_loss, by_metric)
    axes = figures.drawn(picture).axes
    lefts, middles, rights = axes[0::3], axes[1::3], axes[2::3]
    for name, told, left, middle, right in zip(
        ("µP", "standard"), by_metric["agreement"], lefts, middles, rights, strict=True
    ):
        assert left.get_title(loc="left") == f"{name}, by loss"
        assert middle.get_title(loc="left") == f"{name}, by log2 Fréchet distance"
        assert left.get_ylabel() == LOSS.axis and middle.get_ylabel() == FRECHET.axis
        assert left.get_ylim()[1] < 2.0 < middle.get_ylim()[0]
        assert texts(right) == ["by loss", "by log2 Fréchet distance"]
        shown = [at[by]["optimum"] for by in ("by_loss", "by_metric") for at in told["widths"]]
        assert [y for _, y in marked(right, "o", "D")] == shown
        assert "the mean of 3 widths" in right.get_title(loc="left")
    assert rights[0].get_ylim() == rights[1].get_ylim()
    assert agreement_pictures(by_loss, {**by_metric, "agreement": []}) == []


def test_estimates_by_a_metric_are_made_anew_where_rows_were_added(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("plot", str(folder.path), "--metric", "recall", "--terminal")
    answered(capsys, "fit", str(folder.path))
    found = answered(capsys, "fit", str(folder.path), "--metric", "recall")
    kept = folder.estimates_by(METRICS["recall"])
    kept.write_text(json.dumps({**found, "arms": [], "inputs_sha256": "of other rows"}))
    capsys.readouterr()
    assert main(list(words)) == 0
    assert "µP" in capsys.readouterr().out


def spoilt(change: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    rows = [measured(make_row(seed), theta=-7.5) for seed in range(3)]
    change(rows[1])
    return rows


def test_a_row_without_the_metric_is_refused_with_those_that_all_have() -> None:
    rows = spoilt(lambda row: row["metrics"].pop("frechet_distance"))
    with pytest.raises(UserError, match=r"1 of 3 have no frechet_distance.*quality\.samples") as no:
        rows_table(rows, FRECHET)
    assert str(no.value).endswith("all rows have: loss, train_loss, precision, recall.")
    rows = spoilt(lambda row: row["metrics"].update(train_loss=None))  # as other programs' rows
    rows[1]["config"]["quality"] = {"samples": 1000}
    with pytest.raises(UserError, match="have no train_loss"):
        rows_table(rows, METRICS["train_loss"])


def test_samples_that_were_not_finite_are_a_failed_trial() -> None:
    def lose(row: dict[str, Any]) -> None:
        row["metrics"].pop("frechet_distance")
        row["config"]["quality"] = {"samples": 1000}

    read = rows_table(spoilt(lose), FRECHET)["loss"]
    assert read.isna().tolist() == [False, True, False]


def test_a_table_by_a_metric_tells_nothing_of_the_loss() -> None:
    rows = spoilt(lambda row: row["config"].update(foreign={"loss_sd": 0.1, "n_seeds": 4}))
    by_loss, by_precision = rows_table(rows), rows_table(rows, METRICS["precision"])
    assert by_precision["loss"].tolist() == [-row["metrics"]["precision"] for row in rows]
    assert by_precision["loss_at_init"].isna().tolist() == [True] * 3
    assert by_precision["loss_sd"].isna().tolist() == [True] * 3
    assert by_loss["loss_at_init"].tolist() == [1.002] * 3
    assert by_loss["loss_sd"].tolist()[1] == 0.1
    assert rows_table(rows, METRICS["train_loss"])["loss_at_init"].tolist() == [1.002] * 3
    assert by_loss.drop(columns=["loss", "loss_at_init", "loss_sd"]).equals(
        by_precision.drop(columns=["loss", "loss_at_init", "loss_sd"])
    )


def test_an_unknown_metric_is_refused_with_those_there_are(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(folder.path), "--metric", "fid"]) == 2
    told = capsys.readouterr().err
    assert "train_loss, frechet_distance, precision, recall, loss_noise_1_of_4, " in told
    assert "but got 'fid'" in told
    assert metric_named("loss") is LOSS


def test_the_committed_study_agrees_by_its_training_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(STUDY, tmp_path / "study")
    found = answered(capsys, "fit", str(tmp_path / "study"), "--metric", "train_loss")
    for arm in found["agreement"]:
        assert inside(arm["mean_difference"], 0.0)
        assert arm["widths"][-1]["loss_regret"]["high"] < 0.01


def test_estimates_of_older_versions_are_of_the_loss() -> None:
    told = estimate(planted(MUP), sweep_name="old", axes=["log2_lr"], target_width=None)
    assert "metric" not in told
    assert " loss over log2" in basins_text(told, columns=100, unicode=True, colour=False)
