"""The `mup` package as an oracle for all families: shapes, rates, readouts, init, training."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import mup
import pytest
import torch
from mup import init as mup_init
from mup.infshape import InfDim, InfShape
from torch import Tensor, nn

from hptransfer.config import (
    AdamWConfig,
)
from hptransfer.config.choices import Init
from hptransfer.models.parametrization.rules import (
    build_model,
    forward_multipliers,
    initial_parameters,
    param_groups,
    parameter_rules,
)
from tests.support.mup_models import BASE, families, random_batch, reference, trial

WIDTHS = (BASE, 2 * BASE, 4 * BASE)


ROLES = {  # of every parameter of every family, by pattern; the first that matches counts
    r"x_embedder\.proj\.weight|patch_embed\.proj\.weight": "input",
    r"t_embedder\.mlp\.0\.weight|y_embedder\.mlp\.0\.weight": "input",
    r"y_embedder\.y_proj\.fc1\.weight|context_embed(der)?\.weight": "input",
    r"y_embedder\.embedding_table\.weight|label_emb\.weight|pos_embed": "input",
    r"(.*\.)?scale_shift_table|registers": "input",
    r"x_embedder\.patches\.proj\.weight": "finite",  # into the bottleneck, which does not grow
    r"(final_layer\.linear|decoder_pred)\.weight": "output",
    r"(final_layer\.linear|decoder_pred)\.bias|final_layer\.(weight|bias)": "finite",
    r".*\.(ln_[qk]|[qk]_norm)\.weight": "finite",  # a gain per head dimension, which does not grow
    r"(.*\.)?norm\d?\.weight|.*\.bias": "vector",
    r".*\.weight": "hidden",
}


def expected_role(name: str) -> str:
    return next(role for pattern, role in ROLES.items() if re.fullmatch(pattern, name))


@families
def test_roles_are_those_that_the_layers_have(family: str) -> None:
    rules = parameter_rules(trial(family, 4 * BASE))
    assert {r.name: r.role.value for r in rules} == {r.name: expected_role(r.name) for r in rules}


@families
@pytest.mark.parametrize("width", WIDTHS)
def test_growing_dimensions_and_their_ratio_are_mups(family: str, width: int) -> None:
    config = trial(family, width)
    growing = {"input": 1, "hidden": 2, "output": 1, "vector": 1, "finite": 0}
    theirs = dict(reference(config).named_parameters())
    rules = parameter_rules(config)
    assert [rule.name for rule in rules] == list(theirs)
    for rule in rules:
        infshape: InfShape = theirs[rule.name].infshape  # pyright: ignore[reportAttributeAccessIssue]
        assert growing[rule.role.value] == infshape.ninf()
        assert tuple(infshape.shape()) == rule.shape
        bases = zip(rule.base_shape, infshape, strict=True)
        assert all(base == (d.base_dim if d.isinf() else d.dim) for base, d in bases)
        assert infshape.width_mult() == (width / BASE if infshape.ninf() else 1)


@families
@pytest.mark.parametrize("width", WIDTHS)
def test_rates_and_decays_equal_mu_adamws(family: str, width: int) -> None:
    config = trial(family, width)
    model = reference(config)
    optimizer = mup.MuAdamW(model.parameters(), lr=0.5, weight_decay=0.25)
    by_id = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    theirs = {name: by_id[id(p)] for name, p in model.named_parameters()}
    ours = {
        rule.name: (0.5 * rule.factors.lr, 0.25 * rule.factors.weight_decay)
        for rule in parameter_rules(config)
    }
    assert ours == theirs


@families
@pytest.mark.parametrize("width", WIDTHS)
def test_the_readout_factor_equals_mu_readouts(family: str, width: int) -> None:
    config = trial(family, width)
    theirs = {
        f"{name}.multiplier": 1 / layer.width_mult()
        for name, layer in reference(config).named_modules()
        if isinstance(layer, mup.MuReadout)
    }
    assert len(theirs) == 1
    assert forward_multipliers(config) == theirs


@families
@pytest.mark.parametrize("width", WIDTHS)
def test_three_adamw_steps_equal_mups(family: str, width: int) -> None:
    optimizer = AdamWConfig(lr=2.0**-8, weight_decay=0.1)
    config = trial(family, width, init=Init.paper, optimizer=optimizer)
    model, theirs = build_model(config), reference(config)
    theirs.load_state_dict(model.state_dict(), strict=True)
    steppers = (
        torch.optim.AdamW(param_groups(model, config)),
        mup.MuAdamW(theirs.parameters(), lr=2.0**-8, weight_decay=0.1),
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        batch = random_batch(config, generator)
        target = torch.randn(batch[0].shape, generator=generator)
        outputs = [network(*batch) for network in (model, theirs)]
        torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-7)
        for output, stepper in zip(outputs, steppers, strict=True):
            stepper.zero_grad()
            (output - target).square().mean().backward()
            stepper.step()
    assert outputs[0].abs().mean() > 1e-3  # it has learned something: zero equals zero


def by_pattern(rules: dict[str, Callable[[Tensor], Any]]) -> Callable[[nn.Module], None]:
    """Return an initialiser of a model: each parameter by the first pattern that its name fits."""

    def start(model: nn.Module) -> None:
        for name, value in model.named_parameters():
            how = next(how for pattern, how in rules.items() if re.search(pattern, name))
            how(value)

    return start


def normal(std: float) -> Callable[[Tensor], Any]:
    return lambda value: mup_init.normal_(value, std=std)  # pyright: ignore[reportArgumentType]


def fan_in(value: Tensor) -> Any:
    return mup_init.kaiming_normal_(value, a=1, mode="fan_in")


def xavier(value: Tensor) -> Any:
    """Start a patch embedding as the released models do: flattened to a matrix."""
    matrix: Any = value.data.flatten(1)
    infshape: Any = value.infshape  # pyright: ignore[reportAttributeAccessIssue]
    fan = infshape[1] if value.ndim == 2 else InfDim(None, matrix.shape[1])
    matrix.infshape = InfShape([infshape[0], fan])
    return mup_init.xavier_uniform_(matrix)


def zeros(value: Tensor) -> Any:
    return nn.init.zeros_(value)


def ones(value: Tensor) -> Any:
    return nn.init.ones_(value)


def kept(value: Tensor) -> None:
    """Keep torch's own start, which `set_base_shapes` has rescaled."""


