"""The config of one trial: every value that can change its result."""

from __future__ import annotations

from dataclasses import dataclass

from hptransfer.config.checks import require_count
from hptransfer.config.choices import Conditioning, Init, Precision
from hptransfer.config.data import DataConfig, DigitsConfig, FashionMNISTConfig
from hptransfer.config.models import DiTConfig, ModelConfig
from hptransfer.config.objectives import DDPMConfig, ObjectiveConfig, RectifiedFlowConfig
from hptransfer.config.training import (
    AdamWConfig,
    BudgetConfig,
    ParametrizationConfig,
    QualityConfig,
)
from hptransfer.errors import require

# Data sets with a classifier in `hptransfer.training.sampling`.
JUDGED = (DigitsConfig, FashionMNISTConfig)


@dataclass(frozen=True)
class TrialConfig:
    """One training run. Pure: the same config gives the same result."""

    model: ModelConfig = DiTConfig()
    parametrization: ParametrizationConfig = ParametrizationConfig()
    objective: ObjectiveConfig = RectifiedFlowConfig()
    data: DataConfig = DigitsConfig()
    optimizer: AdamWConfig = AdamWConfig()
    budget: BudgetConfig = BudgetConfig()
    quality: QualityConfig = QualityConfig()
    init: Init = Init.adaln_zero
    precision: Precision = Precision.fp32
    seed: int = 0

    def __post_init__(self) -> None:
        require_count("seed", self.seed, least=0, most=2**63 - 1)
        layout = self.data.layout
        patch_size = getattr(self.model, "patch_size", 1)
        require(
            layout.image_size % patch_size == 0,
            f"`model.patch_size` must divide the image size, but got patch_size={patch_size} with "
            f"{layout.image_size} pixels a side ({self.data.name}). Choose a divisor.",
        )
        require(
            self.model.conditioning is not Conditioning.caption or layout.caption_tokens > 0,
            f"A caption-conditional model ({self.model.family}) needs data with captions, but "
            f"data={self.data.name} states none. {self.data.caption_advice}",
        )
        learn_sigma = getattr(self.model, "learn_sigma", False)
        require(
            not learn_sigma or isinstance(self.objective, DDPMConfig),
            "`model.learn_sigma` doubles the output channels for a variance that only "
            f"objective=ddpm trains, but got objective={self.objective.name}. Set "
            "objective=ddpm or model.learn_sigma=false.",
        )
        if self.quality.samples:
            self._require_measurable()

    @property
    def width_mult(self) -> float:
        """m, the model's width over its base width."""
        return self.model.width / self.model.base_width

    def _require_measurable(self) -> None:
        require(
            isinstance(self.data, JUDGED),
            "`quality.samples` needs a classifier of the data, and there is one for "
            f"{' and '.join(judged().name for judged in JUDGED)}, but got data={self.data.name}. "
            "Set quality.samples=0.",
        )
        require(
            not isinstance(self.objective, DDPMConfig)
            or self.quality.steps <= self.objective.timesteps,
            "`quality.steps` must not exceed the schedule's steps, but got "
            f"{self.quality.steps} with objective.timesteps="
            f"{getattr(self.objective, 'timesteps', None)}. Take fewer steps.",
        )
