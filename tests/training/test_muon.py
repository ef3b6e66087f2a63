"""Muon in packs and in the trainer: the published update, matrix by matrix, for all at once."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from hptransfer.config import (
    AdamWConfig,
    AnyOptimizer,
    MuonConfig,
    ParametrizationConfig,
    TrialConfig,
)
from hptransfer.config.choices import (
    Broken,
    MuonScale,
    Precision,
    Scaling,
    Schedule,
    WeightDecayMode,
)
from hptransfer.config.identity import with_scaling, with_width
from hptransfer.models.parametrization.muon import Matrices, matrices_by_name
from hptransfer.models.parametrization.rules import (
    base_lr,
    build_model,
    param_groups,
    parameter_rules,
)
from hptransfer.training.batches import PackBatches
from hptransfer.training.flops import muon_flops, step_flops, train_step_flops
from hptransfer.training.orthogonal import orthogonalised
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.state import TrainingState, pack_losses
from hptransfer.training.target.optimizers import Muon
from tests.support.optimizers import (
    CPU,
    LION,
    MUON,
    PlainMuon,
    first_updates,
    newton_schulz,
    under,
    varied,
)
from tests.support.packs import (
    ABSURD,
    assert_isolated,
    dataset_of,
    memory,
    stepped,
)

FAMILIES = ("dit", "uvit", "pixart", "mmdit")
INDEPENDENT = ParametrizationConfig(weight_decay_mode=WeightDecayMode.independent)


def constant(config: TrialConfig) -> TrialConfig:
    budget = dataclasses.replace(
        config.budget, schedule=Schedule.constant, warmup_fraction=0.0, steps=6
    )
    return dataclasses.replace(config, budget=budget)


@pytest.mark.parametrize("scale", MuonScale)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_takes_the_published_steps(family: str, scale: MuonScale) -> None:
    optimizer = dataclasses.replace(MUON, scale=scale, weight_decay=0.01, decay_exponent=0.5)
    config = constant(under(optimizer, family, INDEPENDENT))
    state, plain = TrainingState(Pack([config], CPU), dataset_of(config)), PlainMuon(config)
    for step in range(4):
        flat = state.pack.flat
        losses = pack_losses(state.pack, PackBatches([config], dataset_of(config)).at(step))
        (grad,) = torch.autograd.grad(losses.sum(), flat)
        plain.step(state.pack.member_parameters(grad, 0))
        state.train_step(step)
        ours = state.pack.member_parameters(flat.detach(), 0)
        for name, weight in plain.model.named_parameters():
            if name in ours:
                torch.testing.assert_close(ours[name], weight.data, rtol=2e-4, atol=1e-5, msg=name)
    state.close()


def test_products_are_those_of_torch_muon_in_bfloat16() -> None:
    torch.manual_seed(0)
    for scale, name in [
        (MuonScale.original, "original"),
        (MuonScale.match_rms_adamw, "match_rms_adamw"),
    ]:
        for shape in [(24, 24), (96, 24), (24, 96)]:
            weight = torch.nn.Parameter(torch.randn(shape))
            theirs = torch.nn.Parameter(weight.detach().clone())
            group = {
                "params": [weight],
                "lr": 0.02,
                "weight_decay": 0.1,
                "matrices": 1,
                "scale": Matrices(1, *shape).scale(scale),
                "momentum": 0.9,
                "nesterov": True,
                "ns_steps": 5,
                "ns_eps": 1e-7,
            }
            own = Muon([group], Precision.bf16)
            other = torch.optim.Muon(
                [theirs], lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn=name
            )
            for _ in range(3):
                weight.grad = torch.randn(shape)
                theirs.grad = weight.grad.clone()
                own.step()
                other.step()
                torch.testing.assert_close(weight, theirs, rtol=1e-5, atol=1e-5)


def test_an_orthogonalised_matrix_has_singular_values_near_one() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(2, 3, 16, 64)
    update = orthogonalised(matrices, steps=5, least_norm=1e-7, precision=Precision.fp32)
    values = torch.linalg.svdvals(update)
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    torch.testing.assert_close(update[1, 2], newton_schulz(matrices[1, 2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_a_matrix_has_the_same_bits_in_any_batch(precision: Precision) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(7, 24, 96)
    matrices[3] = 0.0  # as those of a dead member are
    words: Any = {"steps": 5, "least_norm": 1e-7, "precision": precision}
    together = orthogonalised(matrices, **words)
    for matrix, update in zip(matrices, together, strict=True):
        assert torch.equal(orthogonalised(matrix[None], **words)[0], update)
    assert not together[3].any()


@pytest.mark.parametrize("optimizer", [MUON, LION], ids=lambda each: each.name)
@pytest.mark.parametrize("family", [*FAMILIES, "custom"])
def test_a_pack_equals_its_trials_alone_to_the_bit(family: str, optimizer: AnyOptimizer) -> None:
    trials = varied(under(optimizer, family, steps=50), [0.01, 0.03, 0.02])
    together = stepped(trials, 4)
    for index, trial in enumerate(trials):
        alone = stepped([trial], 4)
        for mine, theirs in zip(memory(together), memory(alone), strict=True):
            assert torch.equal(mine[index], theirs[0])


def test_a_dead_neighbour_changes_nobody() -> None:
    calm = varied(under(MUON), [0.01, 0.03, 0.05])
    wild = [calm[0], dataclasses.replace(calm[1], optimizer=MuonConfig(lr=2.0**ABSURD)), calm[2]]
    assert_isolated(stepped(calm, 6), stepped(wild, 6), dead=1)


def test_who_is_updated_by_what() -> None:
    found = matrices_by_name(under(MUON, "pixart").model, under(MUON, "pixart").data.layout)
    maps = {n.removesuffix(".weight"): found[n].count for n in found if "blocks.1" not in n}
    assert maps == {
        "t_embedder.mlp.2": 1,
        "y_embedder.y_proj.fc2": 1,
        "t_block.1": 6,
        "blocks.0.attn.qkv": 3,
        "blocks.0.attn.proj": 1,
        "blocks.0.cross_attn.q_linear": 1,
        "blocks.0.cross_attn.kv_linear": 2,
        "blocks.0.cross_attn.proj": 1,
        "blocks.0.mlp.fc1": 1,
        "blocks.0.mlp.fc2": 1,
    }
    config = under(MUON, "mmdit")
    counts = {n: m.count for n, m in matrices_by_name(config.model, config.data.layout).items()}
    assert counts["joint_blocks.0.context_block.adaLN_modulation.1.weight"] == 6
    assert counts["joint_blocks.1.context_block.adaLN_modulation.1.weight"] == 2
    assert counts["final_layer.adaLN_modulation.1.weight"] == 2
    assert "context_embedder.weight" not in counts and "final_layer.linear.weight" not in counts
    adam = parameter_rules(dataclasses.replace(config, optimizer=AdamWConfig()))
    assert all(rule.matrices is None for rule in adam)


WIDTHS = (32, 64, 128, 256)
FAULTS = {Broken.none: 0.0, Broken.hidden_lr: 1.0, Broken.hidden_lr_squared: -1.0}


@pytest.mark.parametrize(
    ("scale", "fault", "widths"),
    [
        (MuonScale.spectral, Broken.none, WIDTHS),
        (MuonScale.original, Broken.none, (32, 128)),
        (MuonScale.match_rms_adamw, Broken.none, (32, 128)),
        (MuonScale.match_rms_adamw, Broken.hidden_lr, (32, 128)),
        (MuonScale.spectral, Broken.hidden_lr_squared, (32, 128)),
    ],
)
def test_the_first_updates_have_the_exponents_of_the_rules(
    scale: MuonScale, fault: Broken, widths: tuple[int, ...]
) -> None:
    """The spectral norm of a matrix's update, and entries of what AdamW updates, over widths."""
    broken = ParametrizationConfig(broken=fault)
    config = under(dataclasses.replace(MUON, scale=scale), "dit", broken, batch_size=4)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, depth=1))
    sizes: dict[str, list[float]] = {}
    for width in widths:
        wide = with_width(constant(config), width)
        changes = first_updates(wide)
        for rule in parameter_rules(wide):
            change, matrices = changes[rule.name], rule.matrices
            if matrices is not None:
                size = torch.linalg.matrix_norm(change[: matrices.rows], 2)
            else:
                size = change.square().mean().sqrt()
            sizes.setdefault(rule.name, []).append(math.log2(size))
    for rule in parameter_rules(config):
        slope = np.polyfit(np.log2(widths), sizes[rule.name], 1)[0]
        expected = 0.0 if rule.matrices is None else FAULTS[fault]
        assert slope == pytest.approx(expected, abs=0.15), rule.name


