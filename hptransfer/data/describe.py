"""What a folder holds: its layout, shapes and statistics, and the overrides that state them."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

from hptransfer.config import FeaturesConfig, FolderConfig, HuggingFaceConfig, ImageFolderConfig
from hptransfer.data.check import scan_source
from hptransfer.data.images import SUFFIXES, HuggingFace, ImageFolder
from hptransfer.data.layouts import find_layout, no_layout
from hptransfer.data.layouts.folder_layout import LatentSource
from hptransfer.data.seal import content_hash, fingerprint, read_seal, write_seal
from hptransfer.data.source import Source
from hptransfer.data.statistics import Statistics, factor_overrides, factors_for
from hptransfer.errors import UserError

MOST_CLASSES = 2**31 - 1  # of a folder whose classes are to be counted
SHOWN_CHANNELS = 16  # channels up to which a text shows the statistics of each
HELD_OUT = 1000  # held-out samples where the folder has ten times as many


@dataclass(frozen=True)
class FolderDescription:
    """What `hptransfer data` says of a folder."""

    layout: str  # of the files, as people call it
    data: str  # the kind of data: features, image_folder or huggingface
    samples: int
    shape: tuple[int, int, int]  # of a sample, (C, H, H)
    classes: int
    labelled: bool
    captions: tuple[int, int, int]  # tokens, channels of a token, pooled channels
    text: bool  # whether captions are text that is encoded here, in sizes of one's choice
    mirrored: bool  # whether mirrored copies are stored beside the samples
    files: int
    stored: Statistics
    seen: Statistics  # what a model sees with the overrides
    factors: str  # where shift and scale of the overrides come from; empty: there are none
    overrides: tuple[str, ...]
    seal: str | None  # the file that records that the folder was read wholly


def describe_folder(folder: Path, config: FolderConfig | None = None) -> FolderDescription:
    """Return what a folder holds; every sample is read, unless a seal says that it was.

    Args:
        config: what is stated of it, such as the columns or the size of images; its hash and its
            held-out samples do not count.

    Raises:
        UserError: the folder is in no layout that is read, or a sample is broken.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Name one that exists.")
    asked = config or kind_of(folder)
    asked = dataclasses.replace(asked, sha256="", held_out=1, classes=MOST_CLASSES)
    name, source = _opened(asked, folder)
    layout = source.layout
    shape = {"channels": layout.channels, "image_size": layout.image_size}
    captions = layout.caption_tokens, layout.caption_channels, layout.pooled_channels
    words: dict[str, int] = dict(
        zip(("caption_tokens", "caption_channels", "pooled_channels"), captions, strict=True)
    )
    if layout.feature_channels:
        words["feature_channels"] = layout.feature_channels
    asked = dataclasses.replace(asked, **_unfactored(asked), **shape, **words)
    key = fingerprint(asked, folder, source.files)
    seal = read_seal(folder, key)
    if seal is None:
        seal = scan_source(asked, source, content_hash(folder, source.files))
        write_seal(folder, key, seal)
    classes = seal.classes if layout.classes == MOST_CLASSES else layout.classes
    stated = dataclasses.replace(asked, classes=classes, sha256=seal.sha256)
    place = write_seal(folder, fingerprint(stated, folder, source.files), seal)
    factors = _factors(config, source, seal.statistics)
    where, shift, scale = factors or ("", 0.0, 1.0)
    overrides = [
        *(f"data={stated.name}", f"runtime.data_folder={folder.resolve()}"),
        *(f"data.{key}={value}" for key, value in shape.items()),
        f"data.classes={classes}",
        *(f"data.{key}={value}" for key, value in words.items() if value),
        *_held_out(len(source)),
        *_columns(stated),
        *factor_overrides(shift, scale),
        f"data.sha256={seal.sha256}",
    ]
    return FolderDescription(
        layout=name,
        data=stated.name,
        samples=len(source),
        shape=(layout.channels, layout.image_size, layout.image_size),
        classes=classes,
        labelled=layout.classes != 1,
        captions=captions,
        text=source.captions_are_text,
        mirrored=source.mirrored,
        files=len(source.files),
        stored=seal.statistics,
        seen=seal.statistics.seen(shift, scale),
        factors=where,
        overrides=tuple(overrides),
        seal=None if place is None else str(place),
    )


