"""Hopeless trials are given up, by their own curve alone, and nobody beside them notices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hptransfer.analysis.basins.rows import hp_grid, read_rows
from hptransfer.config import BudgetConfig, CheckpointConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Status, Weights
from hptransfer.config.identity import trial_key
from hptransfer.training.packs.run import run_pack
from hptransfer.training.packs.state import start_training
from hptransfer.training.schedule import gives_up
from hptransfer.training.stopping import is_hopeless
from tests.support.checkpoints import cut_off, told
from tests.support.packs import dataset_of, varied

RUNTIME, CPU = RuntimeConfig(), torch.device("cpu")
STEPS, STOP_AFTER = 20, 0.5
WILD = (0.0, 1.0)  # log2 rates that throw a tiny model's loss up, and leave it there


def beside(rates: Sequence[float], stop_after: float | None) -> list[TrialConfig]:
    """Return trials without clipping, which would keep the wild ones down."""
    return [
        dataclasses.replace(
            config,
            seed=0,
            optimizer=dataclasses.replace(config.optimizer, clip_norm=None),
            budget=dataclasses.replace(config.budget, stop_after=stop_after),
        )
        for config in varied("dit", rates=rates, steps=STEPS, weights=Weights.ema)
    ]


@pytest.mark.parametrize(
    ("losses", "hopeless"),
    [
        ([1.0, 9.0, 0.95, 0.9], True),  # thrown up, and left on a plateau
        ([1.0, 9.0], True),
        ([1.0, 1.4, 0.95, 0.9], False),  # warm-up that overshoots a little
        ([1.0, 9.0, 0.95, 0.8], False),  # came back
        ([1.0, 1.0, 0.99, 0.98], False),  # slow is not hopeless
        ([1.0, 9.0, math.nan], False),  # has diverged
        ([1.0, math.inf, math.inf], True),
    ],
)
def test_who_is_hopeless(losses: list[float], hopeless: bool) -> None:
    assert is_hopeless(losses, 1.0) is hopeless
    assert is_hopeless([2 * loss for loss in losses], 2.0) is hopeless


def test_no_trial_is_given_up_unless_asked_nor_early_nor_at_the_last_report() -> None:
    def steps_given_up(stop_after: float | None) -> list[int]:
        budget = BudgetConfig(steps=100, stop_after=stop_after)
        return [step for step in range(101) if gives_up(budget, step, [1.0, 9.0], 1.0)]

    assert steps_given_up(None) == []
    assert steps_given_up(0.25) == list(range(25, 100))
    results = run_pack(beside((-8.0, *WILD), None), RUNTIME)
    assert [result.status for result in results] == [Status.completed] * 3


def test_a_hopeless_trial_is_stopped_where_its_curve_says_so() -> None:
    calm, *wild = run_pack(beside((-8.0, *WILD), STOP_AFTER), RUNTIME)
    whole = run_pack(beside((-8.0, *WILD), None), RUNTIME)
    assert calm.status is Status.completed and calm.stopped_at_step is None
    assert (calm.loss, calm.curve) == (whole[0].loss, whole[0].curve)
    for stopped, undisturbed in zip(wild, whole[1:], strict=True):
        curve = [loss for _, loss in undisturbed.curve]
        expected = next(
            step
            for step in range(int(STOP_AFTER * STEPS), STEPS)
            if is_hopeless(curve[:step], stopped.loss_at_init)
        )
        assert stopped.status is Status.stopped
        assert stopped.stopped_at_step == expected < STEPS
        assert (stopped.loss, stopped.train_loss, stopped.diverged_at_step) == (None, None, None)
        assert stopped.curve == undisturbed.curve[:expected]


def test_a_trial_is_stopped_alike_alone_and_in_any_company() -> None:
    alone = [run_pack([config], RUNTIME)[0] for config in beside((-8.0, *WILD), STOP_AFTER)]
    together = run_pack(beside((-8.0, *WILD), STOP_AFTER), RUNTIME)
    assert [r.stopped_at_step for r in alone] == [r.stopped_at_step for r in together]
    assert {r.status for r in alone} == {Status.completed, Status.stopped}


@pytest.mark.parametrize("removes", [True, False])
def test_the_weights_of_the_others_are_the_same_to_the_bit_removed_or_not(removes: bool) -> None:
    trials = varied("dit", steps=STEPS, weights=Weights.ema)
    calm, mixed = (start_training(trials, dataset_of(trials[0]), CPU, RUNTIME) for _ in range(2))
    for step in range(8):
        calm.train_step(step)
        mixed.train_step(step)
        if step == 3:
            mixed.give_up([1], step + 1)
            if removes:
                mixed.compact()
    assert len(mixed.members) == (3 if removes else 4)
    for place, member in enumerate(mixed.members):
        same = torch.equal(mixed.deciding_weights()[place], calm.deciding_weights()[member])
        assert same is (member != 1)


def test_a_stopped_trial_changes_nobody_else_to_the_bit() -> None:
    calm = run_pack(beside((-8.0, -7.5, -7.0), STOP_AFTER), RUNTIME)
    mixed = run_pack(beside((-8.0, WILD[0], -7.0), STOP_AFTER), RUNTIME)
    assert mixed[1].status is Status.stopped
    assert told([mixed[0], mixed[2]]) == told([calm[0], calm[2]])


def test_a_pack_of_which_all_are_stopped_ends() -> None:
    heard: list[int] = []
    results = run_pack(beside(WILD, 0.5), RUNTIME, lambda report: heard.append(report.step))
    assert [result.status for result in results] == [Status.stopped] * 2
    assert heard[-1] == max(result.stopped_at_step or 0 for result in results) < STEPS


def test_the_last_report_stops_nobody() -> None:
    results = run_pack(beside(WILD, 1.0), RUNTIME)
    assert [result.status for result in results] == [Status.completed] * 2


@pytest.mark.parametrize("report", [9, 10, 11, 14])
def test_a_pack_with_stopped_trials_goes_on_from_its_checkpoint(
    report: int, tmp_path: Path
) -> None:
    checkpoints = CheckpointConfig(str(tmp_path), every_s=0.0)
    trials = beside((-8.0, *WILD, -7.0), STOP_AFTER)
    cut_off(trials, checkpoints, report)
    assert told(run_pack(trials, RUNTIME, checkpoints=checkpoints)) == told(
        run_pack(trials, RUNTIME)
    )


def test_giving_up_belongs_to_a_trials_identity() -> None:
    (free,), (bound,) = beside((-8.0,), None), beside((-8.0,), STOP_AFTER)
    assert trial_key(free) != trial_key(bound)


def test_a_stopped_row_is_a_failed_point() -> None:
    table = pd.DataFrame(
        {
            "family": "dit",
            "parametrization": "mup",
            "width": 24,
            "seed": 0,
            "status": ["completed", "completed", "stopped"],
            "loss": [0.6, 0.5, None],
            "loss_at_init": 1.7,
            "n_seeds": 1,
            "loss_sd": np.nan,
            "flops": np.nan,
            **dict.fromkeys(("depth", "batch_size", "steps"), np.nan),
            "log2_lr": [-8.0, -7.0, -6.0],
        }
    )
    grid = hp_grid(read_rows(table, ["log2_lr"]), "log2_lr")
    assert grid is not None and grid.failed.tolist() == [False, False, True]
