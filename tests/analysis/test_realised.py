"""The target's own rows: what they say of the transferred value, and when they cannot."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.answer.agreement import agreement
from hptransfer.analysis.answer.realised import realised_regret
from hptransfer.analysis.target_rows import realised_answer, refreshed, with_realised
from hptransfer.config import TrialConfig
from hptransfer.config.choices import Status
from hptransfer.config.hyperparameters import hps, with_hyperparameters
from hptransfer.config.identity import canonical, with_width
from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder, read_json, write_json
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.results.ledger_writer import LedgerWriter
from tests.support.planted import table as planted_table
from tests.support.planted_estimates import planted
from tests.support.sweeps import run
from tests.support.tiny import TINY, completed


def target_rows(transferred: float, *, seeds: int = 3) -> pd.DataFrame:
    table = planted({192: -5.6}, seeds=seeds)
    extra = table[table["log2_lr"] == -6.0].assign(log2_lr=transferred)
    rise = 0.012 * ((transferred + 5.6) ** 2 - 0.4**2)
    return pd.concat([table, extra.assign(loss=extra["loss"] + rise)], ignore_index=True)


def outcome(transferred: float, *, high: float, seeds: int = 3) -> dict[str, Any]:
    found = realised_regret(
        target_rows(transferred, seeds=seeds),
        transferred=transferred,
        predicted={"mean": high / 2, "low": 0.0, "high": high},
        hp="log2_lr",
        width=192,
    )
    json.dumps(found, allow_nan=False)
    return found


def widened() -> pd.DataFrame:
    """Return rows of three equal points between two walls, whose window is widened to those."""
    floor = np.array([0.62, 0.5, 0.5, 0.5, 0.62])
    noise = 0.01 * np.random.default_rng(0).standard_normal((4, 5))
    return planted_table({64: (np.arange(-9.0, -4.0), floor + noise)})


def test_good_transfer_realises_a_small_regret() -> None:
    found = outcome(-5.7, high=0.003)
    assert found["optimum"]["width"] == 192
    assert found["loss_at_transferred"] == pytest.approx(0.53, abs=0.01)
    assert 0.0 <= found["regret"]["low"] <= found["regret"]["estimate"] < 0.002
    assert not found["missed"]


def test_bad_transfer_is_missed_inside_and_outside_the_window() -> None:
    inside, outside = outcome(-7.4, high=0.003), outcome(-9.3, high=0.003)
    assert inside["regret"]["estimate"] == pytest.approx(0.012 * 1.8**2, rel=0.25)
    assert outside["regret"]["estimate"] == pytest.approx(0.012 * 3.7**2, rel=0.15)
    assert inside["missed"] and outside["missed"]
    assert not outcome(-7.4, high=0.2)["missed"]


def test_a_value_on_the_wall_is_read_off_the_curve() -> None:
    rows = widened()
    value = {"transferred": -5.4, "predicted": {}, "hp": "log2_lr", "width": 64}
    found = realised_regret(rows, **value)
    assert 0.01 < found["regret"]["low"] < found["regret"]["high"] < 0.12
    moved = rows.assign(log2_lr=rows["log2_lr"] + 1.6)
    ((at,),) = (arm["widths"] for arm in agreement(rows, moved, axes=["log2_lr"]))
    assert at["by_metric"]["optimum"] == pytest.approx(-5.4, abs=0.1)
    assert 0.01 < at["loss_regret"]["low"] < at["loss_regret"]["high"] < 0.12


def test_a_target_of_a_single_seed_borrows_its_noise() -> None:
    found = outcome(-5.7, high=0.003, seeds=1)
    assert found["optimum"]["noise"]["source"] == "residuals"
    assert 0.0 <= found["regret"]["low"] <= found["regret"]["estimate"] < 0.003
    assert not found["missed"]


def test_failed_transfer_is_missed_and_absent_one_is_an_error() -> None:
    table = target_rows(-4.4)
    table.loc[table["log2_lr"] == -4.4, ["status", "loss"]] = ["diverged", np.nan]
    predicted = {"mean": 0.0, "low": 0.0, "high": 0.01}
    found = realised_regret(table, transferred=-4.4, predicted=predicted, hp="log2_lr", width=192)
    assert found["missed"] and found["regret"]["estimate"] is None
    with pytest.raises(UserError, match="must include the transferred value"):
        realised_regret(table, transferred=-11.5, predicted=predicted, hp="log2_lr", width=192)
    with pytest.raises(UserError, match="none that can be used"):
        realised_regret(table, transferred=-5.0, predicted=predicted, hp="log2_lr", width=384)


def test_a_prediction_inside_the_interval_is_not_missed() -> None:
    middle = outcome(-7.4, high=0.2)["regret"]["estimate"]
    assert not outcome(-7.4, high=middle)["missed"]


VALUE, BEST = -5.3, -5.6  # the transferred value and the target's own optimum
TARGET = with_width(TINY, 32)


def record(**changes: Any) -> dict[str, Any]:
    """Return a transfer record of the tiny target, as far as its rows are judged by it."""
    config = canonical(with_hyperparameters(TARGET, {"log2_lr": VALUE}))
    target = {"family": "dit", "width": 32, "params": 1, "parametrization": "mup", "config": config}
    return {
        "target": target,
        "hps": {"log2_lr": {"value": VALUE, "low": -5.8, "high": -5.0}},
        "expected_regret": {"mean": 0.001, "low": 0.0, "high": 0.01},
        "predicted_loss": {"estimate": 0.53, "low": 0.52, "high": 0.54},
        "realised_regret": None,
        **changes,
    }


def trained(
    values: Sequence[float], *, seeds: Sequence[int] = (0, 1, 2), base: TrialConfig = TARGET
) -> list[dict[str, Any]]:
    """Return rows of a basin with its minimum at BEST, with a little noise."""
    noise = np.random.default_rng(0)
    rows = []
    for seed in seeds:
        for value in values:
            config = with_hyperparameters(dataclasses.replace(base, seed=seed), {"log2_lr": value})
            loss = 0.53 + 0.012 * (value - BEST) ** 2 + 0.001 * seed + noise.normal(0.0, 3e-4)
            rows.append(ledger_row(completed(config, loss=loss), hps(config, ["log2_lr"]), {}))
    return rows


def foreign(rows: Sequence[dict[str, Any]], **budget: Any) -> list[dict[str, Any]]:
    """Return rows as another trainer's import would have them."""
    return [
        {
            **each,
            "config": {
                "model": {"family": "dit", "width": 32},
                "budget": budget,
                "seed": each["seed"],
                "hps": each["hps"],
                "foreign": {},
            },
        }
        for each in rows
    ]


