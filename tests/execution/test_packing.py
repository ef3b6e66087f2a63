"""Pack sizes from costs, and packs that end together: simulated sweeps with recorded timings."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hptransfer.config import BudgetConfig, DiTConfig, TrialConfig
from hptransfer.execution.measure import cost_record, recorded_cost
from hptransfer.execution.pack_sizes import (
    MeasuredPack,
    PackCost,
    PackSize,
    by_shape,
    choose_sizes,
    even_parts,
    halved_text,
    longest_first,
    lower_bound,
    makespan,
    sizes_text,
    timed_packs,
)
from hptransfer.results.trial_result import TrialResult
from tests.support.tiny import completed

TIMINGS = json.loads((Path(__file__).parent / "pack_timings.json").read_text())
GIB = 2.0**30


def cost_of(
    seconds: dict[int, float], *, each: float = 0.0, capacity: float = math.inf, **more
) -> PackCost:
    points = tuple(MeasuredPack(size, taken, each * size) for size, taken in seconds.items())
    return PackCost(points, capacity=capacity, **more)


def line_cost(fixed: float, each: float, largest: int = 64, **more) -> PackCost:
    """Cost of a device on which a step takes fixed + each * T, measured at powers of two."""
    sizes = [2**i for i in range(largest.bit_length())]
    return cost_of({size: fixed + each * size for size in sizes}, **more)


class TestPackCost:
    def test_the_least_size_near_the_best_rate_is_chosen(self):
        # 100, 160, 190 and 196 trial-steps/s: 8 is the best, and 4 within 5 % of it
        cost = cost_of({1: 1 / 100, 2: 2 / 160, 4: 4 / 190, 8: 8 / 196})
        assert cost.best_size(1000, 1) == 4
        assert cost.best_size(1, 1) == 1
        assert cost_of({1: 1.0, 2: 2.05}).best_size(64, 1) == 1

    def test_a_size_measured_slower_than_one_at_a_time_is_never_chosen(self):
        cost = cost_of({1: 1.0, 2: 1.7, 4: 3.8, 8: 9.6})  # 8 is slower, 2 the best
        assert 8 / cost.seconds(8) < 1 / cost.seconds(1)
        for count in range(1, 40):
            assert cost.best_size(count, 1) <= 3
            assert sum(cost.run_seconds(count, cost.best_size(count, 1), 1)) <= count * 1.0

    def test_leftovers_count(self):
        """Six trials as 4 + 2 or 3 + 3, not by the rate of a full pack alone."""
        cost = cost_of({1: 1.0, 2: 1.1, 4: 1.2, 8: 1.3})
        assert cost.run_seconds(6, 5, 10) == pytest.approx([11.5, 11.5])
        assert cost.run_seconds(5, 4, 10) == pytest.approx([11.5, 11.0])
        assert cost.best_size(9, 10) == 5  # 5 + 4; two packs, for 9 is not measured

    def test_a_cpu_is_not_extrapolated_and_a_gpu_is_until_its_memory_ends(self):
        seconds = {1: 10.0, 2: 11.0, 4: 13.0}
        assert cost_of(seconds).best_size(100, 1) == 4
        gpu = cost_of(seconds, each=GIB, capacity=7.5 * GIB, extrapolates=True)
        assert gpu.best_size(100, 1) == 7
        assert gpu.seconds(7) == pytest.approx(16.0)
        assert dataclasses.replace(gpu, too_large=6).best_size(100, 1) == 5
        assert dataclasses.replace(gpu, capacity=3.5 * GIB).best_size(100, 1) == 3
        assert dataclasses.replace(gpu, capacity=0.0).best_size(100, 1) == 1

    def test_between_measured_sizes_costs_are_interpolated(self):
        cost = cost_of({1: 1.0, 4: 2.5, 8: 5.5})
        assert cost.seconds(2) == pytest.approx(1.5)
        assert cost.seconds(6) == pytest.approx(4.0)

    @pytest.mark.parametrize(
        ("seconds", "count", "next_size"),
        [
            ({1: 1.0}, 9, 2),
            ({1: 1.0}, 1, None),  # no second trial
            ({1: 1.0, 2: 1.8}, 9, 4),
            ({1: 1.0, 2: 1.8}, 3, 3),
            ({1: 1.0, 2: 1.8}, 2, None),
            ({1: 1.0, 2: 1.95}, 9, None),  # a gain of 2.6 %
            ({1: 1.0, 2: 1.6, 4: 3.3}, 9, None),
        ],
    )
    def test_doubling_ends_when_it_does_not_pay(self, seconds, count: int, next_size):
        assert cost_of(seconds).next_size(count) == next_size

    def test_doubling_ends_where_two_sizes_do_not_fit_together(self):
        cost = cost_of({1: 1.0, 2: 1.1}, each=GIB, capacity=6.0 * GIB)
        assert cost.next_size(9) == 4
        assert dataclasses.replace(cost, capacity=5.9 * GIB).next_size(9) is None
        assert dataclasses.replace(cost, too_large=4).next_size(9) is None

    def test_a_gpu_skips_sizes_while_the_larger_ones_fit(self):
        gpu = cost_of({1: 1.0}, each=GIB, capacity=100 * GIB, extrapolates=True)
        assert gpu.next_size(100) == 4 and gpu.next_size(3) == 3
        more = cost_of({1: 1.0, 4: 1.1}, each=GIB, capacity=100 * GIB, extrapolates=True)
        assert more.next_size(100) == 16
        assert dataclasses.replace(more, capacity=19.9 * GIB).next_size(100) == 8
        assert dataclasses.replace(more, too_large=16).next_size(100) == 8
        assert dataclasses.replace(more, capacity=11.9 * GIB).next_size(100) is None

    @pytest.mark.parametrize(
        "points",
        [
            (),
            (MeasuredPack(0, 1.0, 0),),
            (MeasuredPack(2, 1.0, 0), MeasuredPack(1, 1.0, 0)),
            (MeasuredPack(1, math.nan, 0),),
        ],
    )
    def test_what_was_not_measured_is_refused(self, points):
        with pytest.raises(ValueError, match="must"):
            PackCost(points)

    def test_json_holds_what_was_measured(self):
        cost = cost_of({1: 1.0, 2: 1.5}, each=GIB, warmup=2.0, too_large=4, extrapolates=True)
        written = json.loads(json.dumps(cost_record(cost)))
        assert recorded_cost(written, capacity=math.inf, extrapolates=True) == cost


@given(st.integers(1, 300), st.integers(1, 80))
def test_cutting_again_by_the_size_that_came_out_changes_nothing(count: int, size: int) -> None:
    parts = even_parts(range(count), size)
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) <= size
    assert even_parts(range(count), len(parts[0])) == parts
    assert len(parts) <= math.ceil(count / size)


def test_longest_packs_are_handed_out_first(tiny_trial) -> None:
    groups = by_shape([tiny_trial(lr, width=width) for width in (8, 16, 32) for lr in (-7.0, -6.0)])
    costs = [line_cost(1.0, 1.0), line_cost(1.0, 5.0), line_cost(1.0, 3.0)]
    packs = [
        p for g, cost in zip(groups.values(), costs, strict=True) for p in timed_packs(g, 1, cost)
    ]
    ordered = longest_first(packs)
    assert [pack.trials[0].model.width for pack in ordered] == [16, 16, 32, 32, 8, 8]
    assert ordered[0].seconds == 6 * 6.0  # steps x seconds


def test_a_makespan_is_what_a_greedy_hand_out_gives() -> None:
    assert makespan([3, 3, 2, 2, 2], 2) == 7  # 3+2+2 | 3+2; the optimum is 6
    assert lower_bound([3, 3, 2, 2, 2], 2) == 6
    assert makespan([5, 1, 1], 8) == 5 == lower_bound([5, 1, 1], 8)
    assert makespan([], 3) == 0 == lower_bound([], 3)


def test_one_pack_too_many_is_not_left_to_straggle(tiny_trial) -> None:
    """65 equal packs of four on 64 workers would take twice as long as needed."""
    group = tuple(tiny_trial(-6.0, seed=seed) for seed in range(65 * 4))
    cost = cost_of({1: 1.0, 2: 1.8, 4: 2.8})
    (key,) = by_shape(group)
    assert cost.best_size(len(group), 6) == 4
    (choice,) = choose_sizes({key: group}, {key: cost}, 64).values()
    seconds = [pack.seconds for pack in timed_packs(group, choice.size, cost)]
    assert choice.size < 4
    assert makespan(seconds, 64) < 0.9 * makespan(cost.run_seconds(len(group), 4, 6), 64)


def test_packs_that_are_cut_already_take_their_place(tiny_trial) -> None:
    group = tuple(tiny_trial(-6.0, seed=seed) for seed in range(8))
    (key,) = by_shape(group)
    cost = cost_of({1: 1.0, 2: 1.8, 4: 3.2, 8: 6.0})
    alone = choose_sizes({key: group}, {key: cost}, 2)[key]
    assert alone.size == 4
    assert alone == PackSize(16, 4, 3.2, 0.0)
    beside = choose_sizes({key: group}, {key: cost}, 2, others=[36.0])[key]  # six steps
    assert beside.size == 8


def test_sizes_are_said_by_width() -> None:
    choices = [PackSize(96, 1, 1.0, 0.0), PackSize(24, 8, 1.0, 0.0), PackSize(24, 8, 1.0, 0.0)]
    assert sizes_text(choices) == "packs of 8 at width 24, 1 at 96"


# Simulated sweeps: DiT-like trials of 1500 steps whose packs cost what was recorded.


def recorded_costs(record: str) -> dict[int, PackCost]:
    costs = {}
    for shape in TIMINGS[record]["shapes"]:
        more = {"warmup": TIMINGS[record]["warmup"], "extrapolates": record != "cpu"}
        points = shape.get("points")
        known = cost_of(dict(points), **more) if points else line_cost(*shape["line"], **more)
        costs[shape["width"]] = known
    return costs


def simulated(record: str, widths: list[int], *, rates: int, seeds: int, arms: int):
    """Return groups and costs of a sweep; the least width is the base width, shared by arms."""
    costs = recorded_costs(record)
    trials = TrialConfig(budget=BudgetConfig(steps=1500))
    groups, group_costs = {}, {}
    for width in widths:
        for arm in range(1 if width == min(widths) else arms):
            model = DiTConfig(width=width, base_width=min(widths), depth=2 + arm)
            group = tuple(
                dataclasses.replace(trials, model=model, seed=seed) for seed in range(rates * seeds)
            )
            (key,) = by_shape(group)
            groups[key], group_costs[key] = group, costs[width]
    return groups, group_costs


SWEEPS = {
    "four widths": ("gpu_depth_12", [72, 144, 288, 576], 11, 3, 2),
    "four widths, ten seeds": ("gpu_depth_12", [72, 144, 288, 576], 11, 10, 2),
    "144 and 288": ("gpu_depth_12", [144, 288], 11, 3, 2),
    "144 and 288, deep": ("gpu_depth_28", [144, 288], 11, 3, 2),
    "one width": ("gpu_depth_12", [144], 11, 3, 1),
    "one width, many": ("gpu_depth_12", [72], 21, 16, 1),
    "quickstart": ("cpu", [24, 48, 96], 8, 3, 2),
    "quickstart and its target": ("cpu", [24, 48, 96, 192], 8, 3, 2),
}
WORKERS = [1, 2, 8, 64, 1024]


def cut(groups, costs, workers: int) -> list[float]:
    """Return the seconds of the packs into which a sweep is cut."""
    chosen = choose_sizes(groups, costs, workers)
    packs = [timed_packs(group, chosen[key].size, costs[key]) for key, group in groups.items()]
    return [pack.seconds for group in packs for pack in group]


def best_size_cut(groups, costs) -> list[float]:
    seconds = []
    for key, group in groups.items():
        size = costs[key].best_size(len(group), group[0].budget.steps)
        seconds += costs[key].run_seconds(len(group), size, group[0].budget.steps)
    return seconds


def pigeonhole_bound(seconds: list[float], workers: int) -> float:
    """Of the k·workers + 1 longest packs some worker takes k + 1, none shorter than the last."""
    longest = sorted(seconds, reverse=True)
    ends = range(workers, len(longest), workers)
    return max((sum(longest[end - end // workers : end + 1]) for end in ends), default=0.0)


# 66 trials of the widest on 64 workers: packing gains nothing there and a trial cannot be halved,
# so two workers take two. The bound of single packs is out of reach, the pigeonholes' is met.
INDIVISIBLE = {("144 and 288, deep", 64)}


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("name", SWEEPS)
def test_packs_end_together(name: str, workers: int) -> None:
    record, widths, rates, seeds, arms = SWEEPS[name]
    groups, costs = simulated(record, widths, rates=rates, seeds=seeds, arms=arms)
    seconds = cut(groups, costs, workers)
    end = makespan(seconds, workers)
    assert end <= makespan(best_size_cut(groups, costs), workers)
    if (name, workers) in INDIVISIBLE:
        assert end > 1.15 * lower_bound(seconds, workers)
        assert end == pytest.approx(pigeonhole_bound(seconds, workers))
    else:
        assert end <= 1.15 * lower_bound(seconds, workers)


def test_the_best_sizes_alone_would_straggle() -> None:
    """What the choice of smaller packs is for: without it some simulated sweeps end late."""
    worst = 1.0
    for record, widths, rates, seeds, arms in SWEEPS.values():
        groups, costs = simulated(record, widths, rates=rates, seeds=seeds, arms=arms)
        for workers in WORKERS:
            late = makespan(best_size_cut(groups, costs), workers)
            worst = max(worst, late / makespan(cut(groups, costs, workers), workers))
    assert worst > 2


positive = st.floats(1e-3, 10.0)
shapes = st.tuples(positive, positive, st.integers(1, 64), st.integers(1, 60))


@settings(max_examples=60, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=4), st.integers(1, 100), st.floats(0.0, 20.0))
def test_no_cut_is_worse_than_the_best_sizes_or_one_at_a_time(
    drawn: list[tuple[float, float, int, int]], workers: int, warmup: float
) -> None:
    """What holds whatever the costs: a factor of two of the bound, for a trial is indivisible."""
    groups, costs = {}, {}
    for index, (fixed, each, largest, count) in enumerate(drawn):
        model = DiTConfig(width=8 * (index + 1), base_width=8)
        group = tuple(TrialConfig(model=model, seed=seed) for seed in range(count))
        (key,) = by_shape(group)
        groups[key] = group
        costs[key] = line_cost(fixed, each, largest, warmup=warmup)
    seconds = cut(groups, costs, workers)
    end = makespan(seconds, workers)
    singles = [
        t for key, group in groups.items() for t in costs[key].run_seconds(len(group), 1, 150)
    ]
    for other in (best_size_cut(groups, costs), singles):
        assert end <= makespan(other, workers) * (1 + 1e-9)
    # Graham (1966): the last pack starts when all others are busy.
    greedy = sum(seconds) / workers + (1 - 1 / workers) * max(seconds)
    assert end <= greedy * (1 + 1e-9)
    assert end <= 2 * lower_bound(seconds, workers) * (1 + 1e-9)
    assert end >= pigeonhole_bound(seconds, workers) * (1 - 1e-9)


def test_a_halved_pack_says_how_it_ran(tiny_trial) -> None:
    assert halved_text([result_of(tiny_trial(), 1)]) is None
    assert halved_text([result_of(tiny_trial(), 4)] * 4) is None
    halves = [result_of(tiny_trial(), size) for size in (2, 2, 1, 1)]
    said = halved_text(halves) or ""
    assert "the pack of 4 trials at width 16" in said and said.endswith("packs of 2 + 1 + 1")


def result_of(config: TrialConfig, pack_size: int) -> TrialResult:
    return completed(config, pack_size=pack_size)
