"""Rows that hold averages of several horizons, and the loss by noise: what `fit` makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hptransfer.analysis.answer.averages import compared_averages
from hptransfer.cli.main import main
from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.metrics import metric_named
from hptransfer.results.table import rows_table
from tests.support.recorded_rows import append_rows, make_row, write_sweep

FRACTIONS = (0.03, 0.1, 0.3)
LIFT = {0.03: 0.02, 0.1: 0.0, 0.3: 0.01}  # of a horizon's loss above the best
SHIFT = {0.03: 0.0, 0.1: 0.0, 0.3: 1.0}  # octaves from the raw weights' best rate
NOISY = 0.02  # standard deviation of what all horizons of a seed share


def measured(row: dict[str, Any], **changed: float) -> dict[str, Any]:
    """Give a row of the tiny sweep losses of raw weights and of three averages."""
    theta = row["hps"]["log2_lr"]
    shared = np.random.default_rng(row["seed"]).normal(0.0, NOISY)
    own = np.random.default_rng([row["width"], row["seed"], round(-10 * theta)])
    base = 0.5 + 0.8 / row["width"] + shared

    def told(lift: float, shift: float) -> float:
        return base + lift + 0.012 * (theta + 6.0 - shift) ** 2 + own.normal(0.0, 5e-4)

    metrics = {f"loss_ema_{f}": told(LIFT[f], SHIFT[f]) for f in FRACTIONS}
    parts = {f"loss_noise_{n}_of_4": told(0.1 * n, -0.5 * n) for n in (1, 2, 3, 4)}
    loss = told(0.05, 0.0)
    return {**row, "loss": loss, "metrics": {**row["metrics"], **metrics, **parts, **changed}}


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    listed = ",".join(map(str, FRACTIONS))
    written, rows = write_sweep(tmp_path / "swept", f"budget.judged_ema_fractions=[{listed}]")
    append_rows(written.path, [measured(row) for row in rows])
    return written


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_fit_says_which_average_is_best_at_every_width(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answered(capsys, "fit", str(folder.path))["averages"]
    assert {each["measure"] for each in found} == {"loss"}
    for arm in found:
        assert [at["width"] for at in arm["widths"]] == sorted(at["width"] for at in arm["widths"])
        for at in arm["widths"]:
            assert [each["horizon"] for each in at["horizons"]] == [None, *FRACTIONS]
            assert at["lowest"] == 0.1
            # The seeds' own luck is forty times the noise of the averages, and cancels.
            assert at["margin"]["estimate"] == pytest.approx(LIFT[0.3], abs=0.002)
            assert 0.0 < at["margin"]["low"] < at["margin"]["high"] < 0.02
            *others, last = (each["point"]["log2_lr"] for each in at["horizons"])
            assert set(others) == {-6.0} and last == -5.0
    assert main(["fit", str(folder.path)]) == 0
    out = capsys.readouterr().out
    assert "µP: lowest loss over the swept values" in out and "µP: log2_lr at that" in out
    assert "--metric=loss_ema_0.3" in out
    assert max(len(line) for line in out.splitlines() if "─" in line) <= 104


def test_a_margin_is_a_paired_mean_with_students_interval() -> None:
    rows = [measured(make_row(seed)) for seed in range(3)]
    for row, luck, above in zip(rows, (0.0, 5.0, -7.0), (1.0, 2.0, 3.0), strict=True):
        row["config"]["budget"] = {"judged_ema_fractions": [0.1]}
        row["loss"], row["metrics"]["loss_ema_0.1"] = luck + above, luck
    (found,) = compared_averages(rows, ["log2_lr"], None)
    margin = found["widths"][0]["margin"]
    reach = 2.919986 / 3**0.5  # of Student's t with two degrees of freedom, at 95 %
    told = [margin[name] for name in ("estimate", "low", "high")]
    assert told == pytest.approx([2.0, 2.0 - reach, 2.0 + reach], rel=1e-5)


def test_an_average_and_a_part_of_the_noise_are_metrics(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    by_loss = answered(capsys, "fit", str(folder.path))
    for name, apart in (("loss_ema_0.3", 1.0), ("loss_noise_2_of_4", -1.0)):
        found = answered(capsys, "fit", str(folder.path), "--metric", name)
        assert found["metric"] == name and "averages" not in found
        assert (folder.path / f"estimates-{name}.json").is_file()
        for told, reference in zip(
            found["arms"][0]["optima"], by_loss["arms"][0]["optima"], strict=True
        ):
            assert told["optimum"] - reference["optimum"] == pytest.approx(apart, abs=0.25)
        assert main(["plot", str(folder.path), "--metric", name, "--terminal"]) == 0
        assert f"{metric_named(name).label} over log2" in capsys.readouterr().out


def test_names_are_read_by_value_and_written_one_way() -> None:
    assert metric_named("loss_ema_.050").name == "loss_ema_0.05"
    assert metric_named("recall_ema_1").label == "−recall under EMA 1"
    assert metric_named("frechet_distance_ema_1e-2").name == "frechet_distance_ema_0.01"


@pytest.mark.parametrize(
    "name",
    [
        "loss_ema_0",
        "loss_ema_nan",
        "loss_ema_2",
        "train_loss_ema_0.1",
        "loss_ema_../x",
        "loss_ema_",
    ],
)
def test_names_of_no_metric_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"loss_noise_4_of_4, but got .* also have loss_ema_0\.05"):
        metric_named(name)


def test_an_average_that_rows_lack_is_refused_with_those_that_they_have(
    folder: ResultsFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(folder.path), "--metric", "loss_ema_0.2"]) == 2
    told = capsys.readouterr().err
    assert "0.2 in budget.judged_ema_fractions" in told and "loss_ema_0.03" in told
    rows = [make_row(seed) for seed in range(3)]  # as earlier versions wrote them
    with pytest.raises(UserError, match=r"no loss_noise_1_of_4\. Rows of earlier versions"):
        rows_table(rows, metric_named("loss_noise_1_of_4"))
    assert compared_averages(rows, ["log2_lr"], None) == []


def test_an_average_that_was_not_finite_is_a_failed_trial() -> None:
    rows = [measured(make_row(seed)) for seed in range(3)]
    for row in rows:
        row["config"]["budget"] = {"judged_ema_fractions": list(FRACTIONS)}
    del rows[1]["metrics"]["loss_ema_0.1"]
    read = rows_table(rows, metric_named("loss_ema_0.1"))
    assert read["loss"].isna().tolist() == [False, True, False]
    assert read["loss_at_init"].tolist() == [1.002] * 3  # all weights start as one
    assert (
        rows_table(rows, metric_named("loss_noise_3_of_4"))["loss_at_init"].isna().tolist()
        == [True] * 3
    )


def test_an_average_that_decides_too_is_compared_once() -> None:
    rows = [measured(make_row(seed)) for seed in range(3)]
    for row in rows:
        row["config"]["budget"] = {"judged_ema_fractions": [0.05, 0.3], "weights": "ema"}
        row["metrics"]["loss_ema_0.05"] = row["loss"]
    (found,) = compared_averages(rows, ["log2_lr"], None)
    assert [each["horizon"] for each in found["widths"][0]["horizons"]] == [0.05, 0.3]
