"""The loss that a custom model returns beside its prediction: its gradient, weights and limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.config import (
    BudgetConfig,
    FeaturesConfig,
    RectifiedFlowConfig,
    RuntimeConfig,
    TrainerConfig,
    TrialConfig,
)
from hptransfer.config.choices import Scaling, Status
from hptransfer.config.identity import shape_signature
from hptransfer.config.sweep import Axis, SweepConfig
from hptransfer.data import load_data
from hptransfer.errors import UserError
from hptransfer.models.parametrization.factors import Role
from hptransfer.models.parametrization.rules import build_model, parameter_rules
from hptransfer.models.weights import save_weights
from hptransfer.sweeping.design.trials import wanted
from hptransfer.training.batches import train_batch
from hptransfer.training.coordinate_record import OWN_OUTPUT
from hptransfer.training.flops import train_step_flops
from hptransfer.training.packs.coordinate_check import coordinate_check, measure_width
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.run import run_pack
from hptransfer.training.packs.state import PackBatches, trained_losses
from hptransfer.training.sampling.classifier import feature_maps_of
from hptransfer.training.sampling.generate import generate
from hptransfer.training.sampling.samplers import SamplerConfig
from hptransfer.training.target.engine import Engine
from hptransfer.training.target.parallel import ProcessGroup
from tests.support.custom_models import Aligned, Mixture, trial

# One number a sample, one for the batch, and one a sample of a frozen encoder's features.
FORMS = ("balanced", "balanced_together", "with_features")
RUNTIME = RuntimeConfig()


def weighted(weight: float | None, name: str = "balanced", **changes: Any) -> TrialConfig:
    objective = RectifiedFlowConfig(auxiliary_weight=weight)
    tokens = 4 if "features" in name else 0
    config = dataclasses.replace(trial(name), objective=objective, **changes)
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, feature_tokens=tokens)
    )


def plain_gradients(config: TrialConfig) -> dict[str, Tensor]:
    """Return the gradients of a step of the module itself, in torch alone."""
    model = build_model(config)
    batch = train_batch(config, load_data(config.data, None).train, 0)
    u = batch.u[:, None, None, None]
    noisy = (1 - u) * batch.images + u * batch.noise
    named = {}
    if config.feature_tokens:
        cells = feature_maps_of(config.data, batch.images).unflatten(1, (2, 2, 2, 2))
        named["features"] = cells.mean((2, 4)).flatten(1, 2)  # of each quarter of 4x4 cells
    prediction, auxiliary = model(noisy, 1000 * batch.u, *batch.condition, **named)
    loss = F.mse_loss(prediction, batch.noise - batch.images)
    weight = config.objective.auxiliary_weight
    assert weight is not None
    (loss + weight * auxiliary.mean()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", FORMS)
def test_gradients_of_a_pack_are_those_of_the_module_in_plain_torch(name: str) -> None:
    configs = [weighted(0.5, name), weighted(8.0, name), weighted(0.5, name, seed=3)]
    pack = Pack(configs, torch.device("cpu"))
    batch = PackBatches(configs, load_data(configs[0].data, None)).at(0)
    totals, losses = trained_losses(pack, batch)
    assert bool((totals != losses).all())
    (flat,) = torch.autograd.grad(totals.sum(), pack.flat)
    for member, config in enumerate(configs):
        ours, plain = pack.member_parameters(flat, member), plain_gradients(config)
        own = "head.weight" if config.feature_tokens else "router.weight"
        assert ours.keys() == plain.keys() and plain[own].any()
        for parameter, grad in plain.items():
            torch.testing.assert_close(ours[parameter], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_members_of_other_weights_are_the_trials_alone_to_the_bit(name: str) -> None:
    configs = [weighted(weight, name) for weight in (0.0, 0.5, 8.0)]
    together = run_pack(configs, RUNTIME)
    alone = [run_pack([config], RUNTIME)[0] for config in configs]
    assert [(r.loss, r.train_loss) for r in together] == [(r.loss, r.train_loss) for r in alone]
    assert len({result.loss for result in together}) == 3
    # Weight 0 is the model that returns its prediction alone, in what is trained and reported.
    plain = {"with_features": "net"}.get(name, "unbalanced")
    (without,) = run_pack([trial(plain)], RUNTIME)
    assert (without.loss, without.train_loss) == (together[0].loss, together[0].train_loss)
    assert {result.loss_at_init for result in together} == {without.loss_at_init}


def test_the_loss_is_part_of_shapes_roles_and_flops() -> None:
    on, off = weighted(0.5), weighted(None, "unbalanced")
    assert on.layout != on.data.layout == off.layout
    assert shape_signature(on) == shape_signature(weighted(0.0)) != shape_signature(weighted(None))
    roles = {rule.name: rule.role for rule in parameter_rules(on)}
    assert roles == {rule.name: rule.role for rule in parameter_rules(off)}
    assert (roles["router.weight"], roles["readout.weight"]) == (Role.hidden, Role.output)
    assert train_step_flops(on) >= train_step_flops(off)


@pytest.mark.parametrize(("name", "own"), [("balanced", "router"), ("with_features", "head")])
def test_the_check_measures_the_prediction_and_not_the_loss(name: str, own: str) -> None:
    config = weighted(0.5, name)
    sizes = measure_width(config, load_data(config.data, None), RUNTIME).sizes
    modules = {module for module, *_ in sizes}
    assert {OWN_OUTPUT, own} <= modules
    assert not any(module.startswith(f"{OWN_OUTPUT}[") for module in modules)


def test_samples_are_drawn_of_the_prediction(tmp_path: Path) -> None:
    drawn = []
    for config in (weighted(0.5), weighted(None, "unbalanced"), weighted(0.5, "with_features")):
        path = tmp_path / "weights.safetensors"
        save_weights(path, config, build_model(config).state_dict())
        drawn.append(generate(config, path, SamplerConfig(steps=2), RUNTIME, columns=1))
    assert all(np.isfinite(each).all() for each in drawn) and np.array_equal(*drawn[:2])


def engine(config: TrialConfig, **words: Any) -> Engine:
    trainer = TrainerConfig(**words)
    dataset = load_data(config.data, None)
    return Engine(config, RUNTIME, trainer, dataset, ProcessGroup.of(trainer, RUNTIME))


def test_only_a_loss_of_each_sample_lets_a_batch_be_divided() -> None:
    whole, halves = (engine(weighted(0.5), accumulate=parts) for parts in (1, 2))
    for step in range(2):
        report, divided = whole.train_step(step), halves.train_step(step)
        assert divided.loss == pytest.approx(report.loss, rel=1e-5)
        assert divided.grad_norm == pytest.approx(report.grad_norm, rel=1e-5)
    engine(weighted(0.5, "balanced_together"))
    with pytest.raises(UserError, match=r"one number for its batch.* each of the 2 parts\. Return"):
        engine(weighted(0.5, "balanced_together"), accumulate=2)


def returning(change: Callable[[Tensor, Tensor], Any]) -> Callable[[int], nn.Module]:
    """Return a factory whose model returns what `change` makes of prediction and loss."""

    class Changed(Mixture):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Any:
            return change(*super().forward(x, t, y))

    return lambda width: Changed(width, of_batch=False)


alone = returning(lambda prediction, loss: prediction)
three = returning(lambda prediction, loss: (prediction, loss, loss))
listed = returning(lambda prediction, loss: [prediction, loss])
swapped = returning(lambda prediction, loss: (loss, prediction))
by_expert = returning(lambda prediction, loss: (prediction, loss[:, None].expand(-1, 3)))
of_another_batch = returning(lambda prediction, loss: (prediction, loss[:1]))
whole_numbers = returning(lambda prediction, loss: (prediction, loss.long()))
number = returning(lambda prediction, loss: (prediction, 0.5))
detached = returning(lambda prediction, loss: (prediction, loss.detach()))
infinite = returning(lambda prediction, loss: (prediction, loss / (loss - loss)))
item = returning(lambda prediction, loss: (prediction, loss * loss.mean().item()))

REFUSALS = {
    "alone": r"returns a float32 tensor of shape \(2, 1, 8, 8\)\. Return \(prediction, loss\)",
    "three": r"returns a tuple of 3\. Return \(prediction, loss\), or set objective\.auxiliary_w",
    "listed": "output must be one tensor .* gives list",
    "swapped": r"input's shape \(2, 1, 8, 8\), but .* gives torch.Size\(\[2\]\)",
    "by_expert": r"is a float32 tensor of shape \(2, 3\) for inputs \(2, 1, 8, 8\)\. Sum or av",
    "of_another_batch": r"is a float32 tensor of shape \(1,\) for inputs",
    "whole_numbers": r"is a int64 tensor of shape \(2,\) for inputs",
    "number": "is a float for inputs",
    "detached": "has no gradient. Leave out .detach",
    "infinite": "must be finite",
    "item": "must run under torch.func.vmap",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_pair_that_is_none_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(UserError, match=REFUSALS[name]) as caught:
        parameter_rules(weighted(0.5, f"{__name__}:{name}"))
    assert "\n" not in str(caught.value)


def test_a_loss_without_a_weight_and_a_weight_without_a_loss_are_refused() -> None:
    with pytest.raises(UserError, match=r"auxiliary_weight is null\. Set it, for example to 0\.01"):
        parameter_rules(weighted(None))
    with pytest.raises(UserError, match="three returns a tuple of 3 and objective"):
        parameter_rules(weighted(None, f"{__name__}:three"))
    with pytest.raises(UserError, match=r"of your own returns, but got model=dit\. Choose model="):
        TrialConfig(objective=RectifiedFlowConfig(auxiliary_weight=0.0))
    with pytest.raises(UserError, match="auxiliary_weight` must not be negative"):
        RectifiedFlowConfig(auxiliary_weight=-0.1)


class Changing(Aligned):
    """A model that predicts something else where it has features."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor, features: Tensor | None = None) -> Any:
        output = super().forward(x, t, y, features)
        return (2 * output[0], output[1]) if isinstance(output, tuple) else output


