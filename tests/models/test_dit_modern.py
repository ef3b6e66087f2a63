"""The modern blocks: rotary positions, registers, shapes that grow exactly, roles, presets."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hptransfer.config import DiTModernConfig, Layout, TrialConfig
from hptransfer.config.choices import AdaLN, AutoShift, Prediction
from hptransfer.config.compose.compose import compose_file
from hptransfer.config.compose.schema import is_whole
from hptransfer.config.identity import canonical_json, trial_key
from hptransfer.errors import UserError
from hptransfer.models.families import build_architecture
from hptransfer.models.families.dit_modern import rotary_table, rotate
from hptransfer.models.parametrization.factors import Role
from hptransfer.models.parametrization.rules import (
    forward_multipliers,
    parameter_count,
    parameter_rules,
)
from hptransfer.training.flops import step_flops

SIZE, HEAD_DIM, REGISTERS = 5, 16, 3


def scores() -> Tensor:
    """Return q·k of one query and one key at any two tokens: (registers + 25, the same)."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, HEAD_DIM, generator=generator)
    table = rotary_table(SIZE, HEAD_DIM, REGISTERS)
    at_all = (rotate(x.expand(table.shape[1], -1), table) for x in (q, k))
    first, second = at_all
    return first @ second.T


def test_a_score_depends_on_the_difference_of_places_alone() -> None:
    grid = scores()[REGISTERS:, REGISTERS:].unflatten(0, (SIZE, SIZE)).unflatten(2, (SIZE, SIZE))
    seen: dict[tuple[int, int], float] = {}
    for row, column, other_row, other_column in torch.cartesian_prod(
        *[torch.arange(SIZE)] * 4
    ).tolist():
        score = float(grid[row, column, other_row, other_column])
        apart = (other_row - row, other_column - column)
        assert seen.setdefault(apart, score) == pytest.approx(score, abs=1e-4)
    values = sorted(seen.values())
    assert len(seen) == 81 and min(b - a for a, b in pairwise(values)) > 1e-5


def test_registers_are_not_turned_and_turning_keeps_lengths() -> None:
    x = torch.randn(2, 3, REGISTERS + SIZE**2, HEAD_DIM)
    turned = rotate(x, rotary_table(SIZE, HEAD_DIM, REGISTERS))
    assert torch.equal(turned[..., :REGISTERS, :], x[..., :REGISTERS, :])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("head_dim", [4, 8, 16, 48, 64, 72, 128])
@pytest.mark.parametrize("mlp_ratio", [1, 2, 3, 4])
def test_the_swiglu_grows_exactly_and_has_about_the_size_asked_for(
    head_dim: int, mlp_ratio: int
) -> None:
    def hidden(heads: int) -> int:
        width = heads * head_dim
        return DiTModernConfig(
            width=width, base_width=head_dim, head_dim=head_dim, mlp_ratio=mlp_ratio
        ).mlp_hidden

    assert [hidden(heads) for heads in (1, 2, 3, 7, 20)] == [
        heads * hidden(1) for heads in (1, 2, 3, 7, 20)
    ]
    assert hidden(1) % 8 == 0
    assert abs(hidden(1) - 2 / 3 * mlp_ratio * head_dim) <= max(4, 8 - 2 / 3 * head_dim)


def test_heads_that_have_no_rotary_positions_are_refused() -> None:
    with pytest.raises(UserError, match=r"head_dim` must be a multiple of 4 for rotary positions"):
        DiTModernConfig(width=24, base_width=24, head_dim=6)


ROLES = {
    "x_embedder.patches.proj.weight": Role.finite,
    "x_embedder.proj.weight": Role.input,
    "registers": Role.input,
    "y_embedder.embedding_table.weight": Role.input,
    "t_block.1.weight": Role.hidden,
    "blocks.1.scale_shift_table": Role.input,
    "blocks.1.adaLN_modulation.1.weight": Role.hidden,
    "blocks.1.norm1.weight": Role.vector,
    "blocks.1.attn.q_norm.weight": Role.finite,
    "blocks.1.attn.k_norm.weight": Role.finite,
    "blocks.1.mlp.gate.weight": Role.hidden,
    "blocks.1.mlp.up.weight": Role.hidden,
    "blocks.1.mlp.down.weight": Role.hidden,
    "final_layer.norm.weight": Role.vector,
    "final_layer.linear.weight": Role.output,
}


