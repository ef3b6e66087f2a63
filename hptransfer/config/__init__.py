"""What one trial is, and where it runs: frozen dataclasses, each field with meaning and unit.

Every field that can change a number is here; what cannot (device, threads, folders, pack size)
is in `RuntimeConfig` and `ExecutorConfig`. Standard library only.
"""

from __future__ import annotations

from hptransfer.config.optimizers import (
    AdamWConfig,
    AnyOptimizer,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
)
from hptransfer.config.runtime import (
    CheckpointConfig,
    ExecutorConfig,
    PlanConfig,
    RuntimeConfig,
    SlurmConfig,
    TrainerConfig,
)
from hptransfer.config.trial import (
    BudgetConfig,
    CustomConfig,
    DataConfig,
    DDPMConfig,
    DigitsConfig,
    DiTConfig,
    DiTModernConfig,
    FashionMNISTConfig,
    FeaturesConfig,
    FolderConfig,
    HuggingFaceConfig,
    ImageFolderConfig,
    Layout,
    MMDiTConfig,
    ModelConfig,
    ObjectiveConfig,
    ParametrizationConfig,
    PixArtConfig,
    QualityConfig,
    RectifiedFlowConfig,
    TransformerConfig,
    TrialConfig,
    UViTConfig,
    VPConfig,
)
