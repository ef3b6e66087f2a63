"""The arithmetic that a GPU is set to, and what a user's module has set before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Precision
from hptransfer.training import device as of_device
from hptransfer.training.device import arithmetic, memory_text, products_library
from hptransfer.training.sampling.classifier import features_of
from hptransfer.training.target.record import matmul_peak
from tests.support.packs import base

CUDA = torch.device("cuda")  # only settings of torch change, so no such device is needed
MATMUL: Any = torch.backends.cuda.matmul
CUDNN: Any = torch.backends.cudnn
PARTS = {"matmul": MATMUL, "conv": CUDNN.conv, "rnn": CUDNN.rnn}


def set_all(**precisions: str) -> None:
    for name, precision in precisions.items():
        PARTS[name].fp32_precision = precision


def set_old(*, allowed: bool) -> None:
    MATMUL.allow_tf32 = CUDNN.allow_tf32 = allowed


# What a module of the user's may do when it is imported.
MODULES: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "allow_tf32": lambda: set_old(allowed=True),
    "precision high": lambda: torch.set_float32_matmul_precision("high"),
    "new matmul": lambda: set_all(matmul="tf32"),
    "new convolution": lambda: set_all(conv="ieee"),
    "all new": lambda: set_all(matmul="tf32", conv="ieee", rnn="ieee"),
    "new after old": lambda: (set_old(allowed=True), set_all(matmul="ieee", rnn="ieee"))[0],
    "of all backends": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    whole = torch.backends.fp32_precision  # pyright: ignore[reportAttributeAccessIssue]
    MATMUL.allow_tf32, CUDNN.allow_tf32 = False, True
    yield
    torch.backends.fp32_precision = whole  # pyright: ignore[reportAttributeAccessIssue]
    MATMUL.allow_tf32, CUDNN.allow_tf32 = False, True


def settings() -> list[Any]:
    return [*(part.fp32_precision for part in PARTS.values()), old(MATMUL), old(CUDNN)]


def trial(precision: Precision) -> TrialConfig:
    return dataclasses.replace(base("dit"), precision=precision)


def old(owner: Any) -> Any:
    try:
        return owner.allow_tf32
    except RuntimeError:
        return "torch refuses to say"


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.fp32_ieee])
@pytest.mark.parametrize("module", MODULES)
def test_both_settings_of_tf32_agree_in_training_and_are_put_back(
    module: str, precision: Precision
) -> None:
    MODULES[module]()
    before, allowed = settings(), precision is Precision.fp32
    with arithmetic(trial(precision), CUDA):
        assert settings() == [*["tf32" if allowed else "ieee"] * 3, allowed, allowed]
    assert settings() == before


def test_a_module_that_sets_them_in_its_forward_ends_no_training() -> None:
    before = settings()
    for setting in MODULES.values():
        with arithmetic(trial(Precision.bf16), CUDA):
            setting()
        assert settings() == before


@pytest.mark.parametrize("module", MODULES)
def test_nothing_else_that_reads_them_raises(module: str) -> None:
    config = base("dit")
    layout = config.data.layout
    MODULES[module]()
    before = settings()
    features_of(config.data, torch.zeros(1, layout.channels, layout.image_size, layout.image_size))
    assert settings() == before
    matmul_peak(torch.device("cpu"), Precision.fp32)
    assert settings() == before


def test_a_gpu_that_others_fill_is_called_that() -> None:
    assert memory_text(80 * 2**30, 2**30) == ", which has 80 GiB"
    text = memory_text(80 * 2**30, 31 * 2**30)
    assert text == ", which has 80 GiB, of which other processes hold 31 GiB"


def test_products_are_left_to_torch_where_attention_makes_small_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(of_device, "onednn_multiplies", lambda: True)  # as on AMD's processors

    def library(patch_size: int) -> str:
        trial = base("dit")
        model = dataclasses.replace(trial.model, patch_size=patch_size, width=96, base_width=96)
        return products_library(dataclasses.replace(trial, model=model), torch.device("cpu"))

    assert [library(patch_size) for patch_size in (4, 2)] == ["oneDNN", "oneDNN"]  # 4, 16 tokens
    assert library(patch_size=1) == "torch's default"  # 64 tokens, by the fused kernel
