"""Arrays in npy and safetensors files, of which single rows can be read."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from hptransfer.data.reading import reading
from hptransfer.errors import UserError

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


class StoredArray(NamedTuple):
    """An array in a file: its shape, its dtype, and a function that reads rows (B,)."""

    shape: tuple[int, ...]
    dtype: str
    take: Callable[[np.ndarray], Tensor]


def npy_array(path: Path) -> StoredArray:
    """Return the memory-mapped array of an npy file."""
    with reading(path):
        stored = np.lib.format.open_memmap(path, mode="r")
        size, expected = path.stat().st_size, stored.offset + stored.nbytes
        if size != expected:
            raise ValueError(f"it has {size} bytes where its header says {expected}")
    return StoredArray(
        stored.shape, str(stored.dtype), lambda rows: torch.from_numpy(np.array(stored[rows]))
    )


def safetensors_array(path: Path, name: str) -> StoredArray:
    """Return one tensor of a safetensors file; only the rows asked for are read."""
    with reading(path):
        file = safe_open(path, framework="pt")
        if name not in file.keys():  # noqa: SIM118  (no container, only a `keys` method)
            raise KeyError(f"it has no tensor named {name}")
        part = file.get_slice(name)
        stored = str(part.get_dtype())
        dtype = _SAFETENSORS.get(stored, stored)
    return StoredArray(tuple(part.get_shape()), dtype, lambda rows: part[rows.tolist()])


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
