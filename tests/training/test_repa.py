"""REPA (arXiv 2410.06940) as an auxiliary loss: its gradient, its weights, its head under µP."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hptransfer.config import (
    BudgetConfig,
    CustomConfig,
    DiTConfig,
    DiTModernConfig,
    FeaturesConfig,
    MMDiTConfig,
    ModelConfig,
    ParametrizationConfig,
    PixArtConfig,
    RectifiedFlowConfig,
    RuntimeConfig,
    TransformerConfig,
    TrialConfig,
    UViTConfig,
)
from hptransfer.config.choices import Broken, Conditioning, Init, Scaling, Status
from hptransfer.config.compose.compose import compose_file
from hptransfer.config.identity import shape_signature, trial_key
from hptransfer.config.sweep import Axis, SweepConfig
from hptransfer.data import load_data
from hptransfer.data.features import write_features
from hptransfer.errors import UserError
from hptransfer.models.parametrization.factors import Role
from hptransfer.models.parametrization.rules import build_model, parameter_rules
from hptransfer.sweeping.design.trials import wanted
from hptransfer.training.batches import Batch, aligned_features, train_batch
from hptransfer.training.flops import train_step_flops
from hptransfer.training.objectives import alignment_loss, on_token_grid
from hptransfer.training.packs.coordinate_check import coordinate_check
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.run import ignore_report, run_pack, train_pack
from hptransfer.training.packs.state import PackBatches, trained_losses
from hptransfer.training.sampling.classifier import feature_maps_of
from hptransfer.transfer.exports import exports
from tests.support.tiny import TINY

CPU = torch.device("cpu")
SHAPE: dict[str, Any] = {"width": 16, "base_width": 8, "depth": 2, "head_dim": 4}
MODELS: tuple[TransformerConfig, ...] = (
    DiTConfig(**SHAPE),
    DiTModernConfig(**SHAPE),
    UViTConfig(**SHAPE),
    PixArtConfig(**SHAPE),
    MMDiTConfig(**SHAPE, patch_size=2),
)
CAPTIONED_UVIT = UViTConfig(**SHAPE, condition=Conditioning.caption)


def aligned(
    weight: float, model: ModelConfig = MODELS[0], seed: int = 0, block: int | None = None
) -> TrialConfig:
    """Return a trial with REPA, whose gates are open so that every parameter has a gradient."""
    objective = RectifiedFlowConfig(repa_weight=weight, repa_depth=block)
    return dataclasses.replace(TINY, model=model, objective=objective, seed=seed, init=Init.paper)


def blocks_of(model: Any) -> list[nn.Module]:
    """Return a model's blocks in the order in which tokens pass them."""
    if hasattr(model, "in_blocks"):
        return [*model.in_blocks, model.mid_block, *model.out_blocks]
    return list(model.blocks if hasattr(model, "blocks") else model.joint_blocks)


