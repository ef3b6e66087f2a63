"""MosaicML's MDS, which its package `streaming` writes: `index.json` and `shard.00000.mds`, ...

The index lists the shards with their columns, encodings and numbers of samples. A shard is

    uint32                number of samples n
    uint32[n + 1]         offsets at which samples begin and end, from the file's first byte
    JSON                  the columns again
    n samples, each       uint32 for every column of no fixed size, then the columns' values

All numbers are little-endian. These encodings are read: str, bytes, int, the numbers of numpy such
as int32 or float16, str_int, json, and ndarray with or without dtype and shape (`ndarray:float16`,
`ndarray:float16:4,32,32`). `pkl` is a pickle and is never read; a column that is not used may have
any encoding. Compressed shards are not read, since one sample would cost a whole shard. An index
that was merged from several folders names shards in subfolders.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hptransfer.config import FeaturesConfig
from hptransfer.data.arrays import OpenFiles
from hptransfer.data.layouts.columns import ColumnSource, columns_of, needed_columns
from hptransfer.data.layouts.folder_layout import FolderLayout
from hptransfer.data.reading import reading
from hptransfer.data.shards import Shards
from hptransfer.errors import UserError

INDEX, VERSION = "index.json", 2
NUMBERS = frozenset(
    {
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    }
)
# The number by which an ndarray of no stated dtype begins: twice its bytes in bits, and its kind.
_DTYPES = {
    **{8: "uint8", 9: "int8", 16: "uint16", 17: "int16", 18: "float16", 32: "uint32"},
    **{33: "int32", 34: "float32", 64: "uint64", 65: "int64", 66: "float64"},
}
_SIZES = ("u1", "<u2", "<u4", "<u8")  # of a dimension, by the lowest two bits before the shape
DECOMPRESS = {"gz": "gzip", "bz2": "bzip2", "br": "brotli"}  # programs not named as the ending


@dataclass(frozen=True)
class Shard:
    """One file of samples, as the index describes it."""

    name: str
    samples: int
    size: int  # bytes
    columns: tuple[tuple[str, str, int | None], ...]  # name, encoding, bytes if fixed


class MDSFeatures(ColumnSource):
    """The samples of the shards of an `index.json`."""

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        self.folder, self._read = folder, OpenFiles().read
        self.listed = _index(folder)
        self.shards = Shards([shard.samples for shard in self.listed])
        self.files = [INDEX, *(shard.name for shard in self.listed)]
        first = [name for name, _, _ in self.listed[0].columns]
        used = needed_columns(config, columns_of(config, first, folder / INDEX))
        for shard in self.listed:
            held = {name: encoding for name, encoding, _ in shard.columns}
            for column in used:
                if column not in held:
                    raise UserError(
                        f"Every shard must have the column {column}, as the first one has, but "
                        f"{folder / shard.name} has {', '.join(held)}. Write it again."
                    )
                _require_readable(folder / INDEX, column, held[column])
        super().__init__(config, folder, first, folder / INDEX)

    def __len__(self) -> int:
        return len(self.shards)

    def place(self, index: int) -> str:
        shard, row = self.shards.find(index)
        return f"{self.folder / self.listed[shard].name}, sample {row},"

    def cells_at(self, column: str, indices: np.ndarray) -> list[Any]:
        return [self._cell(column, int(index)) for index in indices]

    def _cell(self, column: str, index: int) -> Any:
        number, row = self.shards.find(index)
        shard = self.listed[number]
        path = self.folder / shard.name
        begin, end = struct.unpack("<2I", self._read(path, 4 * (1 + row), 8))
        with reading(lambda: self.place(index)):
            if not 4 * (shard.samples + 2) <= begin <= end <= shard.size:
                raise ValueError(f"it is said to lie in the bytes {begin} to {end}")
            sample = self._read(path, begin, end - begin)
            sizes, at = [], 0
            for _, _, fixed in shard.columns:
                if fixed is None:
                    sizes.append(struct.unpack_from("<I", sample, at)[0])
                    at += 4
                else:
                    sizes.append(fixed)
            if at + sum(sizes) != len(sample):
                raise ValueError(f"its columns have {at + sum(sizes)} bytes, and it {len(sample)}")
            for (name, encoding, _), size in zip(shard.columns, sizes, strict=True):
                if name == column:
                    return decoded(encoding, sample[at : at + size])
                at += size
            raise ValueError(f"its shard has no column {column}")


def _index(folder: Path) -> list[Shard]:
    """Return the shards that an index lists; raise a `UserError` if one is not as it says."""
    path = folder / INDEX
    with reading(path):
        tree = json.loads(path.read_bytes())
    try:
        listed = [_shard(folder, entry) for entry in tree["shards"]]
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} must be an index of MDS shards, version {VERSION}, but is not: "
            f"{type(error).__name__} {error}. Write it with streaming.MDSWriter."
        ) from error
    listed = [shard for shard in listed if shard.samples]
    if not listed:
        raise UserError(f"{path} must list shards with samples, but lists none. Write it again.")
    return listed


def _shard(folder: Path, entry: dict[str, Any]) -> Shard:
    if (entry["format"], entry["version"]) != ("mds", VERSION):
        raise ValueError(f"format {entry['format']!r} version {entry['version']!r}")
    name, size = str(entry["raw_data"]["basename"]), int(entry["raw_data"]["bytes"])
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"it names {name}, outside its own folder")
    parts = (entry["column_names"], entry["column_encodings"], entry["column_sizes"])
    shard = Shard(name, int(entry["samples"]), size, tuple(zip(*parts, strict=True)))
    path, packed = folder / name, entry.get("zip_data")
    if packed and not path.is_file():
        kind = str(entry["compression"]).split(":")[0]
        raise UserError(
            f"MDS shards are read uncompressed, since one sample would cost a whole shard, but "
            f"{folder / str(packed['basename'])} is compressed with {kind}. Run `cd "
            f'{path.parent} && for f in *.{kind}; do {DECOMPRESS.get(kind, kind)} -dc "$f" > '
            f'"${{f%.{kind}}}"; done` and keep the index as it is.'
        )
    with reading(path):
        found = path.stat().st_size
        if found != size:
            raise ValueError(f"it has {found} bytes where {INDEX} says {size}")
        with path.open("rb") as file:
            (samples,) = struct.unpack("<I", file.read(4))
        if samples != shard.samples:
            raise ValueError(f"it has {samples} samples where {INDEX} says {shard.samples}")
    return shard


def _require_readable(path: Path, column: str, encoding: str) -> None:
    kind = encoding.split(":")[0]
    if kind == "pkl":
        raise UserError(
            f"{path}: the column {column} is pickled, which is never read, since it may run "
            "anything. Write it as ndarray, bytes or int."
        )
    if kind not in {"str", "bytes", "int", "str_int", "json", "ndarray", *NUMBERS}:
        raise UserError(
            f"{path}: the column {column} must be encoded as ndarray, bytes, str, int, str_int, "
            f"json or a number of numpy, but is {encoding}. Write it so, or name another column."
        )


def decoded(encoding: str, value: bytes) -> Any:
    """Return the value that bytes hold in one of MDS's encodings; raise a `ValueError`."""
    kind, _, form = encoding.partition(":")
    if kind in ("str", "str_int"):
        return value.decode()
    if kind == "json":
        return json.loads(value)
    if kind == "int" or kind in NUMBERS:
        (number,) = np.frombuffer(value, np.dtype("int64" if kind == "int" else kind))
        return number.item()
    return _ndarray(form, value) if kind == "ndarray" else value


