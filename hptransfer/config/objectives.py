"""The noising path and the regression target."""

from __future__ import annotations

from dataclasses import dataclass, field

from hptransfer.config.checks import TAG, require_count, require_finite, require_positive
from hptransfer.config.choices import BetaSchedule, TimestepSampling
from hptransfer.errors import require


@dataclass(frozen=True)
class ObjectiveConfig:
    """The noising path and the regression target."""

    name: str = field(default="", metadata=TAG)  # the objective, which decides the other keys


@dataclass(frozen=True)
class RectifiedFlowConfig(ObjectiveConfig):
    """x_t = (1 - t)·x + t·noise, target noise - x (arXiv 2209.03003)."""

    name: str = field(default="rectified_flow", metadata=TAG)
    timesteps: TimestepSampling = TimestepSampling.uniform  # uniform or logit_normal
    logit_mean: float = 0.0  # mean of `logit_normal` (arXiv 2403.03206, Eq. 19)
    logit_std: float = 1.0  # standard deviation of `logit_normal`

    def __post_init__(self) -> None:
        require_finite("objective.logit_mean", self.logit_mean)
        require_positive("objective.logit_std", self.logit_std)


@dataclass(frozen=True)
class DDPMConfig(ObjectiveConfig):
    """Epsilon prediction on a discrete variance schedule (arXiv 2006.11239, Eq. 14).

    A model with a learned variance is trained on the hybrid loss (arXiv 2102.09672, Eq. 16).
    """

    name: str = field(default="ddpm", metadata=TAG)
    timesteps: int = 1000  # discrete noise levels
    beta_first: float = 1e-4  # variance added at the first noise level
    beta_last: float = 2e-2  # variance added at the last noise level
    schedule: BetaSchedule = BetaSchedule.linear  # of the variances: linear or scaled_linear
    vlb_weight: float = 1e-3  # λ of the hybrid loss; used only with model.learn_sigma
    deciding_vlb_weight: float | None = None  # λ of the loss that decides; null: vlb_weight

    def __post_init__(self) -> None:
        require_count("objective.timesteps", self.timesteps, most=10**6)
        require(
            self.timesteps > 1 and 0 < self.beta_first < self.beta_last < 1,
            "`objective` needs timesteps > 1 and 0 < beta_first < beta_last < 1, but got "
            f"{self.timesteps=}, {self.beta_first=}, {self.beta_last=}.".replace("self.", ""),
        )
        require_finite("objective.vlb_weight", self.vlb_weight, least=0)
        require_finite("objective.deciding_vlb_weight", self.deciding_vlb_weight, least=0)


@dataclass(frozen=True)
class VPConfig(ObjectiveConfig):
    """Epsilon prediction on the variance-preserving SDE (arXiv 2011.13456, Eq. 11), as U-ViT."""

    name: str = field(default="vp", metadata=TAG)
    beta_min: float = 0.1  # β(0) of the SDE
    beta_max: float = 20.0  # β(1) of the SDE
    t_min: float = 1e-5  # the earliest time trained on

    def __post_init__(self) -> None:
        require_finite("objective.beta_max", self.beta_max)
        require(
            0 < self.beta_min < self.beta_max and 0 < self.t_min < 1,
            "`objective` needs 0 < beta_min < beta_max and 0 < t_min < 1, but got "
            f"{self.beta_min=}, {self.beta_max=}, {self.t_min=}.".replace("self.", ""),
        )