class Asking(Aligned):
    """A model that cannot do without features."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor, features: Tensor) -> Any:
        return super().forward(x, t, y, features)


def test_features_go_into_the_loss_alone() -> None:
    named = f"{__name__}:{{}}"
    config = weighted(0.5, "with_features")
    model = config.model

    def of(name: str, **changes: Any) -> TrialConfig:
        own = dataclasses.replace(model, factory=named.format(name), **changes)  # pyright: ignore
        return dataclasses.replace(config, model=own)

    with pytest.raises(UserError, match=r"must not depend on the features, .*Changing is another"):
        parameter_rules(of("Changing"))
    with pytest.raises(UserError, match=r"must predict without features, .*Write features=None"):
        parameter_rules(of("Asking"))
    with pytest.raises(UserError, match=r"forward\(x, t, \*condition, features=features\), but"):
        parameter_rules(of("Aligned", feature_tokens=9))
    with pytest.raises(UserError, match="must be a square number, the tokens of a square grid, bu"):
        of("Aligned", feature_tokens=8)
    with pytest.raises(UserError, match="hands features to a model that returns a loss of them"):
        dataclasses.replace(of("Aligned"), objective=RectifiedFlowConfig())
    with pytest.raises(UserError, match="with features of a frozen encoder, but data=features"):
        dataclasses.replace(of("Aligned"), data=FeaturesConfig())


class Breaking(Mixture):
    """A mixture whose loss is NaN, without any gradient, as soon as a weight has changed."""

    def __init__(self, width: int) -> None:
        super().__init__(width, of_batch=False)
        self.register_buffer("started", self.router.weight.detach().clone())

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        prediction, loss = super().forward(x, t, y)
        moved = (self.router.weight.detach() - self.get_buffer("started")).abs().sum()
        return prediction, loss + torch.where(moved > 1e-4, torch.nan, 0.0)


breaking = Breaking


def test_a_loss_that_is_not_finite_is_a_divergence_alone_and_in_a_target() -> None:
    configs = [weighted(weight, f"{__name__}:breaking") for weight in (0.0, 0.5)]
    for result in run_pack(configs, RUNTIME):
        assert (result.status, result.diverged_at_step) == (Status.diverged, 1)
    target = engine(configs[1])
    assert [target.train_step(step).is_sound for step in range(2)] == [True, False]


def test_only_a_weight_that_is_on_can_be_searched() -> None:
    def sweep_of(weight: float | None) -> SweepConfig:
        return SweepConfig(
            name="s",
            question="?",
            statistic="!",
            base=weighted(weight),
            widths=(8, 16),
            parametrizations=(Scaling.mup,),
            seeds=(0,),
            search=(("auxiliary_weight", Axis(-3, 1)),),
        )

    for off in (None, 0.0):
        with pytest.raises(UserError, match=r"your own returns, but it is off\. Set objective\.a"):
            sweep_of(off)
    configs = list(wanted(sweep_of(0.5)).values())
    assert {c.objective.auxiliary_weight for c in configs} == {2.0**x for x in range(-3, 2)}
    assert len({shape_signature(config) for config in configs}) == 2  # packs, one a width


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "verdict"),
    [("balanced", "fail"), ("balanced_from_zero", "pass"), ("with_features", "pass")],
)
def test_the_check_tells_whether_the_loss_reaches_the_trunk_as_the_objectives_does(
    name: str, verdict: str
) -> None:
    """A router's random weights pass on a gradient of m^-1/2, the readout's falls as 1/m."""
    config = dataclasses.replace(weighted(0.5, name), budget=BudgetConfig())
    own = dataclasses.replace(config.model, base_width=64)
    answer = coordinate_check(dataclasses.replace(config, model=own), (64, 128, 256), -6.0, RUNTIME)
    assert answer["verdict"] == verdict
    assert verdict == "pass" or answer["worst"]["module"] == "router"
