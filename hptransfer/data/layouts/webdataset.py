"""WebDataset's layout: tar files, in which neighbours of the same name make up a sample.

    00000000.npy        the latent (C, H, H)
    00000000.cls        the class's number as text
    00000000.txt        the caption
    00000000.npz        text features: caption_feature or tokens (L, K), attention_mask, pooled
    00000000.json       more of the sample: its numbers and texts are columns by their keys

A name is cut at the first dot after the last slash: before it stands the sample, behind it the
column, so that `0.latent.npy` is the column `latent` (`.npy` alone is the column `npy`). Arrays in
npz files and values in JSON files are columns by their own names. Samples are in the order of the
tar files' names. Pickled parts (.pth, .pt, .pkl, .pyd) are not read.

The headers of all tar files are read when the folder is opened. Of each part that is used its place
is kept, 16 bytes; parts are then read by their places.
"""

from __future__ import annotations

import json
import tarfile
from array import array
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hptransfer.config import FeaturesConfig
from hptransfer.data.arrays import OpenFiles, npy_array, npz_arrays
from hptransfer.data.layouts.columns import ColumnSource, columns_of, needed_columns
from hptransfer.data.layouts.folder_layout import FolderLayout
from hptransfer.data.reading import Progress, reading
from hptransfer.data.shards import Shards
from hptransfer.errors import UserError

PICKLES = ("pth", "pt", "pkl", "pickle", "pyd")
Parts = dict[str, tuple[int, int]]  # offset and size in bytes of each part of a sample


class WebDatasetFeatures(ColumnSource):
    """The samples of a folder of tar files."""

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        self.folder, self._read = folder, OpenFiles().read
        self.files = sorted(path.name for path in folder.glob("*.tar"))
        _, parts = next(_samples(folder / self.files[0]), ("", {}))
        columns = self._columns(folder / self.files[0], parts)
        used = columns_of(config, list(columns), folder / self.files[0]).values()
        told = [f"{column}_{of}" for column in used for of in ("shape", "dtype")]
        columns = {name: part for name, part in columns.items() if name in (*used, *told)}
        places: dict[str, array[int]] = {part: array("q") for part in set(columns.values())}
        counts, progress = [], Progress(f"listing the tar files of {folder}", len(self.files))
        for number, name in enumerate(self.files):
            before = len(next(iter(places.values())))
            for _, parts in _samples(folder / name):
                for part, held in places.items():
                    held.extend(parts.get(part, (-1, 0)))
            counts.append((len(next(iter(places.values()))) - before) // 2)
            progress.at(number + 1)
        self._parts = columns
        self._places = {part: np.array(held).reshape(-1, 2) for part, held in places.items()}
        self.shards = Shards(counts)
        self._npz = lru_cache(maxsize=512)(self._npz_of)  # several columns come from one npz
        super().__init__(config, folder, list(columns), folder / self.files[0])
        for column in needed_columns(config, self.columns):
            part = columns[column]
            lost = np.flatnonzero(self._places[part][:, 0] < 0)
            if len(lost):
                raise UserError(
                    f"Every sample must have the part .{part} as the first one has, but "
                    f"{self.place(int(lost[0]))} has none ({len(lost)} are without). Write them "
                    "again, or leave those samples out."
                )

    def _columns(self, path: Path, parts: Parts) -> dict[str, str]:
        """Return the part in which each column lies, from a first sample."""
        columns: dict[str, str] = {}
        for part, (offset, size) in parts.items():
            kind = part.rsplit(".", 1)[-1]
            if kind in PICKLES:
                continue
            if kind in ("npz", "json"):
                content = self._read(path, offset, size)
                with reading(f"{path}: .{part}"):
                    inside = npz_arrays(content) if kind == "npz" else json.loads(content)
                columns |= dict.fromkeys(inside if isinstance(inside, dict) else (), part)
            else:
                columns[part.removesuffix(".npy")] = part
        if not columns:
            raise UserError(
                f"{path} must hold samples of parts such as 0.npy and 0.cls, but its first one has "
                f"{', '.join(f'.{part}' for part in parts) or 'none'}, of which none is read "
                f"(.{' and .'.join(PICKLES)} are pickles). Write latents as .npy."
            )
        return columns

    def __len__(self) -> int:
        return len(self.shards)

    def place(self, index: int) -> str:
        number, row = self.shards.find(index)
        path = self.folder / self.files[number]
        for at, (key, _) in enumerate(_samples(path)):  # names are not kept, to save memory
            if at == row:
                return f"{path}, sample {row} ({key}),"
        return f"{path}, sample {row},"

    def cells_at(self, column: str, indices: np.ndarray) -> list[Any]:
        return [self._cell(column, int(index)) for index in indices]

    def _cell(self, column: str, index: int) -> Any:
        part = self._parts[column]
        kind = part.rsplit(".", 1)[-1]
        with reading(lambda: f"{self.place(index)} .{part}"):
            if kind == "npz":
                return self._npz(part, index)[column]
            content = self._content(part, index)
            if kind == "json":
                return json.loads(content)[column]
            return npy_array(content) if kind == "npy" else content

    def _npz_of(self, part: str, index: int) -> dict[str, np.ndarray]:
        return npz_arrays(self._content(part, index))

    def _content(self, part: str, index: int) -> bytes:
        number, _ = self.shards.find(index)
        offset, size = self._places[part][index].tolist()
        if offset < 0:
            raise ValueError("the sample has no such part")
        return self._read(self.folder / self.files[number], offset, size)


def _samples(path: Path) -> Iterator[tuple[str, Parts]]:
    """Yield the name of every sample of a tar file, and where its parts lie."""
    last, parts = "", {}
    with reading(path), tarfile.open(path, "r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[assignment]  # else it keeps every header in memory
            folder, _, file = member.name.rpartition("/")
            name, dot, part = file.partition(".")
            if not member.isfile() or not dot or not name:
                continue
            key = f"{folder}/{name}" if folder else name
            if key != last and parts:
                yield last, parts
                parts = {}
            last = key
            parts[part.lower()] = (member.offset_data, member.size)
    if parts:
        yield last, parts


def _find(folder: Path) -> bool:
    return any(folder.glob("*.tar"))


LAYOUT = FolderLayout(
    "WebDataset", "*.tar with 0.npy (or 0.latent.npy), 0.cls, ...", _find, WebDatasetFeatures
)
