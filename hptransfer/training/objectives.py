"""Noising paths, regression targets and losses: pure functions of tensors.

`noised` turns a sample, a noise and a uniform draw into the model's input, the timestep of its
embedding (0 to 1000) and the regression target. `objective_loss` scores a prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity

from hptransfer.config import (
    CustomConfig,
    DDPMConfig,
    ModelConfig,
    ObjectiveConfig,
    RectifiedFlowConfig,
    TrialConfig,
    VPConfig,
)
from hptransfer.config.choices import BetaSchedule, Prediction, TimestepSampling
from hptransfer.models.families.custom import auxiliary_of


class Noised(NamedTuple):
    """Noised samples, and what a prediction of them is compared with."""

    x: Tensor  # (..., C, H, W): the noised sample, the model's input
    t: Tensor  # (...,): the timestep of the embedding, 0 to 1000
    target: Tensor  # (..., C, H, W): the regression target
    clean: Tensor  # (..., C, H, W): the sample without noise


def noised(objective: ObjectiveConfig, x: Tensor, noise: Tensor, u: Tensor) -> Noised:
    """Return x (..., C, H, W) noised with `noise` of equal shape at quantile u (...,) of time."""
    match objective:
        case RectifiedFlowConfig():
            # arXiv 2209.03003, Eq. 1, with t = 1 at the noise; the embedding is fed 1000·t.
            t = shifted(flow_times(objective, u), objective.shift(math.prod(x.shape[-3:])))
            target = x if objective.prediction is Prediction.x else noise - x
            return Noised(torch.lerp(x, noise, _per_image(t)), 1000.0 * t, target, x)
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

    The quantile u = 0 needs no guard: its normal quantile is -∞, so that t = 0, which is data
    without noise, as for uniform times.
    """
    match objective.timesteps:
        case TimestepSampling.uniform:
            return u
        case TimestepSampling.logit_normal:
            normal = torch.special.ndtri(u)
            return torch.sigmoid(objective.logit_mean + objective.logit_std * normal)


Time = TypeVar("Time", float, Tensor)


def shifted(t: Time, shift: float | None) -> Time:
    """Return times t in [0, 1] moved to more noise by a shift above 1 (arXiv 2403.03206, Eq. 23).

    It is s·t / (1 + (s - 1)·t), written so that t = 1 stays 1 to the bit; None leaves t as it is.
    """
    if shift is None:
        return t
    return shift * t / (shift * t + (1 - t))


