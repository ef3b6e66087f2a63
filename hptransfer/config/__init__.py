"""What one trial is, and where it runs: frozen dataclasses, each field with meaning and unit.

Every field that can change a number is here; what cannot (device, threads, folders, pack size)
is in `RuntimeConfig` and `ExecutorConfig`. Standard library only.
"""

from __future__ import annotations

from hptransfer.config.checks import require_count, require_finite, require_share
from hptransfer.config.data import (
    DataConfig,
    DigitsConfig,
    FashionMNISTConfig,
    FeaturesConfig,
    FolderConfig,
    HuggingFaceConfig,
    ImageFolderConfig,
    Layout,
)
from hptransfer.config.models import (
    CustomConfig,
    DiTConfig,
    MMDiTConfig,
    ModelConfig,
    PixArtConfig,
    TransformerConfig,
    UViTConfig,
)
from hptransfer.config.objectives import (
    DDPMConfig,
    ObjectiveConfig,
    RectifiedFlowConfig,
    VPConfig,
)
from hptransfer.config.runtime import CheckpointConfig, ExecutorConfig, RuntimeConfig, TrainerConfig
from hptransfer.config.training import (
    AdamWConfig,
    BudgetConfig,
    ParametrizationConfig,
    QualityConfig,
)
from hptransfer.config.trial import TrialConfig
from hptransfer.errors import require

__all__ = [
    "AdamWConfig",
    "BudgetConfig",
    "CheckpointConfig",
    "CustomConfig",
    "DDPMConfig",
    "DataConfig",
    "DiTConfig",
    "DigitsConfig",
    "ExecutorConfig",
    "FashionMNISTConfig",
    "FeaturesConfig",
    "FolderConfig",
    "HuggingFaceConfig",
    "ImageFolderConfig",
    "Layout",
    "MMDiTConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "ParametrizationConfig",
    "PixArtConfig",
    "QualityConfig",
    "RectifiedFlowConfig",
    "RuntimeConfig",
    "TrainerConfig",
    "TransformerConfig",
    "TrialConfig",
    "UViTConfig",
    "VPConfig",
    "require",
    "require_count",
    "require_finite",
    "require_share",
]
