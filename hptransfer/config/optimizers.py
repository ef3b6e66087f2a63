"""The optimizers of a trial, each with its hyperparameters and their defaults."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import ClassVar, Self

from hptransfer.config.checks import TAG, require_count, require_finite, require_positive
from hptransfer.config.choices import MuonScale
from hptransfer.errors import require


@dataclass(frozen=True)
class OptimizerConfig:
    """The base learning rate, and multipliers of it for groups of parameters."""

    name: str = field(default="", metadata=TAG)  # the optimizer, which decides the other keys
    lr: float = 2.0**-6  # base learning rate, before any factor of the parametrization
    lr_mult_input: float = 1.0  # multiplies the base rate of input weights, such as embeddings
    lr_mult_hidden: float = 1.0  # multiplies that of hidden matrices, adaptive norms' left out
    lr_mult_output: float = 1.0  # multiplies that of readout weights
    lr_mult_vector: float = 1.0  # multiplies that of biases and gains
    lr_mult_adaln: float = 1.0  # multiplies that of the matrices of adaptive norms

    # Fields in which the trials of a pack must agree.
    OF_PACK: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        own = next(f.default for f in dataclasses.fields(self) if f.name == "name")
        require(
            self.name == own,
            f"`optimizer.name` is {own} here, but got {self.name!r}. Choose another with "
            "optimizer=.",
        )
        for f in dataclasses.fields(self):
            value, name = getattr(self, f.name), f"optimizer.{f.name}"
            if f.name in ("eps", "ns_eps") or "lr" in f.name.split("_"):
                require_positive(name, value)
            elif f.name in ("beta1", "beta2", "momentum"):
                require(
                    0 <= value < 1, f"`{name}` must be at least 0 and below 1, but got {value}."
                )
            elif f.name == "weight_decay":
                require(
                    value >= 0 and math.isfinite(value),
                    f"`{name}` must not be negative, but got {value}.",
                )
            elif f.name == "clip_norm" and value is not None:
                require_positive(name, value)

    def of_pack(self) -> Self:
        """The optimizer with only those of its values in which the trials of a pack must agree."""
        return type(self)(**{name: getattr(self, name) for name in self.OF_PACK})


@dataclass(frozen=True)
class AdamWConfig(OptimizerConfig):
    """AdamW with decoupled weight decay (arXiv 1711.05101). `lr` is the base learning rate."""

    # Not marked as a tag: a trial's key leaves it out, as before there were other optimizers.
    name: str = "adamw"  # the optimizer, which decides the other keys
    beta1: float = 0.9  # decay of the first moment, per step
    beta2: float = 0.999  # decay of the second moment, per step
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 0.0  # λ, which parametrization.weight_decay_mode explains
    decay_timescale: float | None = None  # runs in which weights decay by e; null: weight_decay
    clip_norm: float | None = None  # largest global norm of the gradient; null: no clipping

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay_timescale is not None:
            require_positive("optimizer.decay_timescale", self.decay_timescale)
            require(
                self.weight_decay == 0,
                "`optimizer.decay_timescale` decides the weight decay, so optimizer.weight_decay "
                f"must be 0 beside it, but got {self.weight_decay}. Set one of the two.",
            )


@dataclass(frozen=True)
class MuonConfig(OptimizerConfig):
    """Muon for hidden matrices, AdamW for all other parameters.

    A hidden matrix's momentum is orthogonalised by Newton-Schulz steps in the trial's precision
    (https://kellerjordan.github.io/posts/muon), and the update is multiplied by `scale`.
    """

    name: str = field(default="muon", metadata=TAG)  # the optimizer, which decides the other keys
    lr: float = 2.0**-4  # base learning rate of hidden matrices
    adam_lr: float = 2.0**-6  # base learning rate of all other parameters
    momentum: float = 0.95  # decay of a hidden matrix's momentum, per step
    nesterov: bool = True  # whether the update looks one step of momentum ahead
    scale: MuonScale = MuonScale.spectral  # of an update: spectral, original or match_rms_adamw
    ns_steps: int = 5  # Newton-Schulz steps of an update
    ns_eps: float = 1e-7  # least norm by which a momentum is divided before them
    beta1: float = 0.9  # decay of AdamW's first moment, per step
    beta2: float = 0.99  # decay of AdamW's second moment, per step
    eps: float = 1e-8  # added to the root of AdamW's second moment
    weight_decay: float = 0.0  # λ, lost per step as a share, whatever the learning rate
    decay_exponent: float = 0.0  # hidden matrices lose λ·m^decay_exponent
    clip_norm: float | None = None  # largest global norm of the gradient; null: no clipping

    OF_PACK: ClassVar[tuple[str, ...]] = (
        *("nesterov", "scale", "ns_steps", "ns_eps", "decay_exponent"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("optimizer.ns_steps", self.ns_steps, most=100)
        require_finite("optimizer.decay_exponent", self.decay_exponent)


@dataclass(frozen=True)
class LionConfig(OptimizerConfig):
    """Lion: steps by the sign of an interpolated momentum (arXiv 2302.06675, Algorithm 2)."""

    name: str = field(default="lion", metadata=TAG)  # the optimizer, which decides the other keys
    lr: float = 2.0**-9  # base learning rate, before any factor of the parametrization
    beta1: float = 0.9  # share of the momentum in what decides the sign
    beta2: float = 0.99  # decay of the momentum, per step
    weight_decay: float = 0.0  # λ, which parametrization.weight_decay_mode explains
    clip_norm: float | None = None  # largest global norm of the gradient; null: no clipping


AnyOptimizer = AdamWConfig | MuonConfig | LionConfig
USUAL = AdamWConfig()  # of a trial whose config names none
