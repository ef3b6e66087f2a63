"""The trainer in one process: the pack's numbers, and a state that goes on with the same bits."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from hptransfer.config import (
    AdamWConfig,
    DiTConfig,
    MuonConfig,
    ParametrizationConfig,
    RuntimeConfig,
    TrainerConfig,
    TrialConfig,
)
from hptransfer.config.choices import (
    Decayed,
    EpsScaling,
    MuonScale,
    Parallel,
    Precision,
    Scaling,
    Schedule,
    WeightDecayMode,
)
from hptransfer.config.compose.compose import compose_file
from hptransfer.config.identity import trial_key, with_scaling
from hptransfer.data import load_data
from hptransfer.errors import UserError
from hptransfer.models.parametrization.factors import adam_betas, matrix_momentum
from hptransfer.training.batches import train_batch
from hptransfer.training.packs.run import held_out_losses, validation_loss
from hptransfer.training.packs.state import TrainingState, start_training
from hptransfer.training.target.engine import Engine
from hptransfer.training.target.parallel import ProcessGroup, blocks_of
from tests.support.custom_models import trial
from tests.support.trainer_processes import BASE, CUT, STEPS, TRIALS, engine, seen, steps_of

ALONE, RUNTIME = TrainerConfig(), RuntimeConfig()


def started(config: TrialConfig, trainer: TrainerConfig = ALONE) -> Engine:
    dataset = load_data(config.data, None)
    return Engine(config, RUNTIME, trainer, dataset, ProcessGroup.of(trainer, RUNTIME))


def packed_loss(state: TrainingState, draws: int) -> float:
    split = state.dataset.validation
    return validation_loss(state.pack, split, flat=state.deciding_weights(), draws=draws).item()


def assert_equals_the_pack(config: TrialConfig, trainer: TrainerConfig = ALONE) -> None:
    """Train a config both ways and compare every loss."""
    ours = started(config, trainer)
    pack = start_training([config], ours.dataset, torch.device("cpu"), RUNTIME)
    assert ours.held_out_loss(draws=1) == pytest.approx(packed_loss(pack, 1), rel=1e-6)
    for step in range(config.budget.steps):
        pack.train_step(step)
        report = ours.train_step(step)
        assert report.loss == pytest.approx(pack.mean_losses(step + 1).item(), rel=2e-6), step
        assert report.clipped == bool(pack.clipped.item()), step
        pack.clipped.zero_()
    assert ours.judged.keys() == pack.judged.keys()
    judged = [(ours.judged[f], pack.judged[f]) for f in config.budget.judged_ema_fractions]
    for mine, theirs in [(None, pack.deciding_weights()), *judged]:
        told = ours.held_out_losses(weights=mine)
        split, draws = pack.dataset.validation, config.budget.eval_draws
        found = held_out_losses(pack.pack, split, flat=theirs, draws=draws)
        assert told.loss == pytest.approx(found.loss.item(), rel=2e-6)
        assert told.by_noise == pytest.approx(found.by_noise[0].tolist(), rel=2e-6)


@pytest.mark.parametrize("name", TRIALS)
def test_losses_are_those_of_the_pack(name: str) -> None:
    assert_equals_the_pack(TRIALS[name])


@pytest.mark.parametrize("mode", WeightDecayMode)
@pytest.mark.parametrize("scaling", [Scaling.mup, Scaling.standard])
def test_decay_rate_and_epsilon_of_every_parameter_are_the_packs(
    mode: WeightDecayMode, scaling: Scaling
) -> None:
    own = ParametrizationConfig(
        weight_decay_mode=mode, eps_scaling=EpsScaling.width, output_scale=1.5
    )
    optimizer = AdamWConfig(lr=2.0**-7, eps=1e-3, weight_decay=3.0, beta1=0.8, beta2=0.9)
    budget = dataclasses.replace(BASE.budget, schedule=Schedule.cosine, warmup_fraction=0.4)
    config = dataclasses.replace(BASE, parametrization=own, optimizer=optimizer, budget=budget)
    assert_equals_the_pack(with_scaling(config, scaling))


@pytest.mark.parametrize("decayed", Decayed)
def test_a_trial_under_complete_is_the_packs(decayed: Decayed) -> None:
    """Betas, rates, decay and epsilon at twice the depth and other batch sizes and durations."""
    model = DiTConfig(width=16, base_width=8, depth=4, base_depth=2)
    own = ParametrizationConfig(
        scaling=Scaling.complete,
        depth_alpha=0.5,
        decayed=decayed,
        base_batch_size=2 * BASE.budget.batch_size,
        base_steps=3 * BASE.budget.steps,
    )
    optimizer = AdamWConfig(lr=2.0**-8, eps=1e-3, weight_decay=3.0, beta1=0.8, beta2=0.9)
    config = dataclasses.replace(BASE, model=model, parametrization=own, optimizer=optimizer)
    assert adam_betas(config) == pytest.approx((0.5, 0.7))
    assert_equals_the_pack(config)


def test_a_trial_of_muon_under_complete_is_the_packs() -> None:
    """Momentum, rates and decay of matrices at other widths, depths, batch sizes and durations."""
    model = DiTConfig(width=16, base_width=8, depth=4, base_depth=2)
    own = ParametrizationConfig(
        scaling=Scaling.complete,
        depth_alpha=0.5,
        weight_decay_mode=WeightDecayMode.independent,
        base_batch_size=2 * BASE.budget.batch_size,
        base_steps=3 * BASE.budget.steps,
    )
    optimizer = MuonConfig(
        lr=2.0**-6, adam_lr=2.0**-8, scale=MuonScale.match_rms_adamw, weight_decay=0.02
    )
    config = dataclasses.replace(BASE, model=model, parametrization=own, optimizer=optimizer)
    assert matrix_momentum(config) == pytest.approx(0.85)
    assert_equals_the_pack(config)


@pytest.mark.parametrize(
    "how", [TrainerConfig(accumulate=4), TrainerConfig(activation_checkpointing=True)]
)
def test_less_memory_gives_the_same_losses(how: TrainerConfig) -> None:
    assert_equals_the_pack(TRIALS["mmdit"], how)


def test_bf16_is_that_of_the_pack_and_not_fp32() -> None:
    config = dataclasses.replace(BASE, precision=Precision.bf16)
    ours = started(config)
    pack = start_training([config], ours.dataset, torch.device("cpu"), RUNTIME)
    for step in range(CUT):
        pack.train_step(step)
    norms, in_fp32 = ([norm for _, norm, _ in steps_of(e, 0, CUT)] for e in (ours, started(BASE)))
    held_out = packed_loss(pack, BASE.budget.eval_draws)
    assert ours.held_out_loss() == pytest.approx(held_out, rel=1e-4)
    assert norms != pytest.approx(in_fp32, rel=1e-5)
    assert all(weight.dtype is torch.float32 for weight in ours.weights.values())


def test_a_checkpointed_block_is_computed_twice() -> None:
    calls: list[None] = []
    for trainer in (ALONE, TrainerConfig(activation_checkpointing=True)):
        running = started(TRIALS["dit"], trainer)
        inner = blocks_of(running.model)[0].get_submodule("mlp")
        inner.register_forward_pre_hook(lambda *_: calls.append(None))
        running.train_step(0)
    assert len(calls) == 1 + 2


def test_a_part_of_a_batch_is_cut_out_of_the_whole() -> None:
    train = load_data(BASE.data, None).train
    whole, part = (train_batch(BASE, train, 3, cut) for cut in (slice(None), slice(2, 5)))
    for mine, all_of_it in zip(part.tensors(), whole.tensors(), strict=True):
        assert torch.equal(mine, all_of_it[2:5])


@pytest.mark.parametrize("name", ["dit", "uvit", "custom"])
def test_a_restored_run_goes_on_with_the_same_bits(name: str) -> None:
    running = engine(name, ALONE)
    steps_of(running, 0, CUT)
    state = {key: tensor.clone() for key, tensor in running.state()}
    went_on, loss = steps_of(running, CUT), running.held_out_loss()
    again = engine(name, ALONE)
    again.restore(state.__getitem__, CUT)
    assert again.steps_taken == CUT
    assert steps_of(again, CUT) == went_on
    assert again.held_out_loss() == loss
    for (key, ours), (_, theirs) in zip(again.state(), running.state(), strict=True):
        assert torch.equal(ours, theirs), key


def test_a_state_holds_every_parameter_once_more_for_each_average() -> None:
    names = [name for name, _ in engine("dit", ALONE).state()]
    kinds = [name.partition("/")[0] for name in names]
    each = len(engine("dit", ALONE).weights)
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        ("weights", "moment1", "moment2", "ema", "ema 0.9"), each
    )
    assert not any(name.startswith("ema/") for name, _ in engine("uvit", ALONE).state())


def test_measuring_and_sampling_change_no_bit_of_the_weights_being_trained() -> None:
    running = engine("dit", ALONE)
    steps_of(running, 0, CUT)
    before = {name: tensor.clone() for name, tensor in running.state()}
    averaged = running.deciding_weights()
    with running.sampling_model() as model:
        inside = {name: weight.detach().clone() for name, weight in running.weights.items()}
        x, t = torch.zeros(2, 1, 8, 8), torch.zeros(2)
        assert model(x, t, torch.zeros(2, dtype=torch.long)).shape == x.shape
    running.held_out_loss()
    assert averaged is not None
    assert all(torch.equal(inside[name], averaged[name]) for name in inside)
    assert not torch.equal(*(next(iter(part.values())) for part in (inside, running.weights)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in running.state())


def test_a_run_that_diverges_says_so_and_leaves_its_weights() -> None:
    wild = dataclasses.replace(TRIALS["dit"], optimizer=AdamWConfig(lr=1e30))
    running = started(wild)
    for step in range(STEPS):
        before = {name: tensor.clone() for name, tensor in running.state()}
        report = running.train_step(step)
        if not report.is_sound:
            break
    else:
        pytest.fail("a rate of 1e30 did not diverge")
    assert not math.isfinite(report.loss) or not math.isfinite(report.grad_norm)
    assert running.steps_taken == step
    assert all(torch.equal(tensor, before[name]) for name, tensor in running.state())


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(UserError, match=r"batch_size=8 with 1 x 3\. Change train\.accumulate"):
        started(BASE, TrainerConfig(accumulate=3))


def test_checkpointing_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match=r"has no nn\.ModuleList of blocks"):
        started(trial(), TrainerConfig(activation_checkpointing=True))


@pytest.mark.parametrize("name", ["accumulate", "log_every", "keep", "eval_every", "sample_every"])
def test_counts_must_be_positive(name: str) -> None:
    with pytest.raises(UserError, match=rf"`train\.{name}` must be positive, but got 0"):
        dataclasses.replace(ALONE, **{name: 0})


def test_the_section_train_is_no_part_of_a_trial() -> None:
    plain = compose_file(None, [])
    asked = compose_file(None, ["train.parallel=fsdp", "train.accumulate=4", "train.eval_every=5"])
    assert plain.trainer == TrainerConfig()
    assert asked.trainer == TrainerConfig(parallel=Parallel.fsdp, accumulate=4, eval_every=5)
    assert trial_key(asked.trial) == trial_key(plain.trial)
    with pytest.raises(UserError, match=r"`train\.parallel` must be one of"):
        compose_file(None, ["train.parallel=tensor"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "skipping"])
def test_compiled_regions_give_the_same_losses(name: str) -> None:
    config = TRIALS[name]
    how = TrainerConfig(activation_checkpointing=True)
    runtime = dataclasses.replace(RUNTIME, compile=True)
    dataset = load_data(config.data, None)
    ours = seen(Engine(config, runtime, how, dataset, ProcessGroup.of(how, runtime)))
    plain = seen(engine(name, ALONE))
    for step, expected in zip(ours["steps"], plain["steps"], strict=True):
        assert step == pytest.approx(expected, rel=1e-5)
    assert ours["held_out"] == pytest.approx(plain["held_out"], rel=1e-5)
