"""Data sources, and batches as a pure function of (config, seed, step).

A source adds one file here that returns arrays, its dataclass in `config.py`, and one case in
`_read`.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import DataConfig, DigitsConfig, FashionMNISTConfig
from hptransfer.data import digits, fashion_mnist
from hptransfer.errors import UserError
from hptransfer.streams import numpy_generator

Arrays = tuple[np.ndarray, np.ndarray]  # images (N, C, H, W) in [0, 1], labels (N,)


class Split(NamedTuple):
    """Images (N, C, H, W) in [-1, 1] and labels (N,)."""

    images: Tensor
    labels: Tensor


class Dataset(NamedTuple):
    """The two splits. The validation split is never trained on."""

    train: Split
    validation: Split


@lru_cache(maxsize=2)
def load(config: DataConfig, folder: str | None) -> Dataset:
    """Read a data set and check that its content is the one the config names."""
    content = _read(config, folder)
    found = _content_hash(content)
    if found != config.sha256:
        raise UserError(
            f"`data.sha256` must be the content's hash, so that a trial says what it saw, but the "
            f"{config.name} data hashes to {found} and the config says {config.sha256!r}. Set "
            f"data.sha256={found} to train on this content."
        )
    train, validation = (
        Split(torch.from_numpy(images * 2.0 - 1.0), torch.from_numpy(labels))
        for images, labels in _split(config, content)
    )
    return Dataset(train, validation)


def _read(config: DataConfig, folder: str | None) -> list[Arrays]:
    match config:
        case DigitsConfig():
            return [digits.read()]
        case FashionMNISTConfig():
            if folder is None:
                raise UserError(
                    "data=fashion_mnist is read from a folder of IDX files, but none is named. "
                    "Set runtime.data_folder=/path/to/fashion-mnist."
                )
            return [fashion_mnist.read(Path(folder), split) for split in ("train", "test")]
    raise TypeError(f"no data source for {type(config).__name__}")


def _split(config: DataConfig, content: list[Arrays]) -> list[Arrays]:
    """Return train and validation; a source without a split of its own is split once, by seed 0."""
    if not isinstance(config, DigitsConfig):
        return content
    ((images, labels),) = content
    order = numpy_generator(0, "split").permutation(len(labels))
    held_out, kept = order[: config.held_out], order[config.held_out :]
    return [(images[part], labels[part]) for part in (kept, held_out)]


def _content_hash(content: list[Arrays]) -> str:
    digest = hashlib.sha256()
    for images, labels in content:
        digest.update(np.ascontiguousarray(images).tobytes())
        digest.update(np.ascontiguousarray(labels).tobytes())
    return digest.hexdigest()[:16]


def batch_indices(samples: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Return which samples step `step` (from 0) sees: epochs are permutations, back to back."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // samples
    orders = {e: _epoch_order(samples, seed, int(e)) for e in np.unique(epochs)}
    return np.array([orders[e][p % samples] for e, p in zip(epochs, positions, strict=True)])


@lru_cache(maxsize=16)
def _epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    return numpy_generator(seed, "data order", epoch).permutation(samples)
