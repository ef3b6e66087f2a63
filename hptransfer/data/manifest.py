"""The `manifest.json` of a folder of features: its arrays and their shards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.config import Layout
from hptransfer.data.reading import reading
from hptransfer.data.shards import FLOATS, INTEGERS
from hptransfer.errors import UserError

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
    return _disagreement(manifest)


def _disagreement(manifest: Manifest) -> str:
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
