"""Fashion-MNIST (arXiv 1708.07747): clothes, 28x28 pixels, grey, from the standard IDX files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from hptransfer.errors import UserError

NOUNS = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
TEMPLATES = (
    "a photo of one {}",
    "one grey {} on black",
    "one {} from a catalogue",
    "this is one {}",
)
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a split's images (N, 1, 32, 32) in [0, 1], padded with zeros, and labels (N,)."""
    images, labels = (_read_idx(_find(folder, name)) for name in FILES[split])
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise UserError(
            f"Fashion-MNIST must be N 28x28 images with N labels, but {folder} holds images of "
            f"shape {images.shape} and labels of shape {labels.shape}. Use the standard files."
        )
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2))).astype(np.float32) / 255.0
    return padded[:, None], labels.astype(np.int64)


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise UserError(
        f"Fashion-MNIST needs the file {name} or {name}.gz, but {folder} has neither. Set "
        "runtime.data_folder to the folder with the four IDX files."
    )


def _read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes (yann.lecun.com/exdb/mnist, 'the IDX file format')."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        content = file.read()
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise UserError(f"An IDX file of bytes must start with 00 00 08, but {path} does not.")
    dims = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if values.size != int(np.prod(dims)):
        raise UserError(
            f"The IDX file {path} must hold {int(np.prod(dims))} bytes for its shape {dims}, but "
            f"holds {values.size}. Copy it again."
        )
    return values.reshape(dims)
