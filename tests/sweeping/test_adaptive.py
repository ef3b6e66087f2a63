"""Adaptive designs: replay after any loss of rows, growth, failures, and planted optima."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Method, Scaling
from hptransfer.config.hyperparameters import hps
from hptransfer.config.identity import arm_of, trial_key
from hptransfer.config.sweep import Axis, DesignConfig, SweepConfig
from hptransfer.sweeping.design.optuna_samplers import (
    next_points,
    propose,
    told_values,
    write_study,
)
from hptransfer.sweeping.design.rounds import (
    ArmAndWidth,
    TriedPoint,
    arms_and_widths,
    asked,
)

Row = dict[str, Any]
Loss = Callable[[TrialConfig], float]
BOX = (("lr", Axis(-10, -3)), ("init_scale", Axis(-3, 3)))


def sweep_of(
    method: Method,
    points: int,
    *,
    search: tuple[tuple[str, Axis], ...] = BOX,
    batch: int | None = None,
) -> SweepConfig:
    return SweepConfig(
        name="planted",
        question="Where is the minimum?",
        statistic="Its distance from the planted one.",
        base=TrialConfig(),
        widths=(24, 48, 96),
        parametrizations=(Scaling.mup, Scaling.standard),
        seeds=(0, 1, 2),
        search=search,
        design=DesignConfig(method, points, batch, seed=5),
    )


def optimum(config: TrialConfig) -> float:
    """Return the planted log2 lr: under standard it falls by an octave with each doubling."""
    drift = 1.0 if arm_of(config) == "standard" else 0.0
    return -5.7 - drift * math.log2(config.model.width / 24)


def planted(config: TrialConfig) -> float:
    """Return a loss whose basin is flat below and steep above, and fails above a cliff."""
    at = hps(config, ["log2_lr", "log2_init_scale"])
    offset = at["log2_lr"] - optimum(config)
    noise = random.Random(trial_key(config)).gauss(0.0, 0.002)
    rise = 0.03 * offset**2 * (1.0 if offset < 0 else 2.0)
    return math.inf if offset > 2.2 else 0.5 + rise + 0.02 * at["log2_init_scale"] ** 2 + noise


def row(config: TrialConfig, loss: Loss = planted) -> Row:
    value = loss(config)
    found = value if math.isfinite(value) else None
    return {"loss": found, "metrics": {"loss_at_init": 1.7}}


def run(sweep: SweepConfig, loss: Loss = planted) -> tuple[list[list[str]], dict[str, Row]]:
    """Run a search to its end; return its rounds as keys, and its rows."""
    rows: dict[str, Row] = {}
    while True:
        rounds = asked(sweep, rows)
        fresh = {trial_key(c): row(c, loss) for c in rounds[-1] if trial_key(c) not in rows}
        if not fresh:
            return keys(rounds), rows
        rows |= fresh


def keys(rounds: list[tuple[TrialConfig, ...]]) -> list[list[str]]:
    return [[trial_key(config) for config in trials] for trials in rounds]


SEARCHES = {
    Method.tpe: sweep_of(Method.tpe, 18, batch=4),
    Method.gp: dataclasses.replace(sweep_of(Method.gp, 14, batch=4), widths=(24,)),
    Method.cmaes: sweep_of(Method.cmaes, 18, batch=4),
    Method.refine: sweep_of(Method.refine, 6, search=BOX[:1]),
}


@pytest.mark.parametrize("method", SEARCHES, ids=lambda m: m.value)
def test_a_search_that_lost_any_rows_asks_again_for_what_it_had_asked(method: Method) -> None:
    sweep = SEARCHES[method]
    rounds, rows = run(sweep)
    draw = random.Random(0)
    assert len(rounds) > 2
    for share in (0.0, 0.3, 0.9, 0.99, 1.0):
        kept = {key: found for key, found in rows.items() if draw.random() < share}
        next_points.cache_clear()  # as another process would
        again = keys(asked(sweep, kept))
        assert again == rounds[: len(again)]
        assert all(set(each) <= kept.keys() for each in again[:-1])
        assert len(again) == len(rounds) or not set(again[-1]) <= kept.keys()


@pytest.mark.parametrize("method", SEARCHES, ids=lambda m: m.value)
def test_no_trial_is_asked_twice_and_the_budget_holds(method: Method) -> None:
    sweep = SEARCHES[method]
    rounds, _ = run(sweep)
    flat = [key for each in rounds for key in each]
    assert len(flat) == len(set(flat))
    budget = sweep.design.total * len(arms_and_widths(sweep)) * len(sweep.seeds)
    assert 0.7 * budget < len(flat) <= budget


@pytest.mark.parametrize("method", [Method.tpe, Method.cmaes, Method.refine])
def test_a_grown_search_keeps_the_trials_that_it_has(method: Method) -> None:
    sweep = SEARCHES[method]
    grown = dataclasses.replace(
        sweep, design=dataclasses.replace(sweep.design, points=sweep.design.total + 5)
    )
    (_, before), (_, after) = run(sweep), run(grown)
    assert before.keys() <= after.keys()


def test_arms_share_the_search_at_base_width_and_every_seed_runs_a_point() -> None:
    sweep = SEARCHES[Method.tpe]
    assert [(p.arm, p.width) for p in arms_and_widths(sweep)] == [
        *(("shared", 24), ("mup", 48), ("mup", 96), ("standard", 48), ("standard", 96))
    ]
    first = asked(sweep, {})[0]
    assert len(first) == 5 * 3 * sweep.design.batch
    by_seed = [{tuple(hps(c, sweep.axes).items()) for c in first if c.seed == s} for s in (0, 1, 2)]
    assert by_seed[0] == by_seed[1] == by_seed[2]
    own = {p: tuple(points[0].items()) for p, points in propose(sweep, histories(sweep)).items()}
    assert len(set(own.values())) == 5  # every place draws points of its own


def histories(sweep: SweepConfig) -> dict[ArmAndWidth, list[list[TriedPoint]]]:
    return {place: [] for place in arms_and_widths(sweep)}


def test_the_choice_has_a_seed_of_its_own() -> None:
    sweep = SEARCHES[Method.tpe]
    other = dataclasses.replace(sweep, design=dataclasses.replace(sweep.design, seed=6))
    assert keys(asked(sweep, {})) != keys(asked(other, {}))


def test_a_point_of_which_a_seed_failed_is_told_as_worse_than_all_sound_ones() -> None:
    points = [
        TriedPoint((("log2_lr", x),), losses, 1.7)
        for x, losses in ((-5.0, (0.5, 0.7)), (-6.0, (0.8, 0.8)), (-3.0, (0.4, math.inf)))
    ]
    assert told_values(points) == pytest.approx([0.6, 0.8, 1.0])
    assert told_values(points[2:]) == [1.0]


@pytest.mark.parametrize("method", [Method.tpe, Method.cmaes])
def test_searches_leave_the_region_that_fails(method: Method) -> None:
    sweep = dataclasses.replace(sweep_of(method, 64, batch=8), widths=(24,))
    rounds, rows = run(sweep)
    failed = [sum(rows[key]["loss"] is None for key in each) / len(each) for each in rounds]
    assert failed[0] > 0 and sum(failed[-3:]) / 3 < failed[0]
    best = min(found["loss"] for found in rows.values() if found["loss"] is not None)
    assert best < 0.51


def test_refinement_brackets_planted_optima_with_fewer_trials_than_the_grid() -> None:
    sweep = SEARCHES[Method.refine]
    rounds, rows = run(sweep)
    tried: dict[tuple[str, int], set[float]] = {}
    losses: dict[tuple[str, int], dict[float, float]] = {}
    for config in (c for trials in asked(sweep, rows) for c in trials):
        place = (arm_of(config), config.model.width)
        at = hps(config, sweep.axes)["log2_lr"]
        tried.setdefault(place, set()).add(at)
        loss = rows[trial_key(config)]["loss"]
        losses.setdefault(place, {})[at] = math.inf if loss is None else loss
    assert len(rows) < 0.8 * 8 * 3 * 5  # of the one-octave grid over the same axis
    for place, of_place in losses.items():
        truth = -5.7 - (math.log2(place[1] / 24) if place[0] == "standard" else 0.0)
        best = min(of_place, key=lambda at: of_place[at])
        assert abs(best - truth) <= 0.5
        nearest = sorted(tried[place], key=lambda at: abs(at - truth))[:2]
        assert abs(nearest[0] - nearest[1]) == 0.5  # refined where the optimum is
    assert len(rounds) > 3


def test_refinement_of_wider_widths_skips_the_far_ends_of_the_axis() -> None:
    sweep = SEARCHES[Method.refine]
    _, rows = run(sweep)
    widths: dict[int, list[float]] = {}
    for config in (c for trials in asked(sweep, rows) for c in trials):
        at = hps(config, sweep.axes)["log2_lr"]
        if arm_of(config) != "standard":
            widths.setdefault(config.model.width, []).append(at)
    assert min(widths[24]) == -10 and min(widths[48]) >= -8 and min(widths[96]) >= -8


def test_refinement_compares_losses_by_their_ratios() -> None:
    sweep = SEARCHES[Method.refine]
    rows: dict[str, Row] = {}
    cubed: dict[str, Row] = {}
    for _ in range(8):
        asked_next = asked(sweep, rows)
        assert keys(asked(sweep, cubed)) == keys(asked_next)
        for config in asked_next[-1]:
            found = row(config)
            rows[trial_key(config)] = found
            loss = None if found["loss"] is None else found["loss"] ** 3
            cubed[trial_key(config)] = {"loss": loss, "metrics": {"loss_at_init": 1.7**3}}
    assert len(rows) > 60


def test_a_search_without_any_sound_point_ends() -> None:
    for method in (Method.refine, Method.tpe):
        rounds, rows = run(SEARCHES[method], lambda _: math.inf)
        assert rounds and all(found["loss"] is None for found in rows.values())


def test_the_study_of_the_dashboard_is_made_of_the_rows(tmp_path: Path) -> None:
    sweep = sweep_of(Method.tpe, 5)
    _, rows = run(sweep)
    rounds = asked(sweep, rows)
    lost = trial_key(rounds[-1][0])
    kept = {key: found for key, found in rows.items() if key != lost}
    for _ in range(2):  # the second write replaces the first
        write_study(tmp_path / "optuna.db", sweep, rounds, kept)
    assert [path.name for path in tmp_path.iterdir()] == ["optuna.db"]
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    studies = optuna.get_all_study_summaries(storage)
    assert len(studies) == 5 and all(study.study_name.startswith("planted") for study in studies)
    trials = [
        t
        for study in studies
        for t in optuna.load_study(study_name=study.study_name, storage=storage).trials
    ]
    assert len(trials) == len(rows) / 3 - 1
    assert {t.state.name for t in trials} == {"COMPLETE", "FAIL"}
    assert all(set(t.params) == set(sweep.axes) for t in trials)
