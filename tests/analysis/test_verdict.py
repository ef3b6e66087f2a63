"""The verdict and its words on sweeps of the kinds that earlier rules misread."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.answer.estimates import estimate
from hptransfer.config.sweep import VerdictConfig
from tests.support.planted import table as planted_table
from tests.support.planted_tables import basin, parabola, smooth_wall, sweep

WIDTHS = (32, 64, 128, 256, 512)


def answer(table: pd.DataFrame, target: int | None = None, **more: Any) -> dict[str, Any]:
    found = estimate(table, sweep_name="planted", axes=["log2_lr"], target_width=target, **more)
    json.dumps(found, allow_nan=False)
    (arm,) = found["arms"]
    return arm


def line(slope: float, widths: tuple[int, ...] = WIDTHS, start: float = -5.5) -> dict[int, float]:
    return {width: start + slope * np.log2(width / widths[0]) for width in widths}


def test_a_constant_optimum_transfers_with_its_movement_said() -> None:
    arm = answer(sweep(line(0.0)), 1024)
    assert (arm["verdict"], arm["moves"], arm["matters"]) == ("transfers", "no", "no")
    value, movement, evidence = arm["headline"].splitlines()
    assert value.startswith("Use learning rate 0.0") and " at width 1024 (" in value
    assert "more compute" in value and "of the loss" in value
    assert "doubling of the width multiplies the best learning rate by 1.0" in movement
    assert "Keeping width 512's value instead would cost" in movement
    assert "5 widths with 3 seeds each" in evidence and "grid is wide enough" in evidence


@pytest.mark.parametrize("seed_sd", [0.001, 0.02])
def test_seed_effects_do_not_turn_a_drift_into_a_transfer(seed_sd: float) -> None:
    arm = answer(sweep(line(-0.3), seed_sd=seed_sd))
    assert (arm["verdict"], arm["moves"], arm["matters"]) == ("drifts", "yes", "yes")


@pytest.mark.parametrize("slope", [-0.6, -1.0])
def test_optima_that_move_far_are_never_said_to_transfer(slope: float) -> None:
    arm = answer(sweep(line(slope, start=-4.0), fall=0.12), 1024)
    assert arm["verdict"] != "transfers"
    assert arm["drift_octaves_per_doubling"]["high"] < -0.3
    assert arm["matters"] != "no"


def test_a_drift_is_told_where_the_loss_does_not_fall_with_width() -> None:
    arm = answer(sweep(line(-1.9, (32, 64, 128), start=-4.0), fall=-0.01))
    assert (arm["verdict"], arm["moves"], arm["matters"]) == ("drifts", "yes", "yes")
    assert arm["cost"]["ignoring"]["limit"]["of"] == "percent"
    assert arm["loss_law"]["prices"] is False


def test_losses_near_zero_move_no_more_than_others() -> None:
    table = sweep(line(0.06), fall=1.0)
    table["loss"] *= 1e-3
    arm = answer(table)
    assert (arm["verdict"], arm["moves"]) == ("transfers", "no")


def test_losses_that_cannot_be_negative_are_not_predicted_to_be() -> None:
    arm = answer(sweep(line(0.0, (32, 64, 128)), fall=1.5), 4096)
    assert arm["loss_law"]["at_target"]["low"] > 0
    assert all(optimum["loss"] > 0 for optimum in arm["optima"])


def test_negative_losses_are_judged_by_the_law_of_the_loss() -> None:
    table = sweep(line(-0.5, start=-4.0))
    table["loss"] -= 2.0
    arm = answer(table, 2048)
    assert (arm["verdict"], arm["moves"]) == ("drifts", "yes")
    assert arm["cost"]["emitted"]["percent"] is None
    assert arm["cost"]["emitted"]["compute_percent"] is not None


def test_flat_basins_take_part_and_ask_for_no_widths() -> None:
    table = sweep(line(0.0, (32, 64, 128, 256)), k=1e-5)
    arm = answer(table, 512)
    assert {optimum["censored"] for optimum in arm["optima"]} == {"flat"}
    assert (arm["verdict"], arm["matters"]) == ("transfers", "no")
    assert arm["extend"] == []
    assert not any("add width" in reason for reason in arm["reasons"])


def test_a_grid_is_extended_only_where_that_could_change_the_value() -> None:
    # At the narrowest of four widths the minimum is near the grid's end; at the others it is not.
    fine = answer(sweep({32: -9.6, 64: -8.0, 128: -7.0, 256: -6.4}), 512)
    assert fine["extend"] == []
    narrow = answer(sweep(line(-1.2, (32, 64, 128, 256), start=-8.0)), 512)
    assert [entry["side"] for entry in narrow["extend"]][-1] == "low"
    assert narrow["extend"][-1]["width"] == 256
    assert narrow["extend"][-1]["to"] < narrow["extend"][-1]["from"] == -10.0
    assert any(
        "Extend the grid" in warning and "log2 -10 to" in warning for warning in narrow["warnings"]
    )


def test_one_missing_seed_does_not_move_the_answer() -> None:
    table = sweep(line(0.0, start=-5.6), seed_sd=0.05)
    whole = answer(table, 1024)
    part = answer(table.query("seed < 2 or log2_lr <= -7"), 1024)
    assert part["target"]["emitted"] == pytest.approx(whole["target"]["emitted"], abs=0.1)
    assert part["verdict"] == whole["verdict"] == "transfers"


def test_missing_cells_are_neither_failures_nor_a_reason_to_extend() -> None:
    table = sweep(line(0.0), rng=4)
    kept = table.sample(frac=0.85, random_state=1)
    arm = answer(kept, 1024)
    assert arm["verdict"] == "transfers" and arm["extend"] == []
    assert sum(optimum["missing_runs"] for optimum in arm["optima"]) == len(table) - len(kept)


def test_copies_of_a_seed_are_no_evidence() -> None:
    table = sweep(line(0.0), seeds=1, noise=0.01)
    copies = pd.concat([table.assign(seed=seed) for seed in range(5)], ignore_index=True)
    alone, copied = answer(table, 1024), answer(copies, 1024)
    widths = [arm["target"]["high"] - arm["target"]["low"] for arm in (alone, copied)]
    assert widths[1] == pytest.approx(widths[0], rel=0.05)
    assert any("exactly the losses of another seed" in w for w in copied["warnings"])


def test_an_arm_whose_loss_does_not_fall_is_priced_by_its_sibling() -> None:
    mup = sweep(line(0.0), parametrization="mup")
    standard = sweep(line(-0.8), fall=-0.02, parametrization="standard")
    found = estimate(
        pd.concat([mup, standard]), sweep_name="two", axes=["log2_lr"], target_width=1024
    )["arms"]
    assert [arm["loss_law"]["is_own"] for arm in found] == [True, False]
    assert found[1]["cost"]["ignoring"]["compute_percent"] is not None
    assert [arm["verdict"] for arm in found] == ["transfers", "drifts"]


def test_the_emitted_value_leans_to_the_cheaper_side_and_stays_below_the_cliff() -> None:
    even = answer(sweep(line(0.0), noise=0.01), 1024)
    steep = answer(sweep(line(0.0), noise=0.01, shape=smooth_wall), 1024)
    assert steep["target"]["emitted"] < even["target"]["emitted"]
    table = sweep(line(0.0), noise=0.01)
    failed = table["log2_lr"] >= -5
    table.loc[failed, ["status", "loss"]] = ["diverged", np.nan]
    beside = answer(table, 1024)
    assert beside["target"]["emitted"] < -5.0
    assert beside["optima"][0]["cliff"] == pytest.approx(-5.0 - beside["optima"][0]["optimum"])


def test_without_a_target_the_way_is_the_swept_one() -> None:
    arm = answer(sweep(line(-0.3)))
    assert arm["target"] is None
    assert arm["cost"]["ignoring"]["kept_from"] == 32
    assert arm["cost"]["ignoring"]["movement"]["estimate"] == pytest.approx(-1.2, abs=0.2)
    assert "at width 512" in arm["headline"]
    assert "Keeping width 32's value instead would have cost" in arm["headline"]


def test_an_unclear_verdict_names_what_would_decide_and_never_what_is_there() -> None:
    arm = answer(sweep(line(-0.25, (32, 64, 128)), noise=0.01), 256)
    assert arm["verdict"] == "inconclusive"
    assert "Next: " in arm["reasons"][-1] or "probably decide" in arm["reasons"][-1]
    one = answer(sweep({64: -6.0}), 128)
    assert one["verdict"] == "inconclusive"
    assert "second value of the width" in one["reasons"][-1]
    few = sweep(line(0.0), seeds=1)
    bare = answer(few.query("log2_lr in (-9, -6, -3)"), 1024)
    assert "second seed" in bare["reasons"][-1]
    assert bare["drift_octaves_per_doubling"]["low"] is None


def test_the_limits_can_be_set() -> None:
    table = sweep(line(-0.1))
    strict = answer(table, rule=VerdictConfig(max_octaves=0.1, max_compute_percent=0.01))
    assert (strict["moves"], strict["matters"], strict["verdict"]) == ("yes", "yes", "drifts")
    in_loss = answer(table, rule=VerdictConfig(max_regret=1e-9))
    assert in_loss["cost"]["ignoring"]["limit"] == {"of": "loss", "most": 1e-9}
    assert in_loss["matters"] == "yes"


def test_a_sweep_over_depth_alone_has_an_answer() -> None:
    rng = np.random.default_rng(0)
    table = pd.concat(
        [
            basin(
                -5.0 - 0.5 * i, level=-0.5 - 0.05 * i, rng=rng, width=128, depth=float(2 ** (2 + i))
            )
            for i in range(5)
        ]
    )
    arm = answer(table)
    assert arm["axis"] == "depth" and arm["verdict"] == "drifts"
    assert [optimum["depth"] for optimum in arm["optima"]] == [4, 8, 16, 32, 64]
    assert "at depth 64" in arm["headline"] and "doubling of the depth" in arm["headline"]
    assert arm["drift_octaves_per_doubling"]["estimate"] == pytest.approx(-0.5, abs=0.1)


def test_a_full_design_with_holes_gives_one_joint_law() -> None:
    rng = np.random.default_rng(0)
    settings = [
        (width, batch, steps)
        for width in (64, 128, 256)
        for batch in (32, 64, 128)
        for steps in (1000, 2000)
        if (width, batch, steps) != (128, 64, 2000)
    ]
    table = pd.concat(
        [
            basin(
                -6.0 + 0.5 * np.log2(batch / 32) - 0.3 * np.log2(steps / 1000),
                level=-0.5 - 0.06 * np.log2(width / 64),
                rng=rng,
                seeds=2,
                width=width,
                batch_size=float(batch),
                steps=float(steps),
            )
            for width, batch, steps in settings
        ]
    )
    arm = answer(table, 512, target_at={"depth": None, "batch_size": 256.0, "steps": 2000.0})
    slopes = arm["conditions"]["octaves_per_doubling"]
    assert slopes["batch_size"]["low"] < 0.5 < slopes["batch_size"]["high"]
    assert slopes["steps"]["low"] < -0.3 < slopes["steps"]["high"]
    assert slopes["width"]["low"] < 0.0 < slopes["width"]["high"]
    assert len(arm["conditions"]["optima"]) == len(settings)
    assert arm["target"]["low"] < -6.0 + 1.5 - 0.3 < arm["target"]["high"]
    assert arm["target"]["batch_size"] == 256


def test_steps_that_grow_with_width_keep_every_width_and_say_so() -> None:
    rng = np.random.default_rng(0)
    table = pd.concat(
        [
            basin(-6.0, level=-0.5 - 0.06 * i, rng=rng, width=64 * 2**i, steps=1000.0 * 4**i)
            for i in range(4)
        ]
    )
    arm = answer(table, 1024)
    assert len(arm["optima"]) == 4
    assert any("training steps changes together with the width" in w for w in arm["warnings"])


def test_the_direction_of_words_follows_the_interval() -> None:
    for slope in (0.0, -0.05, -0.6):
        arm = answer(sweep(line(slope)))
        drift = arm["drift_octaves_per_doubling"]
        if drift["low"] < 0.0 < drift["high"]:
            assert arm["moves"] != "yes"
        assert arm["verdict"] != "drifts" or arm["moves"] == "yes"


def test_the_grids_step_and_a_failed_setting_are_told() -> None:
    table = sweep(line(0.0))
    table.loc[table["width"] == 512, ["status", "loss"]] = ["diverged", np.nan]
    arm = answer(table, 1024)
    assert [optimum["width"] for optimum in arm["optima"]] == [32, 64, 128, 256]
    assert any(w.startswith("Width 512: every point failed") for w in arm["warnings"])
    table["loss"], table["status"] = np.nan, "diverged"
    nothing = answer(table, 1024)
    assert nothing["verdict"] == "inconclusive" and nothing["optima"] == []


def test_a_small_movement_that_costs_much_is_no_drift() -> None:
    arm = answer(sweep(line(-0.09), k=0.4))
    assert (arm["moves"], arm["matters"], arm["verdict"]) == ("no", "yes", "inconclusive")


def test_a_minimum_beyond_the_grid_that_costs_little_asks_for_no_wider_grid() -> None:
    arm = answer(sweep(line(0.0, start=-11.0), k=1e-5, noise=1e-5, seed_sd=1e-4), 1024)
    assert {optimum["censored"] for optimum in arm["optima"]} == {"grid_low"}
    assert arm["extend"] == [] and arm["matters"] == "no"
    assert "ends before the optimum of width 32, 64, 128, 256 and 512, but" in arm["headline"]
    assert "too narrow" not in arm["headline"]


def test_where_a_cost_has_no_limit_a_minimum_beyond_the_grid_asks_for_a_wider_one() -> None:
    table = sweep(line(0.0, start=-11.0), fall=-0.01)
    table["loss"] -= table["loss"].mean()
    arm = answer(table, 1024)
    assert arm["cost"]["ignoring"]["limit"] is None
    assert "too narrow" in arm["headline"]
    assert {entry["side"] for entry in arm["extend"]} == {"low"}
    assert any("Extend the grid" in warning for warning in arm["warnings"])


def test_an_optimum_far_beyond_the_grid_is_not_told_as_found() -> None:
    arm = answer(sweep(line(0.0, (32, 64, 128), start=0.0)), 256)
    assert arm["verdict"] == "inconclusive"
    assert "only until the grid is wider" in arm["headline"].splitlines()[0]
    assert "grid is too narrow" in arm["headline"].splitlines()[-1]
    assert {entry["side"] for entry in arm["extend"]} == {"high"}
    assert "extend the grid of the learning rate" in arm["reasons"][0]


def test_where_every_point_of_the_last_width_failed_nothing_is_said_to_transfer() -> None:
    table = sweep(line(0.0))
    table.loc[table["width"] == 512, ["status", "loss"]] = ["diverged", np.nan]
    arm = answer(table, 1024)
    assert arm["verdict"] == "inconclusive"
    assert "At width 512 every point failed" in arm["reasons"][0]


def test_losses_that_are_all_the_same_number_are_no_transfer() -> None:
    arm = answer(sweep(line(0.0)).assign(loss=3.0), 1024)
    assert arm["verdict"] == "inconclusive"
    assert "right column" in arm["reasons"][0]


def test_a_law_that_leads_beyond_the_grid_is_followed() -> None:
    arm = answer(sweep(line(-0.8, (32, 64, 128, 256), start=-7.4)), 1024)
    assert arm["target"]["emitted"] < -10.0
    assert arm["verdict"] == "drifts"


def test_a_movement_across_a_corner_is_priced_by_its_straight_sides() -> None:
    def v_shaped(offset: np.ndarray) -> np.ndarray:
        return 0.8 * np.abs(offset)

    optima = line(-0.3)
    cost = {
        shape.__name__: answer(sweep(optima, shape=shape), 1024)["cost"]["ignoring"]
        for shape in (v_shaped, parabola)
    }
    truth = 100.0 * (2.0 ** (2.0 * 0.02 * 0.8 * 0.3 / 0.06) - 1.0)  # 12 %: a third of an octave
    told = cost["v_shaped"]["compute_percent"]
    assert told["low"] < truth < told["high"]
    assert told["high"] > 2.0 * cost["parabola"]["compute_percent"]["mean"]


@pytest.mark.parametrize("target", [None, 1024])
def test_no_value_is_emitted_at_which_the_widest_width_failed(target: int | None) -> None:
    """The narrow widths put the optimum at -5.8, where every run of the widest has failed."""
    rng = np.random.default_rng(0)
    drawn = {}
    for width, first in {32: -10, 64: -10, 128: -10, 256: -8}.items():
        theta = np.arange(first, -2.0)
        losses = 0.5 * (width / 32) ** -0.12 * (1.0 + 0.006 * (theta + 5.8) ** 2)
        losses = losses + 0.001 * rng.standard_normal((2, len(theta)))
        drawn[width] = (theta, np.where((width == 256) & (theta >= -6.0), np.inf, losses))
    arm = answer(planted_table(drawn), target)
    movement = arm["cost"]["ignoring"]["movement"]["estimate"] if target else 0.0
    emitted = arm["cost"]["curve"]["emitted"]
    assert -7.5 < emitted < -6.4 + movement  # halfway from the last sound to the first failed


def test_a_flat_basin_beside_a_cliff_does_not_send_the_value_far_below_the_grid() -> None:
    rng = np.random.default_rng(0)
    drawn = {}
    for width in (64, 128, 256):
        theta = np.arange(-10.0, -2.0)
        rise = 0.006 * (theta + 6.0) ** 2 * (width < 256)
        losses = 0.5 * (width / 32) ** -0.12 * (1.0 + rise)
        losses = losses + 0.001 * rng.standard_normal((2, len(theta)))
        drawn[width] = (theta, np.where(theta >= -4.0, np.inf, losses))
    assert -7.5 < answer(planted_table(drawn), 512)["target"]["emitted"] < -4.0
