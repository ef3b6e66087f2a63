"""A pack is its trials: alone and together, alive and dead, compiled and not, of every family."""

from __future__ import annotations

import dataclasses
import gc
import math
import shutil
import weakref
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest
import torch

from hptransfer.config import (
    DDPMConfig,
    ParametrizationConfig,
    RuntimeConfig,
    TrialConfig,
)
from hptransfer.config.choices import EpsScaling, Precision, Weights
from hptransfer.errors import UserError
from hptransfer.models.families.layers import Attention
from hptransfer.models.parametrization.rules import build_model
from hptransfer.training.batches import STEPS_AHEAD, InputQueue, PackBatches, train_batch
from hptransfer.training.device import (
    COMPILED_FLOPS,
    COMPILERS,
    MOST_BLOCKS,
    arithmetic,
    block_kind,
    compiled,
    has_compiler,
    settled,
)
from hptransfer.training.flops import train_step_flops
from hptransfer.training.objectives import (
    BoundInputs,
    Noised,
    bound_terms,
    bound_terms_of_fixed_shape,
    noised,
    objective_loss,
)
from hptransfer.training.packs import pack as pack_module
from hptransfer.training.packs.pack import Pack, row_layout
from hptransfer.training.packs.run import (
    RECOMPILE_FLOPS,
    compaction_pays,
)
from hptransfer.training.packs.state import TrainingState, pack_losses, start_training
from tests.support.packs import (
    ABSURD,
    FAMILIES,
    STABLE,
    assert_isolated,
    base,
    dataset_of,
    memory,
    stepped,
    trained,
    varied,
)

