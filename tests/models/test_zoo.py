"""Models of the kinds that users bring: their roles, the check's verdict, and what it tells."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hptransfer.config import ParametrizationConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Broken
from hptransfer.config.identity import with_width
from hptransfer.errors import UserError
from hptransfer.models.parametrization.dataflow import Dataflow, attention_calls, watched
from hptransfer.models.parametrization.factors import Role
from hptransfer.models.parametrization.rules import initial_parameters, parameter_rules
from hptransfer.reporting.text.answers import check_text
from hptransfer.training.packs.coordinate_check import coordinate_check
from hptransfer.training.packs.run import run_pack
from tests.support.zoo import BASE, LOG2_LR, RIGHT, WIDTHS, WRONG, trial


def checked(config: TrialConfig) -> dict[str, Any]:
    return coordinate_check(config, WIDTHS, LOG2_LR, RuntimeConfig())


# Roles.

INNER = {  # layers amid the network whose fan-out is fixed
    "gqa_fixed": {"mixer.k.weight", "mixer.v.weight"},
    "moe_soft": {"mixer.router.weight"},
    "moe_top2": {"mixer.router.weight"},
    "bottleneck": {"mixer.0.weight"},
    "raw_projection": {"mixer.down"},
    "adaln_lora": {"down.weight"},
}
SPECIAL = {
    "unet": {"last.weight": Role.output, "up.weight": Role.hidden, "join.weight": Role.hidden},
    "gates": {"gate": Role.finite, "fc1.parametrizations.weight.0.by": Role.finite},
    "weight_norm": {"fc1.parametrizations.weight.original1": Role.hidden},
    "conv1d": {"mixer.conv.weight": Role.hidden},
    "gqa_growing": {"mixer.k.weight": Role.hidden},
    "encoder": {"mixer.self_attn.in_proj_weight": Role.hidden},
}


@pytest.mark.parametrize("name", RIGHT)
def test_roles_follow_from_shapes_and_from_what_layers_outputs_meet(name: str) -> None:
    roles = {rule.name: rule.role for rule in parameter_rules(trial(name))}
    readout = "last.weight" if name == "unet" else "readout.weight"
    assert [key for key, role in roles.items() if role is Role.output] == [readout]
    expected = {key: Role.hidden for key in INNER.get(name, ())} | SPECIAL.get(name, {})
    assert {key: roles[key] for key in expected} == expected


def test_a_layer_amid_the_network_starts_and_learns_as_a_hidden_matrix() -> None:
    (rule,) = (r for r in parameter_rules(trial("bottleneck", 4 * BASE)) if "mixer.0.w" in r.name)
    (base,) = (r for r in parameter_rules(trial("bottleneck")) if "mixer.0.w" in r.name)
    assert (rule.factors.lr, rule.factors.forward) == (1 / 4, 1.0)
    assert rule.init_std == pytest.approx(base.init_std / 2, rel=0.1)


def test_a_stated_role_counts_more_than_the_forward() -> None:
    rules = parameter_rules(trial("moe_soft", roles=["mixer.router.weight=output"]))
    roles = {rule.name: rule.role for rule in rules}
    assert roles["mixer.router.weight"] is Role.output


def test_a_shared_tensor_is_refused() -> None:
    with pytest.raises(UserError, match=r"fc2\.weight and readout\.weight share one"):
        parameter_rules(trial("tied_shared"))


NORMED = "readout.parametrizations.weight.original1"


def test_a_readout_with_weight_norm_is_refused() -> None:
    with pytest.raises(UserError, match=r"no parametrization .* but readout has one") as caught:
        parameter_rules(trial("weight_norm_readout"))
    assert f'set model.roles=["{NORMED}=hidden"].' in str(caught.value)
    stated = trial("weight_norm_readout", roles=[f"{NORMED}=hidden"])
    assert {r.role for r in parameter_rules(stated) if r.name == NORMED} == {Role.hidden}


def test_weight_norm_amid_the_network_is_not_refused() -> None:
    (rule,) = (
        rule
        for rule in parameter_rules(trial("weight_norm_inside"))
        if rule.name == "mixer.0.parametrizations.weight.original1"
    )
    assert rule.role is Role.hidden


@pytest.mark.parametrize("name", ["gates", "weight_norm"])
def test_parameters_of_no_dimension_and_parametrized_weights_train_in_a_pack(name: str) -> None:
    configs = [dataclasses.replace(trial(name, 64), seed=seed) for seed in (0, 1)]
    packed = run_pack(configs, RuntimeConfig())
    (alone,) = run_pack(configs[1:], RuntimeConfig())
    assert packed[1].loss == pytest.approx(alone.loss, rel=1e-4)


def test_a_bias_of_four_entries_goes_on_from_the_base_width_exactly() -> None:
    """Its own std would be measured from two draws of four entries at a large width."""
    narrow, wide = (initial_parameters(trial("bottleneck", w))["readout.bias"] for w in (32, 2048))
    torch.manual_seed(0)
    drawn = [nn.Linear(width, 4).bias.detach().abs().max() for width in (32, 2048)]
    assert float(drawn[0] / drawn[1]) > 2, "torch draws a narrower bias at a wider layer"
    bound = BASE**-0.5  # of torch's uniform distribution at the base width
    assert float(narrow.abs().max()) <= bound and float(wide.abs().max()) <= bound
    own = torch.nn.Linear(2048, 4).bias.detach().abs().max()
    assert float(own) < bound / 7


# Verdicts and sentences.

QUICK = {"bottleneck", "moe_top2", "gates", "mha"}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RIGHT]
)
def test_right_models_pass(name: str) -> None:
    answer = checked(trial(name))
    assert answer["verdict"] == "pass", check_text(answer)
    assert answer["causes"] == []
    assert "(model)" in {slope["module"] for slope in answer["slopes"]}
    assert not [s for s in answer["slopes"] if "parametrizations" in s["module"]]


CAUSES: dict[str, tuple[str | None, str]] = {
    "tied_functional": ("table.weight", "also multiplies by it as a readout does"),
    "functional_readout": ("out", "sums over its dimension that grows, as a readout does"),
    "growing_head": (None, "head dimension of mixer grows .* 16, 32 and 64 at widths 32"),
    "mha_growing_head": (None, "head dimension of mixer.inner grows .*Keep the head dimension"),
    "swiglu_rounded": (
        "mixer.w1.weight",
        "grows by 1 and 2, not by 2 and 4, from width 32 to 64 and 128.* multiples of 64",
    ),
    "scaled_embedding": ("mixer.weight", "mixer is the first module .* at initialisation"),
    "gqa_fixed": (
        "mixer.k.weight",
        r"amid the network.* meets .*Type model.roles=\[\"mixer.k.weight=hidden\"\]",
    ),
    "moe_soft": (
        "mixer.router.weight",
        r"as model.roles states, but .*Type model.roles=\[\"mixer.router.weight=hidden\"\]",
    ),
    "vit": (
        "fc1.weight",
        r"role `input`, as model.roles states; .*Type model.roles=\[\"fc1.weight=hidden\"\]",
    ),
    "conv1d": (
        "readout.weight",
        r"Type model.roles=\[\"readout.weight=output\"\]",
    ),
}
SLOW = {"growing_head", "gqa_fixed", "moe_soft", "conv1d", "swiglu_rounded"}


@pytest.mark.parametrize(
    "name", [n if n not in SLOW else pytest.param(n, marks=pytest.mark.slow) for n in WRONG]
)
def test_wrong_models_fail_with_the_cause(name: str) -> None:
    parameter, sentence = CAUSES[name]
    answer = checked(trial(name, roles=WRONG[name]))
    assert answer["verdict"] == "fail"
    (first, *_) = answer["causes"]
    assert first["parameter"] == parameter
    assert set(first) == {"parameter", "role", "sentence", "type", "certain"}
    said = " ".join(check_text(answer).split())
    assert re.search(sentence, said), said


@pytest.mark.slow
# Of `branch` a check over width cannot tell.
@pytest.mark.parametrize("broken", [b for b in Broken if b not in (Broken.none, Broken.branch)])
def test_a_planted_fault_fails_and_no_structure_is_blamed(broken: Broken) -> None:
    config = trial("vit")
    config = dataclasses.replace(config, parametrization=ParametrizationConfig(broken=broken))
    answer = checked(config)
    assert answer["verdict"] == "fail"
    assert not any(cause["certain"] for cause in answer["causes"])


# What a forward does, watched.


class Watched(nn.Module):
    """Layers a and b of growing fan-in and fixed fan-out, and a growing one after them."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.inside, self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.up = nn.Linear(3, 8)
        self.gain = nn.Parameter(torch.ones(3))
        self.steps = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self, self.inside(x))


