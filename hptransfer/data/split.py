"""The splits of a data set: samples by index, in memory or read on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

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
        """Return images (B, C, H, W)."""
        return self.images[torch.from_numpy(indices)]

    def labels_at(self, indices: np.ndarray) -> Tensor:
        """Return labels (B,)."""
        return self.labels[torch.from_numpy(indices)]

    def captions_at(self, indices: np.ndarray) -> Captions:
        """Return tokens, mask and pooled features of each sample's sentence."""
        rows = self.caption[torch.from_numpy(indices)]
        tokens, mask, pooled = self.sentences
        return tokens[rows], mask[rows], pooled[rows]


@dataclass(frozen=True)
class SourceRows:
    """The samples at `rows` (N,) of a source, read on demand."""

    source: Split
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def images_at(self, indices: np.ndarray) -> Tensor:
        """Return images (B, C, H, W)."""
        return self.source.images_at(self.rows[indices])

    def labels_at(self, indices: np.ndarray) -> Tensor:
        """Return labels (B,)."""
        return self.source.labels_at(self.rows[indices])

    def captions_at(self, indices: np.ndarray) -> Captions:
        """Return tokens, mask and pooled features."""
        return self.source.captions_at(self.rows[indices])


def split_rows(samples: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of training and of held-out samples; they depend on no trial's seed."""
    order = numpy_generator(0, "split").permutation(samples)
    return order[held_out:], order[:held_out]