# The initialisations as their authors wrote them, in mup's own functions.
INITS: dict[tuple[str, Init], Callable[[nn.Module], None]] = {
    ("dit", Init.paper): by_pattern(
        {r"bias|final_layer\.linear": zeros, "embedding_table": normal(1.0), "": fan_in}
    ),
    ("dit", Init.original): by_pattern(
        {
            r"bias|adaLN|final_layer\.linear": zeros,
            "t_embedder|y_embedder": normal(0.02),
            "": xavier,
        }
    ),
    ("dit_modern", Init.original): by_pattern(
        {
            r"norm\d?\.weight": ones,
            r"bias|adaLN|t_block|scale_shift|final_layer\.linear": zeros,
            "t_embedder|y_embedder|registers": normal(0.02),
            "": xavier,
        }
    ),
    ("pixart", Init.paper): by_pattern(
        {
            r"bias|cross_attn\.proj|final_layer\.linear": zeros,
            "table|t_embedder|t_block|y_proj": normal(0.02),
            "": xavier,
        }
    ),
    ("uvit", Init.original): by_pattern(
        {
            r"norm\d?\.weight": ones,
            "patch_embed|final_layer": kept,
            "bias": zeros,
            "label_emb": normal(1.0),
            "": normal(0.02),
        }
    ),
    ("mmdit", Init.original): by_pattern({"": kept}),
}


@pytest.mark.parametrize(("family", "init"), list(INITS))
@pytest.mark.parametrize("width", WIDTHS)
def test_initial_stds_are_what_mups_functions_draw(family: str, init: Init, width: int) -> None:
    config = trial(family, width, init=init)
    draws: dict[str, list[Tensor]] = {}
    torch.manual_seed(0)
    for _ in range(4):
        model = reference(config, rescale=True)
        with torch.no_grad():
            INITS[family, init](model)
        for name, value in model.named_parameters():
            draws.setdefault(name, []).append(value.detach().flatten())
    ours = initial_parameters(config)
    for rule in parameter_rules(config):
        drawn = torch.cat(draws[rule.name])
        # The relative error of a normal's std is 1/sqrt(2n); five of them, over 400 tensors.
        error = 5 / math.sqrt(2 * len(drawn))
        assert rule.init_std == pytest.approx(float(drawn.std()), rel=error, abs=1e-9), rule.name
        assert float(ours[rule.name].mean()) == pytest.approx(float(drawn.mean()), abs=0.5)
