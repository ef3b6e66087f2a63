"""Pixels that are N(MEAN, STD²): the exact predictor and the flow are known in closed form."""

from __future__ import annotations

from torch import Tensor

from hptransfer.config import ObjectiveConfig, RectifiedFlowConfig
from hptransfer.config.choices import Prediction

MEAN, STD = 0.3, 0.5

Scale = float | Tensor


def exact_prediction(
    objective: ObjectiveConfig, x: Tensor, alpha: Scale, sigma: Scale, mean: Scale = MEAN
) -> Tensor:
    """Return E[target | x] where x = alpha·data + sigma·noise."""
    scaled = (x - alpha * mean) / (alpha**2 * STD**2 + sigma**2)
    if isinstance(objective, RectifiedFlowConfig) and objective.prediction is Prediction.x:
        return mean + alpha * STD**2 * scaled
    if isinstance(objective, RectifiedFlowConfig):
        return (sigma - alpha * STD**2) * scaled - mean
    return sigma * scaled


def remaining_variance(objective: ObjectiveConfig, alpha: Scale, sigma: Scale) -> Scale:
    """Return Var(target | x), the least squared error a predictor can reach."""
    numerator = STD**2 if isinstance(objective, RectifiedFlowConfig) else (alpha * STD) ** 2
    return numerator / (alpha**2 * STD**2 + sigma**2)
