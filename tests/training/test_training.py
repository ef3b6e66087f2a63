"""The trial axis, the optimizer, the schedule, and divergence as an outcome."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

from hptransfer.config import (
    AdamWConfig,
    BudgetConfig,
    ParametrizationConfig,
    RuntimeConfig,
    TrialConfig,
)
from hptransfer.config.choices import EpsScaling, Init, Schedule, Status, WeightDecayMode, Weights
from hptransfer.data import load_data
from hptransfer.models.parametrization.rules import build_model, param_groups
from hptransfer.results.trial_result import TrialResult
from hptransfer.training.batches import Batch, PackBatches, train_batch
from hptransfer.training.flops import step_flops, trial_flops
from hptransfer.training.packs.optimizer import PackedAdamW
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.run import run_pack
from hptransfer.training.packs.state import TrainingState, pack_losses
from hptransfer.training.schedule import lr_multiplier

MakeTrial = Callable[..., TrialConfig]
CPU = torch.device("cpu")


def varied(tiny_trial: MakeTrial) -> list[TrialConfig]:
    """Return trials that differ in everything members of a pack may differ in."""
    trials = []
    for index, log2_lr in enumerate((-9.0, -8.0, -7.0, -6.5)):
        config = tiny_trial(log2_lr, seed=index % 2)
        optimizer = dataclasses.replace(
            config.optimizer,
            beta1=0.9 - 0.1 * index,
            beta2=0.999 - 0.01 * index,
            weight_decay=0.1 * index,
            clip_norm=None if index == 0 else 0.5 * index,
            eps=10.0 ** (-8 - index),
        )
        scales = ParametrizationConfig(init_scale=1 + 0.1 * index, output_scale=1 + 0.2 * index)
        budget = dataclasses.replace(config.budget, steps=20, warmup_fraction=0.1 * index)
        trials.append(
            dataclasses.replace(
                config, optimizer=optimizer, parametrization=scales, budget=budget, init=Init.paper
            )
        )
    return trials


def losses(results: list[TrialResult]) -> list[float]:
    return [math.nan if result.loss is None else result.loss for result in results]


def test_a_pack_equals_its_trials_one_at_a_time(
    tiny_trial: MakeTrial, runtime: RuntimeConfig
) -> None:
    trials = varied(tiny_trial)
    alone = [run_pack([trial], runtime)[0] for trial in trials]
    assert losses(run_pack(trials, runtime)) == pytest.approx(losses(alone), rel=1e-5)


def test_the_same_trial_gives_the_same_result_to_the_bit(
    tiny_trial: MakeTrial, runtime: RuntimeConfig
) -> None:
    first, second = (run_pack(varied(tiny_trial), runtime) for _ in range(2))
    assert [(r.loss, r.curve) for r in first] == [(r.loss, r.curve) for r in second]


@pytest.mark.parametrize("dead", [0, 2])
def test_a_diverging_member_changes_nobody_else_to_the_bit(
    tiny_trial: MakeTrial, runtime: RuntimeConfig, dead: int
) -> None:
    sound = [tiny_trial(log2_lr) for log2_lr in (-9.0, -8.0, -7.0)]
    with_dead = list(sound)
    with_dead[dead] = tiny_trial(120.0)
    calm, beside = run_pack(sound, runtime), run_pack(with_dead, runtime)
    assert beside[dead].status is Status.diverged
    assert beside[dead].loss is None
    assert beside[dead].diverged_at_step is not None
    others = [index for index in range(3) if index != dead]
    assert [beside[i].loss for i in others] == [calm[i].loss for i in others]
    assert [beside[i].curve for i in others] == [calm[i].curve for i in others]


def test_a_diverged_member_leaves_no_nan_in_memory(tiny_trial: MakeTrial) -> None:
    pack = Pack([tiny_trial(-7.0), tiny_trial(120.0)], CPU)
    state = TrainingState(pack, load_data(pack.configs[0].data, None))
    for step in range(4):
        state.train_step(step)
    assert state.alive.tolist() == [True, False]
    optimizer = state.optimizer
    assert isinstance(optimizer, PackedAdamW) and optimizer.scratch is not None
    for tensor in (pack.flat, optimizer.moment1, optimizer.moment2, optimizer.scratch):
        assert bool(torch.isfinite(tensor).all())
    assert not pack.flat[1].any()
    assert pack.flat[0].any()


@pytest.mark.parametrize("mode", list(WeightDecayMode))
@pytest.mark.parametrize("eps_scaling", list(EpsScaling))
def test_the_packed_optimizer_equals_torch_adamw_on_param_groups(
    tiny_trial: MakeTrial, mode: WeightDecayMode, eps_scaling: EpsScaling
) -> None:
    config = dataclasses.replace(
        tiny_trial(-6.0),
        init=Init.paper,
        parametrization=ParametrizationConfig(weight_decay_mode=mode, eps_scaling=eps_scaling),
        optimizer=AdamWConfig(lr=2**-6, weight_decay=0.3, eps=1e-4),
        budget=dataclasses.replace(tiny_trial().budget, schedule=Schedule.constant, steps=5),
    )
    config = dataclasses.replace(
        config, budget=dataclasses.replace(config.budget, warmup_fraction=0.0)
    )
    dataset = load_data(config.data, None)
    pack = Pack([config], CPU)
    state = TrainingState(pack, dataset)
    model = build_model(config)
    optimizer = torch.optim.AdamW(param_groups(model, config))
    for step in range(5):
        batch = PackBatches([config], dataset).at(step)
        reference = pack_losses_of(model, config, batch)
        optimizer.zero_grad()
        reference.backward()
        optimizer.step()
        packed = pack_losses(pack, batch)
        assert float(packed[0].detach()) == pytest.approx(float(reference.detach()), rel=2e-5)
        state.train_step(step)
    for name, value in pack.member_tensors(0).items():
        if name in dict(model.named_parameters()):
            torch.testing.assert_close(
                value, model.get_parameter(name), rtol=1e-3, atol=2e-6, msg=name
            )


def pack_losses_of(model: torch.nn.Module, config: TrialConfig, batch) -> torch.Tensor:
    """Return a plain model's loss on a batch with a trial axis of one, in plain PyTorch."""
    x0, noise, t = batch.images[0], batch.noise[0], batch.u[0][:, None, None, None]
    prediction = model((1 - t) * x0 + t * noise, 1000 * batch.u[0], batch.condition[0][0])
    return torch.nn.functional.mse_loss(prediction, noise - x0)


