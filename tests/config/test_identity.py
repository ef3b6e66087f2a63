"""The fast ways to a trial's key are the slow definitions, for any trial."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hptransfer.config import (
    AdamWConfig,
    BudgetConfig,
    DDPMConfig,
    DiTConfig,
    ParametrizationConfig,
    RectifiedFlowConfig,
    TrialConfig,
    UViTConfig,
)
from hptransfer.config.choices import Broken, Init, Precision, Scaling, WeightDecayMode
from hptransfer.config.identity import canonical, canonical_json, shape_signature, trial_key
from hptransfer.execution.pack_sizes import by_shape, shape_key

positive = st.floats(1e-9, 1e3)
models = st.sampled_from(
    [DiTConfig(width=width, depth=depth) for width in (24, 48, 96) for depth in (1, 2)]
    + [DiTConfig(width=48, depth=4, base_depth=2), DiTConfig(width=24, depth=4, base_depth=2)]
    + [UViTConfig(width=24), UViTConfig(width=48)]
)
parametrizations = st.builds(
    ParametrizationConfig,
    scaling=st.sampled_from(Scaling),
    init_scale=positive,
    output_scale=st.sampled_from([1.0, 2.0]),
    weight_decay_mode=st.sampled_from(WeightDecayMode),
    broken=st.sampled_from(Broken),
)
optimizers = st.builds(
    AdamWConfig,
    lr=positive,
    weight_decay=st.sampled_from([0.0, 0.1]),
    clip_norm=st.none() | positive,
)
budgets = st.builds(
    BudgetConfig, steps=st.integers(1, 500), warmup_fraction=st.floats(0, 1), batch_size=st.just(8)
)
trials = st.builds(
    TrialConfig,
    model=models,
    parametrization=parametrizations,
    objective=st.sampled_from([RectifiedFlowConfig(), DDPMConfig()]),
    optimizer=optimizers,
    budget=budgets,
    init=st.sampled_from(Init),
    precision=st.sampled_from(Precision),
    seed=st.integers(0, 10**9),
)


def slow_json(config: TrialConfig) -> str:
    return json.dumps(canonical(config), sort_keys=True, separators=(",", ":"))


def slow_key(config: TrialConfig) -> str:
    return hashlib.sha256(slow_json(config).encode()).hexdigest()[:12]


@settings(max_examples=150, deadline=None)
@given(trials)
def test_the_key_is_that_of_the_definition(config: TrialConfig) -> None:
    assert canonical_json(config) == slow_json(config)
    assert trial_key(config) == slow_key(config)
    assert shape_key(config) == slow_key(shape_signature(config))


@settings(max_examples=100, deadline=None)
@given(trials, st.data())
def test_what_is_remembered_never_outlives_a_change(config: TrialConfig, data: Any) -> None:
    """A changed copy of a trial whose key is known shares its groups, not its key."""
    trial_key(config)
    name = data.draw(st.sampled_from(["optimizer", "parametrization", "budget", "model", "seed"]))
    changed = dataclasses.replace(config, **{name: getattr(data.draw(trials), name)})
    assert trial_key(changed) == slow_key(changed)
    assert pickle.loads(pickle.dumps(config)) == config and hash(config) == hash(
        dataclasses.replace(config)
    )
    assert dataclasses.asdict(config) == dataclasses.asdict(dataclasses.replace(config))


@settings(max_examples=50, deadline=None)
@given(st.lists(trials, min_size=1, max_size=12))
def test_groups_are_those_of_equal_signatures(configs: list[TrialConfig]) -> None:
    expected: dict[str, list[TrialConfig]] = {}
    for config in configs:
        expected.setdefault(slow_key(shape_signature(config)), []).append(config)
    assert by_shape(iter(configs)) == {key: tuple(group) for key, group in expected.items()}


def test_trials_that_share_all_parts_but_one_are_grouped_by_that_part() -> None:
    base = TrialConfig(model=DiTConfig(width=48))
    changes = {
        "model": DiTConfig(width=96),
        "parametrization": ParametrizationConfig(scaling=Scaling.standard),
        "objective": DDPMConfig(),
        "budget": BudgetConfig(steps=7),
        "init": Init.paper,
        "precision": Precision.bf16,
    }
    changed = [dataclasses.replace(base, **{name: part}) for name, part in changes.items()]
    members = [
        dataclasses.replace(base, seed=1),
        dataclasses.replace(base, optimizer=AdamWConfig(lr=0.5)),
        dataclasses.replace(base, budget=BudgetConfig(warmup_fraction=0.5)),
    ]
    groups = list(by_shape([base, *changed, *members]).values())
    assert groups == [(base, *members), *((config,) for config in changed)]
