"""hptransfer's own layout: a manifest, and a few arrays divided along the samples into shards.

For 20,000 latents with labels and text features `manifest.json` reads

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
        "pooled": {"shape": [768], "dtype": "float16"},
        "features": {"shape": [256, 768], "dtype": "float16"}
      },
      "shards": [{"name": "0000", "samples": 10000}, {"name": "0001", "samples": 10000}]
    }

Shapes are those of one sample: (C, H, H), (), (L, K), (L,), (A,) and (N, D). Only `latents` is
required; `tokens` requires `mask`, `pooled` requires `tokens`, and without `labels` there is one
class. `features` are those of a frozen encoder, for REPA (`objective.repa_weight`): of a square map
of N cells, row by row, or of the whole image, with N = 1. A shard is `0000.safetensors` with all
arrays, or with storage `npy` one file per array, such as `0000.latents.npy`. `write_features`
writes this layout.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from hptransfer.config import FeaturesConfig, Layout
from hptransfer.data.arrays import (
    FLOATS,
    INTEGERS,
    MOST_OPEN,
    Rows,
    npy_rows,
    require_array,
    safetensors_rows,
)
from hptransfer.data.layouts.folder_layout import FolderLayout, LatentSource
from hptransfer.data.reading import reading
from hptransfer.data.shards import Shards, take_rows
from hptransfer.data.source import Captions
from hptransfer.errors import UserError
from hptransfer.system.files import write_text

MANIFEST_NAME, MANIFEST_VERSION = "hptransfer-features", 1
SHARD_SUFFIX = {"safetensors": ".safetensors", "npy": ".npy"}

# The number of dimensions and the dtypes of one sample, by the array's name.
ARRAY_KINDS = {
    "latents": (3, FLOATS),
    "labels": (0, INTEGERS[1:]),
    "tokens": (2, FLOATS),
    "mask": (1, INTEGERS),
    "pooled": (1, FLOATS),
    "features": (2, FLOATS),
}
# The array without which another one is refused.
NEEDED_ARRAYS = {"tokens": "mask", "mask": "tokens", "pooled": "tokens"}


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest: one sample's shape and dtype by array, and the shards."""

    storage: str
    classes: int
    arrays: dict[str, tuple[tuple[int, ...], str]]
    shards: tuple[tuple[str, int], ...]  # name and number of samples

    @property
    def layout(self) -> Layout:
        """The shapes of a sample, and the number of classes."""
        channels, size, _ = self.arrays["latents"][0]
        length, features = self.arrays["tokens"][0] if "tokens" in self.arrays else (0, 0)
        (pooled,) = self.arrays["pooled"][0] if "pooled" in self.arrays else (0,)
        aligned = self.arrays["features"][0][-1] if "features" in self.arrays else 0
        return Layout(channels, size, self.classes, length, features, pooled, aligned)

    def file(self, shard: str, array: str) -> str:
        """Return the name of the file that holds one shard of an array."""
        part = f".{array}" if self.storage == "npy" else ""
        return f"{shard}{part}{SHARD_SUFFIX[self.storage]}"

    def as_json(self) -> str:
        """Return the file's content."""
        arrays = {n: {"shape": list(s), "dtype": d} for n, (s, d) in self.arrays.items()}
        shards = [{"name": name, "samples": samples} for name, samples in self.shards]
        tree = {"format": MANIFEST_NAME, "version": MANIFEST_VERSION, "storage": self.storage}
        tree |= {"classes": self.classes, "arrays": arrays, "shards": shards}
        return json.dumps(tree, indent=2) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Return the manifest in a file; raise a `UserError` if it is wrong."""
    with reading(path):
        tree = json.loads(path.read_text(encoding="utf-8"))
    try:
        manifest = _manifest(tree)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} must be a manifest as hptransfer.data.layouts.manifest describes it, but is "
            f"not: {type(error).__name__} {error}. Write it with write_features."
        ) from error
    fault = fault_of(manifest)
    if fault:
        raise UserError(f"{path} {fault}. Write it with hptransfer.data.features.write_features.")
    return manifest


def _manifest(tree: dict[str, Any]) -> Manifest:
    if (tree["format"], tree["version"]) != (MANIFEST_NAME, MANIFEST_VERSION):
        raise ValueError(f"format {tree['format']!r} version {tree['version']!r}")
    arrays = {
        name: (tuple(int(n) for n in array["shape"]), str(array["dtype"]))
        for name, array in tree["arrays"].items()
    }
    shards = tuple((str(shard["name"]), int(shard["samples"])) for shard in tree["shards"])
    return Manifest(str(tree["storage"]), int(tree["classes"]), arrays, shards)


def fault_of(manifest: Manifest) -> str:
    """Return what is wrong with a manifest as the end of a sentence; empty if nothing is."""
    if manifest.storage not in SHARD_SUFFIX:
        return f"must name the storage safetensors or npy, but names {manifest.storage!r}"
    if not manifest.shards or any(samples < 1 for _, samples in manifest.shards):
        return "must list shards of one sample or more each"
    if any(Path(name).name != name for name, _ in manifest.shards):
        return "must name shards in its own folder"
    if len(dict(manifest.shards)) < len(manifest.shards):
        return "must name every shard once"
    if "latents" not in manifest.arrays:
        return "must list the array latents"
    for name, (shape, dtype) in manifest.arrays.items():
        if name not in ARRAY_KINDS:
            return f"may list the arrays {', '.join(ARRAY_KINDS)}, but lists {name!r}"
        dimensions, dtypes = ARRAY_KINDS[name]
        if len(shape) != dimensions or min(shape, default=1) < 1 or dtype not in dtypes:
            return (
                f"must give one sample of {name} {dimensions} dimensions and a dtype of "
                f"{', '.join(dtypes)}, but gives shape {shape} and dtype {dtype}"
            )
        if name in NEEDED_ARRAYS and NEEDED_ARRAYS[name] not in manifest.arrays:
            return f"must list {NEEDED_ARRAYS[name]} where it lists {name}"
    (_, height, width), _ = manifest.arrays["latents"]
    if height != width:
        return f"must give square latents, but gives {height}x{width}"
    if (
        "tokens" in manifest.arrays
        and manifest.arrays["mask"][0] != manifest.arrays["tokens"][0][:1]
    ):
        return "must give mask as many tokens as tokens"
    cells = manifest.arrays["features"][0][0] if "features" in manifest.arrays else 1
    if math.isqrt(cells) ** 2 != cells:
        return f"must give the features of a square map, but gives {cells} cells"
    if manifest.classes < 1 or ("labels" not in manifest.arrays and manifest.classes != 1):
        return f"must state its classes, 1 without labels, but states {manifest.classes}"
    return ""


class ShardedFeatures(LatentSource):
    """The samples of a folder with a `manifest.json`; all labels are 0 if it has none."""

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self.manifest = read_manifest(folder / "manifest.json")
        self.layout = self.manifest.layout
        self.shards = Shards([samples for _, samples in self.manifest.shards])
        arrays = self.manifest.arrays
        pairs = [(shard, array) for shard, _ in self.manifest.shards for array in arrays]
        shards = dict.fromkeys(self.manifest.file(*pair) for pair in pairs)
        self.files = ["manifest.json", *shards]
        self._open = lru_cache(maxsize=MOST_OPEN)(self._opened)
        for pair in pairs:
            self._open(*pair)

    def __len__(self) -> int:
        return len(self.shards)

    def place(self, index: int) -> str:
        shard, row = self.shards.find(index)
        name = self.manifest.file(self.manifest.shards[shard][0], "latents")
        return f"{self.folder / name}, sample {row},"

    def stored_at(self, indices: np.ndarray) -> Tensor:
        return self._take("latents", indices).float()

    def labels_at(self, indices: np.ndarray) -> Tensor:
        if "labels" not in self.manifest.arrays:
            return super().labels_at(indices)
        return self._take("labels", indices).long()

    def captions_at(self, indices: np.ndarray) -> Captions:
        mask = self._take("mask", indices).bool()
        tokens = self._take("tokens", indices).float().masked_fill(~mask.unsqueeze(-1), 0)
        if "pooled" not in self.manifest.arrays:
            return tokens, mask, torch.zeros(len(indices), 0)
        return tokens, mask, self._take("pooled", indices).float()

    def features_at(self, indices: np.ndarray) -> Tensor:
        if "features" not in self.manifest.arrays:
            return super().features_at(indices)
        return self._take("features", indices).float()

    def _take(self, array: str, indices: np.ndarray) -> Tensor:
        names = [name for name, _ in self.manifest.shards]
        return take_rows(self.shards, indices, lambda shard: self._open(names[shard], array))

    def _opened(self, shard: str, array: str) -> Rows:
        """Return the function that reads rows (B,) of a shard; only these are read."""
        path = self.folder / self.manifest.file(shard, array)
        if self.manifest.storage == "npy":
            found, type_name, take = npy_rows(path)
        else:
            found, type_name, take = safetensors_rows(path, array)
        shape, dtype = self.manifest.arrays[array]
        samples = dict(self.manifest.shards)[shard]
        require_array(path, found, type_name, (samples, *shape), (dtype,))
        return take


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


LAYOUT = FolderLayout(
    "hptransfer",
    "manifest.json, which hptransfer.data.features.write_features writes",
    lambda folder: (folder / "manifest.json").is_file(),
    ShardedFeatures,
)
