"""FLOPs that are counted while zeros are computed are those that torch counts on meta tensors."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from hptransfer.config import ModelConfig, TrialConfig
from hptransfer.config.trial import (
    DiTConfig,
    DiTModernConfig,
    MMDiTConfig,
    PixArtConfig,
    UViTConfig,
)
from hptransfer.training.flops import is_small, meta_flops, step_flops

FAMILIES = [DiTConfig(), DiTModernConfig(), MMDiTConfig(), PixArtConfig(), UViTConfig()]


@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: model.family)
@pytest.mark.parametrize("image_size", [8, 16])  # a few tokens, and a fused attention's number
@pytest.mark.parametrize("batch_size", [1, 6])
def test_computed_counts_are_torchs(model: ModelConfig, image_size: int, batch_size: int) -> None:
    layout = dataclasses.replace(TrialConfig().data.layout, image_size=image_size)
    assert is_small(model, layout, batch_size)
    assert step_flops(model, layout, batch_size) == meta_flops(model, layout, batch_size)


@pytest.mark.slow
def test_counting_imports_no_compiler() -> None:
    """Neither does a whole trial, so that a worker's first pack starts a second or two earlier."""
    program = """
import sys
from hptransfer.config import BudgetConfig, RuntimeConfig, TrialConfig
from hptransfer.training.packs.run import run_pack
run_pack([TrialConfig(budget=BudgetConfig(steps=1, eval_draws=1))], RuntimeConfig(device="cpu"))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
