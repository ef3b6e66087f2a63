"""Parametrization, optimizer, budget and sample quality of a trial."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hptransfer.config.checks import require_count, require_finite, require_positive, require_share
from hptransfer.config.choices import (
    Broken,
    EpsScaling,
    Scaling,
    Schedule,
    WeightDecayMode,
    Weights,
)
from hptransfer.errors import require


@dataclass(frozen=True)
class ParametrizationConfig:
    """How the model scales with width, and the two scales that may be swept."""

    scaling: Scaling = Scaling.mup  # mup, standard or standard_embed
    init_scale: float = 1.0  # multiplies every random initial std; zeros and fixed tables stay
    output_scale: float = 1.0  # multiplies the readout's output (paper: output_mult)
    weight_decay_mode: WeightDecayMode = WeightDecayMode.mup  # mup, independent or unscaled
    eps_scaling: EpsScaling = EpsScaling.none  # of Adam's epsilon: none, or width for eps/m
    broken: Broken = Broken.none  # a deliberate fault, for `hptransfer check`
    depth_alpha: float = 1.0  # branches are scaled by (depth / model.base_depth)^-depth_alpha

    def __post_init__(self) -> None:
        require_positive("parametrization.init_scale", self.init_scale)
        require_positive("parametrization.output_scale", self.output_scale)
        require(
            0.5 <= self.depth_alpha <= 1,
            "`parametrization.depth_alpha` must lie between 0.5 and 1, where depth transfers, but "
            f"got {self.depth_alpha}.",
        )


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW with decoupled weight decay (arXiv 1711.05101). `lr` is the base learning rate."""

    lr: float = 2.0**-6  # base learning rate, before any factor of the parametrization
    beta1: float = 0.9  # decay of the first moment, per step
    beta2: float = 0.999  # decay of the second moment, per step
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 0.0  # λ, which parametrization.weight_decay_mode explains
    clip_norm: float | None = None  # largest global norm of the gradient; null: no clipping

    def __post_init__(self) -> None:
        require_positive("optimizer.lr", self.lr)
        require_positive("optimizer.eps", self.eps)
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(
                0 <= value < 1,
                f"`optimizer.{name}` must be at least 0 and below 1, but got {value}.",
            )
        require(
            self.weight_decay >= 0 and math.isfinite(self.weight_decay),
            f"`optimizer.weight_decay` must not be negative, but got {self.weight_decay}.",
        )
        if self.clip_norm is not None:
            require_positive("optimizer.clip_norm", self.clip_norm)


@dataclass(frozen=True)
class BudgetConfig:
    """How long a trial trains, and on what its loss is decided."""

    steps: int = 150  # optimizer steps
    batch_size: int = 64  # samples a step
    schedule: Schedule = Schedule.linear_decay  # of the rate: constant, cosine, linear_decay
    warmup_fraction: float = 0.07  # share of the steps in which the rate rises from zero
    decay_fraction: float = 0.3  # share of the steps in which `linear_decay` falls to zero
    weights: Weights = Weights.raw  # whose loss decides: raw, or ema (the moving average)
    ema_fraction: float = 0.05  # horizon of the moving average, as a share of the steps
    eval_samples: int = 360  # held-out samples in the deciding loss
    eval_draws: int = 6  # stratified (noise, timestep) draws per held-out sample
    stop_after: float | None = None  # share of the steps that a hopeless trial runs; null: all

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_samples", "eval_draws"):
            require_count(f"budget.{name}", getattr(self, name))
        for name in ("warmup_fraction", "decay_fraction", "ema_fraction"):
            require_share(f"budget.{name}", getattr(self, name))
        if self.stop_after is not None:
            require_share("budget.stop_after", self.stop_after)

    @property
    def ema_decay(self) -> float:
        """The per-step decay whose horizon is `ema_fraction` of the run."""
        return math.exp(-1.0 / max(self.ema_fraction * self.steps, 1e-9))


LEAST_SAMPLES = 100  # samples of a trial: more than the classifiers have features


@dataclass(frozen=True)
class QualityConfig:
    """Samples that the deciding weights draw after training, judged beside the loss."""

    samples: int = 0  # 0: quality is not measured
    steps: int = 20  # model evaluations a sample, by DPM-Solver++(2M)
    guidance: float = 1.0  # 1: the conditional prediction, none of the unconditional one

    def __post_init__(self) -> None:
        require_count("quality.samples", self.samples, least=0, most=50_000)
        require(
            self.samples == 0 or self.samples >= LEAST_SAMPLES,
            f"`quality.samples` must be 0 (not measured) or at least {LEAST_SAMPLES}, more than "
            f"the features they are compared in, but got {self.samples}.",
        )
        require_count("quality.steps", self.steps)
        require_finite("quality.guidance", self.guidance, least=0)
