"""What to sweep for a budget: the grammar, the designs, their cost, and the regret they leave."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.budget import World
from hptransfer.analysis.basins.curve import Curves
from hptransfer.analysis.laws.hierarchy import Prior, fit_densities
from hptransfer.config.choices import Scaling
from hptransfer.config.identity import with_width
from hptransfer.config.sweep import Axis, SweepConfig
from hptransfer.errors import UserError
from hptransfer.execution.pack_sizes import MeasuredPack, PackCost
from hptransfer.results.table import rows_table
from hptransfer.sweeping.plan.budget.candidates import Candidate, candidates, seed_lists, width_sets
from hptransfer.sweeping.plan.budget.costs import CandidateCosts, between
from hptransfer.sweeping.plan.budget.knowledge import Knowledge, known_from
from hptransfer.sweeping.plan.budget.propose import best, overrides, priced
from hptransfer.sweeping.plan.budget.regret import Predictor, simulated_error, value_of
from hptransfer.sweeping.plan.budget.units import (
    Budget,
    Meter,
    Workload,
    parse_budget,
    require_unit,
)
from hptransfer.sweeping.plan.plan import Occupancy
from hptransfer.training.flops import trial_flops
from tests.support import planted
from tests.support.budget_rows import KNOWN, cost_of, recorded_rows
from tests.support.tiny import TINY

CORE = Occupancy("core", 1.0, None)


def question(**changes: Any) -> SweepConfig:
    base = with_width(TINY, 8)
    base = dataclasses.replace(base, budget=dataclasses.replace(base.budget, steps=12))
    sweep = SweepConfig(
        name="tiny",
        question="",
        statistic="",
        base=base,
        widths=(8, 16, 32),
        parametrizations=(Scaling.mup,),
        seeds=(0, 1),
        search=(("lr", Axis(-8.0, -3.0)),),
        target=with_width(base, 128),
    )
    return dataclasses.replace(sweep, **changes)


def reckoned(sweep: SweepConfig, *, workers: int = 1, **known: Any) -> CandidateCosts:
    return CandidateCosts(sweep, {width: cost_of(width) for width in (8, 32, 64)}, workers, **known)


def predictor(known: Knowledge = KNOWN, steps: int = 12) -> Predictor:
    return Predictor(known, target_width=128, target_steps=steps)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("8gpuh", 8.0, "gpuh"),
        ("16CPUh", 16.0, "cpuh"),
        ("90 min", 90.0, "min"),
        ("2h", 2.0, "h"),
        (".5h", 0.5, "h"),
        ("50usd", 50.0, "usd"),
        ("5%", 5.0, "%"),
    ],
)
def test_budgets_are_read_as_they_are_written(text: str, amount: float, unit: str) -> None:
    assert parse_budget(text) == Budget(amount, unit)


@pytest.mark.parametrize(
    "text", ["", "8", "gpuh", "-8gpuh", "0h", "8days", "8gpuh2h", "1e3h", "nanh"]
)
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--budget must be a positive number and a unit"):
        parse_budget(text)


def test_a_unit_must_be_what_packs_spend() -> None:
    gpu = Occupancy("GPU", 2.0, 3.0)
    for fine, where in (("8gpuh", gpu), ("8cpuh", CORE), ("9usd", gpu), ("2h", CORE)):
        require_unit(parse_budget(fine), where)
    with pytest.raises(UserError, match="Write it in cpuh"):
        require_unit(parse_budget("8gpuh"), CORE)
    with pytest.raises(UserError, match="Write it in gpuh"):
        require_unit(parse_budget("8cpuh"), gpu)
    with pytest.raises(UserError, match=r"Set executor\.price_per_hour"):
        require_unit(parse_budget("8usd"), CORE)


@pytest.mark.parametrize(
    ("unit", "spent"),
    [("gpuh", 2.0 * 3), ("h", 2.0), ("min", 120.0), ("usd", 15.0), ("%", 25.0)],
)
def test_work_costs_what_the_unit_says(unit: str, spent: float) -> None:
    """Packs of one, one and two hours on two places of two GPUs... each pack occupies 1.5 GPUs."""
    work = Workload((3600.0, 3600.0, 7200.0), 8, 5.0)
    meter = Meter(unit, Occupancy("GPU", 1.5, 3.75), 2, target_flops=20.0)
    assert meter.spent(work) == pytest.approx(spent)


def test_widths_are_valid_for_the_family_and_at_most_half_the_targets() -> None:
    for head_dim, target in ((4, 128), (8, 200)):
        sweep = question()
        model = dataclasses.replace(sweep.base.model, head_dim=head_dim)
        base = dataclasses.replace(sweep.base, model=model)
        sweep = dataclasses.replace(sweep, base=base, target=with_width(base, target))
        sets = width_sets(sweep)
        assert {3, 4, 5} <= {len(widths) for widths in sets}
        assert all(w % head_dim == 0 and w <= target // 2 for widths in sets for w in widths)
        assert all(widths[0] == 8 and list(widths) == sorted({*widths}) for widths in sets)
        assert (8, 16, 32) in sets
    with pytest.raises(UserError, match="three widths or more"):
        width_sets(question(target=with_width(question().base, 16)))


def test_seeds_grow_from_the_sweeps_own() -> None:
    lists = seed_lists((3, 7))
    assert lists[0] == (3, 7)
    assert lists[1] == (0, 3, 7)
    assert len(lists[-1]) == 10


def test_grids_keep_to_the_sweeps_points_and_hold_the_optimum() -> None:
    for design in candidates(question(), KNOWN):
        assert ((np.array(design.axis.points) + 8.0) % 0.5 == 0).all()
        assert design.axis.low < KNOWN.optimum < design.axis.high
        assert len(design.axis.points) >= 4


def test_a_designs_cost_is_reckoned_as_by_hand() -> None:
    """Six points and two seeds at widths 8 and 32: three packs of four each, evaluations on top."""
    sweep = question()
    design = Candidate((8, 32), Axis(-8.0, -3.0), (0, 1), 12)
    work = reckoned(sweep).work(design)
    trial = {width: trial_flops(with_width(sweep.base, width)) for width in (8, 32)}
    assert work.trials == 24
    assert work.flops == pytest.approx(12 * sum(trial.values()))
    assert len(work.seconds) == 6
    training = 3 * (1 + 12 * 2.5) + 3 * (1 + 12 * 2.5 * 4)
    assert 1.05 * training < sum(work.seconds) < 1.6 * training


def test_recorded_trials_are_free_and_their_arms_shared() -> None:
    sweep = question(parametrizations=(Scaling.mup, Scaling.standard))
    design = Candidate((8, 16, 32), Axis(-8.0, -3.0), (0, 1), 12)
    everything = reckoned(sweep).work(design)
    assert everything.trials == 60
    places = {
        (arm, width, seed, float(at))
        for arm, width in (("shared", 8), ("mup", 16), ("mup", 32))
        for seed in (0, 1)
        for at in range(-8, -2)
    }
    left = reckoned(sweep, recorded=places).work(design)
    assert left.trials == 24
    assert sum(left.seconds) < 0.6 * sum(everything.seconds)
    grown = dataclasses.replace(design, seeds=(0, 1, 2))
    assert reckoned(sweep, recorded=places).work(grown).trials == 24 + 30
    shorter = dataclasses.replace(design, steps=6)
    assert reckoned(sweep, recorded=places).work(shorter).trials == 60


def test_more_workers_get_smaller_packs() -> None:
    design = Candidate((8, 16, 32), Axis(-8.0, -3.0), (0, 1), 12)
    alone, many = (reckoned(question(), workers=n).work(design) for n in (1, 16))
    assert len(many.seconds) > len(alone.seconds)
    meter = Meter("h", CORE, 16, 1.0)
    assert meter.spent(many) < meter.spent(alone)


def test_costs_between_widths_are_interpolated() -> None:
    middle = between(cost_of(8), cost_of(32), 0.5)
    assert middle.seconds(4) == pytest.approx(2.5 * 2)
    assert [point.size for point in middle.points] == [1, 2, 4]
    of_rows = PackCost((MeasuredPack(1, 9.0, 0.0),))
    assert between(cost_of(8), of_rows, 0.5).seconds(1) == pytest.approx(3.0)


def offers(known: Knowledge = KNOWN) -> tuple[list[Any], Predictor]:
    sweep = question()
    considered = [
        d
        for d in candidates(sweep, known)
        if len(d.seeds) in (2, 5, 10) and len(d.widths) in (3, 5) and d.steps == 12
    ]
    return priced(considered, reckoned(sweep), Meter("cpuh", CORE, 1, 1.0)), predictor(known)


def test_more_budget_never_predicts_more_regret_and_no_budget_is_exceeded() -> None:
    amounts = [0.2, 0.5, 1.0, 2.0, 4.0, 8.0]
    offered, judge = offers()
    found = best(offered, judge, amounts)
    regrets = [ranked[0].regret.mean for ranked in found]
    assert regrets == sorted(regrets, reverse=True)
    assert regrets[-1] < 0.7 * regrets[0]
    for amount, ranked in zip(amounts, found, strict=True):
        assert ranked
        assert max(proposal.spent for proposal in ranked) <= amount


def test_seeds_grow_with_the_noise() -> None:
    """The same regret takes more seeds where trials are noisier."""
    needed = []
    for noise in (0.003, 0.006, 0.012):
        judge = predictor(dataclasses.replace(KNOWN, noise=noise))
        design = Candidate((8, 16, 32, 64), Axis(-8.0, -3.0), (), 12)
        regrets = [
            judge.predict(dataclasses.replace(design, seeds=tuple(range(n)))).mean
            for n in range(2, 11)
        ]
        needed.append(sum(regret > 0.000272 for regret in regrets))
    assert needed[0] < needed[1] < needed[2]


def test_optima_are_found_better_with_more_seeds_and_lost_in_noise() -> None:
    noisier = dataclasses.replace(KNOWN, noise=0.02)
    few, many = simulated_error(noisier, 1.0, 2), simulated_error(noisier, 1.0, 10)
    assert many.own_sd < 0.7 * few.own_sd and many.sd < few.sd
    coarse = simulated_error(KNOWN, 2.0, 10)
    assert coarse.shape_sd > 1.5 * many.shape_sd > 0.1
    noisy = simulated_error(dataclasses.replace(KNOWN, noise=0.08), 0.5, 2)
    assert noisy.lost > 0.5 > few.lost


def test_a_grid_beside_the_optimum_and_shorter_training_cost_regret() -> None:
    judge, good = predictor(), Candidate((8, 16, 32), Axis(-8.0, -3.0), (0, 1, 2), 12)
    beside = dataclasses.replace(good, axis=Axis(-5.5, -0.5))
    shorter = dataclasses.replace(good, steps=3)
    least = judge.predict(good).mean
    assert judge.predict(beside).mean > 1.25 * least
    assert judge.predict(shorter).mean > 2.0 * least
    assert predictor(steps=3).predict(shorter).mean < 2.0 * least


def test_optima_that_are_lost_in_noise_cost_regret() -> None:
    judge = predictor(dataclasses.replace(KNOWN, noise=0.08))
    lost = Candidate((8, 16, 32, 64), Axis(-7.5, -3.5, 0.5), (0, 1), 12)
    found = dataclasses.replace(lost, seeds=tuple(range(10)))
    assert judge.optimum_error(0.5, 2).lost == 1.0 > judge.optimum_error(0.5, 10).lost
    assert judge.predict(lost).mean > 3.0 * judge.predict(found).mean


def test_a_cliff_nearby_costs_regret() -> None:
    design = Candidate((8, 16, 32), Axis(-8.0, -3.0), (0, 1, 2), 12)
    near = predictor(dataclasses.replace(KNOWN, cliff=0.5)).predict(design)
    assert near.mean > 1.3 * predictor().predict(design).mean


@pytest.mark.parametrize("count", [3, 6])
@pytest.mark.parametrize("drift", [0.0, -0.2])
def test_the_law_says_of_normal_optima_what_the_analysis_says(count: int, drift: float) -> None:
    rng = np.random.default_rng(0)
    axes, target = np.arange(3.0, 3.0 + count)[:, None], np.array([10.0])
    sds = np.linspace(0.1, 0.3, count)
    means = -5.0 + drift * axes[:, 0] + sds * rng.standard_normal(count)
    candidates = np.linspace(-9.0, -1.0, 401)
    density = np.exp(-0.5 * ((candidates - means[:, None]) / sds[:, None]) ** 2)
    density /= density.sum(axis=1, keepdims=True)
    fitted = fit_densities(axes, density[None], candidates, np.zeros(1))
    drawn = fitted.draws(target[None, :], rng, 20_000)[0][:, -1]
    mean, variance = Prior.of(axes, target).given(means[None, :], sds[None, :] ** 2)
    assert mean[0] == pytest.approx(drawn.mean(), abs=0.03)
    assert np.sqrt(variance[0]) == pytest.approx(drawn.std(), rel=0.05)


def test_lost_optima_hardly_move_the_value() -> None:
    law = Prior.of(np.array([[3.0], [4.0], [5.0]]), np.array([7.0]))
    found = np.array([[-5.0, -5.1, -9.0], [-5.0, -5.1, -4.0]])
    lost, all_found = (np.array([[0.01, 0.01, last]] * 2) for last in (16.0, 0.01))
    (low, high), (low_sd, _) = law.given(found, lost)
    assert low == pytest.approx(high, abs=0.2)
    assert np.ptp(law.given(found, all_found)[0]) > 1.0
    assert low_sd > 0.1


def test_the_value_of_least_expected_cost_is_taken() -> None:
    rng = np.random.default_rng(0)
    optimum = rng.normal(-5.0, 0.6, 20_000)
    for skew in (0.0, 0.8):
        shape = Curves(optimum, np.zeros(1), np.array([0.03]), np.array([skew]))
        known = dataclasses.replace(KNOWN, shape=shape)
        (value,) = value_of(known, np.array([-5.0]), np.array([0.36]))
        tried = np.linspace(-6.5, -4.0, 251)
        best = tried[np.argmin([shape.cost(each).mean() for each in tried])]
        assert value == pytest.approx(best, abs=0.03)
    near = dataclasses.replace(KNOWN, cliff=0.5)
    (value,) = value_of(near, np.array([-5.0]), np.array([0.36]))
    assert (value - optimum > 0.5).mean() == pytest.approx(0.01, abs=0.003)


def test_rows_say_what_is_known() -> None:
    sweep = question(seeds=(0, 1, 2, 3))
    known = known_from(
        rows_table(recorded_rows(sweep)), "log2_lr", Scaling.mup, steps=12, source="rows"
    )
    assert known is not None
    assert known.noise == pytest.approx(0.004 / 0.6, rel=0.4)
    assert known.optimum == pytest.approx(-5.5, abs=4 * known.optimum_sd)
    one_octave_higher = np.ones(1)
    truth = KNOWN.shape.rise(one_octave_higher)[0, 0]
    assert known.shape.rise(one_octave_higher)[0, 0] == pytest.approx(truth, rel=0.4)
    assert 0 < known.drift_sd < 0.1
    assert known_from(rows_table([]), "log2_lr", Scaling.mup, steps=12, source="rows") is None


def rows_of_shape(shape: Any, widths: Any, axis: Axis, *, seeds: int, rng: Any) -> Any:
    """Return rows of basins whose optimum is at -5.6 at every width; their shape is not ours."""
    theta = np.array(axis.points)
    rows = []
    for width in widths:
        level = 0.4 + 0.3 * (width / 8) ** -0.5
        for seed in range(seeds):
            losses = level * np.exp(shape(theta + 5.6) + 0.006 * rng.standard_normal(len(theta)))
            common = {"width": width, "seed": seed, "status": "completed", "family": "dit"}
            common |= {"parametrization": "mup", "loss_at_init": 2.0, "flops": np.nan}
            common |= {"depth": 2, "batch_size": 64, "steps": 12, "n_seeds": 1, "loss_sd": np.nan}
            rows += [
                {**common, "log2_lr": at, "loss": loss}
                for at, loss in zip(theta, losses, strict=True)
            ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("shape", ["quadratic", "asymmetric", "softplus_wall"])
def test_sweeps_of_planted_basins_leave_about_the_regret_that_was_predicted(shape: str) -> None:
    """Optima drift by 0.1 octaves a doubling; two of the shapes are none that is fitted."""
    world, axis = World(shape, noise=0.003, drift=0.1), Axis(-10.0, -2.0)
    design = Candidate((8, 16, 32, 64), axis, (0, 1), 12)
    points, _ = world.draw((8,), axis, 3, np.random.default_rng(0))
    known = known_from(planted.table(points), "log2_lr", Scaling.mup, steps=12, source="pilot")
    assert known is not None
    predicted, realised = predictor(known).predict(design), world.realised(design, 12, "test")
    assert predicted.percent is not None
    assert predicted.percent / 5.0 < realised < 5.0 * predicted.percent


def test_points_that_show_no_basin_are_no_knowledge() -> None:
    def known_of(shape: Any) -> Knowledge | None:
        rng = np.random.default_rng(0)
        pilot = rows_of_shape(shape, (8,), Axis(-9.0, -2.0), seeds=3, rng=rng)
        return known_from(pilot, "log2_lr", Scaling.mup, steps=12, source="pilot")

    assert known_of(np.zeros_like) is None
    assert known_of(lambda offset: 0.05 * offset) is None
    assert known_of(lambda offset: -0.05 * offset) is None


def test_shorter_training_is_a_sweep_of_its_own_and_the_target_keeps_its_length() -> None:
    design = Candidate((8, 16, 32), Axis(-8.0, -3.0, 0.5), (0, 1), 6)
    words = overrides(question(), design, recorded=True)
    assert words[-3:] == ["budget.steps=6", "sweep.target.budget.steps=12", "name=tiny-6-steps"]
    assert overrides(question(), design, recorded=False)[-1] == "sweep.target.budget.steps=12"