GROWING = {
    "inside.weight": (0,),
    "inside.bias": (0,),
    "a.weight": (1,),
    "b.weight": (1,),
    "up.weight": (0,),
    "up.bias": (0,),
}


def flow_of(forward: Any) -> Dataflow:
    layers = frozenset({"a.weight", "b.weight"})
    x = torch.randn(2, 5)
    return watched(Watched(forward), lambda m: m(x), growing=GROWING, layers=layers)


def buffered(m: Watched, h: Tensor) -> Tensor:
    kept = torch.zeros(2, 6)
    kept[:, 3:] = m.a(h)
    return m.b(m.up(kept[:, 3:]))


def indexed(m: Watched, h: Tensor) -> Tensor:
    chosen = m.a(h).argmax(-1)
    return m.b(m.up.weight[:, chosen].T + m.up.bias)


def in_half(m: Watched, h: Tensor) -> Tensor:
    return m.b(F.linear(m.a(h).bfloat16(), m.up.weight.bfloat16()).float())


def checkpointed(m: Watched, h: Tensor) -> Tensor:
    return m.b(m.up(checkpoint(m.a, h, use_reentrant=False)))  # pyright: ignore


FORWARDS = {
    "one after another": lambda m, h: m.b(m.up(m.a(h))),
    "both outputs": lambda m, h: m.a(h) + m.b(h),
    "a gain of fixed shape": lambda m, h: m.a(h) * m.gain,
    "a gate": lambda m, h: m.b(h * m.a(h).softmax(-1)[:, :1]),
    "merged weights": lambda m, h: m.b(F.linear(h, m.up.weight @ m.a.weight)),
    "detached": lambda m, h: m.b(m.up(m.a(h).detach())),
    "into a buffer": buffered,
    "as an index": indexed,
    "in another precision": in_half,
    "checkpointed": checkpointed,
}


