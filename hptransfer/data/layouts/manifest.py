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

fast-DiT's layout is `imagenet256_features/NAME.npy`, each (1, C, H, H), and of the same names
`imagenet256_labels/NAME.npy`, each (1,). Samples are in the order of their names. These latents are
already scaled.

PixArt-α's layout (arXiv 2310.00426), which its `tools/extract_features.py` writes, is

    data_info.json                                  [{"path": ..., "ratio": ...}, ...]
    caption_feature_wmask/NAME.npz                  caption_feature (1, L, K), attention_mask (1, L)
    img_vae_features/256resolution/noflip/NAME.npy  mean, then standard deviation: (2·C, H, H)

The list may also be in `partition/`, and the resolution in the folder's name, as PixArt-α's loader
expects it (`img_vae_features_256resolution/noflip`). NAME is the image's file name, or
`folder_file` for an image in a folder. As in that loader, images with a ratio above 4 are left out,
and a latent is mean + std·noise; but here a sample has the same noise in every epoch. There are no
labels. These latents are not scaled: set data.scale=0.18215 for the VAE of Stable Diffusion.
"""

from __future__ import annotations

import io
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hptransfer.config import FeaturesConfig, Layout
from hptransfer.data.source import Captions, Source, reader_threads, reading
from hptransfer.errors import UserError
from hptransfer.system.files import write_text
from hptransfer.system.random_streams import torch_generator

# Held while numpy parses the header of an npy file: Python's parser raised "AST constructor
# recursion depth mismatch" where several threads parsed at a time (3.11.7). Files whose bytes are
# read first are still read side by side.
NPY_HEADERS = threading.Lock()
FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("bool", "uint8", "int8", "int16", "int32", "int64")
_SAFETENSORS = {
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"},
}


def npy_sample(path: Path, shape: tuple[int, ...] | None, dtypes: tuple[str, ...]) -> np.ndarray:
    """Return the content of a small npy file of this shape (any if None) and one of the dtypes."""
    with reading(path):
        content = io.BytesIO(path.read_bytes())
        with NPY_HEADERS:
            sample = np.load(content, allow_pickle=False)
    require_array(path, sample.shape, str(sample.dtype), shape, dtypes)
    return sample


def require_array(
    path: Path | str,
    found: tuple[int, ...],
    dtype: str,
    shape: tuple[int, ...] | None,
    dtypes: tuple[str, ...],
) -> None:
    """Raise a `UserError` if an array has not the shape (any if None) or one of the dtypes."""
    if dtype not in dtypes or (shape is not None and found != shape):
        wanted = "" if shape is None else f"of shape {shape} and "
        raise UserError(
            f"{path} must hold an array {wanted}of dtype {' or '.join(dtypes)}, but it has shape "
            f"{found} and dtype {dtype}. Write it again."
        )


MANIFEST_NAME, MANIFEST_VERSION = "hptransfer-features", 1
SHARD_SUFFIX = {"safetensors": ".safetensors", "npy": ".npy"}

# The number of dimensions and the dtypes of one sample, by the array's name.
ARRAY_KINDS = {
    "latents": (3, FLOATS),
    "labels": (0, INTEGERS[1:]),
    "tokens": (2, FLOATS),
    "mask": (1, INTEGERS),
    "pooled": (1, FLOATS),
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
        return Layout(channels, size, self.classes, length, features, pooled)

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
            f"{path} must be a manifest as hptransfer.data.features describes it, but is not: "
            f"{type(error).__name__} {error}. Write it with write_features."
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
    if manifest.classes < 1 or ("labels" not in manifest.arrays and manifest.classes != 1):
        return f"must state its classes, 1 without labels, but states {manifest.classes}"
    return ""


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


class ShardedFeatures(Source):
    """The samples of a folder with a `manifest.json`; all labels are 0 if it has none."""

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        self.folder, self.scale = folder, config.scale
        self.manifest = read_manifest(folder / "manifest.json")
        self.layout = self.manifest.layout
        self.ends = np.cumsum([samples for _, samples in self.manifest.shards])
        arrays = self.manifest.arrays
        pairs = [(shard, array) for shard, _ in self.manifest.shards for array in arrays]
        shards = dict.fromkeys(self.manifest.file(*pair) for pair in pairs)
        self.files = ["manifest.json", *shards]
        # At most 64 files are open at a time, since a process may open about a thousand.
        self._open = lru_cache(maxsize=64)(self._opened)
        for pair in pairs:
            self._open(*pair)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def place(self, index: int) -> str:
        shard, row = self._shard_and_row(np.array([index]))
        name = self.manifest.file(self.manifest.shards[shard[0]][0], "latents")
        return f"{self.folder / name}, sample {row[0]},"

    def images_at(self, indices: np.ndarray) -> Tensor:
        return self._take("latents", indices).float() * self.scale

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

    def _take(self, array: str, indices: np.ndarray) -> Tensor:
        shape, dtype = self.manifest.arrays[array]
        out = torch.empty(len(indices), *shape, dtype=getattr(torch, dtype))
        shard, row = self._shard_and_row(indices)
        for one in np.unique(shard):
            here = np.flatnonzero(shard == one)
            take = self._open(self.manifest.shards[one][0], array)
            out[torch.from_numpy(here)] = take(row[here])
        return out

    def _shard_and_row(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shard = np.searchsorted(self.ends, indices, side="right")
        starts = np.concatenate([[0], self.ends[:-1]])
        return shard, indices - starts[shard]

    def _opened(self, shard: str, array: str) -> Callable[[np.ndarray], Tensor]:
        """Return the function that reads rows (B,) of a shard; only these are read."""
        path = self.folder / self.manifest.file(shard, array)
        with reading(path):
            if self.manifest.storage == "npy":
                stored = np.lib.format.open_memmap(path, mode="r")
                size, expected = path.stat().st_size, stored.offset + stored.nbytes
                if size != expected:
                    raise ValueError(f"it has {size} bytes where its header says {expected}")
                found, type_name = stored.shape, str(stored.dtype)
                take = lambda rows: torch.from_numpy(np.array(stored[rows]))  # noqa: E731
            else:
                file = safe_open(path, framework="pt")
                if array not in file.keys():  # noqa: SIM118  (no container, only a `keys` method)
                    raise KeyError(f"it has no tensor named {array}")
                part = file.get_slice(array)
                found, type_name = tuple(part.get_shape()), str(part.get_dtype())
                type_name = _SAFETENSORS.get(type_name, type_name)
                take = lambda rows: part[rows.tolist()]  # noqa: E731
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


class FastDiTFeatures(Source):
    """The samples of the folders `imagenet256_features` and `imagenet256_labels`."""

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        self.folder, self.scale = folder, config.scale
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

    def images_at(self, indices: np.ndarray) -> Tensor:
        return self._read(self.features, indices, self.shape, FLOATS).float() * self.scale

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


LIST_FILES = ("data_info.json", "partition/data_info.json")
LATENT_FOLDERS = ("img_vae_features*/*resolution/noflip", "img_vae_features*/noflip")
CAPTION_FOLDERS = ("caption_feature_wmask", "caption_features_new", "caption_features")
MAX_RATIO = 4  # largest ratio of an image's sides
# Factor that gives the latents of Stable Diffusion's VAE a variance near 1; the extraction leaves
# latents unscaled.
VAE_SCALE = 0.18215


class PixArtFeatures(Source):
    """The samples of a folder that PixArt-α's extraction wrote."""

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        self.folder, self.config = folder, config
        self.advice = [f"data.scale={VAE_SCALE}"] if config.scale == 1 else []
        listed = data_info(folder)
        latents, captions = _folder(folder, LATENT_FOLDERS), _folder(folder, CAPTION_FOLDERS)
        if listed is None or latents is None:
            raise UserError(
                f"{folder} must hold data_info.json and {LATENT_FOLDERS[0]}, but lacks one. "
                "Extract again, or set runtime.data_folder to the folder above both."
            )
        images = _listed(listed)
        self.latents = _matched(latents, ".npy", images)
        self.captions = _matched(captions, ".npz", images) if captions else []
        used = (listed, *self.latents, *self.captions)
        self.files = [path.relative_to(folder).as_posix() for path in used]
        shape = npy_sample(self.latents[0], None, FLOATS).shape
        if len(shape) != 3 or shape[0] % 2 or shape[1] != shape[2]:
            raise UserError(
                f"{self.latents[0]} must hold the mean and standard deviation of a square latent, "
                f"(2·C, H, H), but has shape {shape}. Extract again, at one resolution."
            )
        self.shape = shape
        length = channels = 0
        if self.captions:  # the first caption's shape, or more tokens if the config says so
            length, channels = _caption(self.captions[0])[0].shape
            length = max(length, config.caption_tokens)
        self.layout = Layout(shape[0] // 2, shape[1], 1, length, channels)

    def __len__(self) -> int:
        return len(self.latents)

    def place(self, index: int) -> str:
        return f"{self.latents[index]} (or its caption)"

    def images_at(self, indices: np.ndarray) -> Tensor:
        read = reader_threads().map(self._latent, indices.tolist())
        return torch.stack(list(read)) * self.config.scale

    def _latent(self, index: int) -> Tensor:
        stored = npy_sample(self.latents[index], self.shape, FLOATS)
        mean, std = torch.from_numpy(stored).float().chunk(2)
        if not self.config.sample_posterior:
            return mean
        return mean + std * torch.randn(
            mean.shape, generator=torch_generator(0, "posterior", index)
        )

    def captions_at(self, indices: np.ndarray) -> Captions:
        paths = [self.captions[i] for i in indices]
        length, channels = self.layout.caption_tokens, self.layout.caption_channels
        tokens = torch.zeros(len(paths), length, channels)
        mask = torch.zeros(len(paths), length, dtype=torch.bool)
        for row, (path, (features, real)) in enumerate(
            zip(paths, reader_threads().map(_caption, paths), strict=True)
        ):
            if len(features) > length or features.shape[1] != channels:
                raise UserError(
                    f"{path} must hold a caption of at most {length} tokens of {channels} "
                    f"features, but has {tuple(features.shape)}. Raise data.caption_tokens, or "
                    "extract again."
                )
            tokens[row, : len(features)] = features.masked_fill(~real.unsqueeze(-1), 0)
            mask[row, : len(features)] = real
        return tokens, mask, torch.zeros(len(paths), 0)


def data_info(folder: Path) -> Path | None:
    """Return the path of the list of images; None if the folder has none."""
    return next((folder / name for name in LIST_FILES if (folder / name).is_file()), None)


def _listed(path: Path) -> list[str]:
    """Return the listed images whose ratio is at most `MAX_RATIO`."""
    with reading(path):
        items = json.loads(path.read_text(encoding="utf-8"))
    try:
        kept = [str(item["path"]) for item in items if item.get("ratio", 1) <= MAX_RATIO]
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f'{path} must be a list of {{"path": ..., "ratio": ...}}, but is not. Write it again.'
        ) from None
    if not kept:
        raise UserError(f"{path} must list an image with a ratio of at most 4, but lists none.")
    return kept