def folder_with(path: Path, *rows: Sequence[dict[str, Any]]) -> ResultsFolder:
    folder = ResultsFolder(path)
    with LedgerWriter(folder.target) as writer:
        for part in rows:
            writer.append(list(part))
    return folder


AROUND = (-7.0, -6.5, -6.0, -5.5, VALUE, -5.0, -4.5, -4.0)


def test_without_rows_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert realised_answer(ResultsFolder(tmp_path), record()) is None
    complete = with_realised(ResultsFolder(tmp_path), record())
    assert (complete["realised_regret"], complete["realised"]) == (None, None)


def test_one_row_gives_a_loss_beside_the_predicted_one_and_says_what_a_regret_needs(
    tmp_path: Path,
) -> None:
    folder = folder_with(tmp_path, trained([VALUE], seeds=[0]))
    complete = with_realised(folder, record())
    told = complete["realised"]
    assert complete["realised_regret"] is None
    assert told["loss_at_transferred"] == pytest.approx(0.531, abs=2e-3)
    assert (told["n_seeds"], told["loss_as_predicted"]) == (1, True)
    assert "Train the target at 2 more, on both sides of it." in told["reason"]
    assert not folder.realised_file.exists()
    far = record(predicted_loss={"estimate": 0.4, "low": 0.39, "high": 0.41})
    answer = realised_answer(folder, far)
    assert answer is not None and answer["loss_as_predicted"] is False


def test_rows_around_the_value_give_its_regret_in_both_files(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, trained(AROUND))
    complete = with_realised(folder, record())
    regret = complete["realised_regret"]
    assert regret["low"] <= 0.012 * 0.3**2 <= regret["high"]
    assert complete["realised"]["reason"] is None
    kept = read_json(folder.realised_file, "hp")
    assert kept is not None and kept["regret"] == regret
    assert read_json(folder.transfer_file, "target") == json.loads(json.dumps(complete))