def test_clipping_is_per_trial(tiny_trial: MakeTrial) -> None:
    free, clipped = tiny_trial(-7.0), tiny_trial(-7.0)
    clipped = dataclasses.replace(
        clipped, optimizer=dataclasses.replace(clipped.optimizer, clip_norm=1e-3)
    )
    pack = Pack([free, clipped], CPU)
    state = TrainingState(pack, load_data(free.data, None))
    grad = torch.ones_like(pack.flat)
    before = grad[0].clone()
    norms, share = state.optimizer.clip(grad)
    assert torch.equal(grad[0], before)
    assert float(torch.linalg.vector_norm(grad[1])) == pytest.approx(1e-3, rel=1e-3)
    assert share.tolist() == [0.0, 1.0]
    assert norms[0] == norms[1]


def test_the_share_of_clipped_steps_is_recorded(
    tiny_trial: MakeTrial, runtime: RuntimeConfig
) -> None:
    optimizer = dataclasses.replace(tiny_trial().optimizer, clip_norm=1e-6)
    (result,) = run_pack([dataclasses.replace(tiny_trial(), optimizer=optimizer)], runtime)
    assert result.clipped_share == 1.0


def test_ema_decides_where_the_budget_says_so(
    tiny_trial: MakeTrial, runtime: RuntimeConfig
) -> None:
    def ended(**changes: object) -> float | None:
        budget = dataclasses.replace(tiny_trial().budget, **changes)
        return run_pack([dataclasses.replace(tiny_trial(), budget=budget)], runtime)[0].loss

    raw = ended(weights=Weights.raw)
    assert ended(weights=Weights.ema, ema_fraction=1e-6) == pytest.approx(raw, rel=1e-5)
    assert ended(weights=Weights.ema, ema_fraction=0.5) != pytest.approx(raw, rel=1e-3)


def test_ema_decay_has_its_horizon_as_a_share_of_the_run() -> None:
    assert BudgetConfig(steps=1000, ema_fraction=0.05).ema_decay == pytest.approx(math.exp(-1 / 50))


