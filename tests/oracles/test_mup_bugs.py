"""What the `mup` package is known to get wrong, or warns of: ours does not, each with a test."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import mup
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.optim.swa_utils import AveragedModel

from hptransfer.config import BudgetConfig, TrialConfig
from hptransfer.config.choices import Init, Schedule, WeightDecayMode
from hptransfer.errors import UserError
from hptransfer.models.parametrization.factors import Role
from hptransfer.models.parametrization.rules import build_model, param_groups, parameter_rules
from hptransfer.training.packs.optimizer import PackedAdamW
from hptransfer.training.packs.pack import Pack
from hptransfer.training.schedule import lr_multiplier
from tests.support.mup_models import BASE, families, random_batch, reference, trial

M = 4


def wide(family: str = "dit") -> TrialConfig:
    return trial(family, M * BASE, init=Init.paper)


def random_model(config: TrialConfig) -> nn.Module:
    """Build a trial's model with a readout that is not zero."""
    model = build_model(config)
    torch.manual_seed(0)
    for rule in parameter_rules(config):
        if rule.role is Role.output:
            nn.init.normal_(model.get_parameter(rule.name))
    return model


def batch_of(config: TrialConfig) -> tuple[Tensor, ...]:
    return random_batch(config, torch.Generator().manual_seed(0))


def named_rates(groups: Any) -> dict[str, float]:
    return {name: float(group["lr"]) for group in groups for name in group["names"]}


@families
@torch.no_grad()
def test_copies_keep_the_readout_factor_and_the_rules(family: str) -> None:
    """A deepcopy of mup's model loses its shapes; EMA and SWA make deepcopies."""
    config = wide(family)
    model, batch = random_model(config), batch_of(wide(family))
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    for copied in (copy.deepcopy(model), averaged, averaged.module):
        assert torch.equal(copied(*batch), model(*batch))
    for copied in (copy.deepcopy(model), averaged.module):
        assert named_rates(param_groups(copied, config)) == named_rates(param_groups(model, config))
    theirs = copy.deepcopy(reference(config))
    with pytest.raises(AssertionError, match="set_base_shapes"):
        theirs(*batch)  # the bug is still there, so the test above says something


@families
@torch.no_grad()
def test_a_second_build_and_a_loaded_checkpoint_rescale_nothing_twice(family: str) -> None:
    config = wide(family)
    model, again = random_model(config), build_model(config)
    again.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(again(*batch_of(config)), model(*batch_of(config)))
    assert not [name for name in model.state_dict() if "multiplier" in name]