def _ndarray(form: str, value: bytes) -> np.ndarray:
    """Return an array whose dtype and shape are stated in `form`, or else before its values."""
    stated_dtype, stated_shape = _form(form)
    at, shape = 0, stated_shape
    dtype = stated_dtype
    if dtype is None:
        if value[0] not in _DTYPES:
            raise ValueError(f"its array begins with {value[0]}, which stands for no dtype")
        dtype, at = _DTYPES[value[0]], 1
    if shape is None:
        dimensions, size = value[at] >> 2, np.dtype(_SIZES[value[at] & 3])
        shape = tuple(np.frombuffer(value, size, dimensions, at + 1).tolist())
        at += 1 + dimensions * size.itemsize
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    if len(value) - at != wanted:
        raise ValueError(f"its array {shape} of {dtype} has {len(value) - at} bytes, not {wanted}")
    return np.frombuffer(value, np.dtype(dtype).newbyteorder("<"), offset=at).reshape(shape)


@cache
def _form(form: str) -> tuple[str | None, tuple[int, ...] | None]:
    dtype, _, shape = form.partition(":")
    if dtype and dtype not in NUMBERS:
        raise ValueError(f"{dtype} is no dtype of MDS")
    return dtype or None, tuple(map(int, shape.split(","))) if shape else None


def _find(folder: Path) -> bool:
    path = folder / INDEX
    return path.is_file() and b'"shards"' in path.read_bytes()


LAYOUT = FolderLayout("MosaicML MDS", "index.json and shard.00000.mds, ...", _find, MDSFeatures)
