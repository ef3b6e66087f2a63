"""What one trial is, and where it runs: frozen dataclasses, each field with meaning and unit.

Every field that can change a number is here; what cannot (device, threads, folders, pack size)
is in `RuntimeConfig` and `ExecutorConfig`. Standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from hptransfer.errors import UserError
from hptransfer.vocabulary import (
    Broken,
    EpsScaling,
    Init,
    Scaling,
    Schedule,
    WeightDecayMode,
    Weights,
)


def require(holds: bool, message: str) -> None:
    """Raise a `UserError` unless a condition holds."""
    if not holds:
        raise UserError(message)


def _require_positive(name: str, value: float) -> None:
    require(value > 0 and math.isfinite(value), f"`{name}` must be positive, but got {value}.")


def _require_share(name: str, value: float) -> None:
    require(0 <= value <= 1, f"`{name}` must lie between 0 and 1, but got {value}.")


TAG = {"tag": True}


@dataclass(frozen=True)
class ModelConfig:
    """A member of a family: everything about the architecture that is not the data's."""

    family: str = field(default="", metadata=TAG)
    width: int = 24  # d, the axis that is scaled
    base_width: int = 24  # the width at which every parametrization is the same model


@dataclass(frozen=True)
class DiTConfig(ModelConfig):
    """DiT (arXiv 2212.09748) with a fixed head dimension: width grows by heads."""

    family: str = field(default="dit", metadata=TAG)
    depth: int = 2  # number of blocks
    head_dim: int = 8  # width / number of heads, never scaled
    patch_size: int = 4  # pixels a side
    mlp_ratio: int = 4  # hidden width of the MLP over d
    label_dropout: float = 0.1  # share of labels replaced by the null class

    def __post_init__(self) -> None:
        for name in ("depth", "head_dim", "patch_size", "mlp_ratio", "width", "base_width"):
            value = getattr(self, name)
            require(value > 0, f"`model.{name}` must be positive, but got {value}.")
        for name in ("width", "base_width"):
            value = getattr(self, name)
            require(
                value % self.head_dim == 0,
                f"`model.{name}` must be a multiple of the head dimension, but got "
                f"{name}={value} with head_dim={self.head_dim}. Choose a multiple of "
                f"{self.head_dim} or set model.head_dim.",
            )
            require(
                value % 4 == 0,
                f"`model.{name}` must be a multiple of 4 for the 2-D sine-cosine positions, "
                f"but got {name}={value}. Choose a multiple of 4.",
            )
        _require_share("model.label_dropout", self.label_dropout)


@dataclass(frozen=True)
class ParametrizationConfig:
    """How the model scales with width, and the two scales that may be swept."""

    scaling: Scaling = Scaling.mup
    init_scale: float = 1.0  # multiplies every random initial std; zeros and fixed tables stay
    output_scale: float = 1.0  # multiplies the readout's output (paper: output_mult)
    weight_decay_mode: WeightDecayMode = WeightDecayMode.mup
    eps_scaling: EpsScaling = EpsScaling.none
    broken: Broken = Broken.none  # a deliberate fault, for `hptransfer check`

    def __post_init__(self) -> None:
        _require_positive("parametrization.init_scale", self.init_scale)
        _require_positive("parametrization.output_scale", self.output_scale)


@dataclass(frozen=True)
class ObjectiveConfig:
    """The noising path and the regression target."""

    name: str = field(default="", metadata=TAG)


@dataclass(frozen=True)
class RectifiedFlowConfig(ObjectiveConfig):
    """x_t = (1 - t)·x + t·noise, target noise - x, t uniform (arXiv 2209.03003)."""

    name: str = field(default="rectified_flow", metadata=TAG)


@dataclass(frozen=True)
class DDPMConfig(ObjectiveConfig):
    """Epsilon prediction on the linear variance schedule (arXiv 2006.11239, Eq. 14)."""

    name: str = field(default="ddpm", metadata=TAG)
    timesteps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 2e-2

    def __post_init__(self) -> None:
        require(
            self.timesteps > 1 and 0 < self.beta_first < self.beta_last < 1,
            "`objective` needs timesteps > 1 and 0 < beta_first < beta_last < 1, but got "
            f"{self.timesteps=}, {self.beta_first=}, {self.beta_last=}.".replace("self.", ""),
        )


@dataclass(frozen=True)
class DataConfig:
    """A data set by name and content; the folder it is read from is `runtime.data_folder`."""

    name: str = field(default="", metadata=TAG)
    sha256: str = ""  # of the decoded arrays, first 16 hex digits

    channels: ClassVar[int]
    image_size: ClassVar[int]  # pixels a side
    classes: ClassVar[int]


