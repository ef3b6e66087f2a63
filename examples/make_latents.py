"""Write a few hundred small latents and captions in the layouts that sweeps are run on.

    python examples/make_latents.py FOLDER

writes FOLDER/fast_dit, FOLDER/pixart and FOLDER/captioned, with which the smoke editions of the
paper's sweeps run, and prints the command of each. It needs numpy and safetensors alone, so it also
shows what such folders hold. Every number is a small multiple of a power of two and the files have
no time stamps, so that they are the same bytes, with the same hash, on every machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SAMPLES, CLASSES, SIDE = 240, 10, 16
TOKENS, CHANNELS, POOLED = 12, 32, 24  # of a caption: its tokens, a token's channels, those pooled
CELLS, FEATURES = 16, 40  # of an encoder's features: cells of a square map, channels of a cell
SWEEPS = {
    "dit_imagenet_smoke": "fast_dit",
    "uvit_imagenet_smoke": "fast_dit",
    "pixart_sa1b_smoke": "pixart",
    "mmdit_captioned_smoke": "captioned",
}


def main(folder: Path) -> None:
    """Write the three folders and print how to run the sweeps on them."""
    write_fast_dit(folder / "fast_dit")
    write_pixart(folder / "pixart")
    write_captioned(folder / "captioned")
    for sweep, layout in SWEEPS.items():
        print(f"hptransfer run {sweep} runtime.data_folder={folder / layout}")


def labels() -> np.ndarray:
    """Return the class of every sample, (samples,)."""
    return np.arange(SAMPLES, dtype=np.int64) % CLASSES


def latents(channels: int, seed: int) -> np.ndarray:
    """Return latents (samples, channels, side, side): a pattern for each class, and noise."""
    rng = np.random.default_rng(seed)
    shape = (channels, SIDE, SIDE)
    patterns = rng.integers(-64, 65, (CLASSES, *shape))
    noise = rng.integers(-32, 33, (SAMPLES, *shape))
    return ((patterns[labels()] + noise) / 64).astype(np.float32)


def captions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return text features (samples, tokens, channels), and which tokens are real."""
    rng = np.random.default_rng(seed)
    words = rng.integers(-64, 65, (CLASSES, TOKENS, CHANNELS)) / 64
    lengths = 1 + np.arange(SAMPLES) % TOKENS
    return words[labels()].astype(np.float16), np.arange(TOKENS) < lengths[:, None]


def features(seed: int) -> np.ndarray:
    """Return features (samples, cells, channels) as of a frozen encoder: a map for each class."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(-64, 65, (CLASSES, CELLS, FEATURES)) / 64
    return maps[labels()].astype(np.float16)


def write_fast_dit(folder: Path) -> None:
    """Write latents (1, 4, 16, 16) and labels (1,), a file each, as fast-DiT's script does."""
    for kind, arrays in (("features", latents(4, seed=0)), ("labels", labels())):
        inside = folder / f"imagenet256_{kind}"
        inside.mkdir(parents=True, exist_ok=True)
        for index, array in enumerate(arrays):
            np.save(inside / f"{index:04}.npy", array[np.newaxis])


def write_pixart(folder: Path) -> None:
    """Write means with deviations (8, 16, 16), and captions, as PixArt-α's tool does."""
    means = folder / "img_vae_features" / "256resolution" / "noflip"
    texts = folder / "caption_feature_wmask"
    for inside in (means, texts):
        inside.mkdir(parents=True, exist_ok=True)
    tokens, mask = captions(seed=1)
    unscaled = latents(4, seed=2) * 4  # as the VAE gives them; data.scale makes them small
    for index in range(SAMPLES):
        deviations = np.full_like(unscaled[index], 0.25)
        np.save(means / f"{index:04}.npy", np.concatenate([unscaled[index], deviations]))
        np.savez(
            texts / f"{index:04}.npz",
            caption_feature=tokens[index : index + 1],
            attention_mask=mask[index : index + 1].astype(np.int64),
        )
    items = [{"path": f"{index:04}.png", "prompt": "", "ratio": 1.0} for index in range(SAMPLES)]
    (folder / "data_info.json").write_text(json.dumps(items), encoding="utf-8")


def write_captioned(folder: Path) -> None:
    """Write two shards of hptransfer's own layout, with an encoder's features, and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens, mask = captions(seed=3)
    arrays = {
        "latents": latents(16, seed=4).astype(np.float16),
        "tokens": tokens,
        "mask": mask,
        "pooled": np.ascontiguousarray(tokens[:, 0, :POOLED]),
        "features": features(seed=5),
    }
    half = SAMPLES // 2
    for name, rows in (("0000", slice(half)), ("0001", slice(half, SAMPLES))):
        shard = {key: np.ascontiguousarray(array[rows]) for key, array in arrays.items()}
        save_file(shard, folder / f"{name}.safetensors")
    manifest = {
        "format": "hptransfer-features",
        "version": 1,
        "storage": "safetensors",
        "classes": 1,
        "arrays": {
            key: {"shape": list(array.shape[1:]), "dtype": str(array.dtype)}
            for key, array in arrays.items()
        },
        "shards": [{"name": name, "samples": half} for name in ("0000", "0001")],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name the folder that is to be written: python examples/make_latents.py FOLDER")
    main(Path(sys.argv[1]))
