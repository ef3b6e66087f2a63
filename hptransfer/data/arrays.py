"""Arrays from files, read without ever running what a file says: npy, npz and safetensors.

No pickle is read. Where a row of a large file is asked for, only that row is read.
"""

from __future__ import annotations

import io
import os
import weakref
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from hptransfer.data.reading import reading
from hptransfer.errors import UserError

# Held while numpy parses the header of an npy file: Python's parser raised "AST constructor
# recursion depth mismatch" where several threads parsed at a time (3.11.7). Files whose bytes are
# read first are still read side by side.
NPY_HEADERS = Lock()
NPY_MAGIC = b"\x93NUMPY"  # the first bytes of every npy file
MOST_OPEN = 64  # files that a source holds open, since a process may open about a thousand
FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("bool", "uint8", "int8", "int16", "int32", "int64")
_SAFETENSORS = {
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"},
}

Rows = Callable[[np.ndarray], Tensor]  # the rows (B,) of an array as (B, ...)


def npy_array(content: bytes) -> np.ndarray:
    """Return the array in the bytes of an npy file."""
    with NPY_HEADERS:
        return np.load(io.BytesIO(content), allow_pickle=False)


def npz_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays in the bytes of an npz file by their names."""
    with NPY_HEADERS, np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def npy_sample(path: Path, shape: tuple[int, ...] | None, dtypes: tuple[str, ...]) -> np.ndarray:
    """Return the content of a small npy file of this shape (any if None) and one of the dtypes."""
    with reading(path):
        sample = npy_array(path.read_bytes())
    require_array(path, sample.shape, str(sample.dtype), shape, dtypes)
    return sample


def require_array(
    place: Path | str,
    found: tuple[int, ...],
    dtype: str,
    shape: tuple[int, ...] | None,
    dtypes: tuple[str, ...],
) -> None:
    """Raise a `UserError` if an array has not the shape (any if None) or one of the dtypes."""
    if dtype not in dtypes or (shape is not None and found != shape):
        wanted = "" if shape is None else f"of shape {shape} and "
        raise UserError(
            f"{place} must hold an array {wanted}of dtype {' or '.join(dtypes)}, but it has shape "
            f"{found} and dtype {dtype}. Write it again."
        )


def npy_rows(path: Path) -> tuple[tuple[int, ...], str, Rows]:
    """Return shape and dtype of a large npy file, and what reads rows of it."""
    with reading(path):
        stored = np.lib.format.open_memmap(path, mode="r")
        size, expected = path.stat().st_size, stored.offset + stored.nbytes
        if size != expected:
            raise ValueError(f"it has {size} bytes where its header says {expected}")
    take = lambda rows: torch.from_numpy(np.array(stored[rows]))  # noqa: E731
    return stored.shape, str(stored.dtype), take


def safetensors_rows(path: Path, name: str) -> tuple[tuple[int, ...], str, Rows]:
    """Return shape and dtype of a tensor in a safetensors file, and what reads rows of it."""
    with reading(path):
        file = safe_open(path, framework="pt")
        if name not in file.keys():  # noqa: SIM118  (no container, only a `keys` method)
            raise KeyError(f"it has no tensor named {name}")
        part = file.get_slice(name)
        shape, dtype = tuple(part.get_shape()), str(part.get_dtype())
    return shape, _SAFETENSORS.get(dtype, dtype), lambda rows: part[rows.tolist()]


def safetensors_names(path: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file."""
    with reading(path), safe_open(path, framework="pt") as file:
        return sorted(file.keys())


class _OpenFile:
    """A file that is open as long as somebody holds this."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)


class OpenFiles:
    """Pieces of files by offset; at most `MOST_OPEN` files stay open."""

    def __init__(self) -> None:
        self._open = lru_cache(maxsize=MOST_OPEN)(_OpenFile)

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """Return `size` bytes of a file from `offset` on; raise a `UserError` if it is shorter."""
        with reading(path):
            file = self._open(path)  # held while it is read, whatever leaves the cache
            content = os.pread(file.number, size, offset)
            if len(content) != size:
                raise EOFError(f"it ends before byte {offset + size}")
        return content
