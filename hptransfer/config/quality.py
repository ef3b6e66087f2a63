"""Whether samples of a trained model are judged, and how they are drawn for it."""

from __future__ import annotations

from dataclasses import dataclass

from hptransfer.config.checks import require, require_count, require_finite

LEAST_SAMPLES = 100  # more than the classifiers have features


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
