"""The whole answer on planted sweeps shaped like the quickstart, and the target's own answer."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.answer.estimates import estimate
from hptransfer.errors import UserError
from tests.support.planted_estimates import BASE, MUP, STANDARD, both_arms, planted


def answer(table: pd.DataFrame, *, target_width: int | None = 192, **more: Any) -> dict[str, Any]:
    found = estimate(
        table, sweep_name="quickstart", axes=["log2_lr"], target_width=target_width, **more
    )
    json.dumps(found, allow_nan=False)
    return found


def only_arm(table: pd.DataFrame, **more: Any) -> dict[str, Any]:
    arms = answer(table, **more)["arms"]
    assert len(arms) == 1
    return arms[0]


def test_quickstart_numbers_give_transfers_and_drifts() -> None:
    mup, standard = answer(both_arms())["arms"]
    assert (mup["parametrization"], mup["verdict"]) == ("mup", "transfers")
    assert (standard["parametrization"], standard["verdict"]) == ("standard", "drifts")
    assert (mup["moves"], standard["moves"]) == ("no", "yes")
    optima = [
        (entry, truth[entry["width"]])
        for arm, truth in ((mup, MUP), (standard, STANDARD))
        for entry in arm["optima"]
    ]
    assert all(abs(entry["optimum"] - truth) < 0.3 for entry, truth in optima)
    covered = [entry["low"] < truth < entry["high"] for entry, truth in optima]
    assert sum(covered) >= 5  # of six 90 % intervals
    assert mup["target"]["low"] < -5.6 < mup["target"]["high"]
    assert standard["target"]["low"] < -7.9 < standard["target"]["high"]
    assert abs(mup["target"]["emitted"] + 5.6) < 0.25


def test_shared_rows_belong_to_every_arm_and_alone_are_their_own() -> None:
    mup, standard = answer(both_arms())["arms"]
    assert [entry["width"] for entry in standard["optima"]] == [24, 48, 96]
    assert mup["optima"][0]["basin"]["mean"] == standard["optima"][0]["basin"]["mean"]
    table = planted({BASE: -5.7})
    assert only_arm(table)["parametrization"] == "shared"


def test_record_holds_what_figures_draw() -> None:
    arm = only_arm(planted(MUP))
    entry = arm["optima"][0]
    assert (entry["n_seeds"], entry["n_points"], entry["censored"]) == (3, 8, None)
    assert entry["curvature"]["low"] == pytest.approx(0.012, rel=0.5)
    assert entry["noise"]["sd"] == pytest.approx(0.0018 / 0.6, rel=0.4)
    basin = entry["basin"]
    assert len(basin["fit_theta"]) == len(basin["fit_loss"]) > 30
    assert min(basin["fit_loss"]) == pytest.approx(entry["loss"], abs=1e-4)
    band = arm["law"]["band"]
    assert (band["at"][0], band["at"][-1]) == (24.0, 192.0)
    assert (np.array(band["low"]) < band["optimum"]).all()
    assert (np.array(band["high"]) > band["optimum"]).all()


def test_order_of_rows_does_not_matter() -> None:
    table = both_arms()
    shuffled = table.iloc[np.random.default_rng(3).permutation(len(table))]
    assert json.dumps(answer(table)) == json.dumps(answer(shuffled))


def test_the_same_rows_give_the_same_digits_whatever_the_name() -> None:
    table = planted(MUP)
    other = estimate(table, sweep_name="other", axes=["log2_lr"], target_width=192)["arms"][0]
    assert only_arm(table) == only_arm(table) == other


def test_a_single_seed_borrows_its_noise_from_neighbours_and_says_so() -> None:
    one, three = only_arm(planted(MUP, seeds=1)), only_arm(planted(MUP))
    assert one["optima"][0]["noise"]["source"] == "residuals"
    assert three["optima"][0]["noise"]["source"] == "seeds"
    assert any("how far neighbouring points" in note for note in one["warnings"])


def test_without_noise_there_are_numbers_without_intervals() -> None:
    few = planted(MUP, seeds=1).query("log2_lr in (-8, -6, -4)")  # nothing to judge noise by
    arm = only_arm(few)
    assert arm["verdict"] == "inconclusive"
    assert arm["optima"][0]["low"] is None and arm["optima"][0]["optimum"] < -5
    assert arm["drift_octaves_per_doubling"]["estimate"] is not None
    assert arm["drift_octaves_per_doubling"]["low"] is None
    assert arm["target"]["emitted"] is not None and arm["target"]["low"] is None
    assert arm["target"]["expected_regret"] == {"mean": None, "low": None, "high": None}
    assert any("no estimate of the noise" in note for note in arm["warnings"])


def test_diverged_and_stopped_trials_are_a_cliff_and_never_feed_a_fit() -> None:
    table = planted(MUP)
    clean = only_arm(table)
    stopped = table.copy()
    stopped.loc[stopped["log2_lr"] == -3, "status"] = "stopped"
    stopped.loc[stopped["log2_lr"] == -3, "loss"] = 0.01
    arm = only_arm(stopped)
    # The stopped trial's own loss has no part in it.
    assert arm["optima"][0]["optimum"] == pytest.approx(clean["optima"][0]["optimum"], abs=0.1)
    assert arm["optima"][0]["basin"]["failed"] == [False] * 7 + [True]
    assert arm["optima"][0]["basin"]["mean"][-1] is None
    assert arm["optima"][0]["cliff"] == pytest.approx(-3 - arm["optima"][0]["optimum"])


def test_isolated_failures_are_counted_and_dropped() -> None:
    table = planted(MUP)
    lone = (table["log2_lr"] == -9) & (table["width"] == 48) & (table["seed"] == 1)
    table.loc[lone, ["status", "loss"]] = ["diverged", np.nan]
    arm = only_arm(table)
    assert any(
        "Width 48: 1 failed although higher values trained" in note for note in arm["warnings"]
    )
    assert arm["verdict"] == "transfers"


def test_a_width_that_never_trained_is_named() -> None:
    table = planted(MUP)
    table.loc[table["width"] == 96, ["status", "loss"]] = ["diverged", np.nan]
    arm = only_arm(table)
    assert [entry["width"] for entry in arm["optima"]] == [24, 48]
    assert any("Width 96" in note for note in arm["warnings"])


def test_unknown_loss_at_init_is_allowed() -> None:
    assert only_arm(planted(MUP).assign(loss_at_init=np.nan))["verdict"] == "transfers"


def test_two_hps_give_two_arms_and_their_surface() -> None:
    table = planted(MUP)
    decays = np.arange(-6.0, 0.0)
    both = pd.concat(
        [
            table.assign(
                log2_wd=wd, loss=table["loss"] + 0.01 * (wd + 3.2 + 0.3 * table["log2_lr"]) ** 2
            )
            for wd in decays
        ],
        ignore_index=True,
    )
    found = estimate(both, sweep_name="two", axes=["log2_lr", "log2_wd"], target_width=192)
    assert [arm["hp"] for arm in found["arms"]] == ["log2_lr", "log2_wd"]
    (surface,) = found["surfaces"]
    assert surface["hps"] == ["log2_lr", "log2_wd"]
    for entry in surface["widths"]:
        lr, wd = (entry["optimum"][hp]["value"] for hp in surface["hps"])
        assert lr == pytest.approx(MUP[entry["width"]], abs=0.3)
        assert wd == pytest.approx(-3.2 - 0.3 * MUP[entry["width"]], abs=0.3)
        assert entry["interactions"][0][1] == pytest.approx(0.02 * 0.3, rel=0.4)
    target = surface["target"]["hps"]
    assert target["log2_lr"]["value"] == pytest.approx(-5.6, abs=0.3)
    json.dumps(found, allow_nan=False)


def test_what_is_said_of_a_surface_is_said_with_its_first_hp() -> None:
    noise = np.random.default_rng(5)
    both = pd.concat(
        [
            table.assign(log2_wd=wd, loss=table["loss"] + noise.normal(0.0, 1e-3, len(table)))
            for table in [planted(MUP)]
            for wd in np.arange(-6.0, 0.0)
        ],
        ignore_index=True,
    )
    found = estimate(both, sweep_name="two", axes=["log2_lr", "log2_wd"], target_width=192)
    first, second = (" ".join(arm["warnings"]) for arm in found["arms"])
    assert "wd hardly matters" in first
    assert "hardly matters" not in second


def test_repeated_rows_and_unknown_hps_are_the_users_to_fix() -> None:
    table = planted(MUP)
    with pytest.raises(UserError, match="width 24 has 48 rows for 24 comb"):
        answer(pd.concat([table, table]))
    with pytest.raises(UserError, match="must be a column"):
        estimate(table, sweep_name="q", axes=["log2_beta"], target_width=None)


def test_analysis_imports_neither_torch_nor_scipy_nor_matplotlib() -> None:
    program = (
        "import sys, hptransfer.analysis.answer.estimates; "
        "print([m for m in ('torch', 'ray', 'hydra', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_two_widths_carry_their_value_to_the_targets_condition() -> None:
    at = {"depth": 2, "batch_size": 64, "steps": 150}
    two = {width: MUP[width] for width in (24, 48)}
    longer = {width: optimum - 0.6 for width, optimum in two.items()}
    table = pd.concat([planted(two), planted(longer, rng=5).assign(steps=300)], ignore_index=True)
    here = only_arm(table, at=at)
    there = only_arm(table, at=at, target_at={**at, "steps": 300})
    moved = there["target"]["emitted"] - here["target"]["emitted"]
    assert moved == pytest.approx(-0.6, abs=0.2)
