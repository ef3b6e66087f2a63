"""PixArt-α's layout (arXiv 2310.00426), which its `tools/extract_features.py` writes.

    data_info.json                                  [{"path": ..., "ratio": ...}, ...]
    caption_feature_wmask/NAME.npz                  caption_feature (1, L, K), attention_mask (1, L)
    img_vae_features/256resolution/noflip/NAME.npy  mean, then standard deviation: (2·C, H, H)

The list may also be in `partition/`, and the resolution in the folder's name, as PixArt-α's loader
expects it (`img_vae_features_256resolution/noflip`). NAME is the image's file name, or
`folder_file` for an image in a folder. As in that loader, images with a ratio above 4 are left out,
and a latent is mean + std·noise; but here a sample has the same noise in every epoch. There are no
labels. These latents are not scaled: set data.scale=0.18215 for the VAE of Stable Diffusion.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import FeaturesConfig, Layout
from hptransfer.data.arrays import FLOATS, INTEGERS, NPY_HEADERS, npy_sample, require_array
from hptransfer.data.layouts.folder_layout import (
    FolderLayout,
    LatentSource,
    latent_of_moments,
    require_moments,
)
from hptransfer.data.reading import reader_threads, reading
from hptransfer.data.source import Captions
from hptransfer.errors import UserError

LIST_FILES = ("data_info.json", "partition/data_info.json")
LATENT_FOLDERS = ("img_vae_features*/*resolution/noflip", "img_vae_features*/noflip")
CAPTION_FOLDERS = ("caption_feature_wmask", "caption_features_new", "caption_features")
MAX_RATIO = 4  # largest ratio of an image's sides
# Factor that gives the latents of Stable Diffusion's VAE a variance near 1; the extraction leaves
# latents unscaled.
VAE_SCALE = 0.18215


class PixArtFeatures(LatentSource):
    """The samples of a folder that PixArt-α's extraction wrote."""

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self.advice = [f"data.scale={VAE_SCALE}"] if config.scale == 1 else []
        listed = data_info(folder)
        latents, captions = _folder(folder, LATENT_FOLDERS), _folder(folder, CAPTION_FOLDERS)
        if listed is None or latents is None:
            raise UserError(
                f"{folder} must hold data_info.json and {LATENT_FOLDERS[0]}, but lacks one. "
                "Extract again, or set runtime.data_folder to the folder above both."
            )
        images = _listed(listed)
        self.latents = _matched(latents, ".npy", images)
        self.captions = _matched(captions, ".npz", images) if captions else []
        used = (listed, *self.latents, *self.captions)
        self.files = [path.relative_to(folder).as_posix() for path in used]
        shape = npy_sample(self.latents[0], None, FLOATS).shape
        require_moments(self.latents[0], shape)
        self.shape = shape
        length = channels = 0
        if self.captions:  # the first caption's shape, or more tokens if the config says so
            length, channels = _caption(self.captions[0])[0].shape
            length = max(length, config.caption_tokens)
        self.layout = Layout(shape[0] // 2, shape[1], 1, length, channels)

    def __len__(self) -> int:
        return len(self.latents)

    def place(self, index: int) -> str:
        return f"{self.latents[index]} (or its caption)"

    def stored_at(self, indices: np.ndarray) -> Tensor:
        return torch.stack(list(reader_threads().map(self._latent, indices.tolist())))

    def _latent(self, index: int) -> Tensor:
        moments = npy_sample(self.latents[index], self.shape, FLOATS)
        return latent_of_moments(moments, index, sample=self.config.sample_posterior)

    def captions_at(self, indices: np.ndarray) -> Captions:
        paths = [self.captions[i] for i in indices]
        length, channels = self.layout.caption_tokens, self.layout.caption_channels
        tokens = torch.zeros(len(paths), length, channels)
        mask = torch.zeros(len(paths), length, dtype=torch.bool)
        for row, (path, (features, real)) in enumerate(
            zip(paths, reader_threads().map(_caption, paths), strict=True)
        ):
            if len(features) > length or features.shape[1] != channels:
                raise UserError(
                    f"{path} must hold a caption of at most {length} tokens of {channels} "
                    f"features, but has {tuple(features.shape)}. Raise data.caption_tokens, or "
                    "extract again."
                )
            tokens[row, : len(features)] = features.masked_fill(~real.unsqueeze(-1), 0)
            mask[row, : len(features)] = real
        return tokens, mask, torch.zeros(len(paths), 0)


def data_info(folder: Path) -> Path | None:
    """Return the path of the list of images; None if the folder has none."""
    return next((folder / name for name in LIST_FILES if (folder / name).is_file()), None)


def _listed(path: Path) -> list[str]:
    """Return the listed images whose ratio is at most `MAX_RATIO`."""
    with reading(path):
        items = json.loads(path.read_text(encoding="utf-8"))
    try:
        kept = [str(item["path"]) for item in items if item.get("ratio", 1) <= MAX_RATIO]
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f'{path} must be a list of {{"path": ..., "ratio": ...}}, but is not. Write it again.'
        ) from None
    if not kept:
        raise UserError(f"{path} must list an image with a ratio of at most 4, but lists none.")
    return kept


def _folder(folder: Path, patterns: Sequence[str]) -> Path | None:
    """Return the only folder that matches the first pattern with a match; None without any."""
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_dir())
        if len(found) > 1:
            raise UserError(
                f"{folder} must hold one folder {pattern}, but holds "
                f"{' and '.join(str(path) for path in found)}. Move all but one elsewhere."
            )
        if found:
            return found[0]
    return None


def _matched(folder: Path, suffix: str, images: Sequence[str]) -> list[Path]:
    """Return the file of every image; two images must not share one."""
    paths = [_file_of(folder, suffix, image) for image in images]
    path, count = Counter(paths).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"Every image needs a file of its own, but {path} is that of {count} images. Give "
            "the images different names and extract again."
        )
    return paths


def _file_of(folder: Path, suffix: str, image: str) -> Path:
    joined = os.path.splitext("_".join(image.rsplit("/", 1)))[0]  # noqa: PTH122
    for name in (joined, Path(image).stem):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise UserError(
        f"Every image needs its features, but {image} has no {folder / joined}{suffix} and no "
        f"{Path(image).stem}{suffix} there. Extract again."
    )


def _caption(path: Path) -> tuple[Tensor, Tensor]:
    """Return a caption's features (L, K) and mask (L,), all True if the file has no mask."""
    with reading(path), NPY_HEADERS, np.load(path, allow_pickle=False) as stored:
        features = stored["caption_feature"]
        has_mask = "attention_mask" in stored.files
        mask = stored["attention_mask"] if has_mask else np.ones(features.shape[:2], bool)
    shape = (1, *features.shape[-2:])
    require_array(f"{path}: caption_feature", features.shape, str(features.dtype), shape, FLOATS)
    require_array(f"{path}: attention_mask", mask.shape, str(mask.dtype), shape[:2], INTEGERS)
    return torch.from_numpy(features[0]).float(), torch.from_numpy(mask[0]).bool()


LAYOUT = FolderLayout(
    "PixArt-α",
    "data_info.json and img_vae_features*/",
    lambda folder: data_info(folder) is not None,
    PixArtFeatures,
)