class Wrapper(nn.Module):
    """A wrapper with the prefix `module.`, as data-parallel ones have."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_a_wrapped_models_groups_are_those_of_the_model_inside() -> None:
    """mup strips the letters of `module.` off names; we take names as they are."""
    config = wide()
    model = build_model(config)
    inside = {id(p): name for name, p in model.named_parameters()}
    for wrapped in (Wrapper(model), nn.DataParallel(model)):
        groups: Any = param_groups(wrapped.module, config)
        rates = {inside[id(p)]: group["lr"] for group in groups for p in group["params"]}
        assert rates == named_rates(param_groups(model, config))
        with pytest.raises(UserError, match="Pass the model inside it"):
            param_groups(wrapped, config)


def test_a_compiled_models_groups_hold_the_parameters_of_the_model_inside() -> None:
    config = wide()
    model = build_model(config)
    compiled: Any = torch.compile(model, backend="eager")
    ours, inside = param_groups(compiled, config), param_groups(model, config)
    for group, same in zip(ours, inside, strict=True):
        pairs = zip(group["params"], same["params"], strict=True)  # pyright: ignore
        assert all(one is other for one, other in pairs)


def test_groups_with_tensor_rates_scale_apart() -> None:
    """mup divides one shared tensor in place, once for every group."""
    config = wide()
    groups: Any = param_groups(build_model(config), config)
    for group in groups:
        group["lr"] = torch.tensor(group["lr"])
    optimizer = torch.optim.AdamW(groups, lr=torch.tensor(1.0))
    rates = [group["lr"] for group in optimizer.param_groups]
    assert len({id(rate) for rate in rates}) == len(rates) == 2
    assert sorted(map(float, rates)) == [config.optimizer.lr / M, config.optimizer.lr]
    rates[0] *= 10
    assert float(rates[1]) == named_rates(param_groups(build_model(config), config)).popitem()[1]

    shared = torch.tensor(1.0)
    theirs = mup.MuAdamW(reference(config).parameters(), lr=shared)
    assert {float(group["lr"]) for group in theirs.param_groups} == {1 / M}  # the bug


def test_a_multiplying_scheduler_keeps_the_ratios() -> None:
    config = wide()
    model = build_model(config)
    optimizer = torch.optim.AdamW(param_groups(model, config))
    before = named_rates(optimizer.param_groups)
    scheduler = LambdaLR(optimizer, lambda step: 0.5**step)
    for step in range(1, 4):
        optimizer.step()
        scheduler.step()
        after = named_rates(optimizer.param_groups)
        assert after == {name: rate * 0.5**step for name, rate in before.items()}


def test_an_absolute_scheduler_undoes_the_factors_unless_told_them() -> None:
    """Why `param_groups` asks to multiply: OneCycleLR sets what it is given."""
    config = wide()
    model = build_model(config)
    rate = config.optimizer.lr

    def highest(max_lr: float | list[float]) -> set[float]:
        optimizer = torch.optim.AdamW(param_groups(model, config))
        scheduler = OneCycleLR(optimizer, max_lr, total_steps=10, pct_start=0.3)
        seen: dict[str, float] = {}
        for _ in range(9):
            for name, lr in named_rates(optimizer.param_groups).items():
                seen[name] = max(lr, seen[name]) if name in seen else lr
            optimizer.step()
            scheduler.step()
        return {round(lr, 12) for lr in seen.values()}

    factors: Any = [group["lr"] for group in param_groups(model, config)]
    assert highest(rate) == {rate}
    assert highest(factors) == {rate, rate / M}


@pytest.mark.parametrize("schedule", list(Schedule))
def test_the_packed_loops_schedule_multiplies(schedule: Schedule) -> None:
    """A step's size is the schedule's multiplier times each tensor's own rate."""
    config = dataclasses.replace(wide(), budget=BudgetConfig(steps=20, schedule=schedule))
    rules = parameter_rules(config)
    rates = torch.tensor([config.optimizer.lr * rule.factors.lr for rule in rules])
    for step in (0, 7, 19):
        warmup = torch.tensor([config.budget.warmup_fraction])
        multiplier = lr_multiplier(config.budget, step, warmup)
        pack = Pack([config], torch.device("cpu"))
        with torch.no_grad():
            pack.flat.zero_()
        optimizer = PackedAdamW(pack)
        controls = optimizer.controls(0, multiplier)
        optimizer.step(torch.ones_like(pack.flat), controls, torch.tensor([True]))
        moved = -torch.stack([pack.member_tensors(0)[rule.name].flatten()[0] for rule in rules])
        torch.testing.assert_close(moved, multiplier * rates, rtol=1e-5, atol=0)


@families
def test_a_dimension_grows_at_the_base_width_too(family: str) -> None:
    """mup takes a dimension for fixed where delta equals base; our delta is never the base."""
    roles = [{r.name: r.role for r in parameter_rules(trial(family, w * BASE))} for w in (1, 2, M)]
    assert roles[0] == roles[1] == roles[2]
    assert {Role.input, Role.hidden, Role.output, Role.vector} <= set(roles[0].values())


@families
def test_no_group_is_empty_and_each_parameter_is_in_one(family: str) -> None:
    for width in (BASE, M * BASE):
        config = trial(family, width)
        model = build_model(config)
        groups: Any = param_groups(model, config)
        assert all(group["params"] for group in groups)
        ids = [id(p) for group in groups for p in group["params"]]
        assert sorted(ids) == sorted(id(p) for p in model.parameters())
    matrix = reference(wide()).get_parameter("blocks.0.mlp.fc1.weight")
    theirs = mup.MuAdamW([matrix], lr=1.0).param_groups
    assert [len(group["params"]) for group in theirs] == [1, 0]  # the bug


@pytest.mark.parametrize("mode", list(WeightDecayMode))
def test_no_default_decay_of_torch_enters(mode: WeightDecayMode) -> None:
    """mup.MuAdamW's default decay is 0 and torch's 0.01: an arm of each differs in silence."""
    config = wide()
    parametrization = dataclasses.replace(config.parametrization, weight_decay_mode=mode)
    config = dataclasses.replace(config, parametrization=parametrization)
    optimizer = torch.optim.AdamW(param_groups(build_model(config), config))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}
