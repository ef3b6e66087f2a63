"""Packs that the device's memory does not hold run as halves, and lose nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from hptransfer.config import TrialConfig
from hptransfer.errors import MachineError
from hptransfer.training.device import is_out_of_memory
from hptransfer.training.packs import run as trial
from hptransfer.training.packs.run import run_pack, train_trial


@pytest.fixture
def group(tiny_trial: Callable[..., TrialConfig]) -> tuple[TrialConfig, ...]:
    return tuple(tiny_trial(lr, seed=seed) for seed in (0, 1) for lr in (-9.0, -7.0, -6.0, -5.0))


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.fixture
def at_most(monkeypatch):
    """Make training run out of memory above a pack size; return the sizes tried."""
    train, tried = trial.train_pack, []

    def limit(size: int) -> list[int]:
        def train_pack(configs: Sequence[TrialConfig], *rest):
            tried.append(len(configs))
            if len(configs) > size:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return train(configs, *rest)

        monkeypatch.setattr(trial, "train_pack", train_pack)
        return tried

    return limit


def test_halves_equal_the_whole_in_order(group, runtime, at_most) -> None:
    whole = run_pack(group[:7], runtime)
    tried = at_most(2)
    halved = run_pack(group[:7], runtime)
    assert tried == [7, 4, 2, 2, 3, 2, 1]
    assert [result.config for result in halved] == list(group[:7])
    assert {result.pack_size for result in whole} == {7}
    assert [result.pack_size for result in halved] == [2, 2, 2, 2, 2, 2, 1]
    for one, other in zip(whole, halved, strict=True):
        assert one.status == other.status
        assert one.loss == pytest.approx(other.loss, rel=1e-5)


@pytest.mark.parametrize("run", [lambda c, r: run_pack([c], r), train_trial])
def test_one_that_does_not_fit_is_named(group, runtime, at_most, run) -> None:
    tried = at_most(0)
    with pytest.raises(MachineError) as caught:
        run(group[0], runtime)
    assert tried == [1, 1]  # once more after memory was released
    for part in ("width 16", "batch size 8", "4 tokens", "memory of cpu", "budget.batch_size"):
        assert part in str(caught.value)


def test_one_that_fits_once_memory_is_released_is_trained(group, runtime, monkeypatch) -> None:
    train, tried = trial.train_pack, []

    def full_at_first(configs: Sequence[TrialConfig], *rest):
        tried.append(len(configs))
        return train(configs, *rest) if len(tried) > 1 else out_of_memory()

    monkeypatch.setattr(trial, "train_pack", full_at_first)
    (result,) = run_pack(group[:1], runtime)
    assert (result.pack_size, tried) == (1, [1, 1])


# As torch 2.14 and Triton raise them; "memory" cases of `tests/dry_cuda` provoke the first three.
@pytest.mark.parametrize(
    ("text", "recognised"),
    [
        ("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://", True),
        ("CUDA driver error: out of memory", True),
        ("Triton Error [CUDA]: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("Triton Error [CUDA]: invalid argument", False),
    ],
)
def test_errors_of_libraries_that_run_out_count(text: str, recognised: bool) -> None:
    try:
        try:
            raise RuntimeError(text)
        except RuntimeError as error:
            raise RuntimeError("a kernel could not be compiled") from error
    except RuntimeError as error:
        assert is_out_of_memory(error) == recognised


def test_the_error_of_a_capture_that_ran_out_counts(group, runtime, monkeypatch) -> None:
    train, tried = trial.train_pack, []

    def captured(configs: Sequence[TrialConfig], *rest):
        tried.append(len(configs))
        if len(configs) == 2:
            try:
                out_of_memory()
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")
        return train(configs, *rest)

    monkeypatch.setattr(trial, "train_pack", captured)
    assert len(run_pack(group[:2], runtime)) == 2
    assert tried == [2, 1, 1]


def test_any_other_error_is_a_bug(group, runtime, monkeypatch) -> None:
    def broken(configs: Sequence[TrialConfig], *_: object) -> None:
        tried.append(len(configs))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    tried: list[int] = []
    monkeypatch.setattr(trial, "train_pack", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run_pack(group[:2], runtime)
    assert tried == [2]