def vp_scales(objective: VPConfig, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales of signal and noise (...,) at times t (...,) in [0, 1] (arXiv 2011.13456,
    Appendix C).
    """
    growth = objective.beta_max - objective.beta_min
    log_alpha = -0.25 * growth * t.square() - 0.5 * objective.beta_min * t
    return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()


def alphas_cumprod(objective: DDPMConfig) -> Tensor:
    """Return the signal's share of the variance after each step: (timesteps,), in float64."""
    return (1 - _betas(objective)).cumprod(0)


def _betas(objective: DDPMConfig) -> Tensor:
    power = 1 if objective.schedule is BetaSchedule.linear else 2
    ends = (objective.beta_first ** (1 / power), objective.beta_last ** (1 / power))
    return torch.linspace(*ends, objective.timesteps, dtype=torch.float64) ** power


class _Schedule(NamedTuple):
    """A variance schedule as tables by step, in float32."""

    signal: Tensor  # (timesteps,): the signal's share of the variance
    variances: Tensor  # (2, timesteps): the logarithms of β̃ and β
    mean_scale: Tensor  # (timesteps,): error of the posterior mean over error of predicted noise


@lru_cache(maxsize=8)
def _schedule(objective: DDPMConfig, device: torch.device) -> _Schedule:
    """Return the tables of a schedule (arXiv 2006.11239, Eq. 7 and 11) on a device."""
    beta, signal = _betas(objective), alphas_cumprod(objective)
    before = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
    posterior = beta * (1 - before) / (1 - signal)
    posterior[0] = posterior[1]  # the first step's variance is zero, which has no logarithm
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
    """Return the loss of a prediction (..., B, C, H, W), averaged over batch and pixels: (...,).

    A prediction of twice the target's channels has a learned variance in its second half.

    Args:
        terms: computes each sample's term of the variance's bound; `bound_terms` if None.
        weight: the bound's weight (...,) times the number of timesteps; the objective's if None.
    """
    if isinstance(objective, RectifiedFlowConfig) and objective.prediction is Prediction.x:
        # The velocity is (x_t - x) / t, so its error is that of x over t (arXiv 2511.13720, Eq. 6).
        time = _per_image((at.t / 1000).clamp_min(objective.least_time))
        return squared_error(prediction / time, at.target / time)
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
    """Return the mean squared error of (..., B, C, H, W) over batch and pixels: (...,)."""
    return (prediction - target).square().mean((-4, -3, -2, -1))


class BoundInputs(NamedTuple):
    """The inputs of a sample's term of the bound; all broadcast to (..., C, H, W)."""

    error: Tensor  # true minus predicted posterior mean; of the data at step 0
    low: Tensor  # log β̃
    log_variance: Tensor  # predicted
    clean: Tensor  # the sample without noise
    first: Tensor  # (..., 1, 1, 1): whether the step is 0, whose term is the data's likelihood


def variational_bound(
    objective: DDPMConfig,
    noise: Tensor,
    fraction: Tensor,
    at: Noised,
    terms: Callable[[BoundInputs], Tensor] | None = None,
) -> Tensor:
    """Return each sample's term of the variational bound, in bits per dimension: (...,).

    `noise` and `fraction` (..., C, H, W) are predictions. A fraction of -1 means the variance β̃, 1
    means β, and values between are interpolated logarithmically (arXiv 2102.09672, Eq. 15, with
    v = (1 + fraction)/2).
    """
    step, schedule = at.t.long(), _schedule(objective, noise.device)
    low, high = (_per_image(table[step]) for table in schedule.variances)
    log_variance = low + 0.5 * (1 + fraction) * (high - low)
    # True minus predicted posterior mean (arXiv 2006.11239, Eq. 11).
    error = _per_image(schedule.mean_scale[step]) * (noise - at.target)
    inputs = BoundInputs(error, low, log_variance, at.clean, _per_image(step == 0))
    return (bound_terms if terms is None else terms)(inputs) / math.log(2)


def bound_terms(inputs: BoundInputs) -> Tensor:
    """Return the terms in nats (...,); the expensive likelihood is computed at step 0 only."""
    error, low, log_variance, clean, first = inputs
    nats = gaussian_kl(error, low, log_variance).mean((-3, -2, -1))
    few = first[..., 0, 0, 0].expand(nats.shape).nonzero(as_tuple=True)
    decoded = discretised_nll(clean.expand(error.shape)[few], error[few], log_variance[few])
    return nats.index_put(few, decoded.mean((-3, -2, -1)))


def bound_terms_of_fixed_shape(inputs: BoundInputs) -> Tensor:
    """Return the terms of `bound_terms` by operations that do not depend on the steps.

    Compiled and captured code needs fixed shapes, so the likelihood is computed for all samples.
    """
    error, low, log_variance, clean, first = inputs
    # Where the likelihood is not used it is computed from zeros: an infinite one, although not
    # used, would make the gradient NaN.
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
    # Both edges are mirrored to the lower tail, where the difference of the two masses is exact.
    near, far = ((edge - error.abs()) * precision for edge in (1 / 255, -1 / 255))
    log_near = torch.special.log_ndtr(near)
    inside = log_near + torch.log(-torch.expm1(torch.special.log_ndtr(far) - log_near))
    # Levels are 2/255 apart: half of that distinguishes an outermost level from its neighbour.
    edge = 1 - 1 / 255
    return -torch.where(clean < -edge, above, torch.where(clean > edge, below, inside))


def sample_losses(
    objective: ObjectiveConfig, prediction: Tensor, at: Noised, weight: float | Tensor | None
) -> Tensor:
    """Return each sample's loss (..., B) of a prediction (..., B, C, H, W).

    `weight` is the weight of a learned variance's bound, as in `objective_loss`.
    """
    alone = Noised(at.x, at.t.unsqueeze(-1), *(part.unsqueeze(-4) for part in at[2:]))
    return objective_loss(objective, prediction.unsqueeze(-4), alone, weight=weight)


def alignment_loss(projected: Tensor, features: Tensor) -> Tensor:
    """Return REPA's loss (...,): minus the mean cosine similarity of tokens (..., B, N, D) and a
    frozen encoder's features of equal shape (arXiv 2410.06940, Eq. 8).
    """
    return -cosine_similarity(projected, features, dim=-1).mean((-2, -1))


def asked_in_training(config: TrialConfig, features: Tensor) -> dict[str, Any]:
    """Return by name what a model is called with in training besides the inputs of a prediction.

    `features` (..., B, tokens, D) are a frozen encoder's.
    """
    if isinstance(config.model, CustomConfig):
        return {"features": features} if config.feature_tokens else {}
    return {"project": True} if config.objective.repa_weight else {}


def auxiliary_loss(model: ModelConfig, output: tuple[Tensor, Tensor], features: Tensor) -> Tensor:
    """Return the loss (...,) that is trained beside the objective's, from what a model returned.

    Of a family it is REPA's, of the projected tokens (..., B, tokens, D) and features of equal
    shape. A custom model returns it itself; one number a sample (..., B) is averaged.
    """
    if not isinstance(model, CustomConfig):
        return alignment_loss(output[1].float(), features)
    prediction, loss = output[0], auxiliary_of(output, model.factory).float()
    return loss.mean(-1) if loss.ndim == prediction.ndim - 3 else loss


def on_token_grid(features: Tensor, tokens: int) -> Tensor:
    """Return features (B, N, D) of a square map on a square grid of tokens: (B, tokens, D).

    Each token gets the mean over the cells that it covers. Where the map is coarser cells repeat,
    and one vector of the whole image is given to every token.
    """
    side, wanted = math.isqrt(features.shape[-2]), math.isqrt(tokens)
    cells = features.mT.unflatten(-1, (side, side))
    return adaptive_avg_pool2d(cells, wanted).flatten(-2).mT.contiguous()


def deciding_bound_weight(objective: ObjectiveConfig) -> float | None:
    """Return the weight of a learned variance's bound in the deciding loss, equal for all trials.

    None where each trial decides under the weight that it was trained with, and where the objective
    has no such bound.
    """
    if not isinstance(objective, DDPMConfig) or objective.deciding_vlb_weight is None:
        return None
    return objective.deciding_vlb_weight * objective.timesteps
