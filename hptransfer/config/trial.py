"""The config of one trial: every value that can change its result."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from hptransfer.config.checks import (
    TAG,
    require_count,
    require_finite,
    require_positive,
    require_share,
)
from hptransfer.config.choices import (
    AdaLN,
    AutoShift,
    BetaSchedule,
    Broken,
    Conditioning,
    Decayed,
    EpsScaling,
    Init,
    Precision,
    Prediction,
    Sampler,
    Scaling,
    Schedule,
    TimestepSampling,
    WeightDecayMode,
    Weights,
)
from hptransfer.config.optimizers import USUAL, AnyOptimizer, MuonConfig
from hptransfer.errors import UserError, require

MOST_WIDTH, MOST_DEPTH = 2**20, 2**14  # channels and blocks: more can only be a slip


@dataclass(frozen=True)
class ObjectiveConfig:
    """The noising path and the regression target."""

    name: str = field(default="", metadata=TAG)  # the objective, which decides the other keys
    repa_weight: float = 0.0  # of REPA's alignment with a frozen encoder; 0: none
    repa_depth: int | None = None  # block whose tokens it aligns; null: 2/7 of them, rounded up
    auxiliary_weight: float | None = None  # of the loss that a custom model returns; null: none

    # The first-order sampler that fits the objective's prediction; DPM-Solver++ fits every one.
    first_order_sampler: ClassVar[Sampler] = Sampler.ddim

    def __post_init__(self) -> None:
        require_finite("objective.repa_weight", self.repa_weight, least=0)
        require_count("objective.repa_depth", self.repa_depth, most=MOST_DEPTH)
        require_finite("objective.auxiliary_weight", self.auxiliary_weight, least=0)

    def aligned_block(self, blocks: int) -> int:
        """Return the block, counted from 1, whose tokens REPA aligns in a model of so many blocks.

        The default share is that of arXiv 2410.06940: block 8 of the 28 of SiT-XL/2.
        """
        return math.ceil(2 * blocks / 7) if self.repa_depth is None else self.repa_depth


@dataclass(frozen=True)
class RectifiedFlowConfig(ObjectiveConfig):
    """x_t = (1 - t)·x + t·noise, target noise - x (arXiv 2209.03003)."""

    name: str = field(default="rectified_flow", metadata=TAG)
    timesteps: TimestepSampling = TimestepSampling.uniform  # drawn uniform or logit_normal
    logit_mean: float = 0.0  # mean of `logit_normal` (arXiv 2403.03206, Eq. 19)
    logit_std: float = 1.0  # standard deviation of `logit_normal`
    prediction: Prediction = Prediction.v  # the model's output: v (velocity) or x (clean data)
    least_time: float = 0.05  # the loss of a predicted x is over max(t, this)², as JiT's
    timestep_shift: float | AutoShift | None = None  # s of t' = s·t / (1 + (s - 1)·t); null: none

    first_order_sampler: ClassVar[Sampler] = Sampler.euler

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite("objective.logit_mean", self.logit_mean)
        require_positive("objective.logit_std", self.logit_std)
        require(
            0 < self.least_time <= 1,
            f"`objective.least_time` must be above 0 and at most 1, but got {self.least_time}.",
        )
        if isinstance(self.timestep_shift, float | int):
            require_positive("objective.timestep_shift", self.timestep_shift)

    def shift(self, values: int) -> float | None:
        """Return s for samples of `values` numbers (arXiv 2403.03206, Section 5.3.2).

        `auto` is the root of `values` over 4096, the 64x64 pixels or latent values at which the
        times are those of no shift (arXiv 2510.11690).
        """
        if self.timestep_shift is AutoShift.auto:
            return math.sqrt(values / SHIFT_BASE)
        assert not isinstance(self.timestep_shift, AutoShift)
        return self.timestep_shift


SHIFT_BASE = 4096  # numbers of a sample (C·H·W) at which `timestep_shift: auto` is no shift


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
        super().__post_init__()
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
        super().__post_init__()
        require_finite("objective.beta_max", self.beta_max)
        require(
            0 < self.beta_min < self.beta_max and 0 < self.t_min < 1,
            "`objective` needs 0 < beta_min < beta_max and 0 < t_min < 1, but got "
            f"{self.beta_min=}, {self.beta_max=}, {self.t_min=}.".replace("self.", ""),
        )


@dataclass(frozen=True)
class ParametrizationConfig:
    """How the model scales with width, and the two scales that may be swept."""

    scaling: Scaling = Scaling.mup  # rules: mup, complete, standard or standard_embed
    init_scale: float = 1.0  # multiplies every random initial std; zeros and fixed tables stay
    output_scale: float = 1.0  # multiplies the readout's output (paper: output_mult)
    weight_decay_mode: WeightDecayMode = WeightDecayMode.mup  # mup, independent or unscaled
    decayed: Decayed = Decayed.all  # by weight decay: all, or matrices (hidden and output weights)
    eps_scaling: EpsScaling = EpsScaling.none  # of epsilon under mup: none, or width for eps/m
    broken: Broken = Broken.none  # a deliberate fault, for `hptransfer check`
    depth_alpha: float = 1.0  # branches are scaled by (depth / model.base_depth)^-depth_alpha
    base_batch_size: int | None = None  # at which `complete` scales nothing; null: the trial's own
    base_steps: int | None = None  # at which `complete` scales nothing; null: the trial's own
    duration_exponent: float = 0.5  # `complete` lowers rates by the samples' ratio to this power
    most_one_minus_beta: float = 0.5  # `complete` raises 1 - beta up to this and no farther

    def __post_init__(self) -> None:
        require_positive("parametrization.init_scale", self.init_scale)
        require_positive("parametrization.output_scale", self.output_scale)
        require(
            0.5 <= self.depth_alpha <= 1,
            "`parametrization.depth_alpha` must lie between 0.5 and 1, where depth transfers, but "
            f"got {self.depth_alpha}.",
        )
        require_count("parametrization.base_batch_size", self.base_batch_size)
        require_count("parametrization.base_steps", self.base_steps)
        require(
            0 <= self.duration_exponent <= 1,
            "`parametrization.duration_exponent` must lie between 0 (rates do not follow the "
            f"duration) and 1, but got {self.duration_exponent}. The rule of arXiv 2512.22382 is "
            "0.5.",
        )
        require(
            0 < self.most_one_minus_beta <= 1,
            "`parametrization.most_one_minus_beta` must be above 0 and at most 1, but got "
            f"{self.most_one_minus_beta}. The default is 0.5.",
        )


@dataclass(frozen=True)
class BudgetConfig:
    """How long a trial trains, and on what its loss is decided."""

    steps: int = 150  # optimizer steps
    batch_size: int = 64  # samples a step
    schedule: Schedule = Schedule.linear_decay  # of the rate: constant, cosine, linear_decay
    warmup_fraction: float = 0.07  # share of the steps in which the rate rises from zero
    decay_fraction: float = 0.3  # share of the steps in which `linear_decay` falls to zero
    weights: Weights = Weights.raw  # whose loss decides: raw, or ema (the moving average)
    ema_fraction: float = 0.05  # horizon of the moving average, as a share of the steps
    judged_ema_fractions: tuple[float, ...] = ()  # of further averages, judged beside the weights
    eval_samples: int = 360  # held-out samples in the deciding loss
    eval_draws: int = 6  # stratified (noise, timestep) draws per held-out sample
    stop_after: float | None = None  # share of the steps that a hopeless trial runs; null: all

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_samples", "eval_draws"):
            require_count(f"budget.{name}", getattr(self, name))
        for name in ("warmup_fraction", "decay_fraction", "ema_fraction"):
            require_share(f"budget.{name}", getattr(self, name))
        if self.stop_after is not None:
            require_share("budget.stop_after", self.stop_after)
        shares = (0.0, *self.judged_ema_fractions)
        require(
            all(low < high <= 1 for low, high in pairwise(shares)),
            "`budget.judged_ema_fractions` must be increasing shares of the steps, each above 0 "
            f"and at most 1, but got {list(shares[1:])}. Sort them and leave out repeated ones.",
        )

    @property
    def ema_decay(self) -> float:
        """The per-step decay whose horizon is `ema_fraction` of the run."""
        return self.decay_over(self.ema_fraction)

    def decay_over(self, fraction: float) -> float:
        """Return the per-step decay of an average whose horizon is a share of the run."""
        return math.exp(-1.0 / max(fraction * self.steps, 1e-9))


LEAST_SAMPLES = 100  # samples of a trial: more than the classifiers have features


@dataclass(frozen=True)
class QualityConfig:
    """Samples that the deciding weights draw after training, judged beside the loss."""

    samples: int = 0  # samples of a trial that are judged; 0: quality is not measured
    steps: int = 20  # model evaluations a sample
    guidance: float = 1.0  # of the samples; 1: the conditional prediction alone
    sampler: Sampler | None = None  # dpm_solver, or the objective's euler or ddim; null: dpm_solver
    extractor: str = ""  # package.module:function, images -> features; empty: our classifier
    decoder: str = ""  # package.module:function, stored latents -> images in [-1, 1]; empty: none
    version: str = ""  # change it with the code of extractor and decoder, which keys do not see
    reference: str = ""  # .npz with mu and sigma of features; empty: those of the training split
    reference_sha256: str = ""  # first 16 hex digits of the hash of that mu and sigma

    def __post_init__(self) -> None:
        require_count("quality.samples", self.samples, least=0, most=50_000)
        require(
            self.samples == 0 or self.samples >= LEAST_SAMPLES,
            f"`quality.samples` must be 0 (not measured) or at least {LEAST_SAMPLES}, more than "
            f"the features they are compared in, but got {self.samples}.",
        )
        require_count("quality.steps", self.steps)
        require_finite("quality.guidance", self.guidance, least=0)

    @property
    def chosen_sampler(self) -> Sampler:
        """The sampler that draws."""
        return self.sampler or Sampler.dpm_solver

    @property
    def unused(self) -> str:
        """The first key that has no effect beside the others, in a sentence; empty if all have."""
        for name, needed in (
            *((name, "samples") for name in ("sampler", "extractor", "decoder", "reference")),
            *(("version", "extractor"), ("reference_sha256", "reference")),
        ):
            if getattr(self, name) and not getattr(self, needed):
                return (
                    f"`quality.{name}` has no effect without quality.{needed}, but got "
                    f"{getattr(self, name)}. Set quality.{needed}, or leave quality.{name} out."
                )
        return ""


@dataclass(frozen=True)
class ModelConfig:
    """A member of a family: everything about the architecture that is not the data's."""

    family: str = field(default="", metadata=TAG)  # the architecture, which decides the other keys
    width: int = 24  # d, channels of a token; the axis that is scaled
    base_width: int = 24  # the width at which every parametrization is the same model
    label_dropout: float = 0.1  # share of labels or captions replaced by a null one in training

    # What the model is told of a sample besides its timestep.
    conditioning: ClassVar[Conditioning] = Conditioning.label

    def __post_init__(self) -> None:
        for name in ("width", "base_width"):
            require_count(f"model.{name}", getattr(self, name), most=MOST_WIDTH)
        require_share("model.label_dropout", self.label_dropout)

    @property
    def depth_mult(self) -> float:
        """r, the depth over the base depth; 1 for a model without depth scaling."""
        return 1.0


@dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """A diffusion transformer with a fixed head dimension: width grows by heads."""

    depth: int = 2  # blocks
    base_depth: int | None = None  # the depth at which depth scaling is off; null: this depth
    head_dim: int = 8  # channels of an attention head, never scaled: width / number of heads
    patch_size: int = 4  # pixels (or latent cells) on a side of a patch
    mlp_ratio: int = 4  # hidden channels of the MLP over width

    width_multiple: ClassVar[int] = 4  # 2-D sine-cosine positions need quarters of the width

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("head_dim", "patch_size", "mlp_ratio"):
            require_count(f"model.{name}", getattr(self, name), most=MOST_WIDTH)
        for name in ("depth", "base_depth"):
            require_count(f"model.{name}", getattr(self, name), most=MOST_DEPTH)
        for name in ("width", "base_width"):
            value = getattr(self, name)
            require(
                value % self.head_dim == 0,
                f"`model.{name}` must be a multiple of the head dimension, but got "
                f"{name}={value} with head_dim={self.head_dim}. Choose a multiple of "
                f"{self.head_dim} or set model.head_dim.",
            )
            require(
                value % self.width_multiple == 0,
                f"`model.{name}` must be a multiple of {self.width_multiple} for the sine-cosine "
                f"embeddings, but got {name}={value}. Choose a multiple of {self.width_multiple}.",
            )

    @property
    def depth_mult(self) -> float:
        """r, the depth over the base depth."""
        return self.depth / (self.base_depth or self.depth)

    @property
    def blocks(self) -> int:
        """How many blocks the tokens pass through, one after another."""
        return self.depth


