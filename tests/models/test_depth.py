"""Depth scaling in motion: with it a deep model's output changes as much as a shallow one's."""

from __future__ import annotations

import dataclasses
import math

import torch

from hptransfer.config import DiTConfig, ParametrizationConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Init
from hptransfer.data import load_data
from hptransfer.training.packs import coordinate_check as check

SHALLOW, DEEP = 2, 6


def growth(alpha: float | None) -> float:
    """Return by how many octaves the last block's change after six steps grows per doubling."""
    torch.set_num_threads(1)
    changes = []
    for depth in (SHALLOW, DEEP):
        config = TrialConfig(
            model=DiTConfig(width=16, depth=depth, base_depth=SHALLOW if alpha else None),
            parametrization=ParametrizationConfig(depth_alpha=alpha or 1.0),
            init=Init.paper,
        )
        probing = check.probe_config(config, -7.5)
        run = check.measure_width(probing, load_data(config.data, None), RuntimeConfig())
        sizes = run.sizes[f"blocks.{depth - 1}", "update", max(check.MEASURED_STEPS)]
        changes.append(sum(map(math.log2, sizes)) / len(sizes))
    return (changes[1] - changes[0]) / math.log2(DEEP / SHALLOW)


def test_a_change_grows_with_depth_unless_depth_is_scaled() -> None:
    assert growth(None) > 0.6
    assert abs(growth(0.5)) < 0.2
    assert -0.6 < growth(1.0) < 0.1  # it shrinks while few blocks add up incoherently


def test_every_field_of_depth_scaling_counts() -> None:
    shallow = DiTConfig(depth=4, base_depth=2)
    assert shallow.depth_mult == 2.0
    assert dataclasses.replace(shallow, base_depth=None).depth_mult == 1.0