def _folder(folder: Path, patterns: Sequence[str]) -> Path | None:
    """Return the only folder that matches the first pattern with a match; None without any."""
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_dir())
        if len(found) > 1:
            raise UserError(
                f"{folder} must hold one folder {pattern}, but holds "
                f"{' and '.join(str(path) for path in found)}. Move all but one elsewhere."
            )
        if found:
            return found[0]
    return None


def _matched(folder: Path, suffix: str, images: Sequence[str]) -> list[Path]:
    """Return the file of every image; two images must not share one."""
    paths = [_file_of(folder, suffix, image) for image in images]
    path, count = Counter(paths).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"Every image needs a file of its own, but {path} is that of {count} images. Give "
            "the images different names and extract again."
        )
    return paths


def _file_of(folder: Path, suffix: str, image: str) -> Path:
    joined = os.path.splitext("_".join(image.rsplit("/", 1)))[0]  # noqa: PTH122
    for name in (joined, Path(image).stem):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise UserError(
        f"Every image needs its features, but {image} has no {folder / joined}{suffix} and no "
        f"{Path(image).stem}{suffix} there. Extract again."
    )


def _caption(path: Path) -> tuple[Tensor, Tensor]:
    """Return a caption's features (L, K) and mask (L,), all True if the file has no mask."""
    with reading(path), NPY_HEADERS, np.load(path, allow_pickle=False) as stored:
        features = stored["caption_feature"]
        has_mask = "attention_mask" in stored.files
        mask = stored["attention_mask"] if has_mask else np.ones(features.shape[:2], bool)
    shape = (1, *features.shape[-2:])
    require_array(f"{path}: caption_feature", features.shape, str(features.dtype), shape, FLOATS)
    require_array(f"{path}: attention_mask", mask.shape, str(mask.dtype), shape[:2], INTEGERS)
    return torch.from_numpy(features[0]).float(), torch.from_numpy(mask[0]).bool()
