"""Measuring pack sizes: the steps, who takes them, and the cache of what was measured."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from hptransfer.config import ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.errors import MachineError
from hptransfer.execution import measure as probe
from hptransfer.execution import measure_packs
from hptransfer.execution.measure import PackCache, cache_file
from hptransfer.execution.pack_sizes import MeasuredPack, MeasureLimits, PackCost
from hptransfer.training.device import has_compiler
from hptransfer.training.packs import run
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.run import run_pack
from tests.support.executors import ray_cache

CPU = torch.device("cpu")
COST = PackCost((MeasuredPack(1, 1.0, 10.0), MeasuredPack(2, 1.5, 20.0)), warmup=0.5)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def group(tiny_trial: Callable[..., TrialConfig]) -> tuple[TrialConfig, ...]:
    return tuple(tiny_trial(lr, seed=seed) for seed in (0, 1) for lr in (-9.0, -7.0, -6.0, -5.0))


def looked_up(cost_facts: dict[str, object]) -> PackCost | None:
    return PackCache.read().cost(cost_facts, capacity=math.inf, extrapolates=False)


class TestMeasuring:
    def test_sizes_rise_while_it_pays_and_trials_are_there(self, group, runtime) -> None:
        cost = probe.measure(group[:5], runtime, CPU, math.inf)
        sizes = [point.size for point in cost.points]
        assert sizes == [1, 2, 4, 5][: len(sizes)] and len(sizes) >= 2
        assert all(0 < point.seconds < 60 for point in cost.points)
        assert cost.next_size(5) is None

    def test_a_trial_does_not_notice_it(self, group, runtime) -> None:
        before = run_pack(group[:2], runtime)
        probe.measure(group[:2], runtime, CPU, math.inf)
        after = run_pack(group[:2], runtime)
        assert [r.loss for r in before] == [r.loss for r in after]

    def test_nothing_is_measured_that_would_not_fit(self, group, runtime) -> None:
        cost = probe.measure(group, runtime, CPU, capacity=1.0)
        assert [point.size for point in cost.points] == [1]
        assert cost.best_size(8, 6) == 1
        assert cost.points[0].bytes >= 5 * 4 * 10_000  # five copies of its parameters

    def test_a_ratio_is_that_of_turns_whatever_else_the_machine_does(self, monkeypatch) -> None:
        """The machine slows down threefold half-way; every turn sees both packs alike."""

        def block_of(seconds: float) -> Callable[[], float]:
            return lambda: seconds * (1.0 if next(blocks) < 4 else 3.0)

        blocks = itertools.count()
        ratios = probe.step_ratios(block_of(1.5), block_of(1.0))
        assert statistics.median(ratios) == pytest.approx(1.5)
        assert next(blocks) == 2 * probe.TURNS

    @pytest.mark.parametrize("limit", [2, 4])
    def test_a_size_that_runs_out_of_memory_ends_the_doubling(
        self, group, runtime, monkeypatch, limit: int
    ) -> None:
        start = probe.start_training

        def small(configs: Sequence[TrialConfig], *rest):
            if len(configs) >= limit:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return start(configs, *rest)

        monkeypatch.setattr(probe, "start_training", small)
        cost = probe.measure(group, runtime, CPU, math.inf)
        assert [point.size for point in cost.points] == [1, 2, 4][: limit // 2]
        assert cost.too_large == limit and cost.best_size(8, 6) < limit

    def test_a_size_that_raises_otherwise_ends_it_and_is_told(
        self, group, runtime, monkeypatch
    ) -> None:
        """One trial trains, so that the sweep goes on in smaller packs."""
        start = probe.start_training

        def small(configs: Sequence[TrialConfig], *rest):
            if len(configs) >= 4:
                raise RuntimeError("CUDA error: invalid configuration argument")
            return start(configs, *rest)

        monkeypatch.setattr(probe, "start_training", small)
        (cost,), notes = probe.measured_costs([group], runtime)
        if cost is not None and cost.too_large is None:
            pytest.skip("two trials together were no faster, so four were not tried")
        assert cost is not None and cost.too_large == 4 and cost.best_size(8, 6) < 4
        assert "fewer than 4 trials" in notes[0] and "invalid configuration" in notes[0]

    def test_what_an_evaluation_takes_is_measured_too(self, group, runtime, monkeypatch) -> None:
        """Every pack evaluates before its first step, with more samples than a batch has."""
        predict, sizes = Pack.predict, []

        def noted(self: Pack, x: torch.Tensor, *rest, **flat):
            sizes.append((torch.is_grad_enabled(), x.shape[1]))
            return predict(self, x, *rest, **flat)

        monkeypatch.setattr(Pack, "predict", noted)
        probe.PackStepper(group[:2], runtime, CPU)
        budget = group[0].budget
        assert sizes[0] == (False, budget.eval_samples)
        assert set(sizes[1:]) == {(True, budget.batch_size)}

    def test_one_trial_that_does_not_fit_is_the_machines_failure(
        self, group, runtime, monkeypatch
    ) -> None:
        monkeypatch.setattr(probe, "start_training", out_of_memory)
        with pytest.raises(MachineError, match=r"One trial must fit .* width 16 with batch size 8"):
            probe.measured_costs([group], runtime)

    @pytest.mark.parametrize(
        ("limits", "reason"),
        [
            (MeasureLimits(memory_share=1e-9, seconds=60.0), "GiB of what is free"),
            (MeasureLimits(memory_share=0.25, seconds=0.0), "0 s of a plan's are left"),
        ],
    )
    def test_a_plan_measures_no_shape_that_would_take_more_than_it_may(
        self, group, runtime, limits: MeasureLimits, reason: str
    ) -> None:
        said: list[str] = []
        costs, notes = probe.measured_costs([group], runtime, limits=limits, say=said.append)
        assert costs == [None] and said == []
        assert reason in notes[0] and "Width 16 is not measured" in notes[0]
        assert looked_up(probe.cost_facts(group, runtime, CPU)) is None

    def test_a_plan_ends_the_doubling_when_its_time_is_over(self, group, runtime) -> None:
        over = probe.Allowance(bytes=math.inf, until=time.perf_counter())
        cost = probe.measure(group, runtime, CPU, math.inf, over)
        assert [point.size for point in cost.points] == [1]
        assert cost.next_size(8) == 2  # a sweep goes on from there

    def test_a_trial_whose_parameters_exceed_the_free_memory_is_refused_before_it_is_built(
        self, group, runtime, monkeypatch
    ) -> None:
        monkeypatch.setattr(probe, "free_bytes", lambda device: 100_000.0)
        with pytest.raises(MachineError, match="One trial must fit"):
            probe.measured_costs([group], runtime)

    def test_what_was_measured_is_not_measured_again(self, group, runtime, monkeypatch) -> None:
        other = tuple(with_width(config, 32) for config in group)
        calls: list[int] = []

        def measure(group, *rest) -> PackCost:
            calls.append(group[0].model.width)
            return COST

        monkeypatch.setattr(probe, "measure", measure)
        assert probe.measured_costs([other[:2], group[:2]], runtime) == ([COST, COST], ())
        assert calls == [16, 32]  # narrow ones first
        found, _ = probe.measured_costs([other[:2], group[:2]], runtime)
        assert [cost.points for cost in known(found)] == [COST.points] * 2 and len(calls) == 2
        probe.measured_costs([group], runtime)  # with more trials, larger packs are of interest
        assert calls[2:] == [16]
        torch.set_num_threads(2)
        probe.measured_costs([group[:2]], RuntimeConfig(threads=1))
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)

    def test_trials_that_a_cpu_compiles_take_less_than_was_measured(
        self, group, runtime, monkeypatch
    ) -> None:
        """A probe is uncompiled; the cache has what it measured, for trials of any length."""
        monkeypatch.setattr(probe, "measure", lambda *rest: COST)
        long = [replace(c, budget=replace(c.budget, steps=10**9)) for c in group]
        for ask in (probe.measured_costs, partial(probe.cached_costs, here=True, share=1.0)):
            short_cost, long_cost = known(ask([group[:2], long[:2]], runtime)[0])
            assert short_cost.points == COST.points
            share = probe.COMPILED_SHARE if has_compiler() else 1.0
            assert long_cost.seconds(2) == share * COST.seconds(2)
            assert long_cost.bytes(2) == COST.bytes(2)
        (uncompiled,) = known(probe.measured_costs([long[:2]], replace(runtime, compile=False))[0])
        assert uncompiled.points == COST.points


def known(costs: Sequence[PackCost | None]) -> list[PackCost]:
    """Return costs of which none is missing."""
    found = [cost for cost in costs if cost is not None]
    assert len(found) == len(costs)
    return found


@pytest.mark.gpu
def test_a_gpu_is_measured_and_given_back(group) -> None:
    """Compiled and captured as a sweep runs it; what torch reserved is free afterwards."""
    runtime, device = RuntimeConfig(device="cuda"), torch.device("cuda")
    run.release_memory(device)
    before = torch.cuda.memory_reserved(device)
    cost = probe.measure(group, runtime, device, probe.free_bytes(device))
    assert len(cost.points) >= 2 and cost.extrapolates
    assert all(point.bytes > 0 for point in cost.points)
    last = cost.points[-1]
    assert last.size / last.seconds > 1 / cost.seconds(1)  # launches are shared
    run.release_memory(device)
    assert torch.cuda.memory_reserved(device) - before < 64 * 2**20


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [True, False])
def test_a_pack_takes_no_more_memory_than_was_measured(group, graph: bool) -> None:
    runtime, device = RuntimeConfig(device="cuda", graph=graph), torch.device("cuda")
    wide = [with_width(config, 256) for config in group]
    stepper = probe.PackStepper(wide, runtime, device)
    stepper.close()
    measured = stepper.bytes
    del stepper
    run.release_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    run_pack(wide, runtime)
    assert torch.cuda.max_memory_reserved(device) - before < 1.1 * measured + 64 * 2**20


def with_width(config: TrialConfig, width: int) -> TrialConfig:
    from hptransfer.config.identity import with_width

    return with_width(config, width)


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


class TestFacts:
    def facts(self, config: TrialConfig, **runtime) -> dict[str, object]:
        return probe.cost_facts([config], RuntimeConfig(**runtime), CPU)

    @pytest.mark.parametrize(
        "hps", [{"log2_lr": -3.0}, {"log2_init_scale": 2.0}, {"log2_output_scale": 1.0}]
    )
    def test_numbers_that_change_no_shape_share_a_cost(self, tiny_trial, hps) -> None:
        config = tiny_trial()
        assert self.facts(with_hyperparameters(config, hps)) == self.facts(config)

    def test_arms_seeds_and_lengths_share_a_cost(self, tiny_trial) -> None:
        from hptransfer.config.choices import Scaling

        assert self.facts(tiny_trial(scaling=Scaling.standard, seed=3)) == self.facts(tiny_trial())

    def test_what_shapes_a_cost_is_told_apart(self, tiny_trial) -> None:
        from hptransfer.config.choices import Weights

        config = tiny_trial()
        others = [
            self.facts(tiny_trial(width=32)),
            self.facts(config, threads=2),
            self.facts(config, compile=True),
            self.facts(replace(config, budget=replace(config.budget, batch_size=16))),
            self.facts(replace(config, budget=replace(config.budget, weights=Weights.ema))),
            self.facts(replace(config, budget=replace(config.budget, judged_ema_fractions=(0.1,)))),
            self.facts(replace(config, optimizer=replace(config.optimizer, clip_norm=1.0))),
            self.facts(replace(config, optimizer=replace(config.optimizer, weight_decay=0.1))),
        ]
        texts = {json.dumps(facts, sort_keys=True) for facts in [self.facts(config), *others]}
        assert len(texts) == 9


class TestCache:
    def test_what_is_added_is_found_by_the_same_facts_only(self) -> None:
        PackCache.read().add({"width": 8}, COST)
        assert looked_up({"width": 8}) == COST
        assert looked_up({"width": 16}) is None

    def test_the_home_folder_is_used_without_xdg(self, monkeypatch, tmp_path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        for value in ("", "relative"):
            monkeypatch.setenv("XDG_CACHE_HOME", value)
            assert cache_file() == tmp_path / ".cache" / "hptransfer" / "packs.json"

    @pytest.mark.parametrize(
        "content",
        [b"{", b"\xff\xfe", b"[]", b'{"schema": 7, "packs": {}}', b'{"schema": 1, "packs": [1]}'],
    )
    def test_a_broken_or_foreign_file_is_noted_once_and_rewritten(self, content: bytes) -> None:
        cache_file().parent.mkdir()
        cache_file().write_bytes(content)
        cache = PackCache.read()
        assert len(cache.notes) == 1 and "measured again" in cache.notes[0]
        cache.add({"width": 8}, COST)
        assert len(cache.notes) == 1
        assert PackCache.read().notes == () and looked_up({"width": 8}) == COST

    @pytest.mark.parametrize(
        "change", [{"points": [[1, -1.0, 0.0]]}, {"points": 3}, {"warmup": None}]
    )
    def test_a_damaged_entry_is_noted_and_measured_again(self, change) -> None:
        PackCache.read().add({"width": 8}, COST)
        tree = json.loads(cache_file().read_text())
        (entry,) = tree["packs"].values()
        entry["cost"] |= change
        cache_file().write_text(json.dumps(tree))
        cache = PackCache.read()
        assert cache.cost({"width": 8}, capacity=math.inf, extrapolates=False) is None
        assert len(cache.notes) == 1 and "damaged" in cache.notes[0]

    def test_a_folder_that_cannot_be_written_costs_a_note(self, tmp_path, monkeypatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        cache = PackCache.read()
        cache.add({"width": 8}, COST)
        assert "could not be written" in cache.notes[-1]
        assert cache.cost({"width": 8}, capacity=math.inf, extrapolates=False) == COST

    def test_processes_that_write_at_once_lose_nothing(self) -> None:
        processes = [
            multiprocessing.get_context("fork").Process(target=add_twenty, args=(start,))
            for start in (0, 20, 40)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert all(looked_up({"width": width}) == COST for width in range(60))
        assert sorted(path.name for path in cache_file().parent.iterdir()) == [
            "packs.json",
            "packs.lock",
        ]


def add_twenty(start: int) -> None:
    cache = PackCache.read()
    for width in range(start, start + 20):
        cache.add({"width": width}, COST)


class TestMeasurePacks:
    def test_the_local_executor_has_one_place(self, group, runtime) -> None:
        found = measure_packs(
            [group[:2]], runtime, ExecutorConfig(name="local", workers=7), say=print
        )
        assert found.workers == 1
        assert known(found.costs)[0].points[0].size == 1

    @pytest.mark.parametrize(("workers", "places"), [(3, 2), (1, 1), (None, 2)])
    def test_ray_on_this_machines_cpu_measures_in_this_process(
        self, group, runtime, monkeypatch, workers, places: int
    ) -> None:
        shares = []

        def measured(groups, runtime, *, share, **_):
            shares.append(share)
            return [COST], ()

        monkeypatch.setattr(probe, "measured_costs", measured)
        monkeypatch.setattr("hptransfer.execution.usable_cpus", lambda: 4)
        executor = ExecutorConfig(name="ray", workers=workers, cpus=2.0)
        found = measure_packs([group], runtime, executor, say=print)
        assert found == ([COST], places, ())
        assert shares == [1 / places]

    @pytest.mark.cluster
    def test_workers_measure_what_they_run(
        self, running_ray, group, tiny_trial, runtime, tmp_path_factory, monkeypatch
    ) -> None:
        from hptransfer.execution.ray.measure import measure_packs as measure_on_workers

        other = tuple(tiny_trial(lr, width=32) for lr in (-9.0, -7.0))
        groups, said = [group[:2], other, group[:1]], []
        monkeypatch.setenv("XDG_CACHE_HOME", str(ray_cache(tmp_path_factory)))
        executor = replace(running_ray, workers=2)
        found = measure_on_workers(groups, runtime, executor, say=said.append)
        assert said == [
            "measuring how long packs of trials take: 3 shapes on 2 workers",
            "1 of 2 workers have finished measuring",
            "2 of 2 workers have finished measuring",
        ]
        assert found.workers == 2
        assert [cost.points[-1].size for cost in known(found.costs)] in ([2, 2, 1], [2, 2, 2])
        assert looked_up(probe.cost_facts(other, runtime, CPU)) is not None

    @pytest.mark.cluster
    def test_a_workers_refusal_reaches_the_user(self, running_ray, group) -> None:
        from hptransfer.errors import UserError
        from hptransfer.execution.ray.measure import measure_packs as measure_on_workers

        executor = replace(running_ray, gpus=0.0)
        with pytest.raises(UserError, match="must be cpu, cuda or cuda:N"):
            measure_on_workers([group], RuntimeConfig(device="tpu"), executor, say=print)
