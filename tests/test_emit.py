"""The target's config: cost, distances, expected regret."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_main_job import run
from test_sweep import quickstart

from hptransfer import emit
from hptransfer.compose import compose_file
from hptransfer.parametrization import build_model
from hptransfer.questions import with_hyperparameters
from hptransfer.training.flops import trial_flops


def target_of(sweep, **changes: Any):
    assert sweep.target is not None
    return dataclasses.replace(sweep.target, **changes)


def test_costs_have_the_denominators_of_their_names() -> None:
    sweep = quickstart()
    target = target_of(sweep)
    one = trial_flops(target)
    table = pd.DataFrame(
        {
            "flops": [0.1 * one, 0.2 * one, 0.4 * one, 0.8 * one],
            "width": [24, 48, 96, 96],
            "parametrization": ["shared", "mup", "mup", "standard"],
        }
    )
    assert emit.cost(sweep, table, target) == {
        "sweep_flops": pytest.approx(1.5 * one),
        "target_flops": one,
        "arm_over_target_percent": 70.0,
        "narrowest_over_target_percent": 10.0,
        "over_direct_search_percent": round(70 / (8 * 3), 3),  # 8 rates, 3 seeds
    }


def test_distances_name_what_was_not_swept() -> None:
    sweep = quickstart()
    target = target_of(sweep)
    assert emit.distances(sweep, with_hyperparameters(target, {"log2_lr": -4.2})) == []
    longer = dataclasses.replace(target.budget, steps=300)
    assert emit.distances(sweep, dataclasses.replace(target, budget=longer)) == [
        "budget.steps is 300 at the target and 150 at the proxies (2 times)"
    ]
    deeper = quickstart(
        "budget.steps=200", "sweep.target.budget.steps=600", "sweep.target.init=paper"
    )
    assert emit.distances(deeper, target_of(deeper)) == [
        "budget.steps is 600 at the target and 200 at the proxies (3 times)",
        "init is paper at the target and adaln_zero at the proxies",
    ]


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["transfers", "drifts"], "drifts"),
        (["drifts", "extend"], "extend"),
        (["inconclusive", "drifts"], "drifts"),
        (["transfers", "inconclusive"], "inconclusive"),
        (["transfers"], "transfers"),
    ],
)
def test_the_worst_verdict_of_several_hps_counts(verdicts: list[str], worst: str) -> None:
    assert emit._verdict(verdicts) == worst


def test_the_record_counts_the_targets_parameters(tiny_sweep: Path) -> None:
    assert run("sweep", "tiny.yaml") == 0
    assert run("transfer", "tiny") == 0
    record = json.loads(Path("results/tiny/transfer.json").read_text())
    trial = compose_file(Path("results/tiny/target.yaml"), [], as_run=True).trial
    assert record["target"]["params"] == sum(p.numel() for p in build_model(trial).parameters())


def test_the_expected_regret_is_a_share_of_the_widest_loss_and_of_the_gain() -> None:
    arm = {
        "target": {"expected_regret": {"mean": 0.01, "low": 0.0, "high": 0.02}},
        "gain": {"estimate": 0.04},
        "optima": [{"loss": 1.0}, {"loss": 0.5}],
    }
    found = emit._expected_regret(arm, quickstart(), [])
    assert (found["percent"], found["share_of_gain"]) == (2.0, 0.25)
    assert emit._expected_regret(arm, quickstart(), ["model.depth is 4"])["mean"] is None
