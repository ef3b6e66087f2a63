"""Factors per role in width and depth, initial stds, and bit identity at base width."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from hptransfer.config import (
    DiTConfig,
    DiTModernConfig,
    MMDiTConfig,
    ModelConfig,
    ParametrizationConfig,
    PixArtConfig,
    TrialConfig,
    UViTConfig,
)
from hptransfer.config.choices import Broken, EpsScaling, Init, Scaling, WeightDecayMode
from hptransfer.config.identity import with_scaling, with_width
from hptransfer.errors import UserError
from hptransfer.models.parametrization.factors import Factors, Role, role_factors
from hptransfer.models.parametrization.rules import (
    ReadoutForm,
    build_model,
    forward_multipliers,
    initial_parameters,
    parameter_rules,
    rules_in_form,
)

M = 4.0
MUP = {
    Role.input: Factors(lr=1, weight_decay=1, eps=1, forward=1),
    Role.hidden: Factors(lr=1 / M, weight_decay=M, eps=1, forward=1),
    Role.output: Factors(lr=1, weight_decay=1, eps=1, forward=1 / M),
    Role.vector: Factors(lr=1, weight_decay=1, eps=1, forward=1),
    Role.finite: Factors(lr=1, weight_decay=1, eps=1, forward=1),
}
ONES = Factors(lr=1, weight_decay=1, eps=1, forward=1)


@pytest.mark.parametrize("role", list(Role))
def test_factors_of_each_role(role: Role) -> None:
    assert role_factors(role, M, ParametrizationConfig()) == MUP[role]
    assert role_factors(role, M, ParametrizationConfig(scaling=Scaling.standard)) == ONES
    embed = role_factors(role, M, ParametrizationConfig(scaling=Scaling.standard_embed))
    assert embed.lr == (M if role is Role.input else 1)


@pytest.mark.parametrize("scaling", list(Scaling))
@pytest.mark.parametrize("broken", list(Broken))
@pytest.mark.parametrize("role", list(Role))
def test_at_base_width_every_factor_is_one(role: Role, broken: Broken, scaling: Scaling) -> None:
    assert role_factors(role, 1.0, ParametrizationConfig(scaling=scaling, broken=broken)) == ONES


@pytest.mark.parametrize(
    ("broken", "role", "field", "value"),
    [
        (Broken.readout, Role.output, "forward", 1.0),
        (Broken.readout_twice, Role.output, "forward", M**-2),
        (Broken.hidden_lr, Role.hidden, "lr", 1.0),
        (Broken.hidden_lr_squared, Role.hidden, "lr", M**-2),
        (Broken.input_lr, Role.input, "lr", 1 / M),
    ],
)
def test_broken_variants_change_one_factor(
    broken: Broken, role: Role, field: str, value: float
) -> None:
    assert getattr(role_factors(role, M, ParametrizationConfig(broken=broken)), field) == value


@pytest.mark.parametrize(
    ("mode", "loss_per_step"),
    [(WeightDecayMode.mup, 1.0), (WeightDecayMode.unscaled, 1 / M)],
)
def test_hidden_weight_decay_follows_its_mode(mode: WeightDecayMode, loss_per_step: float) -> None:
    hidden = role_factors(Role.hidden, M, ParametrizationConfig(weight_decay_mode=mode))
    assert hidden.lr * hidden.weight_decay == loss_per_step


ROLES = {
    "x_embedder.proj.weight": Role.input,
    "x_embedder.proj.bias": Role.vector,
    "t_embedder.mlp.0.weight": Role.input,
    "t_embedder.mlp.2.weight": Role.hidden,
    "y_embedder.embedding_table.weight": Role.input,
    "blocks.0.attn.qkv.weight": Role.hidden,
    "blocks.1.attn.proj.weight": Role.hidden,
    "blocks.1.mlp.fc1.weight": Role.hidden,
    "blocks.0.mlp.fc2.weight": Role.hidden,
    "blocks.0.adaLN_modulation.1.weight": Role.hidden,
    "final_layer.adaLN_modulation.1.weight": Role.hidden,
    "final_layer.linear.weight": Role.output,
    "final_layer.linear.bias": Role.finite,
}


def test_roles_of_dit() -> None:
    rules = {r.name: r for r in parameter_rules(with_width(TrialConfig(), 96))}
    assert {name: rules[name].role for name in ROLES} == ROLES


@pytest.mark.parametrize("init", list(Init))
def test_all_arms_are_the_same_model_to_the_bit_at_base_width(init: Init) -> None:
    base = dataclasses.replace(TrialConfig(), init=init)
    models = [build_model(with_scaling(base, scaling)).state_dict() for scaling in Scaling]
    for other in models[1:]:
        assert all(torch.equal(models[0][name], other[name]) for name in models[0])


@pytest.mark.parametrize("init", [Init.paper, Init.adaln_zero])
def test_fan_in_inits_are_the_same_in_all_arms_at_every_width(init: Init) -> None:
    wide = dataclasses.replace(with_width(TrialConfig(), 96), init=init)
    mup_arm, standard = (initial_parameters(with_scaling(wide, s)) for s in list(Scaling)[:2])
    for name, value in mup_arm.items():
        torch.testing.assert_close(value, standard[name], rtol=1e-6, atol=0)


INIT_STD = {  # of width 96 at base 24, arXiv 2505.15270 and the released DiT
    Init.paper: {
        "x_embedder.proj.weight": 1 / 4,
        "t_embedder.mlp.2.weight": 96**-0.5,
        "y_embedder.embedding_table.weight": 1.0,
        "blocks.0.mlp.fc2.weight": 384**-0.5,
        "blocks.0.adaLN_modulation.1.weight": 96**-0.5,
        "final_layer.linear.weight": 0.0,
    },
    Init.adaln_zero: {
        "blocks.0.adaLN_modulation.1.weight": 0.0,
        "final_layer.adaLN_modulation.1.weight": 0.0,
        "blocks.0.attn.qkv.weight": 96**-0.5,
    },
    Init.original: {
        "x_embedder.proj.weight": math.sqrt(2 / (24 + 16)),  # stays what it is at base width
        "t_embedder.mlp.0.weight": 0.02,
        "t_embedder.mlp.2.weight": 0.02 / 2,  # hidden: goes on with m^-1/2
        "y_embedder.embedding_table.weight": 0.02,
        "blocks.0.attn.proj.weight": math.sqrt(2 / 48) / 2,
        "blocks.0.adaLN_modulation.1.weight": 0.0,
    },
}


@pytest.mark.parametrize("init", list(Init))
def test_initial_stds_are_the_stated_ones_and_are_drawn(init: Init) -> None:
    config = dataclasses.replace(with_width(TrialConfig(), 96), init=init)
    rules = {rule.name: rule for rule in parameter_rules(config)}
    drawn = initial_parameters(config)
    for name, std in INIT_STD[init].items():
        assert rules[name].init_std == pytest.approx(std, rel=1e-9), name
        assert float(drawn[name].std()) == pytest.approx(std, rel=0.1), name


def test_init_scale_multiplies_every_random_std_and_leaves_zeros() -> None:
    config = with_width(TrialConfig(), 48)
    doubled = dataclasses.replace(config, parametrization=ParametrizationConfig(init_scale=2.0))
    before, after = initial_parameters(config), initial_parameters(doubled)
    for name, value in before.items():
        torch.testing.assert_close(after[name], 2 * value)
    assert not after["final_layer.linear.weight"].any()


def test_output_scale_multiplies_the_readout() -> None:
    config = with_width(TrialConfig(), 48)
    scaled = dataclasses.replace(config, parametrization=ParametrizationConfig(output_scale=3.0))
    assert float(build_model(config).final_layer.linear.multiplier) == 0.5  # pyright: ignore
    assert float(build_model(scaled).final_layer.linear.multiplier) == 1.5  # pyright: ignore


@pytest.mark.parametrize("role", list(Role))
def test_eps_follows_the_width_only_under_mup_and_where_width_enters(role: Role) -> None:
    def eps(scaling: Scaling) -> float:
        config = ParametrizationConfig(scaling=scaling, eps_scaling=EpsScaling.width)
        return role_factors(role, M, config).eps

    assert eps(Scaling.mup) == (1.0 if role is Role.finite else 1 / M)
    assert eps(Scaling.standard) == eps(Scaling.standard_embed) == 1.0


@pytest.mark.parametrize("role", list(Role))
def test_standard_embed_differs_from_standard_in_the_input_rate_only(role: Role) -> None:
    embed = role_factors(role, M, ParametrizationConfig(scaling=Scaling.standard_embed))
    assert dataclasses.replace(embed, lr=1.0, weight_decay=1.0) == Factors(1, 1, 1, 1)


def test_every_parameter_has_a_stream_of_its_own() -> None:
    drawn = initial_parameters(with_width(TrialConfig(), 48))
    assert not torch.equal(drawn["blocks.0.attn.qkv.weight"], drawn["blocks.1.attn.qkv.weight"])
    reseeded = initial_parameters(dataclasses.replace(with_width(TrialConfig(), 48), seed=1))
    assert not torch.equal(drawn["blocks.0.attn.qkv.weight"], reseeded["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("scaling", list(Scaling))
def test_init_scale_multiplies_every_random_std_in_every_arm(scaling: Scaling) -> None:
    config = with_scaling(with_width(TrialConfig(), 48), scaling)
    scales = dataclasses.replace(config.parametrization, init_scale=2.0)
    before = initial_parameters(config)
    for name, value in initial_parameters(
        dataclasses.replace(config, parametrization=scales)
    ).items():
        torch.testing.assert_close(value, 2 * before[name])


DEEP = [DiTConfig, DiTModernConfig, PixArtConfig, MMDiTConfig]  # the families with depth scaling
R = 4.0


def deep(family: type[ModelConfig], alpha: float, **changes: Any) -> TrialConfig:
    """Return a trial at twice the base width and R times the base depth."""
    model = family(width=48, base_width=24, depth=8, base_depth=2)  # pyright: ignore
    parametrization = ParametrizationConfig(depth_alpha=alpha, **changes)
    return TrialConfig(model=model, parametrization=parametrization)


def is_in_block(name: str) -> bool:
    return name.startswith(("blocks.", "joint_blocks."))


@pytest.mark.parametrize("family", DEEP)
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_depth_scales_rates_and_eps_of_blocks_only(family: type[ModelConfig], alpha: float) -> None:
    """Table 1 of arXiv 2505.01618, with m = 2 and r = 4."""
    rate = R ** (alpha - 1)
    rules = parameter_rules(deep(family, alpha, eps_scaling=EpsScaling.width))
    assert any(is_in_block(rule.name) for rule in rules)
    for rule in rules:
        blocks, hidden = is_in_block(rule.name), rule.role is Role.hidden
        grows = rule.role is not Role.finite
        assert rule.factors.lr == (rate if blocks else 1) / (2 if hidden else 1), rule.name
        assert rule.factors.weight_decay == (2 if hidden else 1), rule.name
        eps = (R**-alpha if blocks else 1) / 2 if grows else 1
        assert rule.factors.eps == eps, rule.name
        assert rule.factors.forward == (0.5 if rule.role is Role.output else 1)


@pytest.mark.parametrize(
    ("family", "branches"),
    [(DiTConfig, 8), (DiTModernConfig, 8), (PixArtConfig, 8), (MMDiTConfig, 15)],
)
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_depth_scales_every_residual_branch(
    family: type[ModelConfig], branches: int, alpha: float
) -> None:
    config = deep(family, alpha)
    multipliers = forward_multipliers(config)
    assert multipliers.pop("final_layer.linear.multiplier") == 0.5
    assert len(multipliers) == branches  # one a block, two a joint block but for the last
    assert set(multipliers.values()) == {R**-alpha}
    model = build_model(config)
    assert all(float(model.get_buffer(name)) == R**-alpha for name in multipliers)


@pytest.mark.parametrize("family", DEEP)
def test_a_deep_models_branch_is_scaled_with_and_without_a_gate(family: type[ModelConfig]) -> None:
    residual = build_model(deep(family, 0.5)).get_submodule(
        "joint_blocks.0.x_block.residual" if family is MMDiTConfig else "blocks.0.residual"
    )
    x, branch, gate = torch.zeros(1, 3, 48), torch.ones(1, 3, 48), torch.full((1, 48), 3.0)
    assert torch.equal(residual(x, branch), 0.5 * branch)
    assert torch.equal(residual(x, branch, gate), 1.5 * branch)


@pytest.mark.parametrize("family", DEEP)
@pytest.mark.parametrize("base_depth", [None, 4])
def test_depth_scaling_is_off_to_the_bit_at_the_base_depth(
    family: type[ModelConfig], base_depth: int | None
) -> None:
    model = family(width=48, base_width=24, depth=4, base_depth=base_depth)  # pyright: ignore
    plain = TrialConfig(model=dataclasses.replace(model, base_depth=None))  # pyright: ignore
    for alpha in (0.5, 1.0):
        scaled = TrialConfig(model=model, parametrization=ParametrizationConfig(depth_alpha=alpha))
        assert parameter_rules(scaled) == parameter_rules(plain)
        assert forward_multipliers(scaled) == forward_multipliers(plain)
    buffers = dict(build_model(TrialConfig(model=model)).named_buffers())
    assert all(torch.equal(b, torch.ones(())) for n, b in buffers.items() if "residual" in n)


@pytest.mark.parametrize("family", DEEP)
def test_standard_scaling_knows_no_depth(family: type[ModelConfig]) -> None:
    config = deep(family, 0.5, scaling=Scaling.standard, eps_scaling=EpsScaling.width)
    assert {rule.factors for rule in parameter_rules(config)} == {ONES}
    assert set(forward_multipliers(config).values()) == {1.0}


def test_uvit_refuses_a_base_depth_but_its_own() -> None:
    assert UViTConfig(depth=4, base_depth=4).depth_mult == 1
    with pytest.raises(UserError, match="no known rule for U-ViT's long skips"):
        UViTConfig(depth=8, base_depth=4)


@pytest.mark.parametrize("family", DEEP)
def test_a_folded_deep_model_keeps_its_branch_factors(family: type[ModelConfig]) -> None:
    config = deep(family, 0.5)
    hooked, folded = build_model(config), build_model(config, "folded")
    names = [name for name in forward_multipliers(config) if "residual" in name]
    assert names and all(float(folded.get_buffer(name)) == R**-0.5 for name in names)
    assert all(torch.equal(folded.get_buffer(name), hooked.get_buffer(name)) for name in names)


def test_a_folded_readouts_std_has_its_factor() -> None:
    config = dataclasses.replace(with_width(TrialConfig(), 96), init=Init.original)
    wide = dataclasses.replace(config, model=UViTConfig(width=96, base_width=24))
    forms = (rules_in_form(wide, form) for form in (ReadoutForm.hook, ReadoutForm.folded))
    for hooked, folded in zip(*forms, strict=True):
        factor = 1 / M if hooked.role is Role.output else 1.0
        assert folded.init_std == pytest.approx(hooked.init_std * factor)
        assert folded.factors.forward == 1.0
