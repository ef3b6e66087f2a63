"""The target's config: values, cost, distances, expected regret, and what else is told of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.answer.estimates import estimate
from hptransfer.analysis.answer.run_health import (
    clipping_warnings,
    gap_warnings,
    runs_near_value,
    train_validation_gap,
)
from hptransfer.analysis.answer.transferred import Transferred, transferred, worst_verdict
from hptransfer.config.choices import Init
from hptransfer.config.compose.compose import compose_file
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.errors import UserError
from hptransfer.models.parametrization.rules import build_model
from hptransfer.reporting.text.answers import transfer_lines
from hptransfer.sweeping.design.trials import check_target
from hptransfer.training.flops import trial_flops
from hptransfer.transfer import emit
from tests.support.planted_estimates import MUP, STANDARD, planted
from tests.support.quickstart import quickstart
from tests.support.sweeps import run


def target_of(sweep, **changes: Any):
    assert sweep.target is not None
    return dataclasses.replace(sweep.target, **changes)


def cost_table(one: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "flops": [0.1 * one, 0.2 * one, 0.4 * one, 0.8 * one],
            "width": [24, 48, 96, 96],
            "parametrization": ["shared", "mup", "mup", "standard"],
            "log2_lr": [-6.0, -6.0, -5.0, -4.0],
        }
    )


def test_costs_have_the_denominators_of_their_names() -> None:
    sweep = quickstart()
    target = target_of(sweep)
    one = trial_flops(target)
    assert emit.search_cost(sweep, cost_table(one), target, points=8) == {
        "sweep_flops": pytest.approx(1.5 * one),
        "target_flops": one,
        "arm_over_target_percent": 70.0,
        "narrowest_over_target_percent": 10.0,
        "over_direct_search_percent": round(70 / (8 * 3), 3),  # 8 rates, 3 seeds
    }


@pytest.mark.parametrize(("method", "points"), [("sobol", 12), ("refine", 1)])
def test_a_direct_search_has_the_points_of_the_sweeps_own_design(method: str, points: int) -> None:
    # of which the adaptive one asked a single one per width
    sweep = quickstart(f"sweep.design.method={method}", "sweep.design.points=12")
    target = target_of(sweep)
    table = cost_table(trial_flops(target))
    count = emit.swept_points(sweep, table, target)
    found = emit.search_cost(sweep, table, target, points=count)
    assert found["over_direct_search_percent"] == round(70 / (points * 3), 3)


def test_costs_that_rows_do_not_know_are_null() -> None:
    sweep = quickstart()
    table = cost_table(1.0).assign(flops=np.nan)
    found = emit.search_cost(sweep, table, target_of(sweep), points=8)
    assert found["sweep_flops"] is None and found["arm_over_target_percent"] is None


def test_an_answer_holds_for_what_all_proxies_share() -> None:
    base = quickstart("budget.steps=200", "budget.batch_size=32", "model.depth=3").base
    assert emit.conditional_on(base) == {
        "steps": 200,
        "batch_size": 32,
        "schedule": "linear_decay",
        "weights": "raw",
        "ema_decay": None,
        "depth": 3,
    }


def test_distances_name_what_was_not_swept() -> None:
    sweep = quickstart()
    target = target_of(sweep)
    assert emit.distances(sweep, with_hyperparameters(target, {"log2_lr": -4.2})) == []
    longer = dataclasses.replace(target.budget, steps=300)
    assert emit.distances(sweep, dataclasses.replace(target, budget=longer)) == [
        "budget.steps is 300 at the target and 150 at the proxies (2 times)"
    ]
    varied = quickstart("sweep.vary.steps=[300]")
    assert emit.distances(varied, dataclasses.replace(target_of(varied), budget=longer)) == []
    deeper = quickstart(
        "budget.steps=200", "sweep.target.budget.steps=600", "sweep.target.init=paper"
    )
    assert emit.distances(deeper, target_of(deeper)) == [
        "budget.steps is 600 at the target and 200 at the proxies (3 times)",
        "init is paper at the target and adaln_zero at the proxies",
    ]


LARGER = (
    "sweep.target.model.depth=8",
    "sweep.target.budget.batch_size=128",
    "sweep.target.budget.steps=600",
)
BASE_VALUES = (
    "model.base_depth=2",
    "parametrization.base_batch_size=64",
    "parametrization.base_steps=150",
)
COMPLETE = ("parametrization=complete", "sweep.parametrizations=[complete]")


def test_complete_speaks_for_depth_batch_size_and_steps() -> None:
    sweep = quickstart(*COMPLETE, *BASE_VALUES, *LARGER)
    target = target_of(sweep)
    check_target(sweep, target)
    assert emit.distances(sweep, target) == []
    (sentence,) = emit.bridged(sweep, target)
    for said in ("batch_size is 128", "(2 times)", "steps is 600", "depth is 8", "which assumes"):
        assert said in sentence
    longer = dataclasses.replace(target, init=Init.paper)
    assert emit.distances(sweep, longer) == [
        "init is paper at the target and adaln_zero at the proxies"
    ]
    at_base = quickstart(*COMPLETE, *BASE_VALUES)
    assert emit.bridged(at_base, target_of(at_base)) == []


def test_complete_speaks_for_nothing_without_its_base_value() -> None:
    no_depth = quickstart(*COMPLETE, *BASE_VALUES[1:], *LARGER)
    with pytest.raises(UserError, match=r"=complete with model\.base_depth=2"):
        check_target(no_depth, target_of(no_depth))
    no_steps = quickstart(*COMPLETE, *BASE_VALUES[:2], *LARGER)
    target = target_of(no_steps)
    (steps,) = emit.distances(no_steps, target)
    assert steps.startswith("budget.steps is 600")
    advice = emit.advice(no_steps, target, steps)
    assert advice.startswith("Set parametrization.base_steps=150 in the sweep")


@pytest.mark.parametrize("scaling", ["mup", "standard"])
def test_no_other_arm_speaks_for_them(scaling: str) -> None:
    words = (f"parametrization={scaling}", f"sweep.parametrizations=[{scaling}]")
    sweep = quickstart(*words, *BASE_VALUES, *LARGER)
    target = target_of(sweep)
    with pytest.raises(UserError, match="must be as deep as the swept models"):
        check_target(sweep, target)
    check_target(sweep, target, ["depth"])
    assert len(emit.distances(sweep, target)) == 3 and emit.bridged(sweep, target) == []


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["transfers", "drifts"], "drifts"),
        (["inconclusive", "drifts"], "drifts"),
        (["transfers", "inconclusive"], "inconclusive"),
        (["transfers"], "transfers"),
    ],
)
def test_the_worst_verdict_of_several_hps_counts(verdicts: list[str], worst: str) -> None:
    assert worst_verdict(verdicts) == worst


def test_the_record_counts_the_targets_parameters(tiny_sweep: Path) -> None:
    assert run("sweep", "tiny.yaml") == 0
    assert run("transfer", "tiny") == 0
    record = json.loads(Path("results/tiny/transfer.json").read_text())
    trial = compose_file(Path("results/tiny/target.yaml"), []).trial
    assert record["target"]["params"] == sum(p.numel() for p in build_model(trial).parameters())
    written = [Path(name) for name in record["files"]]
    assert all(path.is_file() for path in written)
    assert {path.name for path in written} >= {"target.yaml", "factors.json", "torch_groups.py"}
    assert set(record["answers"]["log2_lr"]) >= {"headline", "moves", "matters", "verdict"}
    comments = Path("results/tiny/target.yaml").read_text()
    told = record["answers"]["log2_lr"]
    assert all(
        f"# {line}" in comments for line in [*told["headline"].split("\n"), *told["reasons"]]
    )
    for word in ("# verdict: ", "# expected cost", "# compute: ", "# held-out minus training"):
        assert word in comments


def test_a_target_of_other_conditions_than_those_swept_has_no_prediction(tiny_sweep: Path) -> None:
    assert run("sweep", "tiny.yaml") == 0
    assert run("transfer", "tiny", "budget.steps=48") == 0
    record = json.loads(Path("results/tiny/transfer.json").read_text())
    assert record["expected_regret"]["mean"] is None and record["predicted_loss"] is None
    assert "budget.steps is 48 at the target" in record["expected_regret"]["reason"]
    said = "The answer holds only where nothing changes but what was swept, yet budget.steps is 48"
    assert any(warning.startswith(said) for warning in record["warnings"])


def answer_of(table: pd.DataFrame, label: str = "mup") -> Transferred:
    found = estimate(table, sweep_name="q", axes=["log2_lr"], target_width=384)
    return transferred(found, label)


def test_the_expected_cost_is_told_in_loss_in_percent_and_in_compute() -> None:
    answer = answer_of(planted(MUP))
    found, arm = answer.expected_regret, answer.first
    assert found["low"] <= found["mean"] <= found["high"]
    loss = arm["loss_law"]["at_target"]["estimate"]
    assert found["percent"] == pytest.approx(100 * found["mean"] / loss, rel=0.1)
    assert found["compute_percent"] == arm["cost"]["emitted"]["compute_percent"]["mean"] > 0
    assert answer.verdict == "transfers" and answer.point == {"log2_lr": arm["target"]["emitted"]}
    assert answer.answers["log2_lr"]["headline"].count("\n") == 2
    assert answer.predicted_loss == arm["loss_law"]["at_target"]


def test_a_value_at_the_target_costs_what_was_expected_of_basins_of_another_shape() -> None:
    """The planted basins are two parabolas; the value lies at most 1.4·0.012 octave² too high."""
    answer = answer_of(planted(MUP, seeds=5))
    offset = answer.point["log2_lr"] + 5.6
    cost = 0.012 * offset**2 * (1.0 if offset < 0 else 1.4)
    assert cost <= answer.expected_regret["high"]


def test_a_regret_that_is_not_predicted_says_why() -> None:
    rows = planted(MUP, seeds=1)
    three = answer_of(rows.loc[rows["log2_lr"].isin([-7.0, -6.0, -5.0])])
    assert three.expected_regret["mean"] is None
    assert three.expected_regret["reason"] == "the noise of a run is not known"


def test_a_drifting_value_goes_on_as_it_did_with_its_own_cost_and_a_warning() -> None:
    answer = answer_of(planted(STANDARD, "standard"), "standard")
    assert answer.verdict == "drifts"
    assert answer.point["log2_lr"] == pytest.approx(-8.6, abs=0.5)  # 0.75 octaves a doubling
    assert answer.expected_regret["mean"] > 0
    (warning,) = [w for w in answer.warnings if "goes on moving at the same rate" in w]
    assert "over 2 doublings of the width beyond the last swept one (96)" in warning


def test_several_hps_go_together_where_a_surface_says_so() -> None:
    arm = answer_of(planted(MUP)).first
    both = [{**arm, "hp": hp} for hp in ("log2_lr", "log2_eps")]
    alone = transferred({"arms": both}, "mup")
    assert any("those of the others are not added" in warning for warning in alone.warnings)
    joint = {
        "hps": {
            hp: {"value": value, "low": value - 0.1, "high": value + 0.1}
            for hp, value in (("log2_lr", -5.0), ("log2_eps", -20.0))
        },
        "expected_regret": {"mean": 0.004, "low": 0.001, "high": 0.009},
    }
    surface = {
        "family": "dit",
        "parametrization": "mup",
        "hps": ["log2_eps", "log2_lr"],
        "target": joint,
    }
    answer = transferred({"arms": both, "surfaces": [surface]}, "mup")
    assert answer.point == {"log2_lr": -5.0, "log2_eps": -20.0}
    assert (answer.expected_regret["mean"], answer.expected_regret["high"]) == (0.004, 0.009)
    assert not any("those of the others are not added" in warning for warning in answer.warnings)


def test_an_arm_that_was_not_swept_is_refused() -> None:
    found = estimate(planted(MUP), sweep_name="q", axes=["log2_lr"], target_width=192)
    with pytest.raises(
        UserError, match="must be one of those that were swept, but it is standard_embed"
    ):
        transferred(found, "standard_embed")


def health_table(gaps: dict[int, float], clipped: dict[int, float]) -> pd.DataFrame:
    """Return rows of three seeds at two rates; what is planted is at log2 rate -5."""
    rows = []
    for width in gaps:
        for seed in range(3):
            for theta in (-6.0, -5.0):
                at = theta == -5.0
                row = {"width": width, "log2_lr": theta, "status": "completed"}
                row["loss"] = 0.5 + 0.001 * seed
                row["train_loss"] = row["loss"] - (gaps[width] if at else 0.4)
                row["clipped_share"] = clipped[width] if at else 1.0
                rows.append(row)
    return pd.DataFrame(rows)


EVEN = {24: 0.2, 48: 0.2, 96: 0.2}


def test_the_gap_is_read_at_the_transferred_value_and_warned_of() -> None:
    small = runs_near_value(health_table({24: 0.01, 48: 0.012, 96: 0.014}, EVEN), {"log2_lr": -5.2})
    gap = train_validation_gap(small)
    assert gap is not None and gap["mean"] == pytest.approx(0.014)
    assert gap_warnings(gap) == []
    grown = runs_near_value(health_table({24: 0.0, 48: 0.03, 96: 0.09}, EVEN), {"log2_lr": -5.2})
    found = gap_warnings(train_validation_gap(grown))
    assert "18 % below the held-out loss" in found[0]
    assert "from 0 at width 24 to 0.09 at width 96" in found[1]
    silent = health_table(EVEN, EVEN).assign(train_loss=np.nan)
    assert train_validation_gap(runs_near_value(silent, {"log2_lr": -5.0})) is None


def test_shares_of_clipped_steps_that_differ_between_widths_are_warned_of() -> None:
    even = runs_near_value(health_table(EVEN, EVEN), {"log2_lr": -5.0})
    assert clipping_warnings(even, searched=False) == []
    falling = runs_near_value(health_table(EVEN, {24: 0.8, 48: 0.5, 96: 0.2}), {"log2_lr": -5.0})
    assert clipping_warnings(falling, searched=True) == []
    (warning,) = clipping_warnings(falling, searched=False)
    assert "20 % of the steps at width 96 and in 80 % at width 24" in warning


def test_the_terminal_tells_it_all() -> None:
    record = {
        "target": {"family": "gpt", "width": 1024, "params": None, "parametrization": "mup"},
        "hps": {"log2_lr": {"value": -8.0, "low": -8.2, "high": -7.8}},
        "expected_regret": {
            **{"mean": 0.002, "low": 0.0, "high": 0.009, "percent": 0.2, "compute_percent": 1.0},
            "conditional_on": {"steps": 1000, "batch_size": None},
        },
        "predicted_loss": {"estimate": 2.6, "low": 2.5, "high": 2.7},
        "train_validation_gap": {"mean": 0.1, "widths": [{"width": 512}]},
        "realised_regret": None,
        "realised": {
            "loss_at_transferred": 2.8,
            "loss_as_predicted": False,
            "reason": "A regret needs more.",
        },
        "cost": dict.fromkeys(("sweep_flops", "target_flops", "arm_over_target_percent")),
        "verdict": "transfers",
        "answers": {
            "log2_lr": {
                **{"headline": "use a rate\nit stays\nrests on rows", "reasons": ["It stays."]},
                **{"moves": "no", "matters": "no", "verdict": "transfers"},
            }
        },
        "warnings": ["Mind the gap."],
    }
    text = transfer_lines(record)
    for words in (
        "gpt width 1024, µP, verdict: transfers",
        "use a rate\nit stays\nrests on rows\nmoves: no, matters: no -> transfers\n  It stays.\n",
        " in loss, which is 0.2 % of it, worth 1 % more compute. This holds for steps 1000",
        "predicted 2.600 at the target's best value (90 % interval 2.500 to 2.700)",
        "training loss +0.1000 at width 512",
        "loss 2.8000 at the transferred value, outside the prediction. A regret needs",
        "the rows give no FLOPs",
        "warning: Mind the gap.",
    ):
        assert words in text