@dataclass(frozen=True)
class DiTConfig(TransformerConfig):
    """DiT (arXiv 2212.09748): adaptive layer norm in every block, class labels."""

    family: str = field(default="dit", metadata=TAG)
    learn_sigma: bool = False  # twice the output channels: a variance beside the prediction


@dataclass(frozen=True)
class DiTModernConfig(TransformerConfig):
    """A DiT of present-day blocks, for pixels and latents: see `models/families/dit_modern.py`."""

    family: str = field(default="dit_modern", metadata=TAG)
    mlp_ratio: int = 4  # the SwiGLU has about the size of a two-layer MLP of this ratio
    adaln: AdaLN = AdaLN.single  # adaptive norms: single (shared, with tables) or block (own maps)
    registers: int = 4  # learned tokens beside the patches (arXiv 2309.16588)
    bottleneck: int = 16  # channels between the two layers of the patch embedding, never scaled

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("model.bottleneck", self.bottleneck, most=MOST_WIDTH)
        require_count("model.registers", self.registers, least=0, most=2**16)
        require(
            self.head_dim % 4 == 0,
            "`model.head_dim` must be a multiple of 4 for rotary positions in two dimensions, "
            f"but got {self.head_dim}. Choose a multiple of 4.",
        )

    @property
    def mlp_hidden(self) -> int:
        """Hidden channels of the SwiGLU: a multiple of 8 for each head, near 2/3·mlp_ratio·width.

        With two thirds of the channels its three matrices have the size of the usual two. Since it
        is rounded for each head, it grows exactly with the width.
        """
        per_head = 8 * max(1, round(self.mlp_ratio * self.head_dim / 12))
        return self.width // self.head_dim * per_head


