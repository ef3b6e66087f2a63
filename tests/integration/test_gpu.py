"""The trial axis on a GPU: compiled, captured, isolated, the same every time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hptransfer.config import (
    DDPMConfig,
    DiTConfig,
    FashionMNISTConfig,
    RuntimeConfig,
    TrialConfig,
)
from hptransfer.config.choices import Precision, Weights
from hptransfer.training.packs.state import WARM_UP, TrainingState, start_training
from tests.support.packs import (
    ABSURD,
    FAMILIES,
    assert_isolated,
    dataset_of,
    of_256_tokens,
    stepped,
    trained,
    varied,
)

pytestmark = pytest.mark.gpu

PLAIN = RuntimeConfig(device="cuda", compile=False, graph=False)
COMPILED = RuntimeConfig(device="cuda", compile=True, graph=False)
CAPTURED = RuntimeConfig(device="cuda", compile=False, graph=True)
FAST = RuntimeConfig(device="cuda")
STEPS = WARM_UP + 5
BACKENDS = {
    "plain": None,
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
}


def wide(count: int, precision: Precision, *, tokens: int = 256) -> list[TrialConfig]:
    """Return DiTs of head dimension 72, which is no tile's size, with as many tokens as asked."""
    rates = [-10 + 2.0 * index / count for index in range(count)]
    patch = {256: 2, 16: 8}[tokens]
    model = DiTConfig(width=144, base_width=72, depth=2, head_dim=72, patch_size=patch)
    return [
        dataclasses.replace(
            trial, data=FashionMNISTConfig(), model=model, precision=precision, seed=index % 2
        )
        for index, trial in enumerate(varied_rates(rates))
    ]


def varied_rates(rates: Sequence[float]) -> list[TrialConfig]:
    members = varied("dit", weights=Weights.ema, ema_fraction=0.5, steps=STEPS)
    return [
        dataclasses.replace(
            members[index % 4],
            optimizer=dataclasses.replace(members[index % 4].optimizer, lr=2.0**log2_lr),
        )
        for index, log2_lr in enumerate(rates)
    ]


def with_dead(calm: Sequence[TrialConfig], dead: int) -> list[TrialConfig]:
    beside = [*calm]
    optimizer = dataclasses.replace(calm[dead].optimizer, lr=2.0**ABSURD)
    beside[dead] = dataclasses.replace(calm[dead], optimizer=optimizer)
    return beside


def backend_context(name: str) -> AbstractContextManager[Any]:
    backend = BACKENDS[name]
    return nullcontext() if backend is None else sdpa_kernel(backend)


@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp32])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [2, 8, 64])
def test_a_dead_member_changes_nobody_else_to_the_bit(
    count: int, backend: str, precision: Precision
) -> None:
    if backend == "flash" and precision is Precision.fp32:
        pytest.skip("the flash kernel takes half precision only")
    calm = wide(count, precision, tokens=16 if backend == "plain" else 256)
    with backend_context(backend):
        expected = stepped(calm, STEPS, FAST)
        for dead in (0, count // 2, count - 1):
            assert_isolated(expected, stepped(with_dead(calm, dead), STEPS, FAST), dead)


@pytest.mark.parametrize("runtime", [PLAIN, COMPILED, CAPTURED, FAST])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_dead_member_of_every_family_changes_nobody_else(
    family: str, runtime: RuntimeConfig
) -> None:
    calm = varied(family, weights=Weights.ema)
    assert_isolated(stepped(calm, STEPS, runtime), stepped(with_dead(calm, 1), STEPS, runtime), 1)


@pytest.mark.parametrize("runtime", [COMPILED, CAPTURED, FAST])
@pytest.mark.parametrize("family", FAMILIES)
def test_compiling_and_capturing_change_no_number(family: str, runtime: RuntimeConfig) -> None:
    ieee = [dataclasses.replace(t, precision=Precision.fp32_ieee) for t in varied(family)]
    plain, fast = trained(ieee, PLAIN), trained(ieee, runtime)
    assert fast.losses.tolist() == pytest.approx(plain.losses.tolist(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_equals_its_trials_alone(family: str) -> None:
    ieee = [dataclasses.replace(t, precision=Precision.fp32_ieee) for t in varied(family)]
    together = trained(ieee, FAST)
    alone = [float(trained([trial], FAST).losses[0]) for trial in ieee]
    assert together.losses.tolist() == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("family", ["wide", *(name for name in FAMILIES if name != "custom")])
def test_the_same_pack_gives_the_same_to_the_bit(family: str, precision: Precision) -> None:
    trials = wide(4, precision) if family == "wide" else of_256_tokens(varied(family))
    trials = [dataclasses.replace(trial, precision=precision) for trial in trials]
    first, second = (trained(trials, FAST) for _ in range(2))
    assert first.losses.tolist() == second.losses.tolist()
    assert torch.equal(first.weights, second.weights)


def test_a_learned_variance_is_captured_too() -> None:
    trials = [
        dataclasses.replace(
            trial,
            objective=DDPMConfig(timesteps=4),  # so that every batch has a step 0
            model=dataclasses.replace(trial.model, learn_sigma=True),
            precision=Precision.fp32_ieee,
        )
        for trial in varied("dit")
    ]
    plain, fast = trained(trials, PLAIN), trained(trials, FAST)
    assert fast.losses.tolist() == pytest.approx(plain.losses.tolist(), rel=1e-5)


def test_a_captured_pack_is_compacted_and_captured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from hptransfer.training.packs import run

    monkeypatch.setattr(run, "RECAPTURE_FLOPS", 0.0)
    calm = [dataclasses.replace(t, precision=Precision.fp32_ieee) for t in varied("dit")]
    outcome, expected = trained(with_dead(calm, 1), FAST), trained(calm, FAST)
    assert outcome.members == (0, 2, 3)
    for member in (0, 2, 3):
        assert float(outcome.losses[member]) == pytest.approx(
            float(expected.losses[member]), rel=1e-5
        )


def test_nothing_waits_for_the_device_between_two_reports() -> None:
    trials = wide(4, Precision.bf16)
    state = start_training(trials, dataset_of(trials[0]), torch.device("cuda"), FAST)
    for step in range(WARM_UP + 1):
        state.train_step(step)
    assert state.captured is not None and state.captured.graph is not None
    before = state.loss_sum.clone()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(WARM_UP + 1, STEPS):
            state.train_step(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not torch.equal(state.loss_sum, before)
    state.close()


def test_what_was_set_before_a_step_is_put_back() -> None:
    deterministic: Any = torch.utils.deterministic

    def settings() -> tuple[Any, ...]:
        return (
            torch.backends.cuda.matmul.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cuda.cudnn_sdp_enabled(),
            deterministic.fill_uninitialized_memory,
        )

    before = settings()
    state: TrainingState = stepped(wide(2, Precision.fp32), STEPS, FAST)
    assert settings() == before
    with state.pack.arithmetic():
        assert settings() == (True, True, False, False, False)
