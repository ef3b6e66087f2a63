"""Which shard holds a sample, for data that are divided along the samples into shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from hptransfer.data.arrays import Rows


class Shards:
    """Shards by the number of samples in each, in the order of the samples."""

    def __init__(self, samples: Sequence[int]) -> None:
        self._ends = np.cumsum(samples)

    def __len__(self) -> int:
        """The number of all samples."""
        return int(self._ends[-1])

    def find(self, index: int) -> tuple[int, int]:
        """Return the shard of a sample and its row there."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - int(self._ends[shard - 1] if shard else 0)

    def parts(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield every shard that holds any of the samples, with their places in `indices` and
        their rows in the shard."""
        shards = np.searchsorted(self._ends, indices, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            yield shard, here, indices[here] - starts[shard]


def take_rows(shards: Shards, indices: np.ndarray, rows_of: Callable[[int], Rows]) -> Tensor:
    """Return the samples (B, ...) at `indices`, read shard by shard by what `rows_of` gives."""
    found = [(here, rows_of(shard)(rows)) for shard, here, rows in shards.parts(indices)]
    _, first = found[0]
    out = torch.empty(len(indices), *first.shape[1:], dtype=first.dtype)
    for here, values in found:
        out[torch.from_numpy(here)] = values
    return out
