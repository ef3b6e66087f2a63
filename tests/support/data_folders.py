"""Folders of samples for tests, in every layout that is read."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hptransfer.data.features import write_features

N, L, K, A = 20, 6, 5, 7
needs_datasets = pytest.mark.skipif(
    find_spec("datasets") is None, reason="the extra `huggingface` (datasets) is not installed"
)
FASHION_MNIST = os.environ.get("HPTRANSFER_FASHION_MNIST", "")
needs_fashion_mnist = pytest.mark.skipif(
    not FASHION_MNIST, reason="HPTRANSFER_FASHION_MNIST names no folder with the four IDX files"
)
CAPTIONED = tuple(
    f"data.{name}={value}"
    for name, value in (("caption_tokens", 9), ("caption_channels", 16), ("pooled_channels", 16))
)


def features(captions: bool = True, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return arrays of 20 samples; sample i has 1 + i % 6 real tokens."""
    generator = torch.Generator().manual_seed(0)
    arrays = {
        "latents": torch.randn(N, 4, 8, 8, generator=generator).to(dtype),
        "labels": torch.arange(N) % 3,
    }
    if captions:
        arrays["tokens"] = torch.randn(N, L, K, generator=generator).to(dtype)
        arrays["mask"] = torch.arange(L) <= (torch.arange(N) % L)[:, None]
        arrays["pooled"] = torch.randn(N, A, generator=generator).to(dtype)
    return arrays


def write(folder: Path, arrays: dict[str, Tensor], storage: str = "safetensors") -> None:
    """Write 12 + 8 samples."""
    shards = [
        {name: array[part] for name, array in arrays.items()} for part in (slice(12), slice(12, N))
    ]
    write_features(folder, shards, classes=3 if "labels" in arrays else 1, storage=storage)


def write_fast_dit(folder: Path) -> dict[str, Tensor]:
    arrays = features(captions=False)
    for kind, name, tail in (("features", "latents", (4, 8, 8)), ("labels", "labels", ())):
        (folder / f"imagenet256_{kind}").mkdir(parents=True)
        for i, array in enumerate(arrays[name].numpy()):
            np.save(folder / f"imagenet256_{kind}/{i:03}.npy", array.reshape(1, *tail))
    return arrays


def write_pixart(folder: Path, *, extracted: bool = True, tokens: int = L) -> dict[str, Tensor]:
    """Write what PixArt-α's tool leaves, or the same as its loader names it."""
    arrays = features()
    std = torch.rand(N, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    arrays["moments"] = torch.cat([arrays["latents"], std], 1)
    tree = "img_vae_features/256resolution" if extracted else "img_vae_features_256resolution"
    latents, captions = folder / tree / "noflip", folder / "caption_feature_wmask"
    (folder / "partition").mkdir(parents=True)
    latents.mkdir(parents=True)
    captions.mkdir()
    items = [{"path": f"set{i % 2}/{i:03}.png", "prompt": "", "ratio": 1.0} for i in range(N)]
    for i, item in enumerate(items):
        name = Path(item["path"]).stem if extracted else item["path"].replace("/", "_")[:-4]
        np.save(latents / f"{name}.npy", arrays["moments"][i].numpy())
        np.savez_compressed(
            captions / f"{name}.npz",
            caption_feature=arrays["tokens"][i : i + 1, :tokens].numpy(),
            attention_mask=arrays["mask"][i : i + 1, :tokens].long().numpy(),
        )
    items.insert(3, {"path": "set0/panorama.png", "prompt": "", "ratio": 5.0})  # left out, no files
    listed = "data_info.json" if extracted else "partition/data_info.json"
    (folder / listed).write_text(json.dumps(items))
    return arrays


def picture(i: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def write_images(folder: Path) -> None:
    """Write 20 images, even ones in `tree_frog`, odd ones in `Axolotl`."""
    for i in range(N):
        inside = folder / ("Axolotl" if i % 2 else "tree_frog")
        inside.mkdir(parents=True, exist_ok=True)
        picture(i).save(inside / f"{i:03}.{('png', 'PNG', 'webp', 'jpg')[i % 4]}")


def write_hugging_face(folder: Path, labels=None, captions=None) -> None:
    import datasets

    columns = {
        "image": [picture(i) for i in range(N)],
        "label": labels or [i % 3 for i in range(N)],
        "caption": captions or [f"picture number {i}" for i in range(N)],
    }
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    kinds["caption"] = datasets.Value("string")
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    datasets.disable_progress_bars()
    table.save_to_disk(str(folder), num_shards=2)