@dataclass(frozen=True)
class UViTConfig(TransformerConfig):
    """U-ViT (arXiv 2209.12152): long skips; time, label and caption are tokens."""

    family: str = field(default="uvit", metadata=TAG)
    condition: Conditioning = Conditioning.label  # told of a sample: none, label or caption
    final_conv: bool = True  # a 3x3 convolution on the image at the end

    width_multiple: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.depth % 2 == 0,
            "`model.depth` of a U-ViT counts the blocks besides the middle one, half before and "
            f"half after it, so it must be even, but got {self.depth}.",
        )
        require(
            self.base_depth is None or self.base_depth == self.depth,
            "Depth scaling has no known rule for U-ViT's long skips, but got "
            f"base_depth={self.base_depth} with depth={self.depth}. Leave model.base_depth null.",
        )

    @property
    def blocks(self) -> int:
        """How many blocks the tokens pass through: the middle one, and `depth` besides it."""
        return self.depth + 1

    @property
    def conditioning(self) -> Conditioning:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the model is told of a sample besides its timestep."""
        return self.condition


@dataclass(frozen=True)
class PixArtConfig(TransformerConfig):
    """PixArt-α (arXiv 2310.00426): one shared adaLN, cross-attention to captions."""

    family: str = field(default="pixart", metadata=TAG)
    learn_sigma: bool = False  # twice the output channels: a variance beside the prediction

    conditioning: ClassVar[Conditioning] = Conditioning.caption


@dataclass(frozen=True)
class MMDiTConfig(TransformerConfig):
    """MMDiT (arXiv 2403.03206): captions and patches as two streams of joint attention."""

    family: str = field(default="mmdit", metadata=TAG)
    qk_norm: bool = False  # RMS norm of queries and keys, a gain per head dimension
    position_grid: int | None = None  # side of the stored position table; null: the image's own

    conditioning: ClassVar[Conditioning] = Conditioning.caption

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("model.position_grid", self.position_grid, most=2**12)


@dataclass(frozen=True)
class CustomConfig(ModelConfig):
    """A model of the user's own: a function `width -> nn.Module` named package.module:function.

    Its forward(x, t, *condition) is described in `hptransfer.models.families`, and may return a
    loss beside the prediction (`objective.auxiliary_weight`); its own initialisation takes the
    place of the trial's `init`.
    """

    family: str = field(default="custom", metadata=TAG)
    factory: str = ""  # package.module:function, which builds the model from its width
    version: str = ""  # change it with the factory's code, which no trial's key depends on
    condition: Conditioning = Conditioning.label  # told of a sample: none, label or caption
    roles: tuple[str, ...] = ()  # "pattern=role" for parameters by name; the first match wins
    chunks: tuple[str, ...] = ()  # "pattern=n": a weight whose rows are n matrices, for Muon
    rescale_init: bool = True  # correct initial stds that violate µP; false: refuse them
    feature_tokens: int = 0  # tokens of a frozen encoder's features for its own loss; 0: none

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "roles", tuple(self.roles))
        object.__setattr__(self, "chunks", tuple(self.chunks))
        require_count("model.feature_tokens", self.feature_tokens, least=0, most=2**20)
        require(
            math.isqrt(self.feature_tokens) ** 2 == self.feature_tokens,
            "`model.feature_tokens` must be a square number, the tokens of a square grid, but got "
            f"{self.feature_tokens}. Count the patches alone.",
        )

    @property
    def conditioning(self) -> Conditioning:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the model is told of a sample besides its timestep."""
        return self.condition


