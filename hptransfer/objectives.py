"""Noising paths and regression targets: pure functions of tensors.

`noised` turns a sample, a noise and a uniform draw into what the model sees, the timestep it is
told (0 to 1000) and what it must predict.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hptransfer.config import DDPMConfig, ObjectiveConfig, RectifiedFlowConfig


def noised(
    objective: ObjectiveConfig, x: Tensor, noise: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise x (..., C, H, W) with `noise` of its shape at quantile u (...,) of the time axis.

    Returns the noised sample, the timestep for the embedding (...,) and the target (..., C, H, W).
    """
    match objective:
        case RectifiedFlowConfig():
            # arXiv 2209.03003, Eq. 1, with t = 1 at the noise; the embedding is fed 1000·t.
            t = u[..., None, None, None]
            return torch.lerp(x, noise, t), 1000.0 * u, noise - x
        case DDPMConfig():
            step = (u * objective.timesteps).long().clamp_max(objective.timesteps - 1)
            signal = alphas_cumprod(objective).to(x.device)[step][..., None, None, None]
            # arXiv 2006.11239, Eq. 4 and 14.
            return signal.sqrt() * x + (1 - signal).sqrt() * noise, step.float(), noise
    raise TypeError(f"no objective for {type(objective).__name__}")


def alphas_cumprod(objective: DDPMConfig) -> Tensor:
    """The signal's share of the variance after each step of the linear schedule: (timesteps,)."""
    betas = torch.linspace(
        objective.beta_first, objective.beta_last, objective.timesteps, dtype=torch.float64
    )
    return (1 - betas).cumprod(0).float()


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over batch and pixels of (..., B, C, H, W): (...,)."""
    return (prediction - target).square().mean((-4, -3, -2, -1))