@dataclass(frozen=True)
class DigitsConfig(DataConfig):
    """1,797 handwritten digits, 8x8 grey (UCI optical recognition, in scikit-learn)."""

    name: str = field(default="digits", metadata=TAG)
    sha256: str = "8b3b6ae90863430b"
    held_out: int = 360  # validation samples, drawn once with a fixed seed

    channels: ClassVar[int] = 1
    image_size: ClassVar[int] = 8
    classes: ClassVar[int] = 10

    def __post_init__(self) -> None:
        require(
            0 < self.held_out < 1797,
            "`data.held_out` must leave both splits non-empty of the 1,797 digits, but got "
            f"{self.held_out}.",
        )


@dataclass(frozen=True)
class FashionMNISTConfig(DataConfig):
    """60,000 + 10,000 clothes, 28x28 grey, zero-padded to 32x32, from the IDX files."""

    name: str = field(default="fashion_mnist", metadata=TAG)
    sha256: str = "28135e944c56386d"

    channels: ClassVar[int] = 1
    image_size: ClassVar[int] = 32
    classes: ClassVar[int] = 10


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW with decoupled weight decay (arXiv 1711.05101). `lr` is the base learning rate."""

    lr: float = 2.0**-6
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None  # a trial's global gradient norm; null: no clipping

    def __post_init__(self) -> None:
        _require_positive("optimizer.lr", self.lr)
        _require_positive("optimizer.eps", self.eps)
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(
                0 <= value < 1,
                f"`optimizer.{name}` must be at least 0 and below 1, but got {value}.",
            )
        require(
            self.weight_decay >= 0 and math.isfinite(self.weight_decay),
            f"`optimizer.weight_decay` must not be negative, but got {self.weight_decay}.",
        )
        if self.clip_norm is not None:
            _require_positive("optimizer.clip_norm", self.clip_norm)


@dataclass(frozen=True)
class BudgetConfig:
    """How long a trial trains, and on what its loss is decided."""

    steps: int = 150
    batch_size: int = 64
    schedule: Schedule = Schedule.linear_decay
    warmup_fraction: float = 0.07  # of the steps, linear from zero
    decay_fraction: float = 0.3  # of the steps, for `linear_decay`
    weights: Weights = Weights.raw  # the deciding loss's weights
    ema_fraction: float = 0.05  # the EMA's horizon as a share of the run
    eval_samples: int = 360  # held-out samples in the deciding loss
    eval_draws: int = 6  # stratified (noise, timestep) draws per held-out sample

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_samples", "eval_draws"):
            value = getattr(self, name)
            require(value > 0, f"`budget.{name}` must be positive, but got {value}.")
        for name in ("warmup_fraction", "decay_fraction", "ema_fraction"):
            _require_share(f"budget.{name}", getattr(self, name))

    @property
    def ema_decay(self) -> float:
        """The per-step decay whose horizon is `ema_fraction` of the run."""
        return math.exp(-1.0 / max(self.ema_fraction * self.steps, 1e-9))


@dataclass(frozen=True)
class TrialConfig:
    """One training run. Pure: the same config gives the same result."""

    model: ModelConfig = DiTConfig()
    parametrization: ParametrizationConfig = ParametrizationConfig()
    objective: ObjectiveConfig = RectifiedFlowConfig()
    data: DataConfig = DigitsConfig()
    optimizer: AdamWConfig = AdamWConfig()
    budget: BudgetConfig = BudgetConfig()
    init: Init = Init.adaln_zero
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"`seed` must not be negative, but got {self.seed}.")
        patch_size = getattr(self.model, "patch_size", 1)
        require(
            self.data.image_size % patch_size == 0,
            f"`model.patch_size` must divide the image size, but got patch_size={patch_size} with "
            f"{self.data.image_size} pixels a side ({self.data.name}). Choose a divisor.",
        )

    @property
    def width_mult(self) -> float:
        """m, the model's width over its base width."""
        return self.model.width / self.model.base_width


@dataclass(frozen=True)
class RuntimeConfig:
    """What cannot change a result beyond float tolerance: where and how a pack runs."""

    device: str = "cpu"  # cpu, cuda or cuda:N
    threads: int = 1  # CPU threads per pack
    pack_size: int = 4  # trials trained together along the trial axis
    data_folder: str | None = None  # where file-based data sets lie

    def __post_init__(self) -> None:
        for name in ("threads", "pack_size"):
            value = getattr(self, name)
            require(value > 0, f"`runtime.{name}` must be positive, but got {value}.")


@dataclass(frozen=True)
class ExecutorConfig:
    """Who runs the packs."""

    name: str = field(default="ray", metadata=TAG)  # local (one after another) or ray
    workers: int | None = None  # packs at a time; null: as many as the resources allow
    cpus: float = 1.0  # CPUs a pack asks for
    gpus: float | None = None  # GPUs a pack asks for; null: 1 on cuda, else 0
    address: str = "local"  # Ray: local, auto or host:port

    def __post_init__(self) -> None:
        require(
            self.name in ("local", "ray"),
            f"`executor.name` must be local or ray, but got {self.name!r}.",
        )
        require(
            self.workers is None or self.workers > 0,
            f"`executor.workers` must be positive or null, but got {self.workers}.",
        )
        require(self.cpus > 0, f"`executor.cpus` must be positive, but got {self.cpus}.")
