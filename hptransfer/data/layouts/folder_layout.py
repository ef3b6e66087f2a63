"""What a layout of a folder of latents is, and what its sources share."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import FeaturesConfig
from hptransfer.data.reading import reading
from hptransfer.data.source import Source
from hptransfer.data.statistics import ByChannel
from hptransfer.errors import UserError
from hptransfer.system.random_streams import torch_generator


class LatentSource(Source):
    """Latents in a folder; a model sees (z − data.shift)·data.scale of a stored latent z."""

    by_channel: bool = False  # whether the trainer of such folders normalises each channel

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        self.config, self.folder = config, folder

    @abstractmethod
    def stored_at(self, indices: np.ndarray) -> Tensor:
        """Return latents (B, C, H, H), float32, as they are stored."""

    def images_at(self, indices: np.ndarray) -> Tensor:
        """Return latents (B, C, H, H) as a model sees them."""
        shift, scale = (_over_channels(part) for part in (self.config.shift, self.config.scale))
        return (self.stored_at(indices) - shift) * scale


def as_stored(config: FeaturesConfig, latents: Tensor) -> Tensor:
    """Return latents (B, C, H, W) as a model sees them in the scale in which they are stored."""
    shift, scale = (
        part.to(latents.device) if isinstance(part, Tensor) else part
        for part in (_over_channels(config.shift), _over_channels(config.scale))
    )
    return latents / scale + shift


def _over_channels(value: ByChannel) -> float | Tensor:
    """Return a number, or one a channel as (C, 1, 1)."""
    return torch.tensor(value).view(-1, 1, 1) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class FolderLayout:
    """A way in which files of latents lie in a folder."""

    name: str  # as people call it
    needs: str  # the files by which it is known
    find: Callable[[Path], bool]  # whether a folder has them; looks at names, opens little
    source: Callable[[FeaturesConfig, Path], LatentSource]


def latent_of_moments(moments: np.ndarray, index: int, *, sample: bool) -> Tensor:
    """Return the latent of sample `index`: mean + std·noise, or the mean.

    Args:
        moments: mean, then standard deviation: (2·C, H, H).
        sample: whether noise is drawn. It is the sample's own, the same in every epoch.
    """
    mean, std = torch.from_numpy(moments).float().chunk(2)
    if not sample:
        return mean
    return mean + std * torch.randn(mean.shape, generator=torch_generator(0, "posterior", index))


def require_moments(path: Path, shape: tuple[int, ...]) -> None:
    """Raise a `UserError` if an array cannot be mean and standard deviation of a square latent."""
    if len(shape) != 3 or shape[0] % 2 or shape[1] != shape[2]:
        raise UserError(
            f"{path} must hold the mean and standard deviation of a square latent, (2·C, H, H), "
            f"but has shape {shape}. Extract again, at one resolution."
        )


def files_below(folder: Path, suffix: str) -> list[str]:
    """Return the files below a folder that end so, relative to it and sorted as text."""
    return sorted(_walk(str(folder), "", suffix))


def _walk(folder: str, inside: str, suffix: str) -> Iterator[str]:
    """Yield files as `sub/name`; `os.scandir` keeps a million names at hand without their paths."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{inside}{entry.name}/", suffix)
            elif entry.name.endswith(suffix):
                yield f"{inside}{entry.name}"


def labels_of_json(path: Path, names: list[str]) -> Tensor | None:
    """Return the labels (N,) that EDM2's `dataset.json` gives files; None if it has no labels.

    The file reads {"labels": [["00000/img-mean-std-00000000.npy", 7], ...]}, or null for none.
    """
    with reading(path):
        tree: Any = json.loads(path.read_bytes())
        if tree["labels"] is None:
            return None
        stated = dict(tree["labels"])
    missing = next((name for name in names if name not in stated), None)
    if missing is not None:
        raise UserError(
            f"{path} must list the label of every file, but lists none of {missing}. Extract "
            "again, or move the file elsewhere."
        )
    if len(stated) > len(names):
        lost = min(stated.keys() - set(names))
        raise UserError(
            f"{path} must list files that exist, but there is no {path.parent / lost} "
            f"({len(stated) - len(names)} are missing). Copy them again."
        )
    wrong = next((name for name in names if type(stated[name]) is not int), None)
    if wrong is not None:
        raise UserError(
            f"{path} must give every file one whole number as its label, but gives {wrong} "
            f"{str(stated[wrong])[:40]}. Write the class's number."
        )
    return torch.tensor([stated[name] for name in names])
