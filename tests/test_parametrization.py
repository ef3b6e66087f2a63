"""Factors per role, bit identity at base width, and the `mup` package as an oracle."""

from __future__ import annotations

import copy
import dataclasses
import math

import mup
import pytest
import torch

from hptransfer.config import DigitsConfig, DiTConfig, ParametrizationConfig, TrialConfig
from hptransfer.identity import with_scaling, with_width
from hptransfer.models import build_architecture
from hptransfer.parametrization import (
    Factors,
    Role,
    build_model,
    factors,
    initial_parameters,
    param_groups,
    parameter_rules,
)
from hptransfer.vocabulary import Broken, EpsScaling, Init, Scaling, WeightDecayMode

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
    assert factors(role, M, ParametrizationConfig()) == MUP[role]
    assert factors(role, M, ParametrizationConfig(scaling=Scaling.standard)) == ONES
    embed = factors(role, M, ParametrizationConfig(scaling=Scaling.standard_embed))
    assert embed.lr == (M if role is Role.input else 1)


@pytest.mark.parametrize("scaling", list(Scaling))
@pytest.mark.parametrize("broken", list(Broken))
@pytest.mark.parametrize("role", list(Role))
def test_at_base_width_every_factor_is_one(role: Role, broken: Broken, scaling: Scaling) -> None:
    assert factors(role, 1.0, ParametrizationConfig(scaling=scaling, broken=broken)) == ONES


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
    assert getattr(factors(role, M, ParametrizationConfig(broken=broken)), field) == value


@pytest.mark.parametrize(
    ("mode", "loss_per_step"),
    [(WeightDecayMode.mup, 1.0), (WeightDecayMode.unscaled, 1 / M)],
)
def test_hidden_weight_decay_follows_its_mode(mode: WeightDecayMode, loss_per_step: float) -> None:
    hidden = factors(Role.hidden, M, ParametrizationConfig(weight_decay_mode=mode))
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


def mup_reference(width: int) -> torch.nn.Module:
    """Build our DiT with mup's own readout and base shapes."""

    def build(d: int) -> torch.nn.Module:
        model = build_architecture(DiTConfig(width=d), DigitsConfig())
        outputs = len(model.get_parameter("final_layer.linear.bias"))
        model.final_layer.linear = mup.MuReadout(  # pyright: ignore
            d, outputs, readout_zero_init=True
        )
        return model

    model = build(width)
    mup.set_base_shapes(model, build(24), delta=build(48), rescale_params=False)
    return model


@pytest.mark.parametrize("width", [24, 48, 96])
def test_learning_rates_and_decays_equal_mu_adamw(width: int) -> None:
    reference = mup_reference(width)
    optimizer = mup.MuAdamW(reference.parameters(), lr=0.5, weight_decay=0.25)
    by_id = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    theirs = {name: by_id[id(p)] for name, p in reference.named_parameters()}
    ours = {
        rule.name: (0.5 * rule.factors.lr, 0.25 * rule.factors.weight_decay)
        for rule in parameter_rules(with_width(TrialConfig(), width))
    }
    assert ours == theirs


@pytest.mark.parametrize("width", [24, 48, 96])
def test_three_adamw_steps_equal_mup(width: int) -> None:
    config = dataclasses.replace(with_width(TrialConfig(), width), init=Init.paper)
    model, reference = build_model(config), mup_reference(width)
    reference.load_state_dict(model.state_dict(), strict=True)
    ours = torch.optim.AdamW(param_groups(model, config))
    lr = config.optimizer.lr
    betas = (config.optimizer.beta1, config.optimizer.beta2)
    theirs = mup.MuAdamW(reference.parameters(), lr=lr, betas=betas, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        x, target = (torch.randn(16, 1, 8, 8, generator=generator) for _ in range(2))
        t, y = torch.rand(16, generator=generator) * 1000, torch.arange(16) % 10
        outputs = [network(x, t, y) for network in (model, reference)]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
        for output, optimizer in zip(outputs, (ours, theirs), strict=True):
            optimizer.zero_grad()
            (output - target).square().mean().backward()
            optimizer.step()


def test_deepcopy_keeps_the_readout_factor() -> None:
    model = build_model(dataclasses.replace(with_width(TrialConfig(), 96), init=Init.paper))
    torch.nn.init.normal_(model.final_layer.linear.weight)  # pyright: ignore
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 500.0]), torch.tensor([1, 10])
    assert torch.equal(model(x, t, y), copy.deepcopy(model)(x, t, y))


def test_param_groups_hold_every_parameter_once() -> None:
    config = with_width(TrialConfig(), 48)
    model = build_model(config)
    names = [name for group in param_groups(model, config) for name in group["names"]]  # pyright: ignore
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("role", list(Role))
def test_eps_follows_the_width_only_under_mup_and_where_width_enters(role: Role) -> None:
    def eps(scaling: Scaling) -> float:
        config = ParametrizationConfig(scaling=scaling, eps_scaling=EpsScaling.width)
        return factors(role, M, config).eps

    assert eps(Scaling.mup) == (1.0 if role is Role.finite else 1 / M)
    assert eps(Scaling.standard) == eps(Scaling.standard_embed) == 1.0


@pytest.mark.parametrize("role", list(Role))
def test_standard_embed_differs_from_standard_in_the_input_rate_only(role: Role) -> None:
    embed = factors(role, M, ParametrizationConfig(scaling=Scaling.standard_embed))
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
