"""Precomputed latents and text features on disk, in one of three layouts.

The layout of hptransfer is a `manifest.json` and a few arrays, divided along the samples into
shards. For 20,000 latents with labels and text features the manifest reads

    {
      "format": "hptransfer-features",
      "version": 1,
      "storage": "safetensors",
      "classes": 1000,
      "arrays": {
        "latents": {"shape": [4, 32, 32], "dtype": "float16"},
        "labels": {"shape": [], "dtype": "int64"},
        "tokens": {"shape": [120, 4096], "dtype": "float16"},
        "mask": {"shape": [120], "dtype": "bool"},
        "pooled": {"shape": [768], "dtype": "float16"}
      },
      "shards": [{"name": "0000", "samples": 10000}, {"name": "0001", "samples": 10000}]
    }

Shapes are those of one sample: (C, H, H), (), (L, K), (L,) and (A,). Only `latents` is required;
`tokens` requires `mask`, `pooled` requires `tokens`, and without `labels` there is one class. A
shard is `0000.safetensors` with all arrays, or with storage `npy` one file per array, such as
`0000.latents.npy`. `write_features` writes this layout.

fast-DiT's layout is `imagenet256_features/*.npy`, each (1, 4, 32, 32), and of the same names
`imagenet256_labels/*.npy`, each (1,). These latents are already scaled.

PixArt-α's layout is described in `hptransfer.data.pixart_features`. These latents are not scaled:
set data.scale=0.18215 for the VAE of Stable Diffusion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from hptransfer.config import FeaturesConfig, Layout
from hptransfer.data.fast_dit_features import FastDiTFeatures
from hptransfer.data.manifest import SHARD_SUFFIX, Manifest, fault_of, read_manifest
from hptransfer.data.pixart_features import PixArtFeatures, data_info
from hptransfer.data.shards import StoredArray, npy_array, require_array, safetensors_array
from hptransfer.data.source import Source
from hptransfer.data.split import Captions
from hptransfer.errors import UserError
from hptransfer.system.files import write_text


def open_features(config: FeaturesConfig, folder: Path) -> Source:
    """Return the source of a folder of features, in any of the three layouts."""
    if (folder / "manifest.json").is_file():
        return ShardedFeatures(config, folder)
    if any(folder.glob("imagenet*_features")):
        return FastDiTFeatures(config, folder)
    if data_info(folder) is not None:
        return PixArtFeatures(config, folder)
    raise UserError(
        f"data=features needs a folder with manifest.json, imagenet256_features/ (fast-DiT) or "
        f"data_info.json (PixArt-α), but {folder} has none of them. Set runtime.data_folder, or "
        "write one with hptransfer.data.features.write_features."
    )


class ShardedFeatures:
    """The samples of a folder with a `manifest.json`."""

    advice = ()

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        self.folder, self.scale = folder, config.scale
        self.manifest = read_manifest(folder / "manifest.json")
        self.layout: Layout = self.manifest.layout
        self.ends = np.cumsum([samples for _, samples in self.manifest.shards])
        pairs = [(shard, array) for shard, _ in self.manifest.shards for array in self._arrays]
        shards = dict.fromkeys(self.manifest.file(*pair) for pair in pairs)
        self.files = ["manifest.json", *shards]
        # At most 64 files are open at a time, since a process may open about a thousand.
        self._open = lru_cache(maxsize=64)(self._opened)
        for pair in pairs:
            self._open(*pair)

    @property
    def _arrays(self) -> list[str]:
        return list(self.manifest.arrays)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def place(self, index: int) -> str:
        """Return the name of a sample's file and its row there, for errors."""
        shard, row = self._shard_and_row(np.array([index]))
        name = self.manifest.file(self.manifest.shards[shard[0]][0], "latents")
        return f"{self.folder / name}, sample {row[0]},"

    def images_at(self, indices: np.ndarray) -> Tensor:
        """Return scaled latents (B, C, H, H)."""
        return self._take("latents", indices).float() * self.scale

    def labels_at(self, indices: np.ndarray) -> Tensor:
        """Return labels (B,); all are 0 if the folder has none."""
        if "labels" not in self.manifest.arrays:
            return torch.zeros(len(indices), dtype=torch.long)
        return self._take("labels", indices).long()

    def captions_at(self, indices: np.ndarray) -> Captions:
        """Return tokens, zero where padded, mask, and pooled features, (B, 0) if there are none."""
        mask = self._take("mask", indices).bool()
        tokens = self._take("tokens", indices).float().masked_fill(~mask.unsqueeze(-1), 0)
        if "pooled" not in self.manifest.arrays:
            return tokens, mask, torch.zeros(len(indices), 0)
        return tokens, mask, self._take("pooled", indices).float()

    def _take(self, array: str, indices: np.ndarray) -> Tensor:
        shape, dtype = self.manifest.arrays[array]
        out = torch.empty(len(indices), *shape, dtype=getattr(torch, dtype))
        shard, row = self._shard_and_row(indices)
        for one in np.unique(shard):
            here = np.flatnonzero(shard == one)
            out[torch.from_numpy(here)] = self._open(self.manifest.shards[one][0], array).take(
                row[here]
            )
        return out

    def _shard_and_row(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shard = np.searchsorted(self.ends, indices, side="right")
        starts = np.concatenate([[0], self.ends[:-1]])
        return shard, indices - starts[shard]

    def _opened(self, shard: str, array: str) -> StoredArray:
        path = self.folder / self.manifest.file(shard, array)
        stored = (
            npy_array(path) if self.manifest.storage == "npy" else safetensors_array(path, array)
        )
        shape, dtype = self.manifest.arrays[array]
        samples = dict(self.manifest.shards)[shard]
        require_array(path, stored.shape, stored.dtype, (samples, *shape), (dtype,))
        return stored


def write_features(
    folder: Path,
    shards: Iterable[Mapping[str, Tensor]],
    *,
    classes: int = 1,
    storage: str = "safetensors",
) -> None:
    """Write shards, each a mapping of arrays (N, ...) by name, and their manifest.

    Raises:
        UserError: shards differ in arrays, shapes or dtypes, or cannot be stored.
    """
    if storage not in SHARD_SUFFIX:
        raise UserError(
            f"Shards must be stored as {' or '.join(SHARD_SUFFIX)}, but got {storage!r}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, tuple[tuple[int, ...], str]] = {}
    counts: list[tuple[str, int]] = []
    for number, shard in enumerate(shards):
        found = {
            n: (tuple(a.shape[1:]), str(a.dtype).removeprefix("torch.")) for n, a in shard.items()
        }
        arrays = arrays or found
        samples = {len(array) for array in shard.values()}
        if found != arrays or len(samples) != 1:
            raise UserError(
                "Shards must hold the same arrays in the same shapes and dtypes, each with one row "
                f"a sample, but shard {number} has {found} with {sorted(samples)} rows where the "
                f"first has {arrays}. Cut them alike."
            )
        counts.append((f"{number:04}", samples.pop()))
        _write_shard(folder, counts[-1][0], shard, storage)
    manifest = Manifest(storage, classes, arrays, tuple(counts))
    if fault := fault_of(manifest):
        raise UserError(f"A manifest {fault}.")
    write_text(folder / "manifest.json", manifest.as_json())


def _write_shard(folder: Path, name: str, shard: Mapping[str, Tensor], storage: str) -> None:
    if storage == "safetensors":
        save_file({n: a.contiguous() for n, a in shard.items()}, folder / f"{name}.safetensors")
    else:
        for array, values in shard.items():
            if values.dtype is torch.bfloat16:
                raise UserError(
                    f"npy files have no bfloat16, but {array} is. Write storage='safetensors', or "
                    "convert it to float16 or float32."
                )
            np.save(folder / f"{name}.{array}.npy", values.numpy())
