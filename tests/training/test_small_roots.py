"""The share of entries whose root of the second moment is near epsilon, or below it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from hptransfer.config import AdamWConfig, RuntimeConfig, TrialConfig
from hptransfer.data import load_data
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.training.packs.optimizer import PackedAdamW
from hptransfer.training.packs.run import run_pack
from hptransfer.training.packs.state import start_training
from tests.support.recorded_rows import PROVENANCE

MakeTrial = Callable[..., TrialConfig]


def test_the_share_is_counted_by_hand(tiny_trial: MakeTrial) -> None:
    configs = [
        dataclasses.replace(tiny_trial(-8.0), optimizer=AdamWConfig(lr=2.0**-8, eps=eps))
        for eps in (1e-8, 1e-4, 1.0)
    ]
    dataset = load_data(configs[0].data, None)
    state = start_training(configs, dataset, torch.device("cpu"), RuntimeConfig())
    for step in range(3):
        state.train_step(step)
    optimizer = state.optimizer
    assert isinstance(optimizer, PackedAdamW)
    shares = optimizer.small_root_share(3)
    for member, config in enumerate(configs):
        own, second = config.optimizer, optimizer.moment2[member]
        assert isinstance(own, AdamWConfig)
        root = (second / (1 - own.beta2**3)).sqrt()[second > 0]
        by_hand = (root < 10 * own.eps).float().mean()
        assert shares[member] == pytest.approx(float(by_hand), abs=1e-3)
    assert shares[0] < shares[1] < shares[2] == 1.0


def test_a_row_has_the_share_of_a_trial_that_completed(tiny_trial: MakeTrial) -> None:
    sound = dataclasses.replace(tiny_trial(-8.0), optimizer=AdamWConfig(lr=2.0**-8, eps=1.0))
    diverging = dataclasses.replace(sound, optimizer=AdamWConfig(lr=1e30))
    rows = [ledger_row(r, {}, PROVENANCE) for r in run_pack([sound, diverging], RuntimeConfig())]
    assert [row["metrics"].get("small_root_share") for row in rows] == [1.0, None]