def kind_of(folder: Path) -> FolderConfig:
    """Return a config of the kind of data that a folder holds, told by its files' names."""
    layout = find_layout(folder)
    if layout is not None and layout.name == "Hugging Face dataset" and _has_images(folder):
        return HuggingFaceConfig()
    if layout is not None:
        return FeaturesConfig()
    for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
        if any(path.suffix.lower() in SUFFIXES for path in inside.iterdir()):
            return ImageFolderConfig()
    raise no_layout(folder)


def _has_images(folder: Path) -> bool:
    from hptransfer.data.images import saved_dataset

    table = saved_dataset(folder, "data=huggingface")
    return any(type(kind).__name__ == "Image" for kind in table.features.values())


def _opened(config: FolderConfig, folder: Path) -> tuple[str, Source]:
    match config:
        case HuggingFaceConfig():
            return "Hugging Face dataset of images", HuggingFace(config, folder)
        case ImageFolderConfig():
            return "one folder of images a class", ImageFolder(config, folder)
        case FeaturesConfig():
            layout = find_layout(folder)
            if layout is None:
                raise no_layout(folder)
            return layout.name, layout.source(config, folder)
    raise TypeError(f"no data source for {type(config).__name__}")


def _unfactored(config: FolderConfig) -> dict[str, float]:
    return {"shift": 0.0, "scale": 1.0} if isinstance(config, FeaturesConfig) else {}


def _factors(config: FolderConfig | None, source: Source, stored: Statistics):
    """Return where shift and scale come from and both, the config's own if it states any."""
    if not isinstance(source, LatentSource):
        return None
    if isinstance(config, FeaturesConfig) and (config.shift, config.scale) != (0.0, 1.0):
        return "stated", config.shift, config.scale
    return factors_for(stored, by_channel=source.by_channel)


def _held_out(samples: int) -> list[str]:
    """Return the override of held-out samples where the default would take more than a tenth."""
    return [] if samples >= 10 * HELD_OUT else [f"data.held_out={max(1, samples // 10)}"]


def _columns(config: FolderConfig) -> list[str]:
    """Return the overrides of columns that are stated, and of other fields that are not usual."""
    defaults = type(config)()
    names = [f.name for f in dataclasses.fields(config) if f.name.endswith("_column")]
    names += ["sample_posterior", "mirrored"] if isinstance(config, FeaturesConfig) else []
    changed = [name for name in names if getattr(config, name) != getattr(defaults, name)]
    values = {name: getattr(config, name) for name in changed}
    return [
        f"data.{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in values.items()
    ]


def description_text(found: FolderDescription) -> str:
    """Return a description as lines for a terminal, the overrides last, to be pasted."""
    channels, size, _ = found.shape
    classes = f"{found.classes:,}" if found.labelled else "1, without labels"
    if found.text and not found.captions[0]:
        captions = (
            "text, encoded here: for a model with captions add data.caption_tokens=32 "
            "data.caption_channels=64 data.pooled_channels=64"
        )
    elif found.captions[0]:
        tokens, width, pooled = found.captions
        captions = f"{tokens} tokens of {width} channels" + (f", {pooled} pooled" if pooled else "")
    else:
        captions = "none"
    copies = ", each stored mirrored as well" if found.mirrored else ""
    lines = [
        f"layout    {found.layout}, {found.files:,} files",
        f"samples   {found.samples:,}{copies}",
        f"shape     {channels} channels, {size} x {size}",
        f"classes   {classes}",
        f"captions  {captions}",
        f"stored    {_statistics_text(found.stored)}",
    ]
    if found.factors:
        lines.append(f"seen      {_statistics_text(found.seen)}, by the overrides below")
        lines.append(f"factors   {found.factors}")
    sealed = found.seal or "nowhere, since neither the folder nor your cache can be written"
    lines.append(f"sealed    {sealed} (what was read; delete it to read the folder anew)")
    return "\n".join([*lines, "overrides:", shlex.join(found.overrides)])


def _statistics_text(of: Statistics) -> str:
    text = f"mean {of.whole_mean:.4g}, standard deviation {of.whole_std:.4g}"
    if len(of.mean) > SHOWN_CHANNELS:
        return text
    means, stds = (" ".join(f"{value:.3g}" for value in values) for values in (of.mean, of.std))
    return f"{text} (by channel: mean {means}; standard deviation {stds})"