def test_schedules() -> None:
    def multipliers(schedule: Schedule, warmup: float) -> list[float]:
        budget = BudgetConfig(steps=10, schedule=schedule, decay_fraction=0.5)
        fraction = torch.tensor([warmup])
        return [round(float(lr_multiplier(budget, step, fraction)), 4) for step in range(10)]

    assert multipliers(Schedule.constant, 0.4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]
    assert multipliers(Schedule.linear_decay, 0.0) == [1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    cosine = multipliers(Schedule.cosine, 0.0)
    assert cosine[0] == pytest.approx(1.0, abs=0.01) and cosine[-1] < 0.1
    assert cosine == sorted(cosine, reverse=True)


def test_schedules_are_per_trial() -> None:
    budget = BudgetConfig(steps=10, schedule=Schedule.constant)
    assert lr_multiplier(budget, 0, torch.tensor([0.0, 0.5])).tolist() == pytest.approx([1.0, 0.2])


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    return [batch.images, batch.u, batch.noise, *batch.condition]


def test_trials_that_share_a_seed_share_samples_noise_and_timesteps(
    tiny_trial: MakeTrial,
) -> None:
    train = load_data(tiny_trial().data, None).train
    narrow, wide = (train_batch(tiny_trial(width=width), train, 3) for width in (8, 32))
    other_rate = train_batch(tiny_trial(-2.0), train, 3)
    for same in (wide, other_rate):
        for mine, other in zip(tensors_of(narrow), tensors_of(same), strict=True):
            assert torch.equal(mine, other)
    other_seed = train_batch(tiny_trial(seed=1), train, 3)
    next_step = train_batch(tiny_trial(), train, 4)
    for different in (other_seed, next_step):
        assert not torch.equal(narrow.noise, different.noise)
        assert not torch.equal(narrow.u, different.u)
        assert not torch.equal(narrow.images, different.images)


def test_labels_are_dropped_to_the_null_class(tiny_trial: MakeTrial) -> None:
    config = tiny_trial()
    train = load_data(config.data, None).train
    model = dataclasses.replace(config.model, label_dropout=1.0)
    dropped = train_batch(dataclasses.replace(config, model=model), train, 0)
    assert (dropped.condition[0] == config.data.layout.classes).all()
    kept = dataclasses.replace(config.model, label_dropout=0.0)
    assert (train_batch(dataclasses.replace(config, model=kept), train, 0).condition[0] < 10).all()


def test_the_global_random_state_does_not_matter(
    tiny_trial: MakeTrial, runtime: RuntimeConfig
) -> None:
    torch.manual_seed(1)
    first = run_pack([tiny_trial()], runtime)[0].loss
    torch.manual_seed(2)
    assert run_pack([tiny_trial()], runtime)[0].loss == first


def test_training_learns_on_real_digits(tiny_trial: MakeTrial, runtime: RuntimeConfig) -> None:
    budget = dataclasses.replace(tiny_trial().budget, steps=60, batch_size=32)
    config = dataclasses.replace(tiny_trial(-5.0), budget=budget)
    (result,) = run_pack([config], runtime)
    assert result.loss is not None and result.loss < 0.75 * result.loss_at_init


@pytest.mark.gpu
def test_a_pack_on_the_gpu_equals_the_cpu(tiny_trial: MakeTrial, runtime: RuntimeConfig) -> None:
    trials = varied(tiny_trial)
    on_gpu = run_pack(trials, dataclasses.replace(runtime, device="cuda"))
    assert losses(on_gpu) == pytest.approx(losses(run_pack(trials, runtime)), rel=1e-3)


def test_a_tenth_of_the_labels_is_dropped_and_others_at_each_step(tiny_trial: MakeTrial) -> None:
    config = dataclasses.replace(
        tiny_trial(), budget=dataclasses.replace(tiny_trial().budget, batch_size=500)
    )
    train = load_data(config.data, None).train
    null = [
        train_batch(config, train, step).condition[0] == config.data.layout.classes
        for step in range(4)
    ]
    assert 0.07 < float(torch.stack(null).float().mean()) < 0.13  # label_dropout is 0.1
    assert not torch.equal(null[0], null[1])


def test_weight_decay_follows_the_schedule(tiny_trial: MakeTrial) -> None:
    config = dataclasses.replace(tiny_trial(), optimizer=AdamWConfig(lr=2**-6, weight_decay=0.5))
    pack = Pack([config], CPU)
    optimizer = TrainingState(pack, load_data(config.data, None)).optimizer
    before, alive = pack.flat.detach().clone(), torch.tensor([True])
    still, half = (optimizer.controls(0, torch.tensor([share])) for share in (0.0, 0.5))
    optimizer.step(torch.zeros_like(before), still, alive)
    assert torch.equal(pack.flat, before)
    optimizer.step(torch.zeros_like(before), torch.full_like(half, torch.inf), ~alive)
    assert torch.equal(pack.flat, before)
    optimizer.step(torch.zeros_like(before), half, alive)
    torch.testing.assert_close(pack.flat.detach(), before * (1 - 0.5 * 2**-6 * 0.5))


def test_quarantine_leaves_nothing_of_the_dead(tiny_trial: MakeTrial) -> None:
    pack = Pack([tiny_trial(-7.0), tiny_trial(-6.0)], CPU)
    optimizer = TrainingState(pack, load_data(pack.configs[0].data, None)).optimizer
    for tensor in (pack.flat, *optimizer.moments.values()):
        tensor.data.fill_(torch.nan)
    optimizer.quarantine(torch.tensor([False, True]))
    for tensor in (pack.flat, *optimizer.moments.values()):
        assert bool(tensor[0].isnan().all()) and not tensor[1].any()


def poisoned(trial: TrialConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> list:
    """Train one trial whose weights turn NaN after `step` steps; return its results."""
    whole = TrainingState.train_step

    def train_step(state: TrainingState, at: int) -> None:
        if at == step:
            with torch.no_grad():
                state.pack.flat.fill_(torch.nan)
        whole(state, at)
        if at == state.budget.steps - 1 and step == state.budget.steps:
            with torch.no_grad():
                state.pack.flat.fill_(torch.nan)

    monkeypatch.setattr(TrainingState, "train_step", train_step)
    return run_pack([trial], RuntimeConfig())


@pytest.mark.parametrize("step", [0, 3, 6])  # 6: after the last step, seen by the deciding loss
def test_divergence_is_recorded_at_its_step(
    tiny_trial: MakeTrial, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (result,) = poisoned(tiny_trial(), step, monkeypatch)
    assert (result.status, result.loss) == (Status.diverged, None)
    assert result.diverged_at_step == step


def test_a_gradient_that_is_not_finite_kills_a_trial_too(tiny_trial: MakeTrial) -> None:
    pack = Pack([tiny_trial(-7.0), tiny_trial(-6.0)], CPU)
    state = TrainingState(pack, load_data(pack.configs[0].data, None))
    clip = state.optimizer.clip

    def broken(grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grad[1, 0] = torch.inf
        return clip(grad)

    state.optimizer.clip = broken  # pyright: ignore
    state.train_step(0)
    assert state.alive.tolist() == [True, False]
    assert state.diverged_at.tolist() == [-1, 0]


def test_the_curve_holds_means_since_the_last_point(tiny_trial: MakeTrial) -> None:
    state = TrainingState(Pack([tiny_trial()], CPU), load_data(tiny_trial().data, None))
    state.loss_sum.fill_(6.0)
    assert state.mean_losses(3).tolist() == [2.0]
    state.loss_sum.fill_(6.0)
    assert state.mean_losses(5).tolist() == [3.0]


def test_a_pack_in_which_all_diverge_ends_early(
    tiny_trial: MakeTrial, runtime: RuntimeConfig
) -> None:
    long = dataclasses.replace(tiny_trial(120.0).budget, steps=300)
    reports: list = []
    (result,) = run_pack(
        [dataclasses.replace(tiny_trial(120.0), budget=long)], runtime, reports.append
    )
    assert (result.status, result.curve) == (Status.diverged, ())
    assert len(reports) == 1


def test_train_loss_is_of_the_last_tenth_and_seconds_are_shared(
    tiny_trial: MakeTrial, runtime: RuntimeConfig
) -> None:
    budget = dataclasses.replace(tiny_trial().budget, steps=20)
    trials = [dataclasses.replace(tiny_trial(lr), budget=budget) for lr in (-7.0, -6.0)]
    first, second = run_pack(trials, runtime)
    last = [loss for step, loss in first.curve if step > 18]
    assert first.train_loss == pytest.approx(sum(last) / len(last))
    assert first.train_loss != pytest.approx(sum(loss for _, loss in first.curve) / 20, rel=1e-4)
    assert first.seconds == second.seconds


def test_seconds_of_a_pack_are_split_over_its_members(
    tiny_trial: MakeTrial, runtime: RuntimeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 16.0])
    monkeypatch.setattr("hptransfer.training.packs.run.time.perf_counter", lambda: next(clock))
    results = run_pack([tiny_trial(lr) for lr in (-8.0, -7.0, -6.0)], runtime)
    assert [result.seconds for result in results] == [2.0, 2.0, 2.0]


def test_decays_multiply_the_warm_up() -> None:
    def multipliers(schedule: Schedule) -> list[float]:
        budget = BudgetConfig(steps=10, schedule=schedule, decay_fraction=0.5)
        fraction = torch.tensor([0.4])
        return [round(float(lr_multiplier(budget, step, fraction)), 4) for step in range(10)]

    assert multipliers(Schedule.linear_decay) == [0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    after = [round(0.5 * (1 + math.cos(math.pi * i / 6)), 4) for i in range(6)]
    assert multipliers(Schedule.cosine) == [0.25, 0.5, 0.75, 1.0, *after]


def test_flops_are_of_training_and_both_evaluations(tiny_trial: MakeTrial) -> None:
    config = tiny_trial()
    forward, both = step_flops(config.model, config.data.layout, config.budget.batch_size)
    assert 2.5 * forward < both < 3.5 * forward
    # 16 held-out samples: 1 draw before and 2 after, in batches of 8.
    assert trial_flops(config) == pytest.approx(6 * both + 16 * 3 / 8 * forward)
