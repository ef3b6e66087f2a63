"""Wanted trials, packs cut from them, what is pending, and what makes another question."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pytest

from hptransfer.config import TrialConfig
from hptransfer.config.hyperparameters import hps
from hptransfer.config.identity import arm_of, shape_signature, trial_key
from hptransfer.errors import UserError
from hptransfer.execution.pack_sizes import Trials, by_shape, even_parts
from hptransfer.sweeping.design.trials import (
    check_same_question,
    check_target,
    grid,
    pending,
    realised,
    wanted,
)
from tests.support.quickstart import quickstart

FOLDER = Path("other/quickstart")


def test_arms_share_their_trials_at_base_width() -> None:
    trials = wanted(quickstart())
    assert len(trials) == 8 * 3 * (1 + 2 + 2)  # rates x seeds x (width 24 once, 48 and 96 twice)
    assert all(trial_key(config) == key for key, config in trials.items())
    arms = [(arm_of(config), config.model.width) for config in trials.values()]
    assert arms.count(("shared", 24)) == arms.count(("mup", 96)) == 24


def test_grown_axes_keep_the_trials_that_were_there() -> None:
    grown = quickstart("sweep.seeds=0,1,2,3", "sweep.widths=24,48,96,192", "search.lr.low=-12")
    assert set(wanted(quickstart())) < set(wanted(grown))


def test_grids_are_products() -> None:
    sweep = quickstart("search.init_scale={low: -1, high: 1}")
    points = grid(sweep.search)
    assert len(points) == 8 * 3
    assert points[0] == {"log2_lr": -10.0, "log2_init_scale": -1.0}
    config = next(iter(wanted(sweep).values()))
    assert hps(config, sweep.axes) == points[0]
    assert config.parametrization.init_scale == 0.5


@pytest.mark.parametrize("size", [1, 5, 8, 100])
def test_packs_hold_every_trial_once_in_even_parts(size: int) -> None:
    trials = wanted(quickstart())
    cut = packs(trials.values(), size)
    assert sorted(trial_key(c) for pack in cut for c in pack) == sorted(trials)
    assert all(len({shape_signature(c).model for c in pack}) == 1 for pack in cut)
    assert all(len({arm_of(c) for c in pack}) == 1 for pack in cut)
    assert max(len(pack) for pack in cut) <= size


def packs(trials: Iterable[TrialConfig], size: int) -> list[Trials]:
    return [tuple(part) for group in by_shape(trials).values() for part in even_parts(group, size)]


def test_a_pack_with_a_missing_row_reruns_whole() -> None:
    trials = wanted(quickstart())
    cut = packs(trials.values(), 8)
    done = set(trials) - {trial_key(cut[3][2])}
    assert pending(cut, done) == [cut[3]]
    assert pending(cut, set(trials)) == []


def test_the_targets_own_sweep_surrounds_the_transferred_point() -> None:
    sweep = quickstart()
    assert sweep.target is not None
    trials = realised(sweep, sweep.target, {"log2_lr": -5.4})
    points = sorted({hps(c, sweep.axes)["log2_lr"] for c in trials})
    assert points == [-7.0, -6.0, -5.4, -5.0, -4.0, -3.0]
    assert {c.seed for c in trials} == {0, 1, 2}
    assert {c.model.width for c in trials} == {192}


@pytest.mark.parametrize(
    "override",
    ["sweep.widths=24,48", "sweep.seeds=7", "search.lr.low=-12", "optimizer.lr=0.5", "seed=3"],
)
def test_grown_or_irrelevant_changes_are_the_same_question(override: str) -> None:
    check_same_question(quickstart(), quickstart(override), FOLDER)


def test_a_changed_base_trial_is_another_question() -> None:
    with pytest.raises(UserError) as caught:
        check_same_question(quickstart(), quickstart("budget.steps=151", "model.depth=3"), FOLDER)
    assert str(caught.value) == (
        "other/quickstart holds another sweep: budget.steps was 150 and is now 151; model.depth "
        "was 2 and is now 3. A changed base config is another question, so give this sweep a "
        "name of its own with name=quickstart-2."
    )


def test_other_searched_hps_are_another_question() -> None:
    with pytest.raises(UserError, match="search was lr and is now init_scale x lr"):
        check_same_question(
            quickstart(), quickstart("search.init_scale={low: -1, high: 1}"), FOLDER
        )


def test_widths_that_the_family_cannot_have_are_refused() -> None:
    with pytest.raises(UserError, match="must be a multiple of the head dimension"):
        wanted(quickstart("sweep.widths=24,50"))


def test_records_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        quickstart().name = "x"  # pyright: ignore


@pytest.mark.parametrize(
    "override",
    [
        "init=paper",
        "objective=ddpm",
        "model.base_width=8",
        "optimizer.beta2=0.9",
        "data.held_out=300",
        "parametrization.weight_decay_mode=independent",
        "budget.eval_draws=5",
    ],
)
def test_every_fact_of_the_base_trial_makes_the_question(override: str) -> None:
    with pytest.raises(UserError, match="holds another sweep"):
        check_same_question(quickstart(), quickstart(override, "name=quickstart"), FOLDER)


def test_packs_are_even() -> None:
    assert {len(pack) for pack in packs(wanted(quickstart()).values(), 16)} == {12}


def test_the_targets_own_sweep_keeps_the_other_transferred_values() -> None:
    sweep = quickstart("search.init_scale={low: -1, high: 1}")
    assert sweep.target is not None
    trials = realised(sweep, sweep.target, {"log2_lr": -5.4, "log2_init_scale": 0.5})
    assert {c.parametrization.init_scale for c in trials} == {2**0.5}


@pytest.mark.parametrize("depth", [1, 3])
def test_a_target_of_another_depth_is_refused_unless_it_is_allowed(depth: int) -> None:
    sweep = quickstart()
    assert sweep.target is not None
    deeper = dataclasses.replace(sweep.target.model, depth=depth)  # pyright: ignore
    target = dataclasses.replace(sweep.target, model=deeper)
    with pytest.raises(UserError, match=f"its depth is {depth} and theirs 2"):
        check_target(sweep, target)
    check_target(sweep, target, ["depth"])
    check_target(dataclasses.replace(sweep, allow=("depth",)), target)
    with pytest.raises(UserError, match="may hold only depth"):
        check_target(sweep, sweep.target, ["width"])
