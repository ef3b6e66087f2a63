"""The schema of config files: which groups there are, and what else a file may say."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from hptransfer import config
from hptransfer.config import ExecutorConfig, RuntimeConfig, TrainerConfig
from hptransfer.config.choices import Init, Precision, Scaling
from hptransfer.config.conditions import VaryConfig
from hptransfer.config.design import DesignConfig
from hptransfer.config.sweep import RealiseConfig, VerdictConfig

SCHEMAS = {
    "model": {
        "dit": config.DiTConfig,
        "uvit": config.UViTConfig,
        "pixart": config.PixArtConfig,
        "mmdit": config.MMDiTConfig,
        "custom": config.CustomConfig,
    },
    "parametrization": {"parametrization": config.ParametrizationConfig},
    "objective": {
        "rectified_flow": config.RectifiedFlowConfig,
        "ddpm": config.DDPMConfig,
        "vp": config.VPConfig,
    },
    "data": {
        "digits": config.DigitsConfig,
        "fashion_mnist": config.FashionMNISTConfig,
        "features": config.FeaturesConfig,
        "image_folder": config.ImageFolderConfig,
        "huggingface": config.HuggingFaceConfig,
    },
    "optimizer": {"adamw": config.AdamWConfig},
    "budget": {"budget": config.BudgetConfig},
    "quality": {"quality": config.QualityConfig},
    "runtime": {"runtime": RuntimeConfig},
    "executor": {"executor": ExecutorConfig},
}


def thawed(cls: Any) -> DictConfig:
    node = OmegaConf.structured(cls)
    OmegaConf.set_readonly(node, False)
    return node


@dataclass
class SweepSection:
    """The `sweep` section of a sweep file."""

    widths: list[int] = field(default_factory=list)
    parametrizations: list[Scaling] = field(default_factory=lambda: [Scaling.mup])
    seeds: list[int] = field(default_factory=lambda: [0])
    target: dict[str, Any] = field(default_factory=dict)  # overrides of the target run
    realise: Any = field(default_factory=lambda: thawed(RealiseConfig))
    design: Any = field(default_factory=lambda: thawed(DesignConfig))
    vary: Any = field(default_factory=lambda: thawed(VaryConfig))
    gate: bool = True  # µP arms run only after the coordinate check passed


@dataclass
class TransferSection:
    """The `transfer` section: what may differ between proxies and target besides width."""

    allow: list[str] = field(default_factory=list)  # depth


@dataclass
class Root:
    """Everything a config file may say."""

    name: str = ""
    question: str = ""
    statistic: str = ""
    model: Any = MISSING
    parametrization: Any = MISSING
    objective: Any = MISSING
    data: Any = MISSING
    optimizer: Any = MISSING
    budget: Any = MISSING
    quality: Any = MISSING
    runtime: Any = MISSING
    executor: Any = MISSING
    train: Any = field(default_factory=lambda: thawed(TrainerConfig))
    init: Init = Init.adaln_zero
    precision: Precision = Precision.fp32
    seed: int = 0
    sweep: SweepSection = field(default_factory=SweepSection)
    search: dict[str, Any] = field(default_factory=dict)
    transfer: TransferSection = field(default_factory=TransferSection)
    verdict: Any = field(default_factory=lambda: thawed(VerdictConfig))


TOP_KEYS = [f.name for f in dataclasses.fields(Root)]


def _fields() -> dict[str, str]:
    """Return every dotted key of the schema with its annotation."""
    parts = [
        ("", Root),
        ("sweep.", SweepSection),
        ("sweep.realise.", RealiseConfig),
        ("sweep.design.", DesignConfig),
        ("sweep.vary.", VaryConfig),
        ("transfer.", TransferSection),
        ("verdict.", VerdictConfig),
        ("train.", TrainerConfig),
        *((f"{group}.", cls) for group, schemas in SCHEMAS.items() for cls in schemas.values()),
    ]
    return {
        f"{prefix}{f.name}": str(f.type) for prefix, cls in parts for f in dataclasses.fields(cls)
    }


def all_keys() -> list[str]:
    """Return every dotted key of the schema."""
    return sorted(_fields())


def text_keys() -> set[str]:
    """Return the dotted keys that hold text."""
    return {key for key, kind in _fields().items() if kind in ("str", "str | None")}
