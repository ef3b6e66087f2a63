"""Muon under `complete`: first updates over width, depth, batch size and duration."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import cache
from typing import Any

import pytest
import torch

from hptransfer.config import MuonConfig, TrialConfig
from hptransfer.config.choices import Broken, MuonScale, Scaling, WeightDecayMode
from hptransfer.config.identity import with_scaling
from hptransfer.models.parametrization.factors import adam_betas, matrix_momentum
from hptransfer.models.parametrization.rule_table import role_table
from hptransfer.models.parametrization.rules import build_model, param_groups, parameter_rules
from hptransfer.reporting.text.rules import rules_text
from hptransfer.training.packs.optimizer import PackedMuon
from hptransfer.training.packs.pack import Pack
from hptransfer.training.target.optimizers import make_optimizers
from hptransfer.transfer.exports.factors import factors_text, resolved
from tests.models.test_complete import CLOCK, GROWN
from tests.models.test_complete import grown as grown_under_adamw

TIMES = 4


def grown(axis: str, times: int, *, a: float = 1.0, **words: Any) -> TrialConfig:
    """Return the base trial of `test_complete` under Muon, larger on one axis."""
    optimizer = MuonConfig(
        lr=2**-5,
        adam_lr=2**-7,
        eps=1e-30,
        scale=words.pop("scale", MuonScale.spectral),
        weight_decay=words.pop("weight_decay", 0.0),
        decay_exponent=words.pop("decay_exponent", 0.0),
    )
    words.setdefault("weight_decay_mode", WeightDecayMode.independent)
    return dataclasses.replace(
        grown_under_adamw(axis, times, a=a, **words),
        optimizer=optimizer,
    )


@cache
def first_sizes(
    axis: str, times: int, a: float, scale: MuonScale, broken: Broken
) -> dict[str, float]:
    """Return the size of every parameter's first update, by name.

    It is the spectral norm of a matrix, and the root mean square of what AdamW updates.
    """
    config = grown(axis, times, a=a, scale=scale, broken=broken)
    model = build_model(config)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    torch.manual_seed(0)
    for value in model.parameters():
        value.grad = torch.randn_like(value)
    for optimizer in make_optimizers(model, config, fused=False):
        optimizer.step()
    sizes = {}
    for rule in parameter_rules(config):
        change = model.get_parameter(rule.name).detach() - before[rule.name]
        if rule.matrices is None:
            size = change.square().mean().sqrt()
        else:
            size = torch.linalg.matrix_norm(change[: rule.matrices.rows], 2)
        sizes[rule.name] = float(size)
    return sizes


def expected_power(axis: str, a: float, *, in_block: bool) -> float:
    depth = a - 1 if axis == "depth" and in_block else 0.0
    return depth + CLOCK[axis] / 2


@pytest.mark.parametrize("scale", MuonScale)
@pytest.mark.parametrize("a", [0.5, 1.0])
@pytest.mark.parametrize("axis", list(GROWN))
def test_first_updates_have_the_exponents(axis: str, a: float, scale: MuonScale) -> None:
    small, large = (first_sizes(axis, k, a, scale, Broken.none) for k in (1, TIMES))
    for rule in parameter_rules(grown(axis, 1, a=a, scale=scale)):
        power = expected_power(axis, a, in_block="blocks" in rule.name)
        of_width = axis == "width" and rule.matrices is not None
        # The steps of Newton and Schulz leave singular values between 0.7 and 1.2.
        tolerance = 0.15 if of_width else 0.01
        found = math.log(large[rule.name] / small[rule.name], TIMES)
        assert found == pytest.approx(power, abs=tolerance), rule.name


@pytest.mark.parametrize(("broken", "power"), [("hidden_lr", 1.0), ("hidden_lr_squared", -1.0)])
def test_a_wrong_factor_has_another_exponent(broken: str, power: float) -> None:
    for scale in MuonScale:
        small, large = (first_sizes("width", k, 1.0, scale, Broken(broken)) for k in (1, TIMES))
        for rule in parameter_rules(grown("width", 1)):
            if rule.matrices is not None:
                found = math.log(large[rule.name] / small[rule.name], TIMES)
                assert found == pytest.approx(power, abs=0.15), rule.name


@pytest.mark.parametrize("axis", list(GROWN))
def test_momentum_and_decay_follow_the_clock(axis: str) -> None:
    kappa = TIMES ** CLOCK[axis]
    base, large = (grown(axis, k, weight_decay=0.1, decay_exponent=0.5) for k in (1, TIMES))
    momenta = matrix_momentum(base), matrix_momentum(large)
    assert momenta[0] == 0.95 and momenta[1] is not None
    assert 1 - momenta[1] == pytest.approx(0.05 * kappa)
    assert 1 - adam_betas(large)[0] == pytest.approx(0.1 * kappa)
    m = TIMES if axis == "width" else 1
    for config, grows in ((base, 1.0), (large, kappa)):
        shares = {p.name: p.lr * p.weight_decay for p in resolved(config)}
        for rule in parameter_rules(config):
            width = m**0.5 if rule.matrices and config is large else 1.0
            assert shares[rule.name] == pytest.approx(0.1 * grows * width), rule.name
    told = json.loads(factors_text(large))["optimizer"]
    assert (told["momentum"], told["beta1"]) == (momenta[1], adam_betas(large)[0])


@pytest.mark.parametrize("axis", list(GROWN))
@pytest.mark.parametrize("a", [0.5, 1.0])
def test_packs_have_the_rates_the_decay_and_the_momentum_of_the_groups(axis: str, a: float) -> None:
    config = grown(axis, TIMES, a=a, weight_decay=0.1, scale=MuonScale.match_rms_adamw)
    groups = [g for g in param_groups(build_model(config), config) if "matrices" in g]
    of_groups: dict[str, tuple[float, float]] = {}
    for group in groups:
        lr, scale, decay, names = (group[k] for k in ("lr", "scale", "weight_decay", "names"))
        assert isinstance(lr, float) and isinstance(scale, float) and isinstance(decay, float)
        assert isinstance(names, list)
        of_groups |= dict.fromkeys(names, (lr * scale, lr * decay))
    packed = PackedMuon(Pack([config], torch.device("cpu")))
    runs = [run for batch in packed.batches for run in batch]
    found = [
        (float(config.optimizer.lr * run.lr_factor), float(run.decay))
        for run in runs
        if run.decay is not None
        for _ in range(run.weights)
    ]
    assert sorted(found) == [pytest.approx(pair, rel=1e-6) for pair in sorted(of_groups.values())]
    assert {group["momentum"] for group in groups} == {matrix_momentum(config)}
    assert packed.momentum.item() == pytest.approx(matrix_momentum(config))


def test_no_other_parametrization_follows_batch_and_duration() -> None:
    config = grown("steps", TIMES, weight_decay=0.1)
    for scaling in (Scaling.mup, Scaling.standard):
        other = with_scaling(config, scaling)
        assert matrix_momentum(other) == 0.95
        factors = {(r.factors.lr, r.factors.weight_decay) for r in parameter_rules(other)}
        assert factors == {(1.0, 1.0)}


def test_rules_tell_whose_table_it_is() -> None:
    plain = {"weight_decay_mode": WeightDecayMode.mup}
    config = GROWN["steps"](GROWN["width"](grown("depth", TIMES, a=0.5, **plain), 4), 8)
    table = role_table(config)
    assert table["coincide"]
    for row in table["printed"]:
        if row["optimizer"] == "muon":
            assert row["published"] is None and row["role"] == "hidden"
            continue
        for name, ours in row["ours"].items():
            assert ours == pytest.approx(row["published"][name]), row
    assert {row["optimizer"] for row in table["printed"]} == {"adamw", "muon"}
    text = " ".join(rules_text(table, []).split())
    assert f"so the momentum is {matrix_momentum(config):.6g}." in text
    assert "by Condition 1 of arXiv 2310.17813" in text