CPU = torch.device("cpu")
# Families and depths: a step of few blocks is compiled as a whole, of more by its blocks.
COMPILED = [
    ("dit", 1),
    pytest.param("dit", MOST_BLOCKS + 1, marks=pytest.mark.slow),
    *(pytest.param(family, 2, marks=pytest.mark.slow) for family in FAMILIES[1:]),
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_equals_its_trials_alone(family: str) -> None:
    trials = varied(family, steps=20)
    together = trained(trials)
    for member, trial in enumerate(trials):
        alone = trained([trial])
        assert float(together.losses[member]) == pytest.approx(float(alone.losses[0]), rel=1e-5)
        curve = [report.train_losses[member] for report in together.reports]
        assert curve == pytest.approx([r.train_losses[0] for r in alone.reports], rel=1e-5)
        assert float(together.clipped_share[member]) == float(alone.clipped_share[0])
    assert len({float(loss) for loss in together.losses}) == len(trials)
    assert 0 < float(together.clipped_share[0]) <= 1 and float(together.clipped_share[1]) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_a_pack_of_one_is_plain_pytorchs(family: str) -> None:
    (config,) = varied(family, STABLE[2:3])
    pack = Pack([config], CPU)
    batch = start_training([config], dataset_of(config), CPU, RuntimeConfig()).batch(0)
    (packed,) = torch.autograd.grad(pack_losses(pack, batch).sum(), pack.flat)
    model = build_model(config)
    own = [part.squeeze(0) for part in (*batch[:3], *batch.condition)]
    at = noised(config.objective, own[0], own[2], own[1])
    objective_loss(config.objective, model(at.x, at.t, *own[3:]), at).backward()
    plain = [model.get_parameter(rule.name).grad for rule in pack.rules]
    flat = torch.cat([torch.zeros(0) if g is None else g.flatten() for g in plain])
    assert flat.any()
    torch.testing.assert_close(packed[0], flat, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("family", "count"), [("dit", 2), ("dit", 8), *((family, 5) for family in FAMILIES)]
)
def test_a_dead_member_changes_nobody_else_to_the_bit(family: str, count: int) -> None:
    rates = [-9 + 0.2 * i for i in range(count)]
    averages = dict(weights=Weights.ema, ema_fraction=0.5, judged_ema_fractions=(0.3,))
    calm = varied(family, rates, **averages)
    for dead in {0, count - 1}:
        absurd = dataclasses.replace(calm[dead].optimizer, lr=2.0**ABSURD)
        beside = [*calm]
        beside[dead] = dataclasses.replace(calm[dead], optimizer=absurd)
        assert_isolated(stepped(calm, 6), stepped(beside, 6), dead)


@pytest.mark.parametrize("weights", list(Weights))
@pytest.mark.parametrize("dead", [(0,), (1, 3), (0, 1, 2)])
def test_who_diverged_is_left_out_and_nobody_else_notices(
    dead: tuple[int, ...], weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole = TrainingState.train_step

    def train_step(state: TrainingState, step: int) -> None:
        sizes.append(len(state.pack))
        whole(state, step)

    calm = varied("dit", steps=20, weights=weights, ema_fraction=0.9)
    beside = [
        dataclasses.replace(t, optimizer=dataclasses.replace(t.optimizer, lr=2.0**ABSURD))
        if index in dead
        else t
        for index, t in enumerate(calm)
    ]
    expected = trained(calm)
    monkeypatch.setattr(TrainingState, "train_step", train_step)
    outcome = trained(beside)
    assert sizes[0] == 4 and sizes[-1] == 4 - len(dead)
    for member in range(4):
        if member in dead:
            assert int(outcome.diverged_at[member]) >= 0
            assert not torch.isfinite(outcome.losses[member])
            continue
        assert int(outcome.diverged_at[member]) == -1
        for mine, theirs in (
            (expected.losses[member], outcome.losses[member]),
            (expected.clipped_share[member], outcome.clipped_share[member]),
            (expected.reports[-1].train_losses[member], outcome.reports[-1].train_losses[member]),
        ):
            assert float(theirs) == pytest.approx(float(mine), rel=1e-5)
        for name, value in expected.parameters(member).items():
            torch.testing.assert_close(
                outcome.parameters(member)[name], value, rtol=1e-3, atol=1e-5
            )


def test_a_costly_pack_is_compacted_only_where_that_pays() -> None:

    trials = varied("dit", (-8.0, ABSURD))
    plain = stepped(trials, 3)
    assert compaction_pays(plain, 1) and not compaction_pays(plain, 0)
    plain.pack.runtime = RuntimeConfig(compile=True)
    assert not compaction_pays(plain, 50)
    assert compaction_pays(plain, int(RECOMPILE_FLOPS))
    assert not compaction_pays(stepped(trials[:1], 1), 50)


def test_padded_rows_train_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    by_width = ParametrizationConfig(eps_scaling=EpsScaling.width)
    trials = [dataclasses.replace(trial, parametrization=by_width) for trial in varied("dit")]
    plain = trained(trials)
    monkeypatch.setitem(pack_module.ALIGNMENT, "cpu", 64)
    padded = trained(trials)
    assert padded.pack.flat.shape[1] > plain.pack.flat.shape[1]
    assert bool(padded.weights.isfinite().all())
    assert padded.losses.tolist() == pytest.approx(plain.losses.tolist(), rel=1e-6)
    for name, value in plain.parameters(2).items():
        torch.testing.assert_close(padded.parameters(2)[name], value, rtol=1e-4, atol=1e-6)


def test_every_parameter_begins_at_a_multiple_of_the_alignment() -> None:
    rules = Pack(varied("dit", STABLE[:1]), CPU).rules
    laid, begins = row_layout(rules, 16), 0
    for column in laid:
        if column.name:
            assert begins % 16 == 0
        begins += column.size
    assert begins % 16 == 0
    assert [column.name for column in laid if column.name] == [rule.name for rule in rules]


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler here")
@pytest.mark.parametrize(("family", "depth"), COMPILED)
def test_a_compiled_pack_gives_the_same(family: str, depth: int) -> None:
    # 20 samples in chunks of 8: the last chunk is filled up.
    asked = dict(steps=12, weights=Weights.ema, eval_samples=20, judged_ema_fractions=(0.3,))
    trials = varied(family, (*STABLE[:2], ABSURD), **asked)
    if family != "custom":
        deep = dataclasses.replace(trials[0].model, depth=depth)
        trials = [dataclasses.replace(trial, model=deep) for trial in trials]
    plain, fast = trained(trials), trained(trials, RuntimeConfig(compile=True))
    assert fast.losses[:2].tolist() == pytest.approx(plain.losses[:2].tolist(), rel=1e-5)
    assert fast.diverged_at.tolist() == plain.diverged_at.tolist()
    assert fast.losses_at_init.tolist() == pytest.approx(plain.losses_at_init.tolist(), rel=1e-5)
    torch.testing.assert_close(fast.by_noise[:2], plain.by_noise[:2], rtol=1e-5, atol=0)
    judged = (outcome.judged_losses[0.3][:2] for outcome in (fast, plain))
    torch.testing.assert_close(*judged, rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_trains_float32_weights_a_little_differently(family: str) -> None:
    trials = varied(family, steps=20)
    low = [dataclasses.replace(trial, precision=Precision.bf16) for trial in trials]
    exact, rough = trained(trials), trained(low)
    assert rough.weights.dtype is torch.float32
    assert rough.losses.tolist() == pytest.approx(exact.losses.tolist(), rel=0.02)
    assert rough.losses.tolist() != pytest.approx(exact.losses.tolist(), rel=1e-6)


def test_a_custom_model_that_cannot_be_compiled_is_refused() -> None:
    trials = varied("custom", STABLE[:2], steps=2)
    factory = dataclasses.replace(
        trials[0].model, **{"factory": "tests.support.custom_models:opening"}
    )
    trials = [dataclasses.replace(trial, model=factory) for trial in trials]
    assert bool(trained(trials).losses.isfinite().all())
    with pytest.raises(
        UserError,
        match=r"torch\.compile accepts as a whole, but tests.support.custom_models:opening",
    ):
        trained(trials, RuntimeConfig(compile=True))


def test_blocks_share_a_function_only_where_they_do_the_same() -> None:
    def kind(width: int, head_dim: int) -> Hashable:
        return block_kind(Attention(width, head_dim))

    assert kind(16, 4) == kind(16, 4)
    assert kind(16, 4) != kind(16, 8)  # the same parameters, other heads


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler.*runtime.compile=false") as caught:
        compiled(torch.sin)
    assert "Python.h" not in str(caught.value)


def test_compiling_without_pythons_headers_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda scheme: {"include": str(tmp_path)})
    with pytest.raises(UserError, match=rf"no {tmp_path}/Python.h.*python3-dev"):
        compiled(torch.sin)
    (tmp_path / "Python.h").touch()
    compiled(torch.sin)


@pytest.mark.parametrize("family", ["dit", "custom"])
def test_a_pack_is_freed_as_soon_as_nobody_uses_it(family: str) -> None:
    stepped(varied(family), 1)  # torch's own imports at the first step leave cycles once
    gc.disable()  # which frees cycles now and then
    try:
        state = stepped(varied(family, weights=Weights.ema, judged_ema_fractions=(0.3,)), 2)
        kept = [weakref.ref(tensor) for tensor in (*memory(state), state.loss_sum)]
        assert all(each() is not None for each in kept)
        del state
        assert [each() for each in kept] == [None] * len(kept)
    finally:
        gc.enable()


def test_orders_of_many_seeds_are_drawn_once_an_epoch() -> None:
    trials = [dataclasses.replace(base("dit"), seed=seed) for seed in range(20)]
    dataset = dataset_of(trials[0])
    batches = PackBatches(trials, dataset)
    # The last step of an epoch is between the two: its batch ends with samples of the next one.
    last = len(dataset.train) // trials[0].budget.batch_size
    for step in (0, 1, last, 2, last + 1):  # in threads they are not asked for one by one
        batch = batches.at(step)
        assert torch.equal(batch.images[19], train_batch(trials[19], dataset.train, step).images)
    assert batches.order.cache_info().misses == 2 * len(trials)


def test_inputs_made_ahead_are_the_same() -> None:
    state = start_training(varied("mmdit"), dataset_of(base("mmdit")), CPU, RuntimeConfig())
    ahead = InputQueue(state.inputs, steps=20, ahead=True)
    for step in (0, 1, 2, 7, 3, 19, 25):
        made, direct = ahead(step), state.inputs(step)
        for mine, theirs in zip(made.tensors(), direct.tensors(), strict=True):
            assert torch.equal(mine, theirs)
        assert len(ahead.coming) <= STEPS_AHEAD
    ahead.close()


def test_the_bound_of_fixed_shape_is_the_bound() -> None:
    objective = DDPMConfig()
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 6, 1, 4, 4, generator=generator) * 2 - 1
    clean[0, 0, 0, 0] = torch.tensor([-1.0, 1.0, 0.0, 0.999])  # both outermost levels too
    u = torch.tensor([[0.0, 0.0005, 0.5, 0.0, 0.9, 0.3], [0.2, 0.0, 0.7, 0.1, 0.6, 0.4]])
    at = noised(objective, clean, torch.randn(clean.shape, generator=generator), u)
    prediction = torch.randn(2, 6, 2, 4, 4, generator=generator) * 3

    def loss_and_gradient(terms: Any) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = prediction.clone().requires_grad_()
        loss = objective_loss(objective, leaf, Noised(*at), terms)
        return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]

    few, fixed = (loss_and_gradient(t) for t in (bound_terms, bound_terms_of_fixed_shape))
    torch.testing.assert_close(fixed[0], few[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(fixed[1], few[1], rtol=1e-4, atol=1e-7)
    assert BoundInputs._fields == ("error", "low", "log_variance", "clean", "first")


def test_a_cpu_compiles_long_trials_only_and_the_same_alone() -> None:
    short, custom = base("dit"), base("custom")
    steps = math.ceil(COMPILED_FLOPS / train_step_flops(short))
    long = dataclasses.replace(short, budget=dataclasses.replace(short.budget, steps=steps))
    patient = dataclasses.replace(custom, budget=dataclasses.replace(custom.budget, steps=10**9))
    assert settled(RuntimeConfig(), long).compile is has_compiler()
    assert settled(RuntimeConfig(), short).compile is False
    assert settled(RuntimeConfig(), patient).compile is False  # may not be fit for it
    for said in (RuntimeConfig(compile=False), RuntimeConfig(compile=True)):
        assert settled(said, long) == said == settled(said, short)
    assert settled(RuntimeConfig(device="cuda"), short).compile is None


def large(family: str, **budget: Any) -> TrialConfig:
    """Return a trial whose products torch does not leave to MKL for being small."""
    config = base(family, batch_size=16, **budget)
    width = {} if family == "custom" else {"width": 32}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **width))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_of_large_products_equals_its_trials_alone_to_the_bit(family: str) -> None:
    config = large(family)
    trials = [
        dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, lr=lr))
        for lr in (2**-9, 2**-7, 2**-8)
    ]
    together = stepped(trials, 3)
    for index, trial in enumerate(trials):
        assert torch.equal(together.pack.flat[index], stepped([trial], 3).pack.flat[0])


def test_products_are_float32s_whoever_takes_them() -> None:
    left, right = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    settings: Any = torch.backends.mkldnn
    before = settings.matmul.fp32_precision
    with arithmetic(large("dit"), CPU):
        product = left @ right.mT
    assert settings.matmul.fp32_precision == before
    exact = left.double() @ right.double().mT
    torch.testing.assert_close(product.double(), exact, rtol=1e-6, atol=1e-6)
