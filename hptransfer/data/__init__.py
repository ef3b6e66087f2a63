"""Data sets, and the samples of each batch as a pure function of (config, seed, step).

A small data set is read whole: to add one takes a module here that returns arrays, a dataclass in
`hptransfer.config.data`, and a case in `_read`. A data set in a folder is read by index: to add one
takes a `Source`, a dataclass, and a case in `open_folder`.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import (
    DataConfig,
    DigitsConfig,
    FashionMNISTConfig,
    FeaturesConfig,
    FolderConfig,
    HuggingFaceConfig,
    ImageFolderConfig,
)
from hptransfer.data import digits, fashion_mnist
from hptransfer.data.captions import encode_captions
from hptransfer.data.features import open_features
from hptransfer.data.images import HuggingFace, ImageFolder
from hptransfer.data.source import (
    Dataset,
    MemorySplit,
    Source,
    SourceRows,
    Split,
    check_source,
    named_folder,
    split_rows,
    split_source,
)
from hptransfer.errors import UserError
from hptransfer.system.random_streams import numpy_generator

__all__ = [
    "Dataset",
    "MemorySplit",
    "SourceRows",
    "Split",
    "batch_indices",
    "load_data",
    "open_folder",
    "verify_data",
]

LabelledImages = tuple[np.ndarray, np.ndarray]  # images (N, C, H, W) in [0, 1], labels (N,)


@lru_cache(maxsize=2)
def load_data(config: DataConfig, folder: str | None) -> Dataset:
    """Return the data set of a config, from `folder` if it is not embedded.

    A folder is read and hashed once, and again only after its files have changed.

    Raises:
        UserError: the data are missing or broken, or their hash is not the config's.
    """
    if isinstance(config, FolderConfig):
        source = open_folder(config, folder)
        check_source(config, source, trust_seal=True)
        return split_source(config, source)
    return _load_whole(config, folder)


def verify_data(config: DataConfig, folder: str | None) -> None:
    """Read every sample and hash every file again; raise a `UserError` if anything is wrong."""
    if isinstance(config, FolderConfig):
        check_source(config, open_folder(config, folder), trust_seal=False)
    else:
        _load_whole(config, folder)


def open_folder(config: FolderConfig, folder: str | None) -> Source:
    """Return the source of a data set in a folder; only names and headers are read."""
    path = named_folder(config, folder)
    match config:
        case FeaturesConfig():
            return open_features(config, path)
        case ImageFolderConfig():
            return ImageFolder(config, path)
        case HuggingFaceConfig():
            return HuggingFace(config, path)
    raise TypeError(f"no data source for {type(config).__name__}")


def _load_whole(config: DataConfig, folder: str | None) -> Dataset:
    content = _read(config, folder)
    found = _content_hash(content)
    if found != config.sha256:
        raise UserError(
            f"`data.sha256` must be the content's hash, so that a trial says what it saw, but the "
            f"{config.name} data hashes to {found} and the config says {config.sha256!r}. Set "
            f"data.sha256={found} to train on this content."
        )
    nouns, templates = _WORDING[type(config)]
    sentences = encode_captions([template.format(noun) for noun in nouns for template in templates])
    train, validation = (
        _in_memory(arrays, sentences, len(templates)) for arrays in _split(config, content)
    )
    return Dataset(train, validation)


# The nouns of the classes and the sentences about them, from which captions are made.
_WORDING = {
    DigitsConfig: (digits.NOUNS, digits.TEMPLATES),
    FashionMNISTConfig: (fashion_mnist.NOUNS, fashion_mnist.TEMPLATES),
}


def _in_memory(
    arrays: LabelledImages, sentences: tuple[Tensor, Tensor, Tensor], templates: int
) -> MemorySplit:
    """Return samples in memory; the caption of sample i is template i mod `templates`."""
    images, labels = arrays
    sentence = labels * templates + np.arange(len(labels)) % templates
    return MemorySplit(
        torch.from_numpy(images * 2.0 - 1.0),
        torch.from_numpy(labels),
        torch.from_numpy(sentence),
        sentences,
    )


def _read(config: DataConfig, folder: str | None) -> list[LabelledImages]:
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


def _split(config: DataConfig, content: list[LabelledImages]) -> list[LabelledImages]:
    """Return training and held-out samples; digits, which have no split, are split by seed 0."""
    if not isinstance(config, DigitsConfig):
        return content
    ((images, labels),) = content
    parts = split_rows(len(labels), config.held_out)
    return [(images[part], labels[part]) for part in parts]


def _content_hash(content: list[LabelledImages]) -> str:
    digest = hashlib.sha256()
    for images, labels in content:
        digest.update(np.ascontiguousarray(images).tobytes())
        digest.update(np.ascontiguousarray(labels).tobytes())
    return digest.hexdigest()[:16]


def batch_indices(samples: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Return the indices (batch_size,) of the samples of step `step` (from 0).

    Epochs are permutations of all samples, one after the other.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // samples
    orders = {e: _epoch_order(samples, seed, int(e)) for e in np.unique(epochs)}
    return np.array([orders[e][p % samples] for e, p in zip(epochs, positions, strict=True)])


@lru_cache(maxsize=16)
def _epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    return numpy_generator(seed, "data order", epoch).permutation(samples)
