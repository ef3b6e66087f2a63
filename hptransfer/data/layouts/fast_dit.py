"""fast-DiT's layout: a small npy file for every latent and for every label.

They are `imagenet256_features/NAME.npy`, each (1, C, H, H), and of the same names
`imagenet256_labels/NAME.npy`, each (1,). Samples are in the order of their names. These latents are
already scaled.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import FeaturesConfig, Layout
from hptransfer.data.arrays import FLOATS, INTEGERS, npy_sample
from hptransfer.data.layouts.folder_layout import FolderLayout, LatentSource
from hptransfer.data.reading import reader_threads
from hptransfer.errors import UserError


class FastDiTFeatures(LatentSource):
    """The samples of the folders `imagenet256_features` and `imagenet256_labels`."""

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        super().__init__(config, folder)
        features = _only(folder, "imagenet*_features")
        labels = features.with_name(features.name.replace("_features", "_labels"))
        self.names = _npy_names(features)
        _require_same(features, labels, set(self.names), set(_npy_names(labels)))
        self.features, self.labels = features.name, labels.name
        self.files = [f"{kind}/{n}" for kind in (self.features, self.labels) for n in self.names]
        shape = npy_sample(features / self.names[0], None, FLOATS).shape
        if len(shape) != 4 or shape[0] != 1 or shape[2] != shape[3]:
            raise UserError(
                f"{features / self.names[0]} must hold one square latent (1, C, H, H), but has "
                f"shape {shape}. Extract with a batch of one."
            )
        self.shape = shape
        self.layout = Layout(shape[1], shape[2], config.classes)

    def __len__(self) -> int:
        return len(self.names)

    def place(self, index: int) -> str:
        return f"{self.folder / self.features / self.names[index]} (or its label)"

    def stored_at(self, indices: np.ndarray) -> Tensor:
        return self._read(self.features, indices, self.shape, FLOATS).float()

    def labels_at(self, indices: np.ndarray) -> Tensor:
        return self._read(self.labels, indices, (1,), INTEGERS[1:]).long()

    def _read(
        self, kind: str, indices: np.ndarray, shape: tuple[int, ...], dtypes: tuple[str, ...]
    ) -> Tensor:
        paths = [self.folder / kind / self.names[i] for i in indices]
        read = reader_threads().map(lambda path: npy_sample(path, shape, dtypes), paths)
        return torch.cat([torch.from_numpy(sample) for sample in read])


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(path for path in folder.glob(pattern) if path.is_dir())
    if len(found) != 1:
        raise UserError(
            f"{folder} must hold one folder {pattern}, but holds {len(found)}. Set "
            "runtime.data_folder to a folder with one."
        )
    return found[0]


def _npy_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"There must be a folder {folder}, but there is none. Extract again.")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".npy"))
    if not names:
        raise UserError(f"{folder} must hold npy files, but holds none. Extract again.")
    return names


def _require_same(features: Path, labels: Path, first: set[str], second: set[str]) -> None:
    for have, lack, missing in (
        (features, labels, first - second),
        (labels, features, second - first),
    ):
        if missing:
            name = min(missing)
            raise UserError(
                f"Every latent needs its label, but {have / name} has no counterpart "
                f"{lack / name} ({len(missing)} are missing). Extract again."
            )


LAYOUT = FolderLayout(
    "fast-DiT",
    "imagenet256_features/ and imagenet256_labels/ of npy files",
    lambda folder: any(folder.glob("imagenet*_features")),
    FastDiTFeatures,
)