def keep_patches(model: nn.Module, config: TrialConfig, into: list[Tensor]) -> None:
    """Append the patches' tokens (B, tokens, d) after each block to a list, whenever it is called.

    They are the last tokens of a block's output, and MMDiT's are its second stream.
    """
    assert isinstance(config.model, TransformerConfig)
    patches = (config.layout.image_size // config.model.patch_size) ** 2

    def keep(_: nn.Module, __: Any, out: Any) -> None:
        into.append((out[1] if isinstance(out, tuple) else out)[:, -patches:])

    for block in blocks_of(model):
        block.register_forward_hook(keep)


def plain_gradients(config: TrialConfig, batch: Batch) -> dict[str, Tensor]:
    """Return the gradients of a loss that is written out sample by sample and token by token."""
    model = build_model(config)
    hidden: list[Tensor] = []
    keep_patches(model, config, hidden)
    loss = torch.zeros(())
    for sample in range(len(batch.u)):
        x, noise, u = batch.images[sample], batch.noise[sample], batch.u[sample]
        noisy = (1 - u) * x + u * noise
        condition = [part[sample : sample + 1] for part in batch.condition]
        prediction = model(noisy[None], 1000 * u[None], *condition)[0]
        loss = loss + (prediction - (noise - x)).square().mean()
        tokens = hidden[0][0]  # after the first block, the default of so few
        hidden.clear()
        features = feature_maps_of(config.data, x[None])[0].unflatten(0, (4, 4))
        side = round(len(tokens) ** 0.5)
        step = 4 // side  # cells of the classifier's map on a side of a token
        w1, w2, w3 = (model.get_parameter(f"projector.fc{n}.weight") for n in (1, 2, 3))
        b1, b2, b3 = (model.get_parameter(f"projector.fc{n}.bias") for n in (1, 2, 3))
        for index, token in enumerate(tokens):
            row, column = divmod(index, side)
            cells = features[row * step : (row + 1) * step, column * step : (column + 1) * step]
            y = cells.reshape(-1, 64).mean(0)
            z = F.silu(w2 @ F.silu(w1 @ token + b1) + b2)
            z = w3 @ z / config.width_mult + b3
            cosine = (z @ y) / (z.norm() * y.norm())
            loss = loss - config.objective.repa_weight * cosine / len(tokens)
    (loss / len(batch.u)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.family)
def test_gradients_of_a_pack_are_those_of_a_plain_implementation(model: ModelConfig) -> None:
    configs = [aligned(0.5, model), aligned(4.0, model), aligned(0.5, model, seed=3)]
    dataset = load_data(configs[0].data, None)
    pack = Pack(configs, CPU)
    totals, _ = trained_losses(pack, PackBatches(configs, dataset).at(0))
    (flat,) = torch.autograd.grad(totals.sum(), pack.flat)
    for member, config in enumerate(configs):
        ours = pack.member_parameters(flat, member)
        plain = plain_gradients(config, train_batch(config, dataset.train, 0))
        assert {name for name in ours if name.startswith("projector")} == {
            f"projector.fc{n}.{part}" for n in (1, 2, 3) for part in ("weight", "bias")
        }
        for name, grad in plain.items():
            scale = float(grad.abs().max())
            torch.testing.assert_close(ours[name], grad, rtol=1e-4, atol=2e-6 + 1e-5 * scale)


@pytest.mark.parametrize("model", [*MODELS, CAPTIONED_UVIT], ids=lambda model: model.family)
def test_every_block_is_counted_in_the_order_of_the_tokens(model: TransformerConfig) -> None:
    assert model.blocks == 2 + isinstance(model, UViTConfig)
    for number in range(1, model.blocks + 1):
        config = aligned(0.5, model, block=number)
        built, hidden = build_model(config), list[Tensor]()
        keep_patches(built, config, hidden)
        batch = train_batch(config, load_data(config.data, None).train, 0)
        prediction, projected = built(batch.images, batch.u, *batch.condition, project=True)
        assert len(hidden) == model.blocks
        assert torch.equal(projected, built.get_submodule("projector")(hidden[number - 1]))
        assert torch.equal(prediction, built(batch.images, batch.u, *batch.condition))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.family)
def test_a_head_changes_nothing_of_the_prediction(model: TransformerConfig) -> None:
    on, off = (build_model(aligned(weight, model)) for weight in (0.5, 0.0))
    batch = train_batch(aligned(0.5, model), load_data(TINY.data, None).train, 0)
    inputs = (batch.images, batch.u, *batch.condition)
    assert torch.equal(on(*inputs), off(*inputs))
    assert not any("projector" in name for name, _ in off.named_parameters())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.family)
def test_members_have_their_own_weights_and_are_judged_without_the_alignment(
    model: ModelConfig,
) -> None:
    configs = [aligned(weight, model) for weight in (0.25, 0.5, 8.0)]
    together = run_pack(configs, RuntimeConfig())
    alone = [run_pack([config], RuntimeConfig())[0] for config in configs]
    assert [r.loss for r in together] == pytest.approx([r.loss for r in alone], rel=1e-6)
    assert len({result.loss for result in together}) == 3
    off = run_pack([aligned(0.0, model)], RuntimeConfig())[0]
    assert {result.loss_at_init for result in (*together, off)} == {off.loss_at_init}
    # A vanishing weight trains, reports and judges as none does. Its gradient must lie far below
    # Adam's epsilon: at the first step, with a zero readout, the trunk has no other.
    (faint,) = run_pack([aligned(1e-20, model)], RuntimeConfig())
    assert faint.train_loss == pytest.approx(off.train_loss, rel=1e-6)
    assert faint.loss == pytest.approx(off.loss, rel=1e-6)


def test_alignment_grows_where_it_is_trained() -> None:
    budget = BudgetConfig(steps=40, batch_size=32, eval_samples=16, eval_draws=1)
    dataset = load_data(TINY.data, None)
    reached = []
    for weight in (1e-20, 1.0):
        config = dataclasses.replace(aligned(weight), budget=budget)
        outcome = train_pack([config], dataset, CPU, RuntimeConfig(), ignore_report)
        batch = PackBatches([config], dataset).at(0)
        unit = Pack([dataclasses.replace(config, objective=aligned(1.0).objective)], CPU)
        with torch.no_grad():
            totals, losses = trained_losses(unit, batch, outcome.weights)
        reached.append(float(losses - totals))
    assert reached[0] < 0.3 < 0.6 < reached[1]  # the mean cosine similarity


