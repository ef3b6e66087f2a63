"""The trainer on a GPU: the losses of a CPU, compiled and not, alone and under nccl."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hptransfer.config import RuntimeConfig, TrainerConfig
from hptransfer.config.choices import Parallel, Precision
from hptransfer.data import load_data
from hptransfer.training.target.engine import Engine
from hptransfer.training.target.parallel import ProcessGroup
from tests.support.trainer_processes import CUT, TRIALS, seen, steps_of

pytestmark = pytest.mark.gpu

ALONE = TrainerConfig()
CPU, PLAIN = RuntimeConfig(), RuntimeConfig(device="cuda", compile=False)
FAST = RuntimeConfig(device="cuda")


def engine_of(
    name: str,
    runtime: RuntimeConfig,
    trainer: TrainerConfig = ALONE,
    precision: Precision = Precision.fp32_ieee,
    group: ProcessGroup | None = None,
) -> Engine:
    config = dataclasses.replace(TRIALS[name], precision=precision)
    dataset = load_data(config.data, None)
    return Engine(config, runtime, trainer, dataset, group or ProcessGroup.of(trainer, runtime))


def assert_alike(ours: dict[str, Any], theirs: dict[str, Any], rel: float) -> None:
    for here, there in zip(ours["steps"], theirs["steps"], strict=True):
        assert here[0] == pytest.approx(there[0], rel=rel)
    assert ours["held_out"] == pytest.approx(theirs["held_out"], rel=rel)


@pytest.mark.parametrize("runtime", [PLAIN, FAST], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ["dit", "uvit", "pixart", "mmdit", "learned variance", "custom"])
def test_a_gpu_sees_the_losses_of_a_cpu(name: str, runtime: RuntimeConfig) -> None:
    assert_alike(seen(engine_of(name, runtime)), seen(engine_of(name, CPU)), rel=1e-4)


@pytest.mark.parametrize("runtime", [PLAIN, FAST], ids=["eager", "compiled"])
def test_bf16_trains_near_float32(runtime: RuntimeConfig) -> None:
    bf16 = seen(engine_of("dit", runtime, precision=Precision.bf16))
    assert_alike(bf16, seen(engine_of("dit", CPU)), rel=2e-2)


@pytest.mark.parametrize(
    "trainer",
    [TrainerConfig(accumulate=2), TrainerConfig(activation_checkpointing=True)],
    ids=["accumulated", "checkpointed"],
)
def test_less_memory_gives_the_same_losses(trainer: TrainerConfig) -> None:
    assert_alike(seen(engine_of("dit", FAST, trainer)), seen(engine_of("dit", PLAIN)), rel=1e-4)


def test_a_state_goes_on_with_the_same_losses() -> None:
    running = engine_of("mmdit", FAST)
    steps_of(running, 0, CUT)
    state = {name: tensor.clone() for name, tensor in running.state()}
    again = engine_of("mmdit", FAST)
    again.restore(state.__getitem__, CUT)
    assert steps_of(again, CUT) == steps_of(running, CUT)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_waits_for_the_device_once(accumulate: int) -> None:
    """For its loss and its gradient's norm; batches are copied beside the step."""
    engine = engine_of("mmdit", PLAIN, TrainerConfig(accumulate=accumulate))
    steps_of(engine, 0, 2)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            engine.train_step(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([each for each in caught if "synchronizing" in str(each.message)]) == 1


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in for torchrun with a single process."""
    words = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**words, "MASTER_PORT": str(29400 + os.getpid() % 500)}.items():
        monkeypatch.setenv(name, value)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("way", [Parallel.ddp, Parallel.fsdp])
def test_one_process_under_nccl_sees_the_same(way: Parallel) -> None:
    trainer = TrainerConfig(parallel=way)
    group = ProcessGroup.of(trainer, FAST)
    assert torch.distributed.get_backend() == "nccl"
    parallel = seen(engine_of("dit", FAST, trainer, group=group))
    assert_alike(parallel, seen(engine_of("dit", CPU)), rel=1e-4)
