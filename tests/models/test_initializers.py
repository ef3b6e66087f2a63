"""The distributions that parameters start from, and where each family uses which."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from hptransfer.config import (
    DigitsConfig,
    DiTConfig,
    DiTModernConfig,
    FeaturesConfig,
    MMDiTConfig,
    ModelConfig,
    PixArtConfig,
    TrialConfig,
    UViTConfig,
)
from hptransfer.config.choices import Init
from hptransfer.models.families import initializer
from hptransfer.models.families.initializers import Distribution, Initializer
from hptransfer.models.parametrization.rules import build_model

UNIFORM = (Distribution.uniform, Distribution.fan_in_uniform, Distribution.xavier_uniform)
NORMAL = (Distribution.normal, Distribution.fan_in_normal)


@pytest.mark.parametrize("distribution", [*UNIFORM, *NORMAL])
def test_draws_are_centred_of_the_given_std_and_of_their_form(distribution: Distribution) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = Initializer(distribution).draw((200, 500), 0.3, generator)
    assert abs(float(drawn.mean())) < 5 * 0.3 / math.sqrt(drawn.numel())
    assert float(drawn.std()) == pytest.approx(0.3, rel=0.02)
    beyond = drawn.abs() > 0.3 * math.sqrt(3)
    assert float(beyond.float().mean()) == pytest.approx(
        0.0833 if distribution in NORMAL else 0.0, abs=0.005
    )


@pytest.mark.parametrize("init", [Init.paper, Init.adaln_zero])
@pytest.mark.parametrize(
    "model", [DiTConfig(), DiTModernConfig(), UViTConfig(), PixArtConfig(), MMDiTConfig()]
)
def test_every_family_predicts_zero_before_training(model: ModelConfig, init: Init) -> None:
    config = dataclasses.replace(TrialConfig(), model=model, init=init)
    readout = "decoder_pred" if model.family == "uvit" else "final_layer.linear"
    state = build_model(config).state_dict()
    assert not state[f"{readout}.weight"].any() and not state[f"{readout}.bias"].any()


CAPTIONED = FeaturesConfig(caption_tokens=4, caption_channels=5, pooled_channels=7)
FAN_INS = [  # of torch's own layers, whose biases are uniform with variance 1/(3·fan_in)
    (UViTConfig(patch_size=2), "patch_embed.proj.bias", 2 * 2 * 4),
    (UViTConfig(patch_size=2), "final_layer.bias", 3 * 3 * 4),
    (MMDiTConfig(patch_size=2), "x_embedder.proj.bias", 2 * 2 * 4),
    (MMDiTConfig(), "t_embedder.mlp.0.bias", 256),
    (MMDiTConfig(), "y_embedder.mlp.0.bias", 7),
    (MMDiTConfig(), "y_embedder.mlp.2.bias", 24),
    (MMDiTConfig(), "context_embedder.bias", 5),
    (MMDiTConfig(), "joint_blocks.0.x_block.mlp.fc1.bias", 24),
    (MMDiTConfig(), "joint_blocks.0.x_block.mlp.fc2.bias", 4 * 24),
]


@pytest.mark.parametrize(("model", "name", "fan_in"), FAN_INS)
def test_a_released_bias_has_the_fan_in_of_its_layer(
    model: ModelConfig, name: str, fan_in: int
) -> None:
    how = initializer(model, CAPTIONED.layout, name, Init.original)
    assert how.distribution is Distribution.uniform
    assert how.std((24,)) == pytest.approx((3 * fan_in) ** -0.5)


def test_pixarts_null_caption_has_features_of_unit_norm() -> None:
    model = build_model(TrialConfig(model=PixArtConfig()))
    null = model.get_buffer("y_embedder.y_embedding")
    assert null.shape == (6, 64) == (6, DigitsConfig().layout.caption_channels)
    assert float(null.square().sum(-1).mean()) == pytest.approx(1, abs=0.3)


STDS = [  # under paper, adaln_zero and original; a norm's gain has none
    (DiTModernConfig(), "registers", (0.02, 0.02, 0.02)),
    (DiTModernConfig(), "t_block.1.weight", (1.0, 0.0, 0.0)),
    (DiTModernConfig(), "blocks.0.scale_shift_table", (0.02, 0.0, 0.0)),
    (DiTModernConfig(), "blocks.0.attn.q_norm.weight", (0.0, 0.0, 0.0)),
    (DiTModernConfig(), "blocks.0.mlp.down.weight", (1.0, 1.0, (2 / 7) ** 0.5)),
    (PixArtConfig(), "t_block.1.weight", (0.02, 0.0, 0.02)),
    (PixArtConfig(), "blocks.0.scale_shift_table", (0.02, 0.0, 24**-0.5)),
    (PixArtConfig(), "final_layer.scale_shift_table", (0.02, 0.02, 24**-0.5)),
    (PixArtConfig(), "blocks.0.cross_attn.proj.weight", (0.0, 0.0, 0.0)),
    (PixArtConfig(), "y_embedder.y_proj.fc1.weight", (0.02, 0.02, 0.02)),
    (MMDiTConfig(), "joint_blocks.0.x_block.attn.ln_q.weight", (0.0, 0.0, 0.0)),
    (MMDiTConfig(), "joint_blocks.0.x_block.attn.ln_k.weight", (0.0, 0.0, 0.0)),
    (MMDiTConfig(), "joint_blocks.0.x_block.adaLN_modulation.1.weight", (1.0, 0.0, 3**-0.5)),
    (MMDiTConfig(), "final_layer.adaLN_modulation.1.weight", (1.0, 0.0, 3**-0.5)),
]


@pytest.mark.parametrize(("model", "name", "stds"), STDS)
def test_modulations_start_as_the_init_says(
    model: ModelConfig, name: str, stds: tuple[float, ...]
) -> None:
    inits = (Init.paper, Init.adaln_zero, Init.original)
    found = [initializer(model, CAPTIONED.layout, name, init).std((6, 1)) for init in inits]
    assert found == pytest.approx(stds)
