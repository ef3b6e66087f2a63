"""LightningDiT's layout (arXiv 2501.01423): shards of latents, mirrored ones and labels.

Its `extract_features.py` writes shards `latents_rank00_shard000.safetensors` of 10,000 samples with

    latents       (S, C, H, H)
    latents_flip  (S, C, H, H), of the mirrored images
    labels        (S,)

Samples are in the order of the shards' names. An epoch shows every training sample twice, once
mirrored, which is what LightningDiT's drawing of one of both amounts to; held-out samples are not
mirrored. data.mirrored=false leaves `latents_flip` out. `latents_stats.pt` beside the shards is a
pickle, which is never read: `hptransfer data FOLDER` measures the same statistics, and says which
data.shift and data.scale give what LightningDiT's loader gives.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import FeaturesConfig, Layout
from hptransfer.data.arrays import (
    FLOATS,
    INTEGERS,
    MOST_OPEN,
    Rows,
    require_array,
    safetensors_names,
    safetensors_rows,
)
from hptransfer.data.layouts.folder_layout import FolderLayout, LatentSource
from hptransfer.data.shards import Shards, take_rows
from hptransfer.errors import UserError

LATENTS, MIRRORED, LABELS = "latents", "latents_flip", "labels"


class LightningDiTFeatures(LatentSource):
    """The samples of shards with `latents`, `latents_flip` and `labels`."""

    by_channel = True

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self.files = _shards(folder)
        self._open = lru_cache(maxsize=MOST_OPEN)(safetensors_rows)
        held = {name: safetensors_names(folder / name) for name in self.files}
        stored = sorted({tensor for names in held.values() for tensor in names})
        self.mirrored = config.mirrored and MIRRORED in stored
        self._labelled = LABELS in stored
        used = [LATENTS, *[MIRRORED] * self.mirrored, *[LABELS] * self._labelled]
        for name, tensors in held.items():
            if lost := [tensor for tensor in used if tensor not in tensors]:
                raise UserError(
                    f"Every shard must hold {', '.join(used)}, as others in {folder} do, but "
                    f"{folder / name} lacks {', '.join(lost)}. Extract that shard again."
                )
        shape, dtype, _ = self._open(folder / self.files[0], LATENTS)
        if len(shape) != 4 or shape[2] != shape[3] or dtype not in FLOATS:
            raise UserError(
                f"{folder / self.files[0]}: {LATENTS} must be square latents (S, C, H, H) of dtype "
                f"{' or '.join(FLOATS)}, but have shape {shape} and dtype {dtype}. Extract again."
            )
        counts = [self._checked(name, used, shape[1:]) for name in self.files]
        self.shards = Shards(counts)
        classes = config.classes if self._labelled else 1
        self.layout = Layout(shape[1], shape[2], classes)

    def _checked(self, name: str, used: list[str], shape: tuple[int, ...]) -> int:
        """Return the samples of a shard; raise a `UserError` if its tensors do not fit."""
        path = self.folder / name
        (samples, *_), _, _ = self._open(path, LATENTS)
        for tensor in used:
            kinds, one = (INTEGERS[1:], ()) if tensor == LABELS else (FLOATS, shape)
            found, dtype, _ = self._open(path, tensor)
            require_array(f"{path}: {tensor}", found, dtype, (samples, *one), kinds)
        return samples

    def __len__(self) -> int:
        return len(self.shards)

    def place(self, index: int) -> str:
        shard, row = self.shards.find(index % len(self))
        tensor = LATENTS if index < len(self) else MIRRORED
        return f"{self.folder / self.files[shard]}: {tensor}, sample {row},"

    def stored_at(self, indices: np.ndarray) -> Tensor:
        size = self.layout.image_size
        out = torch.empty(len(indices), self.layout.channels, size, size)
        is_copy = indices >= len(self)
        for tensor, here in ((LATENTS, ~is_copy), (MIRRORED, is_copy)):
            if here.any():
                out[torch.from_numpy(here)] = self._take(tensor, indices[here] % len(self)).float()
        return out

    def labels_at(self, indices: np.ndarray) -> Tensor:
        if not self._labelled:
            return super().labels_at(indices)
        return self._take(LABELS, indices % len(self)).long()

    def _take(self, tensor: str, indices: np.ndarray) -> Tensor:
        def rows_of(shard: int) -> Rows:
            return self._open(self.folder / self.files[shard], tensor)[2]

        return take_rows(self.shards, indices, rows_of)


def _shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def _find(folder: Path) -> bool:
    shards = _shards(folder)
    return bool(shards) and LATENTS in safetensors_names(folder / shards[0])


LAYOUT = FolderLayout(
    "LightningDiT",
    "*.safetensors with latents, latents_flip and labels",
    _find,
    LightningDiTFeatures,
)
