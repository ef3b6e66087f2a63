"""Samplers from noise to data along the probability-flow ODE, with classifier-free guidance.

Every objective is written as x_t = α·x + σ·noise. A step then needs only α and σ at its two ends,
and the estimates of x and of the noise that follow from the model's prediction. Steps divide the
objective's time axis evenly, before the shift of a rectified flow's times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from hptransfer.config import DDPMConfig, ObjectiveConfig, RectifiedFlowConfig, VPConfig
from hptransfer.config.choices import Prediction, Sampler
from hptransfer.errors import require
from hptransfer.training.objectives import alphas_cumprod, shifted, vp_scales

Model = Callable[..., Tensor]  # (x (..., B, C, H, W), t (..., B), *condition) -> prediction
Predict = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> prediction, its condition bound


@dataclass(frozen=True)
class SamplerConfig:
    """The settings of a sampler."""

    name: Sampler = Sampler.dpm_solver
    steps: int = 20  # model evaluations
    guidance: float = 1.0  # 1: the conditional prediction, 0: the unconditional one

    def __post_init__(self) -> None:
        require(self.steps > 0, f"A sampler's steps must be positive, but got {self.steps}.")
        require(
            math.isfinite(self.guidance) and self.guidance >= 0,
            "Guidance must be finite and not negative (1 is none, 2 to 8 are usual), but got "
            f"{self.guidance}.",
        )


@torch.no_grad()
def sample(
    objective: ObjectiveConfig,
    model: Model,
    noise: Tensor,
    condition: Sequence[Tensor],
    null: Sequence[Tensor],
    config: SamplerConfig,
) -> Tensor:
    """Return samples (..., B, C, H, W) from noise of that shape.

    Args:
        condition: labels, or tokens, mask and pooled features: (..., B, ...) each.
        null: the null condition, in the same shapes, for guidance.

    Raises:
        UserError: the sampler does not fit the objective.
    """
    require_fitting_sampler(objective, config)
    predict = guided(model, condition, null, config.guidance)
    times = sampling_times(objective, config.steps, math.prod(noise.shape[-3:]))
    points = [path_point(objective, time) for time in times]
    solve = second_order if config.name is Sampler.dpm_solver else first_order
    return solve(objective, predict, noise, points)


def sampling_times(objective: ObjectiveConfig, steps: int, values: int) -> list[float]:
    """Return the shares of the time axis between which steps go, from 1 (noise) to 0 (data).

    They are even, or shifted as in training for samples of `values` numbers.
    """
    even = [1 - i / steps for i in range(steps + 1)]
    if not isinstance(objective, RectifiedFlowConfig):
        return even
    return [shifted(time, objective.shift(values)) for time in even]


def require_fitting_sampler(objective: ObjectiveConfig, config: SamplerConfig) -> None:
    """Raise a `UserError` if a sampler does not fit an objective."""
    own = objective.first_order_sampler
    require(
        config.name in (own, Sampler.dpm_solver),
        f"A sampler must fit its objective, but got {config.name.value}; "
        f"objective={objective.name} takes {own.value} or dpm_solver. Choose {own.value}.",
    )
    require(
        not isinstance(objective, DDPMConfig) or config.steps <= objective.timesteps,
        f"A sampler's steps must not exceed the schedule's, but got {config.steps} with "
        f"objective.timesteps={getattr(objective, 'timesteps', None)}. Take fewer steps.",
    )


def guided(
    model: Model, condition: Sequence[Tensor], null: Sequence[Tensor], scale: float
) -> Predict:
    """Return the guided prediction: unconditional + scale·(conditional - unconditional).

    Both parts are computed in one batch (arXiv 2207.12598, Eq. 6, with scale 1 + w).
    """

    def predict(x: Tensor, t: Tensor) -> Tensor:
        if scale == 1:
            return _without_variance(model(x, t, *condition), x)
        batch = x.ndim - 4  # images, times and conditions share all axes up to this one
        both = [
            torch.cat(pair, batch) for pair in ((x, x), (t, t), *zip(null, condition, strict=True))
        ]
        unconditional, conditional = _without_variance(model(*both), x).chunk(2, batch)
        return torch.lerp(unconditional, conditional, scale)

    return predict


def _without_variance(prediction: Tensor, x: Tensor) -> Tensor:
    """Drop the channels of a learned variance, which no deterministic sampler reads."""
    return prediction[..., : x.shape[-3], :, :]


class PathPoint(NamedTuple):
    """A point of the noising path: scales of signal and noise, and the embedding's timestep."""

    alpha: float
    sigma: float
    t: float

    @property
    def log_ratio(self) -> float:
        """The half log signal-to-noise ratio λ = log(α/σ), infinite at either end of a path."""
        if self.alpha == 0 or self.sigma == 0:
            return -math.inf if self.alpha == 0 else math.inf
        return math.log(self.alpha / self.sigma)


