"""The identity of a trial, and the sentences for configs that cannot be."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hptransfer.config import (
    AdamWConfig,
    BudgetConfig,
    CustomConfig,
    DDPMConfig,
    DiTConfig,
    FeaturesConfig,
    MuonConfig,
    ParametrizationConfig,
    TrialConfig,
)
from hptransfer.config.choices import Broken, EpsScaling, Init, Precision, Scaling, WeightDecayMode
from hptransfer.config.hyperparameters import HYPERPARAMETERS, value_text, with_hyperparameters
from hptransfer.config.identity import (
    arm_of,
    canonical_json,
    shape_signature,
    trial_key,
    with_scaling,
    with_width,
)
from hptransfer.config.sweep import Axis, current_rule
from hptransfer.errors import UserError

# A released default never changes: a changed one would give old rows another meaning.
RELEASED_DEFAULTS = {
    "model": {
        "family": "dit",
        "width": 24,
        "base_width": 24,
        "depth": 2,
        "head_dim": 8,
        "patch_size": 4,
        "mlp_ratio": 4,
        "label_dropout": 0.1,
        "base_depth": None,
        "learn_sigma": False,
    },
    "parametrization": {
        "scaling": "mup",
        "init_scale": 1.0,
        "output_scale": 1.0,
        "weight_decay_mode": "mup",
        "decayed": "all",
        "eps_scaling": "none",
        "broken": "none",
        "depth_alpha": 1.0,
        "base_batch_size": None,
        "base_steps": None,
        "duration_exponent": 0.5,
        "most_one_minus_beta": 0.5,
    },
    "objective": {
        "name": "rectified_flow",
        "repa_weight": 0.0,
        "repa_depth": None,
        "auxiliary_weight": None,
        "timesteps": "uniform",
        "logit_mean": 0.0,
        "logit_std": 1.0,
        "prediction": "v",
        "least_time": 0.05,
        "timestep_shift": None,
    },
    "data": {"name": "digits", "sha256": "8b3b6ae90863430b", "held_out": 360},
    "optimizer": {
        "name": "adamw",
        "lr": 0.015625,
        "lr_mult_input": 1.0,
        "lr_mult_hidden": 1.0,
        "lr_mult_output": 1.0,
        "lr_mult_vector": 1.0,
        "lr_mult_adaln": 1.0,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-08,
        "weight_decay": 0.0,
        "decay_timescale": None,
        "clip_norm": None,
    },
    "budget": {
        "steps": 150,
        "batch_size": 64,
        "schedule": "linear_decay",
        "warmup_fraction": 0.07,
        "decay_fraction": 0.3,
        "weights": "raw",
        "ema_fraction": 0.05,
        "judged_ema_fractions": [],
        "eval_samples": 360,
        "eval_draws": 6,
        "stop_after": None,
    },
    "quality": {
        "samples": 0,
        "steps": 20,
        "guidance": 1.0,
        "sampler": None,
        "extractor": "",
        "decoder": "",
        "version": "",
        "reference": "",
        "reference_sha256": "",
    },
    "init": "adaln_zero",
    "precision": "fp32",
    "seed": 0,
}


def test_released_defaults_never_change() -> None:
    defaults = json.loads(json.dumps(dataclasses.asdict(TrialConfig()), default=lambda e: e.value))
    assert defaults == RELEASED_DEFAULTS


def test_trial_key_is_the_recorded_one() -> None:
    config = with_hyperparameters(with_width(TrialConfig(), 48), {"log2_lr": -7.5})
    assert canonical_json(config) == (
        '{"data":{"name":"digits"},"model":{"family":"dit","width":48},'
        '"objective":{"name":"rectified_flow"},"optimizer":{"lr":0.00552427172802}}'
    )
    assert trial_key(config) == "43fe65ed5fb1"


def test_shift_and_columns_of_latents_left_recorded_keys_as_they_were() -> None:
    data = FeaturesConfig(scale=0.18215, sha256="75a683bb20926333")
    assert trial_key(TrialConfig(data=data)) == "bdb0fba71267"
    shifted = dataclasses.replace(data, shift=(0.1, 0.2, 0.3, 0.4))
    assert trial_key(TrialConfig(data=shifted)) != "bdb0fba71267"


def test_arms_are_one_trial_at_base_width_and_differ_elsewhere() -> None:
    at_base = [with_scaling(TrialConfig(), scaling) for scaling in Scaling]
    assert len({trial_key(config) for config in at_base}) == 1
    assert {arm_of(config) for config in at_base} == {"shared"}
    wider = [with_scaling(with_width(TrialConfig(), 48), scaling) for scaling in Scaling]
    assert len({trial_key(config) for config in wider}) == 4
    assert [arm_of(config) for config in wider] == ["mup", "standard", "standard_embed", "complete"]


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_keys_agree_exactly_where_twelve_digits_do(a: float, b: float) -> None:
    first, second = (with_hyperparameters(TrialConfig(), {"log2_lr": x}) for x in (a, b))
    same = f"{first.optimizer.lr:.12g}" == f"{second.optimizer.lr:.12g}"
    assert (trial_key(first) == trial_key(second)) == same


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(TrialConfig(), seed=1),
        dataclasses.replace(TrialConfig(), init=Init.paper),
        dataclasses.replace(TrialConfig(), precision=Precision.bf16),
        dataclasses.replace(TrialConfig(), budget=BudgetConfig(steps=151)),
        dataclasses.replace(TrialConfig(), model=DiTConfig(base_width=8)),
        with_width(TrialConfig(), 48),
    ],
)
def test_whatever_changes_a_number_changes_the_key(changed: TrialConfig) -> None:
    assert trial_key(changed) != trial_key(TrialConfig())


def test_a_broken_parametrization_is_another_trial_away_from_base_width() -> None:
    broken = dataclasses.replace(
        with_width(TrialConfig(), 48), parametrization=ParametrizationConfig(broken=Broken.readout)
    )
    assert trial_key(broken) != trial_key(with_width(TrialConfig(), 48))


def test_axis_points_include_both_ends() -> None:
    assert Axis(-10, -8, 0.5).points == (-10.0, -9.5, -9.0, -8.5, -8.0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: DiTConfig(width=28),
            "`model.width` must be a multiple of the head dimension, but got width=28 with "
            "head_dim=8. Choose a multiple of 8 or set model.head_dim.",
        ),
        (
            lambda: Axis(-3, -3),
            "A search axis needs low < high and step > 0, so that it has two points or more, but "
            "got low=-3, high=-3, step=1.0.",
        ),
        (lambda: AdamWConfig(lr=0.0), "`optimizer.lr` must be positive, but got 0.0."),
        (
            lambda: BudgetConfig(warmup_fraction=2.0),
            "`budget.warmup_fraction` must lie between 0 and 1, but got 2.0.",
        ),
        (
            lambda: TrialConfig(model=DiTConfig(patch_size=3)),
            "`model.patch_size` must divide the image size, but got patch_size=3 with 8 pixels a "
            "side (digits). Choose a divisor.",
        ),
    ],
)
def test_impossible_configs_are_one_sentence(make: object, sentence: str) -> None:
    assert callable(make)
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == sentence


def _changed(value):
    if isinstance(value, str):
        return value + "x"
    if value is None:
        return 1
    if isinstance(value, tuple):
        return (*value, 0.5)
    if isinstance(value, float):
        return value / 2 if value else 0.5
    if isinstance(value, int):
        return 4 if value == 8 else 2 * value or 100  # head_dim 4 still divides both widths
    return next(other for other in list(type(value)) if other is not value)  # pyright: ignore


FIELDS = [
    (group, f.name)
    for group in ("model", "parametrization", "objective", "data", "optimizer", "budget", "quality")
    for f in dataclasses.fields(getattr(TrialConfig(), group))
    if (group, f.name) != ("optimizer", "name")  # each optimizer has its own
    # Those of quality have no effect without each other: tests/training/test_own_features.py.
    and (group != "quality" or f.name in ("samples", "steps", "guidance"))
]


FLOW = TrialConfig().objective
OBJECTIVE_OF = {"learn_sigma": DDPMConfig()}  # what a field's other value needs
MODEL_OF = {"auxiliary_weight": CustomConfig(factory="a:b", width=48)}


@pytest.mark.parametrize(("group", "name"), FIELDS)
def test_every_field_of_a_trial_is_part_of_its_key(group: str, name: str) -> None:
    wide = dataclasses.replace(
        with_width(TrialConfig(), 48), objective=OBJECTIVE_OF.get(name, FLOW)
    )
    wide = dataclasses.replace(wide, model=MODEL_OF.get(name, wide.model))
    part = getattr(wide, group)
    other = dataclasses.replace(part, **{name: _changed(getattr(part, name))})
    assert trial_key(dataclasses.replace(wide, **{group: other})) != trial_key(wide)


def test_only_the_base_width_itself_is_shared() -> None:
    narrower = with_width(TrialConfig(), 16)
    assert [arm_of(with_scaling(narrower, s)) for s in Scaling] == [s.value for s in Scaling]


def test_a_broken_parametrization_is_the_same_trial_at_base_width() -> None:
    broken = ParametrizationConfig(broken=Broken.readout)
    assert trial_key(dataclasses.replace(TrialConfig(), parametrization=broken)) == trial_key(
        TrialConfig()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"scaling": Scaling.standard},
        {"weight_decay_mode": WeightDecayMode.independent},
        {"eps_scaling": EpsScaling.width},
        {"broken": Broken.readout},
    ],
)
def test_members_of_a_pack_share_their_parametrization(changes: dict) -> None:
    other = dataclasses.replace(TrialConfig(), parametrization=ParametrizationConfig(**changes))
    assert shape_signature(other) != shape_signature(TrialConfig())


@pytest.mark.parametrize("name", list(HYPERPARAMETERS))
def test_hyperparameters_come_back_from_their_axis(name: str) -> None:
    hp = HYPERPARAMETERS[name]
    usual, muon = TrialConfig(), TrialConfig(optimizer=MuonConfig())
    usual = dataclasses.replace(usual, model=MODEL_OF.get(name, usual.model))
    plain = usual if hasattr(getattr(usual, hp.group), hp.field) else muon
    config = with_hyperparameters(plain, {f"log2_{name}": -3.0})
    value = getattr(getattr(config, hp.group), hp.field)
    assert value == (1 - 1 / 8 if name.startswith("one_minus_") else 1 / 8)
    assert hp.log2(config) == -3.0


def test_an_axis_ends_on_its_grid() -> None:
    with pytest.raises(UserError, match="must be a multiple of its step"):
        Axis(-10, -8.5, 1.0)


def test_the_base_width_too_must_be_possible() -> None:
    with pytest.raises(UserError, match=r"`model.base_width` must be a multiple of the head"):
        DiTConfig(base_width=28)


def test_ema_decay_has_its_horizon_as_a_share_of_the_run() -> None:
    assert BudgetConfig(steps=200, ema_fraction=0.05).ema_decay == pytest.approx(math.exp(-1 / 10))


@pytest.mark.parametrize("base_depth", [1, 4])
def test_arms_differ_at_base_width_where_depth_is_scaled(base_depth: int) -> None:
    deep = dataclasses.replace(TrialConfig(), model=DiTConfig(base_depth=base_depth))
    arms = [with_scaling(deep, scaling) for scaling in Scaling]
    assert [arm_of(config) for config in arms] == [scaling.value for scaling in Scaling]
    assert len({trial_key(config) for config in arms}) == len(Scaling)


def test_a_verdict_of_earlier_versions_is_read_where_nobody_had_changed_it() -> None:
    earlier = {"max_regret": 0.01, "gain_share": 0.25, "sure": 0.95, "likely": 0.25}
    assert current_rule({**earlier, "edge_share": 0.05}) == {"max_regret": 0.01}
    assert current_rule({"sure": 0.95}) == {"sure": 0.95}
    with pytest.raises(UserError, match="the file sets gain_share"):
        current_rule({**earlier, "gain_share": 0.5})


@pytest.mark.parametrize(
    ("axis", "value", "text"),
    [
        ("momentum", 0.9995, "0.9995"),
        ("momentum", 0.99967, "0.99967"),
        ("momentum", 0.9, "0.9"),
        ("momentum", 0.4567, "0.457"),
        ("momentum", 1.0, "1"),
        ("momentum", 1.0052, "1.0052"),
        ("log2_lr", 0.9995, "1"),  # in octaves it is
        ("log2_lr", 1234.5, "1230"),
    ],
)
def test_a_value_near_one_is_told_by_its_distance_from_one(
    axis: str, value: float, text: str
) -> None:
    assert value_text(axis, value) == text
