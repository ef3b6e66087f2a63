"""`complete` is Table 1 of arXiv 2512.22382: in its factors, drawn tensors and first updates."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import pytest
import torch

import hptransfer
from hptransfer.config import (
    AdamWConfig,
    BudgetConfig,
    DiTConfig,
    MMDiTConfig,
    ModelConfig,
    ParametrizationConfig,
    PixArtConfig,
    TrialConfig,
)
from hptransfer.config.choices import Broken, Decayed, Init, Scaling, WeightDecayMode
from hptransfer.config.hyperparameters import hps, with_hyperparameters
from hptransfer.config.identity import arm_of, trial_key, with_scaling
from hptransfer.errors import UserError
from hptransfer.models.parametrization.factors import (
    Factors,
    Role,
    adam_betas,
    base_weight_decay,
    branch_factor,
    clock_of,
    clock_ratio,
    folded,
    role_factors,
)
from hptransfer.models.parametrization.roles import shaped_parameters
from hptransfer.models.parametrization.rule_table import role_table
from hptransfer.models.parametrization.rules import (
    build_model,
    decay_timescale,
    forward_multipliers,
    initial_parameters,
    param_groups,
    parameter_rules,
)
from hptransfer.training.packs.optimizer import PackedAdamW
from hptransfer.training.packs.pack import Pack
from hptransfer.transfer.exports.factors import resolved

M, R, B, D = 4.0, 9.0, 4.0, 64.0
KAPPA = B / D
COMPLETE = ParametrizationConfig(scaling=Scaling.complete)


def printed(role: Role, a: float, r: float) -> tuple[float, float, float]:
    """Return learning rate, weight decay and epsilon as the paper prints them, at the ratios."""
    root, depth_lr, depth_eps = math.sqrt(B / D), r ** (a - 1), r**-a
    match role:
        case Role.hidden:
            return depth_lr / M * root, M * root, depth_eps / M / root
        case Role.vector:  # biases and gains
            return depth_lr * root, root, depth_eps / M / root
        case Role.finite:  # gains of queries and keys
            return depth_lr * root, root, depth_eps / root
        case Role.input:  # outside of blocks, where r is 1
            return root, root, 1 / M / root
        case Role.output:
            return root / M, M * root, 1 / root


@pytest.mark.parametrize("a", [0.5, 1.0])
@pytest.mark.parametrize("role", list(Role))
def test_every_factor_is_that_of_the_printed_table(role: Role, a: float) -> None:
    own = dataclasses.replace(COMPLETE, depth_alpha=a)
    r = 1.0 if role in (Role.input, Role.output) else R
    found = role_factors(role, M, own, r, KAPPA)
    found = folded(found, found.forward)  # the paper has the readout's 1/m in its weight
    assert (found.lr, found.weight_decay, found.eps) == pytest.approx(printed(role, a, r))
    assert branch_factor(R, own) == R**-a


@pytest.mark.parametrize("role", list(Role))
def test_at_the_base_values_every_factor_is_one(role: Role) -> None:
    assert role_factors(role, 1.0, COMPLETE, 1.0, 1.0) == Factors(1.0, 1.0, 1.0, 1.0)
    assert branch_factor(1.0, COMPLETE) == 1.0


@pytest.mark.parametrize("scaling", [s for s in Scaling if s is not Scaling.complete])
def test_no_other_parametrization_follows_batch_and_duration(scaling: Scaling) -> None:
    config = with_scaling(grown("steps", 4, weight_decay=0.1), scaling)
    assert clock_of(config) == 1.0
    assert adam_betas(config) == (config.optimizer.beta1, config.optimizer.beta2)
    plain = dataclasses.replace(config.parametrization, base_batch_size=None, base_steps=None)
    without = dataclasses.replace(config, parametrization=plain)
    assert parameter_rules(config) == parameter_rules(without)


def test_the_exponent_of_the_duration_is_that_of_the_rate() -> None:
    for exponent in (0.0, 0.32, 0.5):
        root = math.sqrt(clock_ratio(B, D, exponent))
        assert root == pytest.approx(math.sqrt(B) * D**-exponent)
    assert clock_ratio(B, D) == B / D


# Real models: the base trial, and one that is larger on one axis.

GROWN = {
    "width": lambda c, k: dataclasses.replace(c, model=dataclasses.replace(c.model, width=16 * k)),
    "depth": lambda c, k: dataclasses.replace(c, model=dataclasses.replace(c.model, depth=2 * k)),
    "batch_size": lambda c, k: dataclasses.replace(
        c, budget=dataclasses.replace(c.budget, batch_size=8 * k)
    ),
    "steps": lambda c, k: dataclasses.replace(
        c, budget=dataclasses.replace(c.budget, steps=100 * k)
    ),
}
# Powers of the ratio that an axis gives: r, then κ = b/d with d = batch x steps.
CLOCK = {"width": 0.0, "depth": 0.0, "batch_size": 0.0, "steps": -1.0}


def grown(
    axis: str,
    times: int,
    family: type[ModelConfig] = DiTConfig,
    *,
    a: float = 1.0,
    weight_decay: float = 0.0,
    **of_parametrization: Any,
) -> TrialConfig:
    sizes = {"width": 16, "base_width": 16, "depth": 2, "base_depth": 2}
    base = TrialConfig(
        model=family(**sizes),  # pyright: ignore[reportArgumentType]
        parametrization=ParametrizationConfig(
            scaling=Scaling.complete,
            depth_alpha=a,
            base_batch_size=8,
            base_steps=100,
            **of_parametrization,
        ),
        optimizer=AdamWConfig(lr=2.0**-7, eps=1e-30, weight_decay=weight_decay),
        budget=BudgetConfig(batch_size=8, steps=100),
        init=Init.paper,
    )
    return GROWN[axis](base, times)


@cache
def sizes(
    axis: str, times: int, family: type[ModelConfig], a: float
) -> dict[str, tuple[float, float]]:
    """Return the std of the drawn tensor, and the RMS of AdamW's first update, by parameter.

    The gradients are all 1: the first step of Adam does not depend on their size.
    """
    config = grown(axis, times, family, a=a)
    model = build_model(config)
    drawn = {name: float(value.detach().std()) for name, value in model.named_parameters()}
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    torch.optim.AdamW(param_groups(model, config)).step()  # pyright: ignore[reportArgumentType]
    changes = {
        n: (value - before[n]).square().mean().sqrt() for n, value in model.named_parameters()
    }
    return {name: (drawn[name], float(changes[name])) for name in drawn}


@pytest.mark.parametrize("family", [DiTConfig, PixArtConfig, MMDiTConfig])
@pytest.mark.parametrize("axis", list(GROWN))
@pytest.mark.parametrize("a", [0.5, 1.0])
def test_drawn_stds_and_first_updates_have_the_exponents(
    family: type[ModelConfig], axis: str, a: float
) -> None:
    times = 4
    small, large = (sizes(axis, k, family, a) for k in (1, times))
    config = grown(axis, 1, family, a=a)
    for shaped in shaped_parameters(config.model, config.data.layout):
        (std, update), (std_large, update_large) = small[shaped.name], large[shaped.name]
        hidden = shaped.role is Role.hidden
        width = (-0.5, -1.0) if axis == "width" and hidden else (0.0, 0.0)
        depth = a - 1 if axis == "depth" and shaped.in_block else 0.0
        rate = width[1] + depth + CLOCK[axis] / 2
        assert math.log(update_large / update, times) == pytest.approx(rate, abs=0.01), shaped.name
        if std > 0 and math.prod(shaped.shape) >= 256:
            assert math.log(std_large / std, times) == pytest.approx(width[0], abs=0.1), shaped.name
    assert forward_multipliers(grown("depth", times, family, a=a))[
        "joint_blocks.0.x_block.residual.multiplier"
        if family is MMDiTConfig
        else "blocks.0.residual.multiplier"
    ] == pytest.approx(times**-a)


@pytest.mark.parametrize("axis", list(GROWN))
def test_betas_epsilon_and_decay_follow_the_axis(axis: str) -> None:
    base, large = (grown(axis, k, MMDiTConfig, weight_decay=0.1) for k in (1, 4))
    kappa = 4.0 ** CLOCK[axis]
    for before, after in zip(adam_betas(base), adam_betas(large), strict=True):
        assert 1 - after == pytest.approx((1 - before) * kappa)
    rules = zip(parameter_rules(base), parameter_rules(large), strict=False)
    for before, after in rules if axis != "depth" else ():
        grows = axis == "width" and before.role is not Role.finite
        eps = after.factors.eps / before.factors.eps
        assert eps == pytest.approx((1 / 4 if grows else 1) * kappa**-0.5), before.name
        assert after.factors.lr * after.factors.weight_decay == pytest.approx(kappa), before.name


def test_a_shorter_run_raises_one_minus_beta_no_farther_than_the_config_says() -> None:
    base = grown("steps", 1)
    short = dataclasses.replace(base, budget=dataclasses.replace(base.budget, steps=10))
    beta1, beta2 = adam_betas(short)
    assert (beta1, 1 - beta2) == (0.5, pytest.approx(10 * (1 - base.optimizer.beta2)))
    loose = dataclasses.replace(short.parametrization, most_one_minus_beta=1.0)
    assert adam_betas(dataclasses.replace(short, parametrization=loose))[0] == pytest.approx(0.0)
    low = dataclasses.replace(short, optimizer=AdamWConfig(beta1=0.2))
    assert adam_betas(low)[0] == pytest.approx(0.2)  # a base value beyond the limit stays


def test_at_the_base_values_all_arms_are_one_trial_and_nowhere_else() -> None:
    base = grown("width", 1)
    assert {arm_of(with_scaling(base, s)) for s in Scaling} == {"shared"}
    assert len({trial_key(with_scaling(base, s)) for s in Scaling}) == 1
    for axis in GROWN:
        arms = [with_scaling(grown(axis, 4), scaling) for scaling in Scaling]
        assert [arm_of(arm) for arm in arms] == [scaling.value for scaling in Scaling], axis
        assert len({trial_key(arm) for arm in arms}) == len(Scaling)
    unset = dataclasses.replace(base, parametrization=COMPLETE)
    assert trial_key(unset) == trial_key(base)
    longer = dataclasses.replace(unset, budget=BudgetConfig(steps=900, batch_size=64))
    assert longer.is_base and clock_of(longer) == 1.0  # null: the trial's own values


def test_samples_of_the_same_number_in_larger_batches_are_not_the_base() -> None:
    config = grown("batch_size", 4)
    halved = dataclasses.replace(config, budget=BudgetConfig(batch_size=32, steps=25))
    assert (halved.batch_mult, halved.duration_mult) == (4.0, 1.0)
    assert clock_of(halved) == 4.0 and not halved.is_base


# One rule for weight decay, in packs, groups and exports.


@pytest.mark.parametrize("decayed", list(Decayed))
@pytest.mark.parametrize("mode", list(WeightDecayMode))
@pytest.mark.parametrize("scaling", [Scaling.mup, Scaling.complete])
@pytest.mark.parametrize("a", [0.5, 1.0])
def test_pack_groups_and_exports_decay_alike(
    a: float, scaling: Scaling, mode: WeightDecayMode, decayed: Decayed
) -> None:
    config = grown("depth", 4, a=a, weight_decay=0.5, weight_decay_mode=mode, decayed=decayed)
    config = with_scaling(config, scaling)
    pack = Pack([config], torch.device("cpu"))
    shares = PackedAdamW(pack).decay
    assert shares is not None
    of_entries = shares.expand_as(pack.flat)[0]
    parts = of_entries.split([segment.size for segment in pack.segments])
    of_pack = {c.name: float(part[0]) for c, part in zip(pack.segments, parts, strict=True)}
    model = build_model(config)
    of_groups = {
        name: group["lr"] * group["weight_decay"]  # pyright: ignore
        for group in param_groups(model, config)
        for name in group["names"]  # pyright: ignore
    }
    of_exports = {p.name: p.lr * p.weight_decay for p in resolved(config)}
    assert of_pack == pytest.approx(of_groups, rel=1e-5)
    assert of_exports == pytest.approx(of_groups, rel=1e-9)


def test_a_block_decays_as_the_tables_say_at_half_an_exponent() -> None:
    """At r = 4 and a = ½ a pack used to decay by 1.0e-3 a step, and the trainer by 5.0e-4."""
    config = grown("depth", 4, a=0.5)
    config = dataclasses.replace(config, optimizer=AdamWConfig(lr=0.01, weight_decay=0.1))
    for scaling in (Scaling.mup, Scaling.complete):
        found = {p.name: p.lr * p.weight_decay for p in resolved(with_scaling(config, scaling))}
        assert found["blocks.0.mlp.fc1.weight"] == pytest.approx(5.0e-4)
        assert found["t_embedder.mlp.2.weight"] == pytest.approx(1.0e-3)
    independent = grown(
        "depth", 4, a=0.5, weight_decay=0.1, weight_decay_mode=WeightDecayMode("independent")
    )
    assert {round(p.lr * p.weight_decay, 9) for p in resolved(independent)} == {0.1}


def test_only_matrices_decay_where_the_config_says_so() -> None:
    config = grown("width", 4, weight_decay=0.1, decayed=Decayed.matrices)
    decays = {rule.name: rule.factors.weight_decay > 0 for rule in parameter_rules(config)}
    roles = {rule.name: rule.role for rule in parameter_rules(config)}
    assert {roles[name] for name, does in decays.items() if does} == {Role.hidden, Role.output}
    assert not decays["y_embedder.embedding_table.weight"]
    assert not decays["blocks.0.mlp.fc1.bias"]
    before = initial_parameters(config)["y_embedder.embedding_table.weight"]
    model = build_model(config)
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    torch.optim.AdamW(param_groups(model, config)).step()  # pyright: ignore[reportArgumentType]
    assert torch.equal(model.get_parameter("y_embedder.embedding_table.weight"), before)
    fc1 = model.get_parameter("blocks.0.mlp.fc1.weight")
    assert not torch.equal(fc1, initial_parameters(config)["blocks.0.mlp.fc1.weight"])


# Weight decay as a time scale.


@pytest.mark.parametrize("mode", list(WeightDecayMode))
def test_a_time_scale_is_the_decay_of_every_weight_outside_blocks(mode: WeightDecayMode) -> None:
    for axis in GROWN:
        config = grown(axis, 4, weight_decay_mode=mode)
        config = dataclasses.replace(config, optimizer=AdamWConfig(lr=0.01, decay_timescale=0.25))
        share = 1 / (0.25 * config.budget.steps)
        found = {p.name: p.lr * p.weight_decay for p in resolved(config)}
        assert found["y_embedder.embedding_table.weight"] == pytest.approx(share), axis
        told = {r.name: decay_timescale(config, r) for r in parameter_rules(config)}
        assert told["y_embedder.embedding_table.weight"] == pytest.approx(0.25)


def test_a_decay_that_is_kept_keeps_its_time_scale_under_complete() -> None:
    scales = {
        axis: role_table(grown(axis, 4, weight_decay=0.1))["roles"]["hidden"]["decay_timescale"]
        for axis in GROWN
    }
    at_base = 1 / (2.0**-7 * 0.1 * 100)
    assert all(scale["low"] == scale["high"] for scale in scales.values())
    assert [scale["low"] for scale in scales.values()] == pytest.approx([at_base] * len(scales))
    assert role_table(grown("width", 4))["roles"]["hidden"]["decay_timescale"] is None


def test_a_time_scale_is_a_hyperparameter() -> None:
    config = with_hyperparameters(grown("steps", 4), {"log2_decay_timescale": -2.0})
    assert isinstance(config.optimizer, AdamWConfig)
    assert config.optimizer.decay_timescale == 0.25
    assert hps(config, ["log2_decay_timescale"]) == {"log2_decay_timescale": -2.0}


def test_the_groups_of_a_loop_of_ones_own_leave_vectors_out_of_decay() -> None:
    def make_model(width: int) -> torch.nn.Module:
        layers = [torch.nn.Linear(8, width), torch.nn.Linear(width, width)]
        return torch.nn.Sequential(*layers, torch.nn.Linear(width, 2))

    model = hptransfer.mup.build(make_model, width=32, base_width=16)
    groups = hptransfer.mup.param_groups(model, lr=0.01, weight_decay=0.1, decayed="matrices")
    decays = {group["name"]: group["weight_decay"] for group in groups}
    assert {name for name, decay in decays.items() if decay > 0} == {"hidden", "output"}
    assert decays["hidden"] == 0.2


def test_two_ways_to_say_the_decay_are_refused() -> None:
    with pytest.raises(UserError, match="must be 0 beside it"):
        AdamWConfig(weight_decay=0.1, decay_timescale=1.0)
    assert base_weight_decay(TrialConfig(optimizer=AdamWConfig(weight_decay=0.1))) == 0.1


def test_the_rules_stand_beside_the_printed_table_and_agree() -> None:
    config = grown("depth", 4, a=0.5)
    config = GROWN["steps"](GROWN["width"](config, 4), 8)
    table = role_table(config)
    assert table["coincide"] and table["clock_ratio"] == 1 / 8
    for row in table["printed"]:
        for name, ours in row["ours"].items():
            assert ours == pytest.approx(row["published"][name]), row
    broken = dataclasses.replace(config.parametrization, broken=Broken.hidden_lr)
    rows = role_table(dataclasses.replace(config, parametrization=broken))["printed"]
    apart = {
        row["role"]
        for row in rows
        if row["ours"]["lr"]["low"] != pytest.approx(row["published"]["lr"]["low"])
    }
    assert apart == {"hidden"}