def test_rows_that_appear_later_are_read_by_the_next_look(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, trained([VALUE]))
    with_realised(folder, record())
    assert refreshed(folder)[1] is None
    folder_with(tmp_path, trained([value for value in AROUND if value != VALUE]))
    told, answer = refreshed(folder)
    assert told is not None and answer is not None
    assert told["realised_regret"] == answer["regret"]
    assert answer["optimum"]["optimum"] == pytest.approx(BEST, abs=0.15)


def test_rows_of_another_config_or_an_odd_seed_change_nothing(tmp_path: Path) -> None:
    longer = dataclasses.replace(TARGET, budget=dataclasses.replace(TARGET.budget, steps=60))
    plain = realised_answer(folder_with(tmp_path / "plain", trained(AROUND)), record())
    more = folder_with(
        tmp_path / "more", trained(AROUND), trained(AROUND, base=longer), trained([-5.5], seeds=[7])
    )
    assert realised_answer(more, record()) == plain


def test_another_trainers_rows_count_where_there_are_none_of_ours(tmp_path: Path) -> None:
    theirs = foreign(trained(AROUND), steps=TARGET.budget.steps)
    answer = realised_answer(folder_with(tmp_path / "theirs", theirs), record())
    assert answer is not None and answer["foreign"]
    assert answer["regret"]["low"] <= 0.012 * 0.3**2 <= answer["regret"]["high"]
    longer = foreign(trained(AROUND), steps=10 * TARGET.budget.steps)
    assert realised_answer(folder_with(tmp_path / "longer", longer), record()) is None
    silent = record(target={**record()["target"], "family": "gpt", "config": None})
    answer = realised_answer(folder_with(tmp_path / "silent", foreign(trained(AROUND))), silent)
    assert answer is not None and answer["reason"] is None


def test_a_transferred_value_that_diverged_has_no_loss_and_is_missed(tmp_path: Path) -> None:
    sound = [value for value in AROUND if value < VALUE]
    at = with_hyperparameters(TARGET, {"log2_lr": VALUE})
    failed = [
        ledger_row(
            completed(
                dataclasses.replace(at, seed=seed),
                status=Status.diverged,
                loss=None,
                diverged_at_step=3,
            ),
            {"log2_lr": VALUE},
            {},
        )
        for seed in (0, 1, 2)
    ]
    above = trained([-5.0])  # sound, so the value lies among what was trained
    answer = realised_answer(folder_with(tmp_path, trained(sound), failed, above), record())
    assert answer is not None and answer["loss_at_transferred"] is None


def test_a_value_beyond_all_rows_is_to_be_trained_first(tmp_path: Path) -> None:
    answer = realised_answer(folder_with(tmp_path, trained([-9.0, -8.0, -7.0])), record())
    assert answer is not None and answer["regret"]["estimate"] is None
    assert "no row is at log2_lr=-5.3. Train it there." in answer["reason"]


def test_a_record_of_an_older_version_is_left_as_it_is(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, trained([VALUE]))
    old = record(target={"family": "dit", "width": 32, "params": 1})
    write_json(folder.transfer_file, old)
    write_json(folder.realised_file, {"hp": "log2_lr"})
    assert refreshed(folder) == (old, {"hp": "log2_lr"})


def test_the_targets_own_rows_are_never_fitted(tiny_sweep: Path) -> None:
    assert run("sweep", "tiny.yaml") == 0
    assert run("fit", "tiny") == 0 and run("transfer", "tiny") == 0
    folder = ResultsFolder(Path("results/tiny"))
    estimates = folder.estimates_file.read_bytes()
    before = json.loads(folder.transfer_file.read_text())
    assert run("train", "results/tiny/target.yaml") == 0
    assert run("fit", "tiny") == 0 and run("transfer", "tiny") == 0
    after = json.loads(folder.transfer_file.read_text())
    assert folder.estimates_file.read_bytes() == estimates
    assert {**after, "realised": None} == before
    assert after["realised"]["n_seeds"] == 1


def test_the_targets_rows_are_read_without_torch_ray_or_hydra() -> None:
    program = (
        "import sys, hptransfer.analysis.target_rows; "
        "print([m for m in ('torch', 'ray', 'hydra', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
