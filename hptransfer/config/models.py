"""The architectures of each family; the data give their input shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from hptransfer.config.checks import TAG, require_count, require_share
from hptransfer.config.choices import Conditioning
from hptransfer.errors import require

MOST_WIDTH, MOST_DEPTH = 2**20, 2**14  # channels and blocks: more can only be a slip


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


@dataclass(frozen=True)
class DiTConfig(TransformerConfig):
    """DiT (arXiv 2212.09748): adaptive layer norm in every block, class labels."""

    family: str = field(default="dit", metadata=TAG)
    learn_sigma: bool = False  # twice the output channels: a variance beside the prediction


@dataclass(frozen=True)
class UViTConfig(TransformerConfig):
    """U-ViT (arXiv 2209.12152): long skips; time, label and caption are tokens."""

    family: str = field(default="uvit", metadata=TAG)
    condition: Conditioning = Conditioning.label  # none, label or caption
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

    Its forward(x, t, *condition) is described in `hptransfer.models.families`; its own
    initialisation takes the place of the trial's `init`.
    """

    family: str = field(default="custom", metadata=TAG)
    factory: str = ""  # package.module:function, which builds the model from its width
    version: str = ""  # change it with the factory's code, which no trial's key depends on
    condition: Conditioning = Conditioning.label  # none, label or caption
    roles: tuple[str, ...] = ()  # "pattern=role" for parameters by name; the first match wins
    rescale_init: bool = True  # correct initial stds that violate µP; false: refuse them

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "roles", tuple(self.roles))

    @property
    def conditioning(self) -> Conditioning:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the model is told of a sample besides its timestep."""
        return self.condition