@dataclass(frozen=True)
class Layout:
    """The shapes that a data set gives a model, and what is trained beside its prediction."""

    channels: int
    image_size: int  # pixels a side
    classes: int
    caption_tokens: int = 0  # tokens of the longest caption; 0: no captions
    caption_channels: int = 0  # channels of a token
    pooled_channels: int = 0  # channels of the pooled caption; 0: none
    feature_channels: int = 0  # channels of a frozen encoder's features; 0: none
    projected_block: int = 0  # block, from 1, whose tokens are projected to them; 0: none
    auxiliary: bool = False  # whether a custom model returns a loss beside its prediction


@dataclass(frozen=True)
class DataConfig:
    """A data set by name and content; the folder it is read from is `runtime.data_folder`."""

    name: str = field(default="", metadata=TAG)  # the kind of data, which decides the other keys
    sha256: str = ""  # first 16 hex digits of the content's hash

    @property
    def layout(self) -> Layout:
        """The shapes that this data set gives a model."""
        raise NotImplementedError

    @property
    def caption_advice(self) -> str:
        """What to do where a model needs captions and the config states none."""
        return "Choose data=digits, which has them."

    @property
    def feature_advice(self) -> str:
        """What to do where REPA needs features and the config states none."""
        return "Choose data=features with features of an encoder, or set objective.repa_weight=0."


# Captions of the embedded sets come from `hptransfer.data.captions`, with these shapes.
CAPTION_TOKENS, CAPTION_CHANNELS, POOLED_CHANNELS = 6, 64, 64
# Channels of the features that the classifiers of the embedded sets give REPA.
FEATURE_CHANNELS = 64


@dataclass(frozen=True)
class DigitsConfig(DataConfig):
    """1,797 handwritten digits, 8x8 grey (UCI optical recognition, in scikit-learn)."""

    name: str = field(default="digits", metadata=TAG)
    sha256: str = "8b3b6ae90863430b"
    held_out: int = 360  # validation samples, drawn once with a fixed seed

    def __post_init__(self) -> None:
        require(
            0 < self.held_out < 1797,
            "`data.held_out` must leave at least one of the 1,797 digits for training and one "
            f"held out, but got {self.held_out}.",
        )

    @property
    def layout(self) -> Layout:
        """One grey channel of 8x8 and ten classes."""
        return Layout(1, 8, 10, CAPTION_TOKENS, CAPTION_CHANNELS, POOLED_CHANNELS, FEATURE_CHANNELS)


