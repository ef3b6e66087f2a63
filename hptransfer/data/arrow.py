"""Cells of Arrow's columns as arrays, numbers, text and bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # only who has such columns needs the package
    import pyarrow as pa


def cells_of(column: pa.ChunkedArray) -> list[Any]:
    """Return the cells of a column; a nested list is an array, an empty cell None.

    Raises:
        ValueError: the lists of a cell are not all of one length, or hold nothing.
    """
    return [cell for chunk in column.chunks for cell in _cells(chunk)]


def _cells(chunk: pa.Array) -> list[Any]:
    import pyarrow as pa

    if isinstance(chunk, pa.ExtensionArray):  # such as `datasets.Array3D`
        chunk = chunk.storage
    if not is_list(chunk.type):
        return chunk.to_pylist()
    return [None if cell.values is None else _as_array(cell.values) for cell in chunk]


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is of lists, of any sort."""
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _as_array(values: pa.Array) -> np.ndarray:
    """Return the values of one cell with the dimensions that its lists have."""
    from pyarrow import types

    shape = [len(values)]
    while is_list(values.type):
        inside = values.flatten()
        size, rest = divmod(len(inside), len(values))
        even = types.is_fixed_size_list(values.type) or bool(
            (values.value_lengths().to_numpy(zero_copy_only=False) == size).all()
        )
        if rest or not even or values.null_count:
            raise ValueError("the lists in one cell have different lengths")
        shape.append(size)
        values = inside
    if values.null_count:
        raise ValueError("a value in a list is missing")
    return values.to_numpy(zero_copy_only=False).reshape(shape)
