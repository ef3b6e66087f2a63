"""Data sets by name and content; the folder one is read from is `runtime.data_folder`."""

from __future__ import annotations

from dataclasses import dataclass, field

from hptransfer.config.checks import TAG, require_count, require_positive
from hptransfer.errors import require


@dataclass(frozen=True)
class Layout:
    """The shapes that a data set gives a model."""

    channels: int
    image_size: int  # pixels a side
    classes: int
    caption_tokens: int = 0  # tokens of the longest caption; 0: no captions
    caption_channels: int = 0  # channels of a token
    pooled_channels: int = 0  # channels of the pooled caption; 0: none


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


# Captions of the embedded sets come from `hptransfer.data.captions`, with these shapes.
CAPTION_TOKENS, CAPTION_CHANNELS, POOLED_CHANNELS = 6, 64, 64


@dataclass(frozen=True)
class DigitsConfig(DataConfig):
    """1,797 handwritten digits, 8x8 grey (UCI optical recognition, in scikit-learn)."""

    name: str = field(default="digits", metadata=TAG)
    sha256: str = "8b3b6ae90863430b"
    held_out: int = 360  # validation samples, drawn once with a fixed seed

    def __post_init__(self) -> None:
        require(
            0 < self.held_out < 1797,
            "`data.held_out` must leave both splits non-empty of the 1,797 digits, but got "
            f"{self.held_out}.",
        )

    @property
    def layout(self) -> Layout:
        """One grey channel of 8x8 and ten classes."""
        return Layout(1, 8, 10, CAPTION_TOKENS, CAPTION_CHANNELS, POOLED_CHANNELS)


@dataclass(frozen=True)
class FashionMNISTConfig(DataConfig):
    """60,000 + 10,000 clothes, 28x28 grey, zero-padded to 32x32, from the IDX files."""

    name: str = field(default="fashion_mnist", metadata=TAG)
    sha256: str = "28135e944c56386d"

    @property
    def layout(self) -> Layout:
        """One grey channel of 32x32 and ten classes."""
        return Layout(1, 32, 10, CAPTION_TOKENS, CAPTION_CHANNELS, POOLED_CHANNELS)


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
    """Precomputed latents and text features: safetensors or npy shards, fast-DiT's or PixArt's."""

    name: str = field(default="features", metadata=TAG)
    channels: int = 4  # of an image or latent
    scale: float = 1.0  # multiplies the stored latents; 0.18215 for unscaled ones of SD's VAE
    sample_posterior: bool = True  # of PixArt's mean and std, one fixed draw; false: the mean

    @property
    def caption_advice(self) -> str:
        """What to do where a model needs captions and the config states none."""
        return (
            "If the folder has them, set data.caption_tokens=1 data.caption_channels=1: the next "
            "refusal says the shapes that it holds. If not, choose model=dit or model=uvit."
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("data.scale", self.scale)


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