@dataclass(frozen=True)
class FashionMNISTConfig(DataConfig):
    """60,000 + 10,000 clothes, 28x28 grey, zero-padded to 32x32, from the IDX files."""

    name: str = field(default="fashion_mnist", metadata=TAG)
    sha256: str = "28135e944c56386d"

    @property
    def layout(self) -> Layout:
        """One grey channel of 32x32 and ten classes."""
        words = CAPTION_TOKENS, CAPTION_CHANNELS, POOLED_CHANNELS
        return Layout(1, 32, 10, *words, FEATURE_CHANNELS)


@dataclass(frozen=True)
class FolderConfig(DataConfig):
    """A data set in a folder: its shapes are stated here and checked against the files."""

    channels: int = 3  # of an image or latent
    image_size: int = 32  # pixels (or latent cells) on a side
    classes: int = 1000  # different labels; 1: no labels
    caption_tokens: int = 0  # tokens of the longest caption; 0: no captions
    caption_channels: int = 0  # channels of a token
    pooled_channels: int = 0  # channels of the pooled caption; 0: none
    held_out: int = 1000  # validation samples, drawn once with a fixed seed

    def __post_init__(self) -> None:
        for name in ("channels", "image_size"):
            require_count(f"data.{name}", getattr(self, name), most=2**16)
        for name in ("classes", "held_out"):
            require_count(f"data.{name}", getattr(self, name))
        for name in ("caption_tokens", "caption_channels", "pooled_channels"):
            require_count(f"data.{name}", getattr(self, name), least=0, most=2**20)
        require(
            (self.caption_tokens > 0) == (self.caption_channels > 0),
            "`data.caption_tokens` and `data.caption_channels` must both be positive, or both 0 "
            f"for no captions, but got {self.caption_tokens} and {self.caption_channels}.",
        )

    @property
    def layout(self) -> Layout:
        """The shapes as stated."""
        return Layout(
            self.channels,
            self.image_size,
            self.classes,
            self.caption_tokens,
            self.caption_channels,
            self.pooled_channels,
        )