def test_the_spectral_norm_of_an_update_is_the_rate_times_its_scale() -> None:
    config = constant(under(MUON, "dit"))
    changes = first_updates(config)
    for rule in parameter_rules(config):
        if rule.matrices is not None:
            for part in changes[rule.name].chunk(rule.matrices.count):
                norm = float(torch.linalg.matrix_norm(part, 2))
                wanted = MUON.lr * math.sqrt(rule.matrices.rows / rule.matrices.columns)
                assert 0.6 * wanted < norm < 1.3 * wanted, rule.name


def test_standard_leaves_every_rate_alone() -> None:
    config = with_scaling(with_width(under(MUON), 64), Scaling.standard)
    assert {rule.factors.lr for rule in parameter_rules(config)} == {1.0}
    rms = dataclasses.replace(MUON, scale=MuonScale.match_rms_adamw)
    found = {r.factors.lr for r in parameter_rules(with_width(under(rms), 32)) if r.matrices}
    assert list(found) == pytest.approx([0.5] * len(found))


def test_groups_have_the_base_rates_of_their_optimizer_and_role() -> None:
    optimizer = dataclasses.replace(MUON, lr_mult_adaln=2.0, lr_mult_input=3.0)
    config = under(optimizer)
    for group in param_groups(build_model(config), config):
        for rule in parameter_rules(config):
            names = group["names"]
            assert isinstance(names, list)
            if rule.name in names:
                assert group["lr"] == base_lr(config, rule) * rule.factors.lr
                assert ("matrices" in group) == (rule.matrices is not None)
    rates = {rule.name: base_lr(config, rule) for rule in parameter_rules(config)}
    assert rates["blocks.0.adaLN_modulation.1.weight"] == 2 * MUON.lr
    assert rates["blocks.0.attn.qkv.weight"] == MUON.lr
    assert rates["x_embedder.proj.weight"] == 3 * MUON.adam_lr
    assert rates["x_embedder.proj.bias"] == MUON.adam_lr


def test_the_products_are_counted() -> None:
    config = under(MUON)
    plain = step_flops(config.model, config.data.layout, config.budget.batch_size)[1]
    # d = 16: per block 10 square maps, fc1 and fc2; t_embedder.mlp.2, and 2 maps at the end.
    square, fourfold = 5 * (4 + 2) * 16**3, 5 * (4 * 4 + 2) * 16**3
    expected = 2 * (10 * square + 2 * fourfold) + 3 * square
    assert muon_flops(config) == expected
    assert train_step_flops(config) == plain + expected
