"""The vocabulary: frozen dataclasses that say what one trial is, and the identity of a trial.

Every field that can change a number is here; what cannot (device, threads, folders, pack size)
is in `RuntimeConfig` and `ExecutorConfig`. Standard library only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any, ClassVar

from hptransfer.errors import UserError


class Scaling(Enum):
    """How a model scales away from its base width (models.md 1; arXiv 2203.03466, Table 8)."""

    mup = "mup"
    standard = "standard"
    standard_embed = "standard_embed"


class Broken(Enum):
    """Deliberate faults in µP, which the coordinate check must find."""

    none = "none"
    readout = "readout"  # the readout's 1/m is forgotten
    readout_twice = "readout_twice"  # the readout's 1/m is applied twice
    hidden_lr = "hidden_lr"  # hidden matrices keep the base learning rate
    hidden_lr_squared = "hidden_lr_squared"  # hidden matrices get lr/m² instead of lr/m
    input_lr = "input_lr"  # input weights get lr/m instead of lr


class Init(Enum):
    """What a model is at its base width: see `hptransfer.parametrization.initial_std`."""

    paper = "paper"
    adaln_zero = "adaln_zero"
    original = "original"


class WeightDecayMode(Enum):
    """What a tensor loses per step, as a share of itself, times the schedule."""

    mup = "mup"  # lr·λ for every tensor: hidden matrices have rate lr/m and decay λ·m
    independent = "independent"  # λ for every tensor, whatever the learning rate
    unscaled = "unscaled"  # hidden matrices lose lr·λ/m, all others lr·λ (a control)


class EpsScaling(Enum):
    """Whether Adam's epsilon follows the width."""

    none = "none"  # the same everywhere, as the mup package does
    width = "width"  # eps/m for every tensor with a width dimension (arXiv 2407.05872)


class Schedule(Enum):
    """The learning rate's shape after warm-up."""

    constant = "constant"
    cosine = "cosine"  # to zero over the rest of the run
    linear_decay = "linear_decay"  # constant, then linear to zero over `decay_fraction`


class Weights(Enum):
    """Which weights decide the loss of a trial."""

    raw = "raw"
    ema = "ema"


class Status(Enum):
    """How a trial ended. Only `completed` carries a loss."""

    completed = "completed"
    diverged = "diverged"
    stopped = "stopped"


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(message)


def _require_positive(name: str, value: float) -> None:
    _require(value > 0 and math.isfinite(value), f"`{name}` must be positive, but got {value}.")