@dataclass(frozen=True)
class FeaturesConfig(FolderConfig):
    """Precomputed latents and text features, in any layout of `hptransfer.data.layouts`."""

    name: str = field(default="features", metadata=TAG)
    channels: int = 4  # of an image or latent
    # A model sees (z - shift)*scale of a stored latent z; each is one number, or one a channel.
    shift: float | tuple[float, ...] = 0.0  # taken off the stored latents; 0.0609 for SD3's VAE
    scale: float | tuple[float, ...] = 1.0  # then multiplies them; 0.18215 for SD's VAE
    sample_posterior: bool = True  # of a stored mean and std, one fixed draw; false: the mean
    mirrored: bool = True  # whether stored mirrored copies are trained on too; LightningDiT's
    latent_column: str = ""  # of MDS, WebDataset, Parquet or datasets; empty: by its usual name
    label_column: str = ""  # the column of labels; empty: by its usual name
    token_column: str = ""  # the column of text features (L, K); empty: by its usual name
    mask_column: str = ""  # the column that tells real tokens; empty: by its usual name
    pooled_column: str = ""  # the column of pooled text features; empty: by its usual name
    caption_column: str = ""  # the column of captions as text; empty: by its usual name
    feature_column: str = ""  # the column of a frozen encoder's features; empty: `features`
    feature_channels: int = 0  # channels of a frozen encoder's features, for REPA; 0: not read

    @property
    def layout(self) -> Layout:
        """The shapes as stated."""
        return dataclasses.replace(super().layout, feature_channels=self.feature_channels)

    @property
    def feature_advice(self) -> str:
        """What to do where REPA needs features and the config states none."""
        return (
            "If the folder has them, set data.feature_channels=1: the next error then names how "
            "many it holds. If not, set objective.repa_weight=0, or model.feature_tokens=0."
        )

    @property
    def caption_advice(self) -> str:
        """What to do where a model needs captions and the config states none."""
        return (
            "If the folder has them, set data.caption_tokens=1 data.caption_channels=1: the next "
            "error then names the shapes that the folder holds. If not, choose model=dit or "
            "model=uvit."
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("data.feature_channels", self.feature_channels, least=0, most=2**20)
        for name in ("shift", "scale"):
            value = getattr(self, name)
            if isinstance(value, tuple):
                require(
                    len(value) == self.channels,
                    f"`data.{name}` must be one number, or one for each of the {self.channels} "
                    f"channels, but got {len(value)} numbers. Set as many as data.channels says.",
                )
            for each in value if isinstance(value, tuple) else (value,):
                if name == "scale":
                    require_positive("data.scale", each)
                else:
                    require_finite("data.shift", each)


@dataclass(frozen=True)
class PixelsConfig(FolderConfig):
    """Images in pixels, shorter side resized and centre cropped; captions are encoded here."""

    @property
    def caption_advice(self) -> str:
        """What to do where a model needs captions and the config states none."""
        return (
            "Captions of images are encoded here, in sizes of your choice: set "
            "data.caption_tokens=32 data.caption_channels=64 data.pooled_channels=64."
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.channels in (1, 3),
            f"`data.channels` must be 1 (grey) or 3 (RGB) for images, but got {self.channels}.",
        )
        require(
            self.pooled_channels == self.caption_channels,
            "`data.pooled_channels` must be `data.caption_channels`, since both come from one "
            f"encoder, but got {self.pooled_channels} and {self.caption_channels}.",
        )


@dataclass(frozen=True)
class ImageFolderConfig(PixelsConfig):
    """Images in one folder a class, shorter side resized, centre cropped."""

    name: str = field(default="image_folder", metadata=TAG)


@dataclass(frozen=True)
class HuggingFaceConfig(PixelsConfig):
    """A Hugging Face `datasets` folder, as `save_to_disk` writes it."""

    name: str = field(default="huggingface", metadata=TAG)
    image_column: str = "image"  # the data set's column of images
    label_column: str = "label"  # the data set's column of labels
    caption_column: str = "caption"  # the column of captions, read if caption_tokens > 0


# Data sets with a classifier in `hptransfer.training.sampling`.
JUDGED = (DigitsConfig, FashionMNISTConfig)


@dataclass(frozen=True)
class TrialConfig:
    """One training run. Pure: the same config gives the same result."""

    model: ModelConfig = DiTConfig()
    parametrization: ParametrizationConfig = ParametrizationConfig()
    objective: ObjectiveConfig = RectifiedFlowConfig()
    data: DataConfig = DigitsConfig()
    optimizer: AnyOptimizer = USUAL
    budget: BudgetConfig = BudgetConfig()
    quality: QualityConfig = QualityConfig()
    init: Init = Init.adaln_zero  # what the model is at its base width
    precision: Precision = Precision.fp32  # arithmetic of the training
    seed: int = 0  # of initialisation, data order, noise and timesteps

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
            f"A model that is trained with captions ({self.model.family}) needs data with "
            f"captions, but data={self.data.name} has none. {self.data.caption_advice}",
        )
        learn_sigma = getattr(self.model, "learn_sigma", False)
        require(
            not learn_sigma or isinstance(self.objective, DDPMConfig),
            "`model.learn_sigma` doubles the output channels for a variance that only "
            f"objective=ddpm trains, but got objective={self.objective.name}. Set "
            "objective=ddpm or model.learn_sigma=false.",
        )
        require(
            not isinstance(self.optimizer, MuonConfig)
            or not self.optimizer.weight_decay
            or self.parametrization.weight_decay_mode is WeightDecayMode.independent,
            "Weight decay beside optimizer=muon is independent of the learning rate, but got "
            f"parametrization.weight_decay_mode={self.parametrization.weight_decay_mode.value}. "
            "Set parametrization.weight_decay_mode=independent.",
        )
        if self.objective.repa_weight:
            self._require_alignable()
        require(not self.quality.unused, self.quality.unused)
        require(
            self.objective.auxiliary_weight is None or isinstance(self.model, CustomConfig),
            "`objective.auxiliary_weight` weights a loss that a model of your own returns, but got "
            f"model={self.model.family}. Choose model=custom, or set "
            "objective.auxiliary_weight=null.",
        )
        if isinstance(self.model, CustomConfig) and self.model.feature_tokens:
            require(
                self.objective.auxiliary_weight is not None,
                "`model.feature_tokens` hands features to a model that returns a loss of them, but "
                "objective.auxiliary_weight is null. Set it, or set model.feature_tokens=0.",
            )
            self._require_features("A model with `model.feature_tokens` above 0")
        if self.quality.samples:
            self._require_measurable()

    @property
    def layout(self) -> Layout:
        """What the model is built for: the data's shapes, and REPA's head or a loss of its own."""
        layout, objective = self.data.layout, self.objective
        if objective.auxiliary_weight is not None:
            return dataclasses.replace(layout, auxiliary=True)
        if not objective.repa_weight:
            return layout
        assert isinstance(self.model, TransformerConfig)
        block = objective.aligned_block(self.model.blocks)
        return dataclasses.replace(layout, projected_block=block)

    @property
    def auxiliary_weight(self) -> float | None:
        """The weight of what is trained beside the objective's loss: REPA's or the model's own.

        None where nothing is.
        """
        return self.objective.repa_weight or self.objective.auxiliary_weight

    @property
    def feature_tokens(self) -> int:
        """The tokens to whose grid a frozen encoder's features are brought; 0: none are used."""
        if isinstance(self.model, CustomConfig):
            return self.model.feature_tokens
        if not self.objective.repa_weight:
            return 0
        assert isinstance(self.model, TransformerConfig)
        return (self.layout.image_size // self.model.patch_size) ** 2

    @property
    def width_mult(self) -> float:
        """m, the model's width over its base width."""
        return self.model.width / self.model.base_width

    @property
    def batch_mult(self) -> float:
        """b, the batch size over the base batch size."""
        batch_size = self.budget.batch_size
        return batch_size / (self.parametrization.base_batch_size or batch_size)

    @property
    def duration_mult(self) -> float:
        """d, the samples that the trial trains on over those of the base batch size and steps."""
        steps = self.budget.steps
        return self.batch_mult * (steps / (self.parametrization.base_steps or steps))

    @property
    def is_base(self) -> bool:
        """Whether m, r, b and d are all 1, so that every parametrization is the same model."""
        batch_and_duration = self.batch_mult == self.duration_mult == 1.0
        return self.width_mult == self.model.depth_mult == 1.0 and batch_and_duration

    def _require_alignable(self) -> None:
        if not isinstance(self.model, TransformerConfig):
            raise UserError(
                "REPA (`objective.repa_weight` above 0) aligns the tokens of a family that is "
                f"built in, but got model={self.model.family}. Choose one of these, or return a "
                "loss of your own (objective.auxiliary_weight) and set objective.repa_weight=0."
            )
        blocks = self.model.blocks
        require(
            self.objective.aligned_block(blocks) <= blocks,
            f"`objective.repa_depth` must be one of the model's {blocks} blocks, counted from 1, "
            f"but got {self.objective.repa_depth}. Choose a smaller number, or null.",
        )
        self._require_features("REPA (`objective.repa_weight` above 0)")

    def _require_features(self, asker: str) -> None:
        require(
            self.data.layout.feature_channels > 0,
            f"{asker} needs data with features of a frozen encoder, but data={self.data.name} "
            f"states none. {self.data.feature_advice}",
        )

    def _require_measurable(self) -> None:
        quality = self.quality
        require(
            isinstance(self.data, JUDGED) or quality.extractor != "",
            "`quality.samples` needs a classifier of the data, and there is one for "
            f"{' and '.join(judged().name for judged in JUDGED)}, but got data={self.data.name}. "
            "Set quality.extractor to a function of your own that gives features (and "
            "quality.decoder to one that makes images of latents, unless your extractor takes "
            "latents), or set quality.samples=0.",
        )
        require(
            not quality.decoder or isinstance(self.data, FeaturesConfig),
            "`quality.decoder` makes images of latents (data=features), but got "
            f"data={self.data.name}, which are images. Leave quality.decoder out.",
        )
        require(
            quality.chosen_sampler in (Sampler.dpm_solver, self.objective.first_order_sampler),
            f"`quality.sampler` must fit the objective, but got {quality.chosen_sampler.value}; "
            f"objective={self.objective.name} takes {self.objective.first_order_sampler.value} or "
            "dpm_solver. Choose one of them.",
        )
        require(
            not isinstance(self.objective, DDPMConfig) or quality.steps <= self.objective.timesteps,
            "`quality.steps` must not exceed the schedule's steps, but got "
            f"{quality.steps} with objective.timesteps="
            f"{getattr(self.objective, 'timesteps', None)}. Take fewer steps.",
        )