@pytest.mark.parametrize("forward", FORWARDS.values(), ids=FORWARDS)
def test_a_layer_whose_output_meets_a_growing_weight_is_found(forward: Any) -> None:
    flow = flow_of(forward)
    apart = forward in (FORWARDS["both outputs"], FORWARDS["a gain of fixed shape"])
    reached = set() if apart else {"a.weight"}
    assert set(flow.reached) == reached
    used = (
        {"a.weight"} if forward is FORWARDS["a gain of fixed shape"] else {"a.weight", "b.weight"}
    )
    assert flow.readouts == used - reached


def test_weights_of_no_layer_that_are_summed_are_told_from_tables() -> None:
    def forward(m: Watched, h: Tensor) -> Tensor:
        return h @ m.up.weight + m.up.weight[:, 0].sum() * F.embedding(
            torch.zeros(2, dtype=torch.long), m.inside.weight
        ).sum(-1, keepdim=True)

    flow = flow_of(forward)
    assert flow.summed == {"up.weight"} and "inside.weight" not in flow.summed


def test_attention_is_seen_with_its_module_head_and_scale() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.MultiheadAttention(12, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x, _ = self.layer(x, x, x, need_weights=False)
            return F.scaled_dot_product_attention(x, x, x, scale=0.5)

    found = attention_calls(Two(), lambda m: m(torch.randn(2, 4, 12)))
    assert [(c.module, c.head_dim, c.scale) for c in found] == [("layer", 4, None), ("", 12, 0.5)]


def test_the_models_width_does_not_change_its_roles() -> None:
    for name in INNER:
        narrow, wide = (parameter_rules(with_width(trial(name), width)) for width in (32, 128))
        assert [rule.role for rule in narrow] == [rule.role for rule in wide]