def _require_share(name: str, value: float) -> None:
    _require(0 <= value <= 1, f"`{name}` must lie between 0 and 1, but got {value}.")


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
        for name in ("width", "base_width"):
            value = getattr(self, name)
            _require(
                value > 0 and value % self.head_dim == 0,
                f"`model.{name}` must be a multiple of the head dimension, but got "
                f"{name}={value} with head_dim={self.head_dim}. Choose a multiple of "
                f"{self.head_dim} or set model.head_dim.",
            )
            _require(
                value % 4 == 0,
                f"`model.{name}` must be a multiple of 4 for the 2-D sine-cosine positions, "
                f"but got {name}={value}. Choose a multiple of 4.",
            )
        for name in ("depth", "head_dim", "patch_size", "mlp_ratio"):
            value = getattr(self, name)
            _require(value > 0, f"`model.{name}` must be positive, but got {value}.")
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
        _require(
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
        _require(
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
            _require(
                0 <= value < 1,
                f"`optimizer.{name}` must be at least 0 and below 1, but got {value}.",
            )
        _require(
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
            _require(value > 0, f"`budget.{name}` must be positive, but got {value}.")
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
        patch_size = getattr(self.model, "patch_size", 1)
        _require(
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
    pack_size: int = 8  # trials trained together along the trial axis
    data_folder: str | None = None  # where file-based data sets lie

    def __post_init__(self) -> None:
        for name in ("threads", "pack_size"):
            value = getattr(self, name)
            _require(value > 0, f"`runtime.{name}` must be positive, but got {value}.")


@dataclass(frozen=True)
class ExecutorConfig:
    """Who runs the packs."""

    name: str = field(default="ray", metadata=TAG)  # local (one after another) or ray
    workers: int | None = None  # packs at a time; null: as many as the resources allow
    cpus: float = 1.0  # CPUs a pack asks for
    gpus: float | None = None  # GPUs a pack asks for; null: 1 on cuda, else 0
    address: str = "local"  # Ray: local, auto, host:port or ray://host:port

    def __post_init__(self) -> None:
        _require(
            self.workers is None or self.workers > 0,
            f"`executor.workers` must be positive or null, but got {self.workers}.",
        )
        _require(self.cpus > 0, f"`executor.cpus` must be positive, but got {self.cpus}.")


@dataclass(frozen=True)
class TrialResult:
    """What a trial gave. `loss` is None unless `status` is completed."""

    config: TrialConfig
    status: Status
    loss: float | None  # held-out loss of the deciding weights
    loss_at_init: float  # the same loss before the first step
    train_loss: float | None  # mean training loss over the last tenth of the steps
    diverged_at_step: int | None
    clipped_share: float  # share of steps whose gradient was clipped
    flops: float  # of the whole trial, forward and backward
    seconds: float  # the pack's wall time over its members
    device: str
    curve: tuple[tuple[int, float], ...] = ()  # (step, mean training loss since the last point)


# The hyperparameters a sweep may search: where each lives, and how θ = log2 HP maps to the field.
@dataclass(frozen=True)
class Hyperparameter:
    """A searchable HP. On the axis stands log2 of the value (or of 1 - value for the betas)."""

    group: str
    field: str
    complement: bool = False  # the axis is log2(1 - value)
    meaning: str = ""

    def value(self, log2: float) -> float:
        """The field's value at a point of the axis."""
        return 1.0 - 2.0**log2 if self.complement else 2.0**log2

    def log2(self, config: TrialConfig) -> float:
        """The point of the axis at which a trial stands."""
        value = getattr(getattr(config, self.group), self.field)
        return round(math.log2(1.0 - value if self.complement else value), 9)


HYPERPARAMETERS: Mapping[str, Hyperparameter] = {
    "lr": Hyperparameter("optimizer", "lr", meaning="base learning rate"),
    "weight_decay": Hyperparameter("optimizer", "weight_decay", meaning="weight decay"),
    "eps": Hyperparameter("optimizer", "eps", meaning="Adam epsilon"),
    "clip_norm": Hyperparameter("optimizer", "clip_norm", meaning="gradient clip norm"),
    "one_minus_beta1": Hyperparameter("optimizer", "beta1", True, "1 - Adam beta1"),
    "one_minus_beta2": Hyperparameter("optimizer", "beta2", True, "1 - Adam beta2"),
    "init_scale": Hyperparameter("parametrization", "init_scale", meaning="init scale"),
    "output_scale": Hyperparameter("parametrization", "output_scale", meaning="output scale"),
    "warmup_fraction": Hyperparameter("budget", "warmup_fraction", meaning="warm-up share"),
}


def with_hyperparameters(config: TrialConfig, log2_values: Mapping[str, float]) -> TrialConfig:
    """A trial with HPs set; `log2_values` maps `log2_<hp>` to a point of its axis."""
    for name, log2 in log2_values.items():
        hp = HYPERPARAMETERS[name.removeprefix("log2_")]
        group = dataclasses.replace(getattr(config, hp.group), **{hp.field: hp.value(log2)})
        config = dataclasses.replace(config, **{hp.group: group})
    return config


def shape_signature(config: TrialConfig) -> TrialConfig:
    """What trials of one pack must share: the trial without its per-member fields.

    Members may differ in every optimizer field, warm-up, init and output scale, and seed.
    """
    return dataclasses.replace(
        config,
        optimizer=AdamWConfig(),
        parametrization=dataclasses.replace(
            config.parametrization, init_scale=1.0, output_scale=1.0
        ),
        budget=dataclasses.replace(config.budget, warmup_fraction=0.0),
        seed=0,
    )


def with_width(config: TrialConfig, width: int) -> TrialConfig:
    """The same trial at another width of its family."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, width=width))


def with_scaling(config: TrialConfig, scaling: Scaling) -> TrialConfig:
    """The same trial under another parametrization."""
    parametrization = dataclasses.replace(config.parametrization, scaling=scaling)
    return dataclasses.replace(config, parametrization=parametrization)


def arm_of(config: TrialConfig) -> str:
    """The trial's arm: its parametrization, or `shared` at base width, where all are one model."""
    if config.model.width == config.model.base_width:
        return "shared"
    return config.parametrization.scaling.value


def canonical(config: TrialConfig) -> dict[str, Any]:
    """A trial as the smallest JSON object that still says it all.

    Fields equal to their default are left out, tags of groups stay, floats have 12 significant
    digits, and a trial at base width is `mup` whatever its arm: there all arms are one trial.
    """
    if arm_of(config) == "shared":
        parametrization = dataclasses.replace(
            config.parametrization, scaling=Scaling.mup, broken=Broken.none
        )
        config = dataclasses.replace(config, parametrization=parametrization)
    return _short_form(config)


def _short_form(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if not dataclasses.is_dataclass(value):
        return value
    short = {}
    for f in dataclasses.fields(value):
        item = getattr(value, f.name)
        form = _short_form(item)
        group = dataclasses.is_dataclass(item)
        if f.metadata.get("tag") or (group and form) or (not group and item != f.default):
            short[f.name] = form
    return short


def canonical_json(config: TrialConfig) -> str:
    """`canonical` as text with sorted keys: what the trial's key is the hash of."""
    return json.dumps(canonical(config), sort_keys=True, separators=(",", ":"))


@cache
def trial_key(config: TrialConfig) -> str:
    """The trial's identity: 12 hex digits of the sha256 of its canonical JSON."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Axis:
    """A search axis: `low`, `high` and `step` of log2 of the HP, both ends included."""

    low: float
    high: float
    step: float = 1.0

    def __post_init__(self) -> None:
        _require(
            self.step > 0 and self.high > self.low,
            "A search axis needs low < high and step > 0, so that it has two points or more, but "
            f"got low={self.low}, high={self.high}, step={self.step}.",
        )
        count = (self.high - self.low) / self.step
        _require(
            abs(count - round(count)) < 1e-6,
            f"A search axis must end on its grid, but high - low = {self.high - self.low} is not "
            f"a multiple of step={self.step}.",
        )

    @property
    def points(self) -> tuple[float, ...]:
        """The grid, ascending, in log2 of the HP."""
        count = round((self.high - self.low) / self.step) + 1
        return tuple(round(self.low + i * self.step, 9) for i in range(count))


@dataclass(frozen=True)
class RealiseConfig:
    """The target's own sweep, which says afterwards what the transferred value cost."""

    points: int = 5  # grid points around the transferred value
    seeds: int = 3

    def __post_init__(self) -> None:
        _require(
            self.points >= 3 and self.seeds >= 1,
            "`sweep.realise` needs at least 3 points and 1 seed, but got "
            f"points={self.points}, seeds={self.seeds}.",
        )


@dataclass(frozen=True)
class VerdictConfig:
    """The tolerance of the verdict."""

    max_regret: float | None = None  # δ in units of the loss; null: max(run-to-run sd, gain / 4)


@dataclass(frozen=True)
class SweepConfig:
    """A question: a set of trials, and the statistic that will answer it."""

    name: str
    question: str
    statistic: str
    base: TrialConfig
    widths: tuple[int, ...]
    parametrizations: tuple[Scaling, ...]
    seeds: tuple[int, ...]
    search: tuple[tuple[str, Axis], ...]  # (hp name, axis), in the order of the file
    target: TrialConfig | None = None  # the target run, but for the transferred HPs
    realise: RealiseConfig = RealiseConfig()
    verdict: VerdictConfig = VerdictConfig()

    def __post_init__(self) -> None:
        for name in ("widths", "parametrizations", "seeds", "search"):
            _require(
                len(getattr(self, name)) > 0,
                f"A sweep needs at least one entry in `{_SWEEP_PATHS[name]}`, but it is empty. "
                "Add one.",
            )
        for name in ("widths", "seeds"):
            values = getattr(self, name)
            _require(
                all(a < b for a, b in itertools.pairwise(values)),
                f"`sweep.{name}` must be increasing, but got {list(values)}. Sort the list and "
                "name each value once.",
            )
        for name, _ in self.search:
            _require_known_hp(name)

    @property
    def axes(self) -> tuple[str, ...]:
        """The searched HPs as the ledger names them: `log2_<hp>`."""
        return tuple(f"log2_{name}" for name, _ in self.search)


_SWEEP_PATHS = {
    "widths": "sweep.widths",
    "parametrizations": "sweep.parametrizations",
    "seeds": "sweep.seeds",
    "search": "search",
}


def _require_known_hp(name: str) -> None:
    _require(
        name in HYPERPARAMETERS,
        f"`search.{name}` is not a hyperparameter that can be swept. Those that can: "
        f"{', '.join(HYPERPARAMETERS)}.",
    )
