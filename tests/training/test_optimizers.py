"""Muon, Lion and multipliers of groups beside AdamW: configs, checkpoints, checks and refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hptransfer.config import (
    AdamWConfig,
    AnyOptimizer,
    CheckpointConfig,
    CustomConfig,
    LionConfig,
    MuonConfig,
    ParametrizationConfig,
    RuntimeConfig,
    TrialConfig,
)
from hptransfer.config.choices import Broken, MuonScale, Scaling
from hptransfer.config.compose.compose import compose_file, read_trial
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.config.identity import canonical, shape_signature, trial_key, with_width
from hptransfer.errors import UserError
from hptransfer.models.parametrization.muon import matrices_by_name
from hptransfer.models.parametrization.rule_table import parameter_table, role_table
from hptransfer.models.parametrization.rules import build_model, parameter_rules
from hptransfer.training.batches import PackBatches
from hptransfer.training.packs.coordinate_check import coordinate_check, telling_rate
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.run import run_pack
from hptransfer.training.packs.state import TrainingState, pack_losses
from tests.support.checkpoints import cut_off, told, with_death
from tests.support.optimizers import CPU, LION, MUON, first_updates, under, varied
from tests.support.packs import dataset_of, memory, stepped
from tests.training.test_muon import constant

RUNTIME = RuntimeConfig()
BOTH = pytest.mark.parametrize("optimizer", [MUON, LION], ids=lambda each: each.name)


def test_trials_of_adamw_keep_their_keys_and_others_name_their_optimizer() -> None:
    assert trial_key(TrialConfig()) == trial_key(
        compose_file(None, ["optimizer.beta2=0.999"]).trial
    )
    assert "optimizer" not in canonical(TrialConfig())
    assert canonical(TrialConfig(optimizer=MuonConfig()))["optimizer"] == {"name": "muon"}
    lion = TrialConfig(optimizer=LionConfig(lr=0.5, lr_mult_adaln=2.0))
    assert canonical(lion)["optimizer"] == {"name": "lion", "lr": 0.5, "lr_mult_adaln": 2.0}
    for config in (TrialConfig(), TrialConfig(optimizer=MuonConfig(momentum=0.5)), lion):
        assert read_trial(canonical(config)) == config
    kinds = [TrialConfig(optimizer=o) for o in (AdamWConfig(), MuonConfig(), LionConfig())]
    assert len({trial_key(config) for config in kinds}) == 3


def test_a_file_chooses_its_optimizer_by_name_and_an_older_one_has_adamw(tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text("name: x\noptimizer: {name: muon, lr: 0.5}\n")
    optimizer = compose_file(chosen, []).trial.optimizer
    assert isinstance(optimizer, MuonConfig) and optimizer.lr == 0.5
    older = tmp_path / "older.yaml"
    older.write_text(
        "name: x\noptimizer: {lr: 0.5, beta1: 0.9, beta2: 0.99, eps: 1.0e-8, weight_decay: 0.1, "
        "clip_norm: null}\n"
    )
    assert compose_file(older, []).trial.optimizer == AdamWConfig(
        lr=0.5, beta2=0.99, weight_decay=0.1
    )
    assert compose_file(older, ["optimizer=lion"]).trial.optimizer == LionConfig()


def test_members_of_a_pack_share_what_decides_the_products() -> None:
    plain = TrialConfig(optimizer=MuonConfig())
    for optimizer in (
        MuonConfig(scale=MuonScale.original),
        MuonConfig(ns_steps=4),
        MuonConfig(nesterov=False),
        MuonConfig(decay_exponent=1.0),
    ):
        other = dataclasses.replace(plain, optimizer=optimizer)
        assert shape_signature(other) != shape_signature(plain)
    free = MuonConfig(lr=0.5, adam_lr=0.1, momentum=0.5, lr_mult_input=2.0, clip_norm=1.0)
    assert shape_signature(TrialConfig(optimizer=free)) == shape_signature(plain)
    assert shape_signature(TrialConfig(optimizer=LionConfig())) != shape_signature(plain)


REFUSED = [
    (
        "optimizer=muon search.eps={low: -30, high: -20} search.momentum={low: 1, high: 2}",
        "`search.momentum` is not a hyperparameter",
    ),
    ("search.adam_lr={low: -8, high: -4}", "`search.adam_lr` is not a hyperparameter"),
    ("optimizer=lion optimizer.eps=1e-8", "`optimizer.eps` exists, but not for the chosen"),
    ("optimizer=muon optimizer.momentum=1", "`optimizer.momentum` must be at least 0 and below 1"),
    ("optimizer=muon optimizer.adam_lr=0", "`optimizer.adam_lr` must be positive, but got 0.0."),
    ("optimizer.lr_mult_input=-1", "`optimizer.lr_mult_input` must be positive, but got -1.0."),
    ("optimizer=muon optimizer.ns_steps=0", "`optimizer.ns_steps` must be positive, but got 0."),
    ("optimizer=muon optimizer.scale=rms", "must be one of spectral, original, match_rms_adamw"),
    ("optimizer=sgd", "There is no optimizer=sgd."),
    ("optimizer=muon optimizer.weight_decay=0.1", "Set parametrization.weight_decay_mode=indep"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED)
def test_bad_input_is_refused_in_a_sentence(words: str, sentence: str) -> None:
    from hptransfer.config.compose.compose import sweep_config

    split = words.replace(": ", ":").replace(", ", ",").split()
    with pytest.raises(UserError) as caught:
        sweep_config(compose_file(Path("sweeps/quickstart.yaml"), split))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@BOTH
def test_a_pack_goes_on_from_its_checkpoint_with_the_same_bits(
    optimizer: AnyOptimizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = CheckpointConfig(folder=str(tmp_path), every_s=0)
    trials = varied(under(optimizer, steps=8), [0.001, 0.003, 0.002])
    with_death(1, 3, monkeypatch)  # so that the checkpoint is of a compacted pack
    cut_off(trials, checkpoints, 5)
    results = run_pack(trials, RUNTIME, checkpoints=checkpoints)
    assert "go on at step" in results[0].notes[0]
    whole = run_pack(trials, RUNTIME)
    assert told(results) == told(whole)
    assert [result.diverged_at_step for result in whole] == [None, 3, None]
    alone = run_pack([trials[2]], RUNTIME)
    assert alone[0].loss == whole[2].loss


@pytest.mark.parametrize("optimizer", [MUON, LION, AdamWConfig(lr=2**-7)], ids=lambda o: o.name)
def test_multipliers_are_base_rates_of_their_groups(optimizer: AnyOptimizer) -> None:
    """The second update of a group with twice the base rate is twice as large, all else equal."""
    config = constant(under(optimizer))
    plain = first_updates(config, steps=1)
    groups = {rule.name: rule.rate_group for rule in parameter_rules(config)}
    for group in ("input", "output", "vector", "hidden", "adaln"):
        own = dataclasses.replace(optimizer, **{f"lr_mult_{group}": 2.0})
        changed = first_updates(dataclasses.replace(config, optimizer=own), steps=1)
        for name, change in changed.items():
            if name in groups:
                factor = 2.0 if groups[name] == group else 1.0
                torch.testing.assert_close(change, factor * plain[name], rtol=1e-4, atol=1e-7)


def test_rules_tell_multipliers_and_who_updates_what() -> None:
    optimizer = dataclasses.replace(MUON, lr_mult_adaln=4.0)
    rows = {row["parameter"]: row for row in parameter_table(under(optimizer))}
    adaln = rows["blocks.0.adaLN_modulation.1.weight"]
    assert (adaln["lr_factor"], adaln["optimizer"], adaln["matrices"]) == (4.0, "muon", 6)
    assert rows["blocks.0.mlp.fc1.weight"]["update_scale"] == 2.0
    assert rows["x_embedder.proj.weight"]["optimizer"] == "adamw"
    table = role_table(under(optimizer))
    assert table["coincide"] and table["roles"]["hidden"]["optimizers"] == ["muon"]
    rms = dataclasses.replace(MUON, scale=MuonScale.match_rms_adamw)
    hidden = role_table(under(rms))["roles"]["hidden"]
    assert hidden["exponents"]["lr_factor"] == {"low": -0.5, "high": -0.5}
    assert not hidden["differs"]
    lion = role_table(under(LION))
    assert lion["coincide"] and lion["roles"]["hidden"]["optimizers"] == ["lion"]


def test_lion_takes_the_published_steps() -> None:
    optimizer = dataclasses.replace(LION, weight_decay=0.5, beta1=0.8, beta2=0.95)
    config = constant(under(optimizer))
    state, model = TrainingState(Pack([config], CPU), dataset_of(config)), build_model(config)
    m, momenta = config.width_mult, {}
    for step in range(3):
        batch = PackBatches([config], dataset_of(config)).at(step)
        with state.pack.arithmetic():  # to the bit, since the sign of a rounding error counts too
            (grad,) = torch.autograd.grad(pack_losses(state.pack, batch).sum(), state.pack.flat)
        state.train_step(step)
        for rule in parameter_rules(config):
            own = state.pack.member_parameters(grad, 0)[rule.name]
            weight = model.get_parameter(rule.name).data
            momentum = momenta.get(rule.name, torch.zeros_like(own))
            rate = optimizer.lr / (m if rule.role.value == "hidden" else 1)
            weight -= optimizer.lr * optimizer.weight_decay * weight  # rate/m times decay·m
            weight -= rate * torch.sign(0.8 * momentum + 0.2 * own)
            momenta[rule.name] = 0.95 * momentum + 0.05 * own
            ours = state.pack.member_parameters(state.pack.flat.detach(), 0)[rule.name]
            torch.testing.assert_close(ours, weight, rtol=1e-5, atol=1e-6)
    state.close()


def checked(
    family: str,
    optimizer: str,
    broken: Broken,
    rate: float,
    *,
    scaling: Scaling = Scaling.mup,
    scale: MuonScale | None = None,
) -> dict[str, Any]:
    base, head_dim = (24, 8) if family == "pixart" else (16, 4)
    small = [f"model.width={base}", f"model.base_width={base}", f"model.head_dim={head_dim}"]
    depth = 2 if family == "uvit" else 1
    small += [f"model.depth={depth}", "budget.batch_size=16"]
    words = [f"model={family}", f"optimizer={optimizer}", *small]
    config = compose_file(None, words).trial
    own = ParametrizationConfig(scaling=scaling, broken=broken)
    config = dataclasses.replace(config, parametrization=own)
    if scale is not None:
        muon = dataclasses.replace(config.optimizer, scale=scale)
        config = dataclasses.replace(config, optimizer=muon)
    return coordinate_check(config, [base, 2 * base, 4 * base], rate, RUNTIME)


@pytest.mark.parametrize(("optimizer", "rate"), [("muon", -5), ("lion", -8)])
@pytest.mark.parametrize(
    "family",
    ["dit", "mmdit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("uvit", "pixart"))],
)
def test_the_check_passes_and_finds_a_wrong_rate(family: str, optimizer: str, rate: float) -> None:
    assert checked(family, optimizer, Broken.none, rate)["verdict"] == "pass"
    answer = checked(family, optimizer, Broken.hidden_lr, rate)
    assert answer["verdict"] == "fail" and answer["worst"]["slope"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("scale", [MuonScale.spectral, MuonScale.match_rms_adamw])
def test_the_check_over_width_passes_under_complete(scale: MuonScale) -> None:
    rate = -5 if scale is MuonScale.spectral else -4
    answer = checked("dit", "muon", Broken.none, rate, scaling=Scaling.complete, scale=scale)
    assert answer["verdict"] == "pass", answer["worst"]


def test_the_check_of_muon_raises_a_rate_at_which_its_matrices_do_nothing() -> None:
    answer = checked("dit", "muon", Broken.hidden_lr, -16)
    assert answer["asked_log2_lr"] == -16 and answer["log2_lr"] > -12
    assert answer["verdict"] == "fail"


def test_a_rate_tells_if_outputs_follow_it() -> None:
    def measured(rate: float) -> Any:
        change = 1.0 + 2.0 ** (rate + 4)  # moved by others too
        return type("Measurement", (), {"sizes": {("layer", "update", 6): [change]}})

    rate = telling_rate(measured, ["layer"], -10)
    assert rate == -4.0 and np.log2(measured(-3).sizes["layer", "update", 6][0] / 2.0) > 0.5


CHUNKED = CustomConfig(
    factory="tests.support.custom_models:attending", width=16, base_width=8, chunks=()
)


def test_a_custom_models_weights_are_cut_as_it_says() -> None:
    layout = TrialConfig().data.layout
    plain = matrices_by_name(CHUNKED, layout)
    name = next(iter(plain))
    rows = plain[name].count * plain[name].rows
    cut = dataclasses.replace(CHUNKED, chunks=(f"{name.removesuffix('.weight')}=2",))
    found = matrices_by_name(cut, layout)[name]
    assert (found.count, found.rows, found.columns) == (2, rows // 2, plain[name].columns)
    for text, sentence in [
        (f"{name}=7", "which 7 does not divide."),
        ("nothing=2", "must match a hidden weight or its layer"),
        (name, "must hold entries pattern=n"),
    ]:
        with pytest.raises(UserError, match=sentence):
            matrices_by_name(dataclasses.replace(CHUNKED, chunks=(text,)), layout)


@BOTH
def test_rates_are_searchable_beside_each_other(optimizer: AnyOptimizer) -> None:
    config = with_hyperparameters(
        with_width(under(optimizer), 16), {"log2_lr": -5.0, "log2_lr_mult_adaln": 1.0}
    )
    assert (config.optimizer.lr, config.optimizer.lr_mult_adaln) == (2**-5, 2.0)
    if isinstance(optimizer, MuonConfig):
        config = with_hyperparameters(config, {"log2_adam_lr": -8.0})
        assert isinstance(config.optimizer, MuonConfig) and config.optimizer.adam_lr == 2**-8
    calm, more = stepped([config], 2), stepped([config], 2)
    assert all(torch.equal(a, b) for a, b in zip(memory(calm), memory(more), strict=True))
