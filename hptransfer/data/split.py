"""Splits of a data set: samples by index, in memory or read when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hptransfer.system.random_streams import numpy_generator

Captions = tuple[Tensor, Tensor, Tensor]  # tokens (B, L, K), mask (B, L), pooled (B, A)


class Split(Protocol):
    """Samples by index. Indices are arrays (B,); what they give is on the CPU."""

    def __len__(self) -> int: ...

    def images_at(self, indices: np.ndarray) -> Tensor:
        """Return images (B, C, H, W), as the model is to see them: in [-1, 1], or latents."""
        ...

    def labels_at(self, indices: np.ndarray) -> Tensor:
        """Return labels (B,), int64."""
        ...

    def captions_at(self, indices: np.ndarray) -> Captions:
        """Return tokens (B, L, K), mask (B, L), True at real tokens, and pooled features (B, A)."""
        ...


class Dataset(NamedTuple):
    """The two splits. The validation split is never trained on."""

    train: Split
    validation: Split


@dataclass(frozen=True)
class MemorySplit:
    """Samples in memory: images (N, C, H, W) in [-1, 1], labels (N,), and which of a table of
    encoded sentences (S, ...) describes each.
    """

    images: Tensor
    labels: Tensor
    caption: Tensor  # (N,), rows of the sentences
    sentences: Captions

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
    """Some samples of a source: its `rows` (N,), read when they are asked for."""

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
    """Return which samples train and which are held out: drawn once, whatever the trial's seed."""
    order = numpy_generator(0, "split").permutation(samples)
    return order[held_out:], order[:held_out]
