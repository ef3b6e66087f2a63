"""Every value that a config refuses, at the edge of what it takes, in a sentence that names it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hptransfer.config import (
    AdamWConfig,
    BudgetConfig,
    DDPMConfig,
    DigitsConfig,
    DiTConfig,
    DiTModernConfig,
    ExecutorConfig,
    FeaturesConfig,
    ImageFolderConfig,
    ParametrizationConfig,
    PixArtConfig,
    RectifiedFlowConfig,
    RuntimeConfig,
    TrialConfig,
    UViTConfig,
    VPConfig,
)
from hptransfer.config.trial import CustomConfig
from hptransfer.errors import UserError

REFUSED: list[tuple[type, dict[str, Any]]] = [
    *((kind, {"width": 0}) for kind in (DiTConfig, UViTConfig, CustomConfig)),
    *((DiTConfig, {name: 0}) for name in ("depth", "head_dim", "patch_size", "mlp_ratio")),
    *((DiTConfig, {"label_dropout": share}) for share in (-0.1, 1.1)),
    *((CustomConfig, {name: 0}) for name in ("base_width", "width")),
    (DiTConfig, {"base_depth": 0}),
    *((DiTConfig, {name: 30, "head_dim": 6}) for name in ("width", "base_width")),
    (UViTConfig, {"width": 27, "head_dim": 9}),
    (UViTConfig, {"depth": 3}),
    (RectifiedFlowConfig, {"logit_std": 0.0}),
    *((RectifiedFlowConfig, {"least_time": time}) for time in (0.0, 1.1)),
    *((RectifiedFlowConfig, {"timestep_shift": shift}) for shift in (0.0, -1.0, math.inf)),
    (DiTModernConfig, {"head_dim": 6, "width": 24, "base_width": 24}),
    (DiTModernConfig, {"bottleneck": 0}),
    (DiTModernConfig, {"registers": -1}),
    (DDPMConfig, {"timesteps": 1}),
    (DDPMConfig, {"beta_first": 0.0}),
    (DDPMConfig, {"beta_first": 0.02}),
    (DDPMConfig, {"beta_last": 1.0}),
    (DDPMConfig, {"vlb_weight": -1e-3}),
    (VPConfig, {"beta_min": 0.0}),
    (VPConfig, {"beta_max": 0.1}),
    *((VPConfig, {"t_min": time}) for time in (0.0, 1.0)),
    *((DigitsConfig, {"held_out": count}) for count in (0, 1797)),
    *((FeaturesConfig, {name: 0}) for name in ("channels", "image_size", "classes", "held_out")),
    (FeaturesConfig, {"caption_tokens": -1}),
    (FeaturesConfig, {"caption_channels": -1}),
    (FeaturesConfig, {"pooled_channels": -1}),
    (FeaturesConfig, {"caption_channels": 3}),
    (FeaturesConfig, {"scale": math.inf}),
    (ImageFolderConfig, {"channels": 2}),
    (ImageFolderConfig, {"image_size": 0}),
    (ImageFolderConfig, {"pooled_channels": 3}),
    *((RuntimeConfig, {name: 0}) for name in ("threads", "pack_size")),
    (ExecutorConfig, {"workers": 0}),
    (ExecutorConfig, {"cpus": 0.0}),
    *((ParametrizationConfig, {name: 0.0}) for name in ("init_scale", "output_scale")),
    *((ParametrizationConfig, {"depth_alpha": alpha}) for alpha in (0.49, 1.01)),
    *((AdamWConfig, {name: math.inf}) for name in ("lr", "eps", "weight_decay")),
    *((AdamWConfig, {name: 0.0}) for name in ("lr", "eps", "clip_norm")),
    *((AdamWConfig, {name: beta}) for name in ("beta1", "beta2") for beta in (-0.1, 1.0)),
    (AdamWConfig, {"weight_decay": -0.1}),
    *((BudgetConfig, {n: 0}) for n in ("steps", "batch_size", "eval_samples", "eval_draws")),
    *(
        (BudgetConfig, {f"{name}_fraction": share})
        for name in ("warmup", "decay", "ema")
        for share in (-0.1, 1.1)
    ),
    (TrialConfig, {"seed": -1}),
]


@pytest.mark.parametrize(("kind", "changes"), REFUSED)
def test_what_a_config_refuses_is_named(kind: type, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        kind(**changes)
    name, value = next(iter(changes.items()))
    assert name in str(caught.value) and f"{value}" in str(caught.value)


def test_the_ends_of_a_range_are_taken() -> None:
    ParametrizationConfig(depth_alpha=0.5)
    AdamWConfig(beta1=0.0, weight_decay=0.0)
    BudgetConfig(warmup_fraction=0.0, decay_fraction=1.0)
    DigitsConfig(held_out=1796)
    DiTConfig(label_dropout=1.0)
    DDPMConfig(vlb_weight=0.0)


def test_a_model_needs_the_data_and_the_objective_that_it_is_for() -> None:
    with pytest.raises(UserError, match="needs data with captions, but data=features"):
        TrialConfig(model=PixArtConfig(), data=FeaturesConfig())
    with pytest.raises(UserError, match=r"Set objective=ddpm or model\.learn_sigma=false"):
        TrialConfig(model=DiTConfig(learn_sigma=True))
    TrialConfig(model=DiTConfig(learn_sigma=True), objective=DDPMConfig())
