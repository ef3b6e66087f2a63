"""Samples by index: splits of data sets, and the sources in folders that they are taken from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import DataConfig, DigitsConfig, Layout
from hptransfer.data.statistics import Statistics
from hptransfer.errors import UserError
from hptransfer.system.random_streams import numpy_generator

Captions = tuple[Tensor, Tensor, Tensor]  # tokens (B, L, K), mask (B, L), pooled (B, A)


class Split(Protocol):
    """Samples by indices (B,); all tensors are on the CPU."""

    def __len__(self) -> int: ...

    def images_at(self, indices: np.ndarray) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1], or latents."""
        ...

    def labels_at(self, indices: np.ndarray) -> Tensor:
        """Return labels (B,), int64."""
        ...

    def captions_at(self, indices: np.ndarray) -> Captions:
        """Return tokens (B, L, K), mask (B, L), True at real tokens, and pooled features (B, A)."""
        ...


class Dataset(NamedTuple):
    """The two splits of a data set; the validation split is never trained on."""

    train: Split
    validation: Split


@dataclass(frozen=True)
class MemorySplit:
    """Samples in memory, each described by one of a few encoded sentences."""

    images: Tensor  # (N, C, H, W) in [-1, 1]
    labels: Tensor  # (N,)
    caption: Tensor  # (N,): the row of each sample's sentence
    sentences: Captions  # (S, ...) each

    def __len__(self) -> int:
        return len(self.labels)

    def images_at(self, indices: np.ndarray) -> Tensor:
        return self.images[torch.from_numpy(indices)]

    def labels_at(self, indices: np.ndarray) -> Tensor:
        return self.labels[torch.from_numpy(indices)]

    def captions_at(self, indices: np.ndarray) -> Captions:
        rows = self.caption[torch.from_numpy(indices)]
        tokens, mask, pooled = self.sentences
        return tokens[rows], mask[rows], pooled[rows]


@dataclass(frozen=True)
class SourceRows:
    """The samples at `rows` (N,) of a source, read on demand."""

    source: Source
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def images_at(self, indices: np.ndarray) -> Tensor:
        return self.source.images_at(self.rows[indices])

    def labels_at(self, indices: np.ndarray) -> Tensor:
        return self.source.labels_at(self.rows[indices])

    def captions_at(self, indices: np.ndarray) -> Captions:
        return self.source.captions_at(self.rows[indices])

    def features_at(self, indices: np.ndarray) -> Tensor:
        """Return a frozen encoder's features (B, N, D) of a square map of N cells."""
        return self.source.features_at(self.rows[indices])


def split_rows(samples: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of training and of held-out samples; they depend on no trial's seed."""
    order = numpy_generator(0, "split").permutation(samples)
    return order[held_out:], order[:held_out]


class Source(ABC):
    """All samples of a folder, by index as in a `Split`: one unlabelled class without captions."""

    folder: Path
    files: Sequence[str]  # all that are read, relative to the folder, ordered by names alone
    layout: Layout  # shapes found in the files, or the config's if the files do not fix them
    advice: Sequence[str] = ()  # overrides that an error suggests for such a folder
    captions_are_text: bool = False  # encoded when they are read, in shapes of the config's
    statistics: Statistics | None = None  # as stored, once the folder was checked
    mirrored: bool = False  # whether index i + len(self) is the mirrored copy of sample i

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def place(self, index: int) -> str:
        """Return the name of a sample's place, for errors."""

    @abstractmethod
    def stored_at(self, indices: np.ndarray) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1], or latents as they are stored."""

    def images_at(self, indices: np.ndarray) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1], or latents as a model sees them."""
        return self.stored_at(indices)

    def labels_at(self, indices: np.ndarray) -> Tensor:
        return torch.zeros(len(indices), dtype=torch.long)

    def captions_at(self, indices: np.ndarray) -> Captions:
        none = torch.zeros(len(indices), 0)
        return none.unsqueeze(-1), none.bool(), none

    def features_at(self, indices: np.ndarray) -> Tensor:
        """Return a frozen encoder's features (B, N, D) of a square map of N cells, row by row."""
        return torch.zeros(len(indices), 0, 0)


def named_folder(config: DataConfig, folder: str | None) -> Path:
    """Return the folder of a data set; raise a `UserError` if none is named or it is missing."""
    missing = missing_folder(config, folder)
    if folder is None or missing is not None:
        raise UserError(missing)
    return Path(folder)


def missing_folder(config: DataConfig, folder: str | None) -> str | None:
    """Say that the folder of a data set is not named or not there; None where nothing is missing.

    Nothing is read. A data set that ships with hptransfer needs no folder.
    """
    if isinstance(config, DigitsConfig):
        return None
    if folder is None:
        return (
            f"data={config.name} is read from a folder, but none is named. Set "
            "runtime.data_folder=/path/to/it."
        )
    if not Path(folder).is_dir():
        return (
            f"data={config.name} is read from a folder, but {folder} is none. Set "
            "runtime.data_folder to one that exists."
        )
    return None
