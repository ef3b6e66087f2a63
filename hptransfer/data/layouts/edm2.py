"""The layout of EDM2 and REPA: a small npy file for every latent's mean and standard deviation.

EDM2's `dataset_tool.py encode` (arXiv 2312.02696) writes it, and so does REPA's (arXiv 2410.06940),
there into the folder `vae-sd`:

    vae-sd/dataset.json                          {"labels": [["00000/img-...00.npy", 7], ...]}
    vae-sd/00000/img-mean-std-00000000.npy       mean, then standard deviation: (2·C, H, H)

Samples are in the order of their names. A latent is mean + std·noise, where a sample has the same
noise in every epoch; data.sample_posterior=false takes the mean. These latents are not scaled: REPA
sets data.scale=0.18215; EDM2 normalises each channel. `images/` beside `vae-sd/` is not read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import FeaturesConfig, Layout
from hptransfer.data.arrays import FLOATS, npy_sample
from hptransfer.data.layouts.folder_layout import (
    FolderLayout,
    LatentSource,
    files_below,
    labels_of_json,
    latent_of_moments,
    require_moments,
)
from hptransfer.data.reading import reader_threads
from hptransfer.errors import UserError

LABELS = "dataset.json"


class EDM2Features(LatentSource):
    """The samples of `dataset.json` and the npy files below its folder."""

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        super().__init__(config, folder)
        inside = "" if (folder / LABELS).is_file() else "vae-sd/"
        root = folder / inside
        names = files_below(root, ".npy")
        if not names:
            raise UserError(
                f"{root} must hold npy files beside {LABELS}, but holds none. Extract again, or "
                "unpack the archive there."
            )
        self.labels = labels_of_json(root / LABELS, names)
        self.files = [f"{inside}{name}" for name in (*names, LABELS)]
        self.shape = npy_sample(folder / self.files[0], None, FLOATS).shape
        require_moments(folder / self.files[0], self.shape)
        classes = 1 if self.labels is None else config.classes
        self.layout = Layout(self.shape[0] // 2, self.shape[1], classes)

    def __len__(self) -> int:
        return len(self.files) - 1

    def place(self, index: int) -> str:
        return f"{self.folder / self.files[index]} (or its label)"

    def stored_at(self, indices: np.ndarray) -> Tensor:
        return torch.stack(list(reader_threads().map(self._latent, indices.tolist())))

    def _latent(self, index: int) -> Tensor:
        moments = npy_sample(self.folder / self.files[index], self.shape, FLOATS)
        return latent_of_moments(moments, index, sample=self.config.sample_posterior)

    def labels_at(self, indices: np.ndarray) -> Tensor:
        if self.labels is None:
            return super().labels_at(indices)
        return self.labels[torch.from_numpy(indices)]


def _find(folder: Path) -> bool:
    return any((folder / inside / LABELS).is_file() for inside in ("", "vae-sd"))


LAYOUT = FolderLayout(
    "EDM2 or REPA",
    "dataset.json above npy files of mean and standard deviation, or vae-sd/ with both",
    _find,
    EDM2Features,
)
