"""A model of the user's own: roles, measured initialisation, both forms of readout, refusals."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import mup
import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from hptransfer.config import (
    AdamWConfig,
    CustomConfig,
    DigitsConfig,
    DiTConfig,
    ParametrizationConfig,
    RuntimeConfig,
    TrialConfig,
)
from hptransfer.config.choices import Broken, Conditioning, Init, Scaling
from hptransfer.config.compose.compose import compose_file
from hptransfer.config.identity import canonical, trial_key, with_scaling, with_width
from hptransfer.data import load_data
from hptransfer.errors import UserError
from hptransfer.models.families.custom import build_custom_model
from hptransfer.models.parametrization.factors import Role
from hptransfer.models.parametrization.measured import measured_inits
from hptransfer.models.parametrization.rules import (
    ReadoutForm,
    build_model,
    initial_parameters,
    param_groups,
    parameter_rules,
    rules_in_form,
)
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.batches import PackBatches
from hptransfer.training.flops import step_flops
from hptransfer.training.packs.coordinate_check import coordinate_check
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.run import run_pack
from hptransfer.training.packs.state import pack_losses
from tests.support.custom_models import BASE, BUDGET, Net, example, trial

# Config and identity.


def test_a_custom_model_composes_and_is_identified_by_factory_version_and_roles() -> None:
    words = ["model=custom", "model.factory=examples.mlp:build", "model.width=48"]
    config = compose_file(None, [*words, 'model.roles=["label.*=input"]']).trial
    assert canonical(config)["model"] == {
        "family": "custom",
        "factory": "examples.mlp:build",
        "roles": ["label.*=input"],
        "width": 48,
    }
    plain, changed = (
        compose_file(None, [*words, *more]).trial for more in ([], ["model.version=2"])
    )
    assert len({trial_key(each) for each in (config, plain, changed)}) == 3


def test_a_factory_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_local_model.py").write_text(
        "from tests.support.custom_models import net as build\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    assert build_model(trial("a_local_model:build")).get_parameter("hidden.weight").shape == (
        32,
        32,
    )


# Roles.

ROLES = {
    "image.weight": Role.input,
    "image.bias": Role.vector,
    "label.weight": Role.input,
    "hidden.weight": Role.hidden,
    "norm.weight": Role.vector,
    "readout.weight": Role.output,
    "readout.bias": Role.finite,
}


def test_roles_follow_from_shapes() -> None:
    roles = {rule.name: rule.role for rule in parameter_rules(trial())}
    assert {name: roles[name] for name in ROLES} == ROLES


def test_the_first_pattern_that_matches_overrides_a_role() -> None:
    rules = parameter_rules(trial(roles=["image.weight=vector", "*.weight=finite"]))
    roles = {rule.name: rule.role for rule in rules}
    assert (roles["image.weight"], roles["hidden.weight"]) == (Role.vector, Role.finite)
    assert roles["image.bias"] is Role.vector


@pytest.mark.parametrize("width", [BASE, 2 * BASE, 4 * BASE])
def test_rates_decays_and_multipliers_equal_mup(width: int) -> None:
    def with_mup_readout(d: int) -> Net:
        model = Net(d)
        model.readout = mup.MuReadout(d, 64)
        return model

    theirs = with_mup_readout(width)
    mup.set_base_shapes(theirs, with_mup_readout(BASE), delta=with_mup_readout(2 * BASE))
    optimizer = mup.MuAdamW(theirs.parameters(), lr=0.5, weight_decay=0.25)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for rule in parameter_rules(trial(width=width)):
        group = groups[id(theirs.get_parameter(rule.name))]
        ours = (0.5 * rule.factors.lr, 0.25 * rule.factors.weight_decay)
        assert ours == (group["lr"], group["weight_decay"]), rule.name
        assert rule.factors.forward == (BASE / width if rule.role is Role.output else 1.0)


def test_a_transposed_convolution_is_a_readout_with_its_input_scaled() -> None:
    config = trial("patches")
    assert {r.name: r.role for r in parameter_rules(config)}["up.weight"] is Role.output
    model = build_model(config)
    x, t, y = example()
    hidden = torch.relu(model.get_submodule("down")(x))
    weight, bias = model.get_parameter("up.weight"), model.get_parameter("up.bias")
    torch.testing.assert_close(
        model(x, t, y), F.conv_transpose2d(hidden / 4, weight, bias, stride=2)
    )


# Initialisation.


def test_the_same_config_draws_the_same_weights_and_leaves_the_callers_generator() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = initial_parameters(trial()), initial_parameters(trial())
    other = initial_parameters(dataclasses.replace(trial(), seed=1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["hidden.weight"], other["hidden.weight"])


def test_at_base_width_all_arms_are_the_factorys_model_to_the_bit() -> None:
    config = dataclasses.replace(trial(width=BASE), seed=3)
    torch.manual_seed(torch_generator(3, "init").initial_seed())
    own = dict(Net(BASE).named_parameters())
    for scaling in Scaling:
        drawn = initial_parameters(with_scaling(config, scaling))
        assert all(torch.equal(own[name], drawn[name]) for name in own)


@pytest.mark.parametrize("scaling", [Scaling.standard, Scaling.standard_embed])
def test_other_parametrizations_keep_the_factorys_init_at_every_width(scaling: Scaling) -> None:
    torch.manual_seed(torch_generator(0, "init").initial_seed())
    own = dict(Net(32).named_parameters())
    drawn = initial_parameters(with_scaling(trial(), scaling))
    assert all(torch.equal(own[name], drawn[name]) for name in own)


EXPONENTS = {  # of torch's own layers: uniform with bound 1/√fan_in
    "image.weight": 0.0,
    "image.bias": 0.0,
    "label.weight": 0.0,
    "hidden.weight": -0.5,
    "hidden.bias": -0.5,
    "norm.weight": 0.0,
    "norm.bias": 0.0,
    "readout.weight": -0.5,
    "readout.bias": -0.5,
}


def test_exponents_of_the_init_are_measured() -> None:
    measured = measured_inits(
        CustomConfig(factory="tests.support.custom_models:net", width=BASE, base_width=BASE)
    )
    for name, exponent in EXPONENTS.items():
        start = measured[name]
        assert start.exponent == pytest.approx(exponent, abs=max(3 * start.error, 1e-9)), name
        assert start.base.constant == name.startswith("norm")


def test_stds_that_break_mup_go_on_from_base_width_as_it_wants() -> None:
    narrow, wide = (with_width(trial(), width) for width in (BASE, 128))
    at_base = {rule.name: rule.init_std for rule in parameter_rules(narrow)}
    rules = {rule.name: rule for rule in parameter_rules(wide)}
    drawn = initial_parameters(wide)
    torch.manual_seed(torch_generator(0, "init").initial_seed())
    own = {name: value.detach() for name, value in Net(128).named_parameters()}
    for name in ("hidden.bias", "readout.weight", "readout.bias"):
        assert rules[name].init_std == pytest.approx(at_base[name], rel=1e-9)
        assert float(drawn[name].square().mean().sqrt()) == pytest.approx(at_base[name], rel=0.2)
        ratio = drawn[name] / own[name]
        torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio.flatten()[0])))
    for name in ("hidden.weight", "image.weight", "norm.weight"):
        assert torch.equal(drawn[name], own[name])
    assert rules["hidden.weight"].init_std == pytest.approx(at_base["hidden.weight"] / 4, rel=0.05)


def test_a_hidden_std_that_stands_still_is_made_to_fall() -> None:
    standard = with_scaling(trial("steady", width=128), Scaling.standard)
    for config, std in ((trial("steady", width=128), 0.02 / 4), (standard, 0.02)):
        drawn = initial_parameters(config)["hidden.weight"]
        assert float(drawn.square().mean().sqrt()) == pytest.approx(std, rel=0.1)
        (rule,) = (r for r in parameter_rules(config) if r.name == "hidden.weight")
        assert rule.init_std == pytest.approx(std, rel=0.1)


def test_stds_that_break_mup_are_refused_by_name_where_they_are_not_to_be_mended() -> None:
    config = trial(rescale_init=False)
    with pytest.raises(
        UserError, match=r"hidden\.bias \(role vector\).* power 0, .* is -0\.[45].* 2 more"
    ):
        parameter_rules(config)
    assert parameter_rules(with_scaling(config, Scaling.standard))


def test_init_scale_multiplies_random_stds_and_leaves_constants() -> None:
    config = trial()
    doubled = dataclasses.replace(config, parametrization=ParametrizationConfig(init_scale=2.0))
    before, after = initial_parameters(config), initial_parameters(doubled)
    stds = [{r.name: r.init_std for r in parameter_rules(c)} for c in (config, doubled)]
    for name, value in before.items():
        scale = 1 if name.startswith("norm") else 2
        torch.testing.assert_close(after[name], scale * value)
        assert stds[1][name] == pytest.approx(scale * stds[0][name])


def test_frozen_parameters_and_buffers_are_not_trained_and_are_the_same_for_every_seed() -> None:
    models = [build_model(dataclasses.replace(trial("half"), seed=seed)) for seed in (0, 1)]
    assert "label.weight" not in [rule.name for rule in parameter_rules(trial("half"))]
    for name in ("label.weight", "noise"):
        assert torch.equal(*(model.state_dict()[name] for model in models))
    assert not torch.equal(*(model.state_dict()["hidden.weight"] for model in models))


# Readouts: the factor on the input, or folded into the weight.


def after_steps(config: TrialConfig, form: ReadoutForm, *, fold_groups: bool = True) -> Tensor:
    """Train five AdamW steps and return the outputs."""
    model = build_model(config, form)
    groups = param_groups(model, config, form if fold_groups else ReadoutForm.hook)
    optimizer = torch.optim.AdamW(groups)
    x, t, y = example(16)
    target = x.flip(0)
    for _ in range(5):
        optimizer.zero_grad()
        (model(x, t, y % 10) - target).square().mean().backward()
        optimizer.step()
    return model(x, t, y % 10).detach()


READOUT_TRIALS = {
    "mlp": trial(),
    "dit": TrialConfig(model=DiTConfig(width=32, base_width=8, depth=1, head_dim=4)),
}


def strained(config: TrialConfig) -> TrialConfig:
    """Return a trial in which decay, epsilon and output scale all count."""
    return dataclasses.replace(
        config,
        init=Init.paper,
        optimizer=AdamWConfig(lr=2.0**-6, eps=1e-3, weight_decay=0.5),
        parametrization=ParametrizationConfig(output_scale=3.0),
    )


def apart(first: Tensor, second: Tensor) -> float:
    return float((first - second).norm() / first.norm())


@pytest.mark.parametrize("name", READOUT_TRIALS)
def test_a_folded_readout_trains_as_a_hooked_one(name: str) -> None:
    config = strained(READOUT_TRIALS[name])
    hooked = after_steps(config, ReadoutForm.hook)
    assert apart(hooked, after_steps(config, ReadoutForm.folded)) < 1e-6
    assert apart(hooked, after_steps(config, ReadoutForm.folded, fold_groups=False)) > 1e-3


def test_a_folded_readout_is_the_factorys_own_module() -> None:
    config = strained(trial())
    model, own = build_model(config, "folded"), build_custom_model(config.model)  # pyright: ignore
    assert dict(model.named_buffers()).keys() == dict(own.named_buffers()).keys()
    assert not any(module._forward_pre_hooks for module in model.modules())
    (rule,) = (r for r in rules_in_form(config, ReadoutForm.folded) if r.role is Role.output)
    factors = rule.factors
    assert (factors.lr, factors.weight_decay, factors.eps) == (0.75, 1 / 0.75, 1 / 0.75)


def test_members_of_a_pack_have_their_own_output_scale() -> None:
    scales = [ParametrizationConfig(output_scale=scale) for scale in (1.0, 3.0)]
    configs = [dataclasses.replace(trial(), parametrization=scale) for scale in scales]
    pack = Pack(configs, torch.device("cpu"))
    stacked = [part.expand(2, *part.shape) for part in example()]
    outputs = pack.predict(stacked[0], stacked[1], (stacked[2],))
    for output, config in zip(outputs, configs, strict=True):
        torch.testing.assert_close(output, build_model(config)(*example()))


# Packing.


def test_gradients_of_fused_attention_in_a_pack_are_those_of_single_trials(
    recwarn: pytest.WarningsRecorder,
) -> None:
    configs = [dataclasses.replace(trial("attending"), seed=seed) for seed in (0, 1)]
    pack = Pack(configs, torch.device("cpu"))
    batch = PackBatches(configs, load_data(DigitsConfig(), None)).at(0)
    (packed,) = torch.autograd.grad(pack_losses(pack, batch).sum(), pack.flat)
    assert not [w for w in recwarn if "performance drop" in str(w.message)]
    for member in range(2):
        single = Pack(configs[member : member + 1], torch.device("cpu"))
        images, u, noise = (part[member] for part in batch[:3])
        (labels,) = (part[member] for part in batch.condition)
        x = torch.lerp(images, noise, u[:, None, None, None])
        tensors = single.member_tensors(0)
        output = functional_call(single.template, tensors, (x, 1e3 * u, labels))
        loss = (output - (noise - images)).square().mean()
        (alone,) = torch.autograd.grad(loss, single.flat)
        assert apart(alone[0], packed[member]) < 1e-5


def test_flops_count_the_attention() -> None:
    layout = DigitsConfig().layout
    with_attention, _ = step_flops(trial("attending").model, layout, 2)
    # Two samples, eight heads of four, four tokens: q·k and its product with v, in both attentions.
    layers = 2 * 2 * (64 + 1 + 32 + 64) * 32 + 2 * 8 * (3 + 3 + 1 + 1 + 1) * 32 * 32
    assert with_attention == layers + 2 * 2 * 2 * 2 * 8 * 4 * 4 * 4


@pytest.mark.parametrize(
    ("name", "condition"), [("silent", Conditioning.none), ("captioned", Conditioning.caption)]
)
def test_models_of_other_conditions_train(name: str, condition: Conditioning) -> None:
    (result,) = run_pack([trial(name, condition=condition)], RuntimeConfig())
    assert result.loss is not None and result.flops > 0


def test_a_factory_that_reads_values_has_its_shapes_taken_with_storage() -> None:
    assert [r.shape for r in parameter_rules(trial("reading"))] == [
        r.shape for r in parameter_rules(trial())
    ]


# The coordinate check.


def mlp(**changes: Any) -> TrialConfig:
    return TrialConfig(
        model=CustomConfig(factory="examples.mlp:build", **changes),
        optimizer=AdamWConfig(beta2=0.99),
    )


def checked(config: TrialConfig) -> dict[str, Any]:
    return coordinate_check(config, (24, 48, 96), -6.5, RuntimeConfig())


def test_the_example_passes_under_mup_only() -> None:
    assert checked(mlp())["verdict"] == "pass"
    assert checked(with_scaling(mlp(), Scaling.standard))["verdict"] == "fail"


@pytest.mark.parametrize("broken", [b for b in Broken if b not in (Broken.none, Broken.branch)])
def test_a_broken_factor_fails(broken: Broken) -> None:
    broken_mup = ParametrizationConfig(broken=broken)
    assert checked(dataclasses.replace(mlp(), parametrization=broken_mup))["verdict"] == "fail"


@pytest.mark.parametrize(
    ("override", "module"), [("readout.weight=input", "readout"), ("hidden.*=vector", "hidden")]
)
def test_a_wrong_role_fails_and_its_module_is_named(override: str, module: str) -> None:
    answer = checked(mlp(roles=[override]))
    assert answer["verdict"] == "fail"
    assert module in {
        slope["module"].split(".")[0] for slope in answer["slopes"] if not slope["ok"]
    }


# Models that nobody here wrote.


def diffusers_trial(name: str, condition: str, **model: Any) -> TrialConfig:
    pytest.importorskip("diffusers", reason="an optional library of models: pip install diffusers")
    return dataclasses.replace(
        mlp(),
        model=CustomConfig(
            factory=f"examples.diffusers_models:{name}", condition=Conditioning(condition), **model
        ),
    )


THEIRS = [("dit", "label"), ("pixart", "caption"), ("sd3", "caption")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "condition"), THEIRS)
def test_models_of_diffusers_pass_under_mup_only(name: str, condition: str) -> None:
    config = diffusers_trial(name, condition)
    assert checked(config)["verdict"] == "pass"
    assert checked(with_scaling(config, Scaling.standard))["verdict"] == "fail"


@pytest.mark.parametrize(("name", "condition"), THEIRS)
def test_models_of_diffusers_train_in_a_pack(name: str, condition: str) -> None:
    base = dataclasses.replace(diffusers_trial(name, condition), budget=BUDGET)
    configs = [dataclasses.replace(with_width(base, 48), seed=seed) for seed in (0, 1)]
    packed = run_pack(configs, RuntimeConfig())
    (alone,) = run_pack(configs[1:], RuntimeConfig())
    assert packed[1].loss == pytest.approx(alone.loss, rel=1e-4)
    roles = {rule.name: rule.role for rule in parameter_rules(configs[0])}
    assert [name for name, role in roles.items() if role is Role.output] == [_READOUTS[name]]


_READOUTS = {
    "dit": "net.proj_out_2.weight",
    "pixart": "net.proj_out.weight",
    "sd3": "net.proj_out.weight",
}


def test_the_init_of_a_table_of_diffusers_is_refused_by_name() -> None:
    config = diffusers_trial("pixart", "caption", rescale_init=False)
    told = r"net\.scale_shift_table \(role input\).* power 0, .* is -0\.5"
    with pytest.raises(UserError, match=told):
        parameter_rules(config)
