"""Noising paths, regression targets and losses: pure functions of tensors.

`noised` turns a sample, a noise and a uniform draw into what the model sees, the timestep it is
told (0 to 1000) and what it must predict; `objective_loss` scores the prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from hptransfer.config import DDPMConfig, ObjectiveConfig, RectifiedFlowConfig, VPConfig
from hptransfer.config.choices import BetaSchedule, TimestepSampling


class Noised(NamedTuple):
    """The noised sample x (..., C, H, W), the timestep for the embedding (...,), the regression
    target (..., C, H, W), and the clean sample.
    """

    x: Tensor
    t: Tensor
    target: Tensor
    clean: Tensor


def noised(objective: ObjectiveConfig, x: Tensor, noise: Tensor, u: Tensor) -> Noised:
    """Noise x (..., C, H, W) with `noise` of its shape at quantile u (...,) of the time axis."""
    match objective:
        case RectifiedFlowConfig():
            # arXiv 2209.03003, Eq. 1, with t = 1 at the noise; the embedding is fed 1000·t.
            t = flow_times(objective, u)
            return Noised(torch.lerp(x, noise, _per_image(t)), 1000.0 * t, noise - x, x)
        case DDPMConfig():
            step = (u * objective.timesteps).long().clamp_max(objective.timesteps - 1)
            signal = _per_image(_schedule(objective, x.device).signal[step])
            # arXiv 2006.11239, Eq. 4 and 14.
            return Noised(signal.sqrt() * x + (1 - signal).sqrt() * noise, step.float(), noise, x)
        case VPConfig():
            # arXiv 2011.13456, Appendix C; 999·t runs over the steps of a schedule of 1,000.
            t = objective.t_min + u * (1 - objective.t_min)
            alpha, sigma = (_per_image(scale) for scale in vp_scales(objective, t))
            return Noised(alpha * x + sigma * noise, 999.0 * t, noise, x)
    raise TypeError(f"no objective for {type(objective).__name__}")


def _per_image(values: Tensor) -> Tensor:
    return values[..., None, None, None]


def flow_times(objective: RectifiedFlowConfig, u: Tensor) -> Tensor:
    """Return the times in [0, 1] at quantiles u (...,), increasing in u (arXiv 2403.03206, Eq. 19).

    No quantile needs a guard: u = 0 has normal quantile -∞ and so t = 0, data without noise, as it
    has for uniform times.
    """
    match objective.timesteps:
        case TimestepSampling.uniform:
            return u
        case TimestepSampling.logit_normal:
            normal = torch.special.ndtri(u)
            return torch.sigmoid(objective.logit_mean + objective.logit_std * normal)


def vp_scales(objective: VPConfig, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the signal's and the noise's scale at times t (...,) in [0, 1]."""
    growth = objective.beta_max - objective.beta_min
    log_alpha = -0.25 * growth * t.square() - 0.5 * objective.beta_min * t
    return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()


def alphas_cumprod(objective: DDPMConfig) -> Tensor:
    """The signal's share of the variance after each step: (timesteps,), in float64."""
    return (1 - _betas(objective)).cumprod(0)


def _betas(objective: DDPMConfig) -> Tensor:
    power = 1 if objective.schedule is BetaSchedule.linear else 2
    ends = (objective.beta_first ** (1 / power), objective.beta_last ** (1 / power))
    return torch.linspace(*ends, objective.timesteps, dtype=torch.float64) ** power


class _Schedule(NamedTuple):
    """Tables by step (timesteps,), in float32."""

    signal: Tensor  # the signal's share of the variance
    variances: Tensor  # (2, timesteps): the logarithms of β̃ and β
    mean_scale: Tensor  # of the posterior mean's error over the predicted noise's


@lru_cache(maxsize=8)
def _schedule(objective: DDPMConfig, device: torch.device) -> _Schedule:
    """Tabulate a schedule (arXiv 2006.11239, Eq. 7 and 11) on a device, once."""
    beta, signal = _betas(objective), alphas_cumprod(objective)
    before = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
    posterior = beta * (1 - before) / (1 - signal)
    posterior[0] = posterior[1]  # that of the first step is zero, which has no logarithm
    tables = (
        signal,
        torch.stack([posterior.log(), beta.log()]),
        beta * ((1 - beta) * (1 - signal)).rsqrt(),
    )
    return _Schedule(*(table.float().to(device) for table in tables))