def path_point(objective: ObjectiveConfig, time: float) -> PathPoint:
    """Return the point at a share of the time axis: 1 is the most noise in training, 0 is data."""
    match objective:
        case RectifiedFlowConfig():
            return PathPoint(1 - time, time, 1000 * time)
        case DDPMConfig():
            noisings = round(time * objective.timesteps)  # the n-th noising has step n - 1
            kept = alphas_cumprod(objective)[noisings - 1].item() if noisings else 1.0
            return PathPoint(math.sqrt(kept), math.sqrt(1 - kept), noisings - 1)
        case VPConfig():
            scales = vp_scales(objective, torch.tensor(time, dtype=torch.float64))
            alpha, sigma = (scale.item() for scale in scales)
            return PathPoint(alpha, sigma, 999 * time)
    raise TypeError(f"no sampling path for {type(objective).__name__}")


def data_and_noise(
    objective: ObjectiveConfig, predict: Predict, x: Tensor, at: PathPoint
) -> tuple[Tensor, Tensor]:
    """Return the model's estimates of the data and of the noise in x (..., B, C, H, W)."""
    prediction = predict(x, x.new_full(x.shape[:-3], at.t))
    if isinstance(objective, RectifiedFlowConfig) and objective.prediction is Prediction.x:
        return prediction, (x - at.alpha * prediction) / at.sigma
    if isinstance(objective, RectifiedFlowConfig):  # the target is noise - data, and α + σ = 1
        return x - at.sigma * prediction, x + at.alpha * prediction
    return (x - at.sigma * prediction) / at.alpha, prediction


def first_order(
    objective: ObjectiveConfig, predict: Predict, x: Tensor, points: Sequence[PathPoint]
) -> Tensor:
    """Return x at the last point, with estimates held fixed in each step: DDIM, or Euler."""
    for here, there in pairwise(points):
        data, noise = data_and_noise(objective, predict, x, here)
        x = there.alpha * data + there.sigma * noise
    return x


def second_order(
    objective: ObjectiveConfig, predict: Predict, x: Tensor, points: Sequence[PathPoint]
) -> Tensor:
    """Return x at the last point, extrapolating the data over λ: DPM-Solver++(2M)."""
    previous, last_step = None, math.inf
    for here, there in pairwise(points):
        data, _ = data_and_noise(objective, predict, x, here)
        step = there.log_ratio - here.log_ratio
        # The first and the last step may reach λ = ±∞; such a step is first order.
        weight = step / (2 * last_step) if math.isfinite(step) else 0.0
        ahead = data if previous is None else torch.lerp(previous, data, 1 + weight)
        # The paper's -α'·(e^-h - 1), in a form that is finite at the ends too.
        gain = there.alpha - there.sigma * here.alpha / here.sigma
        x = (there.sigma / here.sigma) * x + gain * ahead
        previous, last_step = data, step
    return x