def test_without_it_models_and_keys_are_as_before() -> None:
    assert trial_key(TrialConfig(budget=BudgetConfig(steps=30))) == "02e4d664b063"
    off, on = aligned(0.0), aligned(0.5)
    assert off.layout == off.data.layout
    without = {rule.name: rule for rule in parameter_rules(off)}
    assert not any("projector" in name for name in without)
    assert {r.name: r for r in parameter_rules(on) if "projector" not in r.name} == without
    assert shape_signature(on) == shape_signature(aligned(2.0)) != shape_signature(off)
    train = load_data(off.data, None).train
    assert train_batch(off, train, 0).features.shape == (8, 0, 0)
    assert train_batch(on, train, 0).features.shape == (8, 4, 64)
    assert train_step_flops(on) > train_step_flops(off)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.family)
def test_the_heads_last_layer_is_a_readout_and_the_others_are_hidden(model: ModelConfig) -> None:
    rules = {rule.name: rule for rule in parameter_rules(aligned(0.5, model))}
    head = {name: rule.role for name, rule in rules.items() if "projector" in name}
    assert head == {
        "projector.fc1.weight": Role.hidden,
        "projector.fc1.bias": Role.vector,
        "projector.fc2.weight": Role.hidden,
        "projector.fc2.bias": Role.vector,
        "projector.fc3.weight": Role.output,
        "projector.fc3.bias": Role.finite,
    }
    assert rules["projector.fc2.weight"].shape == (32, 32)
    assert rules["projector.fc3.weight"].shape == (64, 32)
    # m is 2: a hidden matrix has half the rate, a readout half its input, as the model's own has.
    assert rules["projector.fc1.weight"].factors.lr == 0.5
    own = "decoder_pred.weight" if isinstance(model, UViTConfig) else "final_layer.linear.weight"
    assert rules["projector.fc3.weight"].factors == rules[own].factors
    assert rules["projector.fc3.weight"].factors.forward == 0.5
    assert rules["projector.fc2.weight"].init_std == pytest.approx(16**-0.5 * 2**-0.5)
    assert rules["projector.fc3.weight"].init_std == pytest.approx(16**-0.5)


NAMED_BY_DIFFUSERS = [m for m in MODELS if isinstance(m, DiTConfig | PixArtConfig | MMDiTConfig)]


@pytest.mark.parametrize("model", NAMED_BY_DIFFUSERS, ids=lambda model: model.family)
def test_exports_name_the_head_where_a_trainer_can_have_it(model: ModelConfig) -> None:
    written = exports(aligned(0.5, model))
    for name in ("torch_groups.py", "factors.json"):
        assert "projector.fc2.weight" in written[name]
    assert "'projector." not in written["diffusers_groups.py"]
    assert "It has no head for REPA" in written["diffusers_groups.py"]


def test_similarity_is_of_directions() -> None:
    z, y = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    expected = (
        -torch.stack(
            [
                torch.stack(
                    [a @ b / (a.norm() * b.norm()) for a, b in zip(za, ya, strict=True)]
                ).mean()
                for za, ya in zip(z.flatten(0, 1), y.flatten(0, 1), strict=True)
            ]
        )
        .view(2, 3)
        .mean(1)
    )
    torch.testing.assert_close(alignment_loss(z, y), expected)
    torch.testing.assert_close(alignment_loss(7 * z, 0.1 * y), expected)
    torch.testing.assert_close(alignment_loss(y, y), torch.tensor([-1.0, -1.0]))
    assert alignment_loss(z, 0 * y).tolist() == [0, 0]  # dark cells have no direction


def test_a_map_is_brought_onto_the_grid_of_tokens() -> None:
    cells = torch.arange(16.0).view(1, 16, 1)
    assert on_token_grid(cells, 16).flatten().tolist() == cells.flatten().tolist()
    assert on_token_grid(cells, 4).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    coarse = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1)
    rows = on_token_grid(coarse, 16).view(4, 4).tolist()
    assert rows == [[1, 1, 2, 2]] * 2 + [[3, 3, 4, 4]] * 2
    one = torch.tensor([5.0, 7.0]).view(1, 1, 2)
    assert on_token_grid(one, 9)[0].tolist() == [[5.0, 7.0]] * 9


LATENTS = ("data=features", "data.channels=4", "data.image_size=8", "data.classes=1")
MODEL = ("model.depth=1", "model.width=8", "model.base_width=8", "model.head_dim=4")


def write_latents(folder: Path, **arrays: Tensor) -> Path:
    generator = torch.Generator().manual_seed(0)
    shard = {"latents": torch.randn(20, 4, 8, 8, generator=generator), **arrays}
    write_features(folder, [shard])
    return folder


