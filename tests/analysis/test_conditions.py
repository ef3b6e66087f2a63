"""Null conditions, and the chance that puts them in the place of others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from hptransfer.config import BudgetConfig, MMDiTConfig, TrialConfig
from hptransfer.data import load_data
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.batches import PackBatches, conditions_at, train_batch, with_null_condition
from hptransfer.training.packs.pack import Pack


def test_a_dropped_caption_is_zero_in_every_part_and_others_stay() -> None:
    config = TrialConfig(model=MMDiTConfig())
    condition = conditions_at(config, load_data(config.data, None).train, np.arange(4))
    where = torch.tensor([False, True, False, True])
    assert len(condition) == 3
    for before, after in zip(condition, with_null_condition(config, condition, where), strict=True):
        assert after.dtype == before.dtype and not after[where].any()
        assert torch.equal(after[~where], before[~where]) and before[where].any()


def test_whether_a_label_is_dropped_says_nothing_of_its_timestep() -> None:
    config = dataclasses.replace(TrialConfig(), budget=BudgetConfig(batch_size=1000))
    batch = train_batch(config, load_data(config.data, None).train, 0)
    null = batch.condition[0] == config.data.layout.classes
    drop = torch.rand(1000, generator=torch_generator(0, "label dropout", 0)) < 0.1
    assert torch.equal(null, drop)
    assert 0.35 < float(batch.u[null].mean()) < 0.65  # uniform in [0, 1] as for the others


def test_members_have_the_batch_of_their_step_and_seed_and_share_it(
    tiny_trial: Callable[..., TrialConfig],
) -> None:
    trials = [tiny_trial(seed=seed) for seed in (5, 3, 5)]
    dataset = load_data(trials[0].data, None)
    per_seed = PackBatches(trials, dataset).at(2)
    assert len(per_seed.images) == 2  # made once for the members that share a seed
    pack = Pack(trials, torch.device("cpu"))
    spread = [pack.of_seeds(part) for part in (*per_seed[:3], *per_seed[3])]
    for member, trial in enumerate(trials):
        own = train_batch(trial, dataset.train, 2)
        for of_pack, alone in zip(spread, (*own[:3], *own[3]), strict=True):
            assert torch.equal(of_pack[member], alone)
    of_one_seed = Pack(trials[::2], torch.device("cpu")).of_seeds(per_seed.images[:1])
    assert of_one_seed.stride(0) == 0  # a view: nothing is copied