def test_every_parameter_has_the_role_of_its_kind() -> None:
    found: dict[str, Role] = {}
    for adaln in AdaLN:
        model = DiTModernConfig(width=96, adaln=adaln, base_depth=1)
        rules = parameter_rules(TrialConfig(model=model))
        found |= {rule.name: rule.role for rule in rules}
        for rule in rules:
            if rule.role is Role.hidden:
                assert rule.factors.lr == 0.25, rule.name
            if rule.role is Role.finite:
                assert rule.factors.lr == 1.0 and rule.shape == rule.base_shape, rule.name
        multipliers = forward_multipliers(TrialConfig(model=model))
        assert multipliers["final_layer.linear.multiplier"] == 0.25
        assert multipliers["blocks.1.residual.multiplier"] == 0.5  # two blocks over one
    assert {name: found[name] for name in ROLES} == ROLES


# Own shapes, so the counts are of record only: a changed one is another model.
PRESETS = {
    "dit_modern_b_16": 91_198_464,
    "dit_modern_l_16": 310_801_152,
    "dit_modern_xl_2": 459_616_592,
}


@pytest.mark.parametrize(("preset", "count"), PRESETS.items())
def test_a_preset_is_the_model_it_says(preset: str, count: int) -> None:
    trial = compose_file(None, [f"model={preset}"]).trial
    assert parameter_count(trial) == count
    pixels = trial.data.layout == Layout(3, 256, 1000)
    assert pixels is preset.endswith("_16")
    assert (trial.objective.prediction is Prediction.x) is pixels  # pyright: ignore
    forward, both = step_flops(trial.model, trial.data.layout, 2)
    patches = 2 * (256 + 4)
    assert forward > 2 * patches * 0.5 * count and both == pytest.approx(3 * forward, rel=0.05)


def test_flops_are_those_of_the_matrix_products() -> None:
    model, layout = DiTModernConfig(), TrialConfig().data.layout
    d, hidden, tokens, patches = 24, model.mlp_hidden, 8, 4
    of_tokens = 2 * (4 * d * d + 3 * d * hidden) * tokens
    scores_and_mixes = 2 * 2 * tokens * tokens * d
    of_patches = 2 * (16 * 16 + 16 * d + d * 16) * patches
    of_images = 2 * (256 * d + d * d + d * 6 * d + d * 2 * d)
    expected = 2 * (of_tokens + scores_and_mixes) + of_patches + of_images
    assert step_flops(model, layout, 3)[0] == 3 * expected


def test_the_new_keys_of_an_objective_are_left_out_of_old_trials() -> None:
    """Every committed row keeps its key; a number and `auto` are different trials."""
    assert json.loads(canonical_json(TrialConfig()))["objective"] == {"name": "rectified_flow"}
    words = ["model=dit_modern", "objective=x_prediction"]
    shifts = ("auto", "1.5", "null")
    trials = [compose_file(None, [*words, f"objective.timestep_shift={s}"]).trial for s in shifts]
    told = [json.loads(canonical_json(trial))["objective"] for trial in trials]
    assert [each.get("timestep_shift") for each in told] == ["auto", 1.5, None]
    assert {each["prediction"] for each in told} == {"x"}
    assert trials[0].objective.timestep_shift is AutoShift.auto  # pyright: ignore
    assert len({trial_key(trial) for trial in trials}) == 3
    with pytest.raises(UserError, match=r"timestep_shift` must be a number or one of auto, but"):
        compose_file(None, ["objective.timestep_shift=aut"])


def test_an_objective_of_an_older_results_folder_is_still_whole() -> None:
    written = {"name": "rectified_flow", "timesteps": "uniform"}
    assert is_whole("objective", {**written, "logit_mean": 0.0, "logit_std": 1.0})
    assert not is_whole("objective", written)


def test_without_registers_there_is_no_such_parameter() -> None:
    model = dataclasses.replace(DiTModernConfig(), registers=0)
    names = {
        name for name, _ in build_architecture(model, TrialConfig().data.layout).named_parameters()
    }
    assert "registers" not in names and "x_embedder.proj.weight" in names