def objective_loss(
    objective: ObjectiveConfig,
    prediction: Tensor,
    at: Noised,
    terms: Callable[[BoundInputs], Tensor] | None = None,
    weight: float | Tensor | None = None,
) -> Tensor:
    """Return the loss of a prediction (..., B, C, H, W), over batch and pixels: (...,).

    A prediction of twice the target's channels has a learned variance in its second half. `terms`
    computes its bound: `bound_terms` unless given. `weight` (...,) is the bound's weight, times
    the number of steps; the objective's unless given.
    """
    if prediction.shape[-3] == at.target.shape[-3]:
        return squared_error(prediction, at.target)
    assert isinstance(objective, DDPMConfig), "only DDPM trains a learned variance"
    mean, variance = prediction.chunk(2, dim=-3)
    bound = variational_bound(objective, mean.detach(), variance, at, terms).mean(-1)
    # arXiv 2102.09672, Eq. 16; the bound is a sum over steps, of which each sample has one.
    if weight is None:
        weight = objective.vlb_weight * objective.timesteps
    return squared_error(mean, at.target) + weight * bound


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over batch and pixels of (..., B, C, H, W): (...,)."""
    return (prediction - target).square().mean((-4, -3, -2, -1))


class BoundInputs(NamedTuple):
    """What a sample's term of the bound is made of: all broadcast to (..., C, H, W)."""

    error: Tensor  # true minus predicted posterior mean; of the data at step 0
    low: Tensor  # log β̃
    log_variance: Tensor  # predicted
    clean: Tensor
    first: Tensor  # (..., 1, 1, 1): whether the step is 0, whose term is the data's likelihood


def variational_bound(
    objective: DDPMConfig,
    noise: Tensor,
    fraction: Tensor,
    at: Noised,
    terms: Callable[[BoundInputs], Tensor] | None = None,
) -> Tensor:
    """Return each sample's term of the variational bound, in bits per dimension: (...,).

    `noise` and `fraction` (..., C, H, W) are predicted; a fraction of -1 is the variance β̃ and of
    1 is β, in between logarithmically (arXiv 2102.09672, Eq. 15, with v = (1 + fraction)/2).
    """
    step, schedule = at.t.long(), _schedule(objective, noise.device)
    low, high = (_per_image(table[step]) for table in schedule.variances)
    log_variance = low + 0.5 * (1 + fraction) * (high - low)
    # True minus predicted posterior mean (arXiv 2006.11239, Eq. 11).
    error = _per_image(schedule.mean_scale[step]) * (noise - at.target)
    inputs = BoundInputs(error, low, log_variance, at.clean, _per_image(step == 0))
    return (bound_terms if terms is None else terms)(inputs) / math.log(2)


def bound_terms(inputs: BoundInputs) -> Tensor:
    """Return the terms in nats (...,). The likelihood is dear, so it is that of few samples."""
    error, low, log_variance, clean, first = inputs
    nats = gaussian_kl(error, low, log_variance).mean((-3, -2, -1))
    few = first[..., 0, 0, 0].expand(nats.shape).nonzero(as_tuple=True)
    decoded = discretised_nll(clean.expand(error.shape)[few], error[few], log_variance[few])
    return nats.index_put(few, decoded.mean((-3, -2, -1)))


def bound_terms_of_fixed_shape(inputs: BoundInputs) -> Tensor:
    """Return the same by the same operations whatever the steps are, as capturing them needs."""
    error, low, log_variance, clean, first = inputs
    # Where the likelihood is not wanted it is that of harmless values: 0 times infinity is NaN.
    decoded = discretised_nll(
        clean, torch.where(first, error, 0.0), torch.where(first, log_variance, 0.0)
    )
    nats = torch.where(first, decoded, gaussian_kl(error, low, log_variance))
    return nats.mean((-3, -2, -1))


def gaussian_kl(error: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
    """Return KL(N(error, e^true) || N(0, e^predicted)), elementwise, in nats."""
    ratio = predicted - true
    return 0.5 * (ratio + torch.expm1(-ratio) + error.square() * torch.exp(-predicted))


def discretised_nll(clean: Tensor, error: Tensor, log_variance: Tensor) -> Tensor:
    """Return -log of a Gaussian's mass in the pixel's bin (arXiv 2006.11239, Eq. 13), in nats.

    256 levels fill [-1, 1], the outermost bins reach to infinity; `error` is `clean` minus mean.
    """
    precision = torch.exp(-0.5 * log_variance)
    above = torch.special.log_ndtr((error + 1 / 255) * precision)
    below = torch.special.log_ndtr(-(error - 1 / 255) * precision)
    # Both edges on the lower tail's side, where the difference of the two masses is exact.
    near, far = ((edge - error.abs()) * precision for edge in (1 / 255, -1 / 255))
    log_near = torch.special.log_ndtr(near)
    inside = log_near + torch.log(-torch.expm1(torch.special.log_ndtr(far) - log_near))
    # Levels are 2/255 apart: half of that tells an outermost one from its neighbour.
    edge = 1 - 1 / 255
    return -torch.where(clean < -edge, above, torch.where(clean > edge, below, inside))
