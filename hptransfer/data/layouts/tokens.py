"""Tokens of a frozen encoder as latents, as in RAE (arXiv 2510.11690): N tokens of D channels.

The tokens (N, D) of an image become a latent (D, H, H) with N = H·H, row by row. They lie either in
shards `*.safetensors`, each with `tokens` (S, N, D) and, if there are classes, `labels` (S,); or in
small files `tokens/**.npy`, each (N, D), with their labels in `tokens/dataset.json` as in EDM2's
layout. The class token must have been dropped.

`statistics.npz` or `statistics.safetensors` beside them (`stats` and `normalization_stats` are
taken as well) holds `mean` and `std`, or `var` as RAE has it, of shape (D,) or (D, H, H): a latent
is then (z − mean)/std, where std = sqrt(var + 1e-5). `.pt` files are pickles, which are never read.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from hptransfer.config import FeaturesConfig, Layout
from hptransfer.data.arrays import (
    FLOATS,
    INTEGERS,
    MOST_OPEN,
    npy_sample,
    npz_arrays,
    require_array,
    safetensors_names,
    safetensors_rows,
)
from hptransfer.data.layouts.edm2 import LABELS
from hptransfer.data.layouts.folder_layout import (
    FolderLayout,
    LatentSource,
    files_below,
    labels_of_json,
)
from hptransfer.data.reading import reader_threads, reading
from hptransfer.data.shards import Shards, take_rows
from hptransfer.errors import UserError

TOKENS = "tokens"
STATISTICS = ("statistics", "stats", "normalization_stats")  # names of the file, without ending
EPSILON = 1e-5  # added to a variance, as RAE does


class TokenFeatures(LatentSource):
    """Tokens (N, D) as latents (D, H, H), normalised by the statistics beside them."""

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self._small = _is_small(folder)
        shape = self._open_small() if self._small else self._open_shards()
        self.shape, size = shape, math.isqrt(shape[0])
        if size * size != shape[0]:
            raise UserError(
                f"{self.place(0)} must have a square number of tokens (H·H, D), but has shape "
                f"{shape}. Drop its class and register tokens."
            )
        statistics = _statistics_file(folder)
        self.files = [*self.names, *([statistics.name] if statistics else [])]
        if self._small and self._labels is not None:
            self.files.append(f"{TOKENS}/{LABELS}")
        self.mean, self.std = _statistics(statistics, shape[1], size)
        self.layout = Layout(shape[1], size, config.classes if self._labelled else 1)

    def _open_small(self) -> tuple[int, ...]:
        inside = files_below(self.folder / TOKENS, ".npy")
        labels = self.folder / TOKENS / LABELS
        self._labels = labels_of_json(labels, inside) if labels.is_file() else None
        self._labelled = self._labels is not None
        self.names = [f"{TOKENS}/{name}" for name in inside]
        first = self.folder / self.names[0]
        return _tokens_shape(first, npy_sample(first, None, FLOATS).shape)

    def _open_shards(self) -> tuple[int, ...]:
        self.names = sorted(path.name for path in self.folder.glob("*.safetensors"))
        self.names = [name for name in self.names if Path(name).stem not in STATISTICS]
        self._open = lru_cache(maxsize=MOST_OPEN)(safetensors_rows)
        first = self.folder / self.names[0]
        shape = _tokens_shape(first, self._open(first, TOKENS)[0][1:])
        self._labelled = "labels" in safetensors_names(first)
        counts = []
        for name in self.names:
            path = self.folder / name
            (samples, *_), dtype, _ = found = self._open(path, TOKENS)
            require_array(f"{path}: {TOKENS}", found[0], dtype, (samples, *shape), FLOATS)
            if self._labelled:
                of_labels, dtype, _ = self._open(path, "labels")
                require_array(f"{path}: labels", of_labels, dtype, (samples,), INTEGERS[1:])
            counts.append(samples)
        self.shards = Shards(counts)
        return shape

    def __len__(self) -> int:
        return len(self.names) if self._small else len(self.shards)

    def place(self, index: int) -> str:
        if self._small:
            return str(self.folder / self.names[index])
        shard, row = self.shards.find(index)
        return f"{self.folder / self.names[shard]}, sample {row},"

    def stored_at(self, indices: np.ndarray) -> Tensor:
        if self._small:
            read = reader_threads().map(self._file, indices.tolist())
            tokens = torch.stack(list(read))
        else:
            tokens = self._take(TOKENS, indices)
        latents = tokens.float().transpose(1, 2)
        latents = latents.reshape(len(indices), self.layout.channels, *[self.layout.image_size] * 2)
        return (latents - self.mean) / self.std

    def _file(self, index: int) -> Tensor:
        path = self.folder / self.names[index]
        return torch.from_numpy(npy_sample(path, self.shape, FLOATS)).float()

    def labels_at(self, indices: np.ndarray) -> Tensor:
        if not self._labelled:
            return super().labels_at(indices)
        if self._labels is not None:
            return self._labels[torch.from_numpy(indices)]
        return self._take("labels", indices).long()

    _labels: Tensor | None = None

    def _take(self, tensor: str, indices: np.ndarray) -> Tensor:
        return take_rows(
            self.shards,
            indices,
            lambda shard: self._open(self.folder / self.names[shard], tensor)[2],
        )


def _tokens_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 2:
        raise UserError(
            f"{path} must hold tokens (N, D) a sample, but they have shape {shape}. Write the "
            "encoder's last layer without its class token."
        )
    return shape


def _statistics_file(folder: Path) -> Path | None:
    """Return the file of mean and standard deviation; None if there is none."""
    for stem in STATISTICS:
        for suffix in (".npz", ".safetensors"):
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
        if (folder / f"{stem}.pt").is_file():
            raise UserError(
                f"{folder / stem}.pt is a pickle, which is never read, since it may run anything. "
                f"Write its mean and var into {stem}.npz with numpy.savez, or move it elsewhere."
            )
    return None


def _statistics(path: Path | None, channels: int, size: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, (D, 1, 1) or (D, H, H)."""
    if path is None:
        return torch.zeros(()), torch.ones(())
    with reading(path):
        arrays = npz_arrays(path.read_bytes()) if path.suffix == ".npz" else load_file(path)
        mean = arrays["mean"]
        std = arrays["std"] if "std" in arrays else np.sqrt(arrays["var"] + EPSILON)
    parts = []
    for name, array in (("mean", mean), ("std", std)):
        wanted = (channels, size, size) if array.size > channels else (channels, 1, 1)
        if array.size != math.prod(wanted) or not np.isfinite(array).all():
            raise UserError(
                f"{path} must hold finite {name} of shape ({channels},) or ({channels}, {size}, "
                f"{size}), but it has shape {array.shape}. Compute it again."
            )
        parts.append(torch.from_numpy(array.reshape(wanted)).float())
    if not bool((parts[1] > 0).all()):
        raise UserError(f"{path} must hold positive std, but one is 0 or less. Compute it again.")
    return parts[0], parts[1]


def _is_small(folder: Path) -> bool:
    """Return whether each sample has a file of its own."""
    return any((folder / TOKENS).rglob("*.npy"))


def _find(folder: Path) -> bool:
    if _is_small(folder):
        return True
    shards = sorted(folder.glob("*.safetensors"))
    shards = [path for path in shards if path.stem not in STATISTICS]
    return bool(shards) and TOKENS in safetensors_names(shards[0])


LAYOUT = FolderLayout(
    "tokens (RAE)",
    "*.safetensors with tokens (S, N, D), or tokens/ of npy files (N, D)",
    _find,
    TokenFeatures,
)
