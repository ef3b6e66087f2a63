"""Data sets, and the samples of each batch as a pure function of (config, seed, step).

Latents in a folder are read in the layouts of `layouts/`: to add one takes a module there with a
`LAYOUT`, and its line in `layouts/__init__.py`. A small data set is read whole: to add one takes a
module here that returns arrays, a dataclass in `hptransfer.config.trial`, and a case in
`_load_whole`. Another data set in a folder is read by index: to add one takes a `Source`, a
dataclass, and a case in `open_folder`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

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
from hptransfer.data.check import check_source
from hptransfer.data.features import open_features
from hptransfer.data.images import HuggingFace, ImageFolder
from hptransfer.data.source import (
    Dataset,
    MemorySplit,
    Source,
    SourceRows,
    Split,
    missing_folder,
    named_folder,
    split_rows,
)
from hptransfer.data.statistics import Statistics
from hptransfer.errors import UserError
from hptransfer.system.random_streams import numpy_generator

__all__ = [
    "Dataset",
    "MemorySplit",
    "SourceRows",
    "Split",
    "batch_indices",
    "epoch_order",
    "latent_statistics",
    "load_data",
    "missing_folder",
    "open_folder",
    "verify_data",
]


EpochOrder = Callable[[int, int, int], np.ndarray]  # of samples, seed and epoch, from 0


@lru_cache(maxsize=2)
def load_data(config: DataConfig, folder: str | None) -> Dataset:
    """Return the data set of a config, from `folder` if it is not embedded.

    A folder is read and hashed once, and again only after its files have changed.

    Raises:
        UserError: the data are missing or broken, or their hash is not the config's.
    """
    if isinstance(config, FolderConfig):
        source = open_folder(config, folder)
        source.statistics = check_source(config, source, trust_seal=True).statistics
        kept, held_out = split_rows(len(source), config.held_out)
        if source.mirrored:
            kept = np.concatenate([kept, kept + len(source)])
        return Dataset(SourceRows(source, kept), SourceRows(source, held_out))
    return _load_whole(config, folder)


def latent_statistics(config: DataConfig, folder: str | None) -> Statistics | None:
    """Return the statistics of the latents in a folder as they are stored; None for other data."""
    if not isinstance(config, FeaturesConfig):
        return None
    train = load_data(config, folder).train
    assert isinstance(train, SourceRows)
    return train.source.statistics


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
    """Return a small data set in memory; the caption of sample i is template i mod their number."""
    match config:
        case DigitsConfig():
            words, content = digits, [digits.read()]
        case FashionMNISTConfig():
            words, path = fashion_mnist, named_folder(config, folder)
            content = [fashion_mnist.read(path, split) for split in ("train", "test")]
        case _:
            raise TypeError(f"no data source for {type(config).__name__}")
    digest = hashlib.sha256()
    for array in (array for arrays in content for array in arrays):
        digest.update(np.ascontiguousarray(array).tobytes())
    found = digest.hexdigest()[:16]
    if found != config.sha256:
        raise UserError(
            f"`data.sha256` must be the content's hash, so that a trial says what it saw, but the "
            f"{config.name} data hashes to {found} and the config says {config.sha256!r}. Set "
            f"data.sha256={found} to train on this content."
        )
    if isinstance(config, DigitsConfig):  # they have no split of their own
        ((images, labels),) = content
        parts = split_rows(len(labels), config.held_out)
        content = [(images[part], labels[part]) for part in parts]
    templates = words.TEMPLATES
    sentences = encode_captions([each.format(noun) for noun in words.NOUNS for each in templates])
    splits = []
    for images, labels in content:
        sentence = labels * len(templates) + np.arange(len(labels)) % len(templates)
        pixels, classes, rows = map(torch.from_numpy, (images * 2.0 - 1.0, labels, sentence))
        splits.append(MemorySplit(pixels, classes, rows, sentences))
    return Dataset(*splits)


def batch_indices(
    samples: int, batch_size: int, seed: int, step: int, order: EpochOrder | None = None
) -> np.ndarray:
    """Return the indices (batch_size,) of the samples of step `step` (from 0).

    Epochs are permutations of all samples, one after the other. `order` gives them where the caller
    keeps its own.
    """
    order = _latest_order if order is None else order
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // samples
    parts = [
        order(samples, seed, int(epoch))[positions[epochs == epoch] % samples]
        for epoch in np.unique(epochs)
    ]
    return np.concatenate(parts).astype(np.int64)


def epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of an epoch's samples: a permutation (samples,) of the smallest integers."""
    order = numpy_generator(seed, "data order", epoch).permutation(samples)
    return order.astype(np.min_scalar_type(samples))


_latest_order = lru_cache(maxsize=4)(epoch_order)  # for one seed: of steps made in advance