def trial_of(*words: str) -> TrialConfig:
    asked = ("data.held_out=5", "objective.repa_weight=0.5", *words)
    return compose_file(None, [*LATENTS, *MODEL, *asked]).trial


def refusal(folder: Path, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        load_data(trial_of(*words).data, str(folder))
    return str(caught.value)


def test_features_beside_latents_are_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    features = torch.randn(20, 16, 6)
    folder = write_latents(tmp_path / "latents", features=features)
    said = refusal(folder, "data.feature_channels=1")
    assert "feature_channels is 6 and not 1" in said
    words = [word for word in said.split() if word.startswith(("data.feature", "data.sha256"))]
    config = trial_of(*words)
    assert isinstance(config.data, FeaturesConfig) and config.data.feature_channels == 6
    split = load_data(config.data, str(folder)).train
    chosen = np.array([3, 0])
    found = aligned_features(config, split, chosen, split.images_at(chosen))
    rows = split.rows[chosen]  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(found, on_token_grid(features[rows], 4))
    budget = BudgetConfig(steps=2, batch_size=4, eval_samples=4, eval_draws=1)
    runtime = RuntimeConfig(data_folder=str(folder))
    (result,) = run_pack([dataclasses.replace(config, budget=budget)], runtime)
    assert result.status is Status.completed


def test_missing_broken_or_misshapen_features_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_latents(tmp_path / "none")
    assert refusal(folder, "data.feature_channels=6") == (
        f"The config asks for features of a frozen encoder, but {folder} holds none. Write them "
        "beside the latents as the array or column `features`, or set objective.repa_weight=0 "
        "data.feature_channels=0."
    )
    with pytest.raises(UserError, match="must give the features of a square map, but gives 8"):
        write_latents(tmp_path / "misshapen", features=torch.zeros(20, 8, 6))
    broken = torch.zeros(20, 4, 6)
    broken[7, 1, 2] = torch.nan
    folder = write_latents(tmp_path / "broken", features=broken)
    assert "0000.safetensors, sample 7, has features that are not all finite. Write that" in (
        refusal(folder, "data.feature_channels=6")
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"model": CustomConfig(factory="a:b")},
            r"aligns the tokens of a family that is built in, but got model=custom\. Choose one",
        ),
        ({"data": FeaturesConfig()}, "but data=features states none. If the folder has them, set"),
        (
            {"objective": RectifiedFlowConfig(repa_weight=1, repa_depth=3)},
            "`objective.repa_depth` must be one of the model's 2 blocks, counted from 1, but got 3",
        ),
    ],
)
def test_trials_that_cannot_be_aligned_are_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(aligned(0.5), **changes)


def test_only_a_weight_that_is_on_can_be_searched() -> None:
    def sweep_of(weight: float) -> SweepConfig:
        return SweepConfig(
            name="s",
            question="?",
            statistic="!",
            base=aligned(weight),
            widths=(8, 16),
            parametrizations=(Scaling.mup,),
            seeds=(0,),
            search=(("repa_weight", Axis(-3, 1)),),
        )

    with pytest.raises(UserError, match=r"weights REPA's loss, but it is off\. Set objective\."):
        sweep_of(0.0)
    configs = list(wanted(sweep_of(0.5)).values())
    assert {c.objective.repa_weight for c in configs} == {2.0**x for x in range(-3, 2)}
    assert len({shape_signature(config) for config in configs}) == 2  # packs, one a width


def test_the_default_block_is_the_papers() -> None:
    block = RectifiedFlowConfig().aligned_block
    assert [block(depth) for depth in (1, 2, 12, 24, 28)] == [1, 1, 4, 7, 8]
    assert RectifiedFlowConfig(repa_depth=5).aligned_block(28) == 5


@pytest.mark.slow
@pytest.mark.parametrize("broken", [Broken.none, Broken.hidden_lr])
@pytest.mark.parametrize(
    "model",
    [DiTConfig(), DiTModernConfig(), UViTConfig(), PixArtConfig(), MMDiTConfig()],
    ids=lambda model: model.family,
)
def test_the_check_tells_whether_the_head_is_scaled_right(
    model: ModelConfig, broken: Broken
) -> None:
    base = TrialConfig(
        model=model,
        objective=RectifiedFlowConfig(repa_weight=0.5),
        parametrization=ParametrizationConfig(broken=broken),
    )
    answer = coordinate_check(base, (24, 48, 96), -6.0, RuntimeConfig())
    assert answer["verdict"] == ("pass" if broken is Broken.none else "fail")
