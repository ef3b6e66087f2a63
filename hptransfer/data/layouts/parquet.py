"""Parquet files with a column of latents, as nested lists or as bytes.

Samples are in the order of the files' names, then of their rows. To read one row, Parquet must read
and unpack the row group in which it lies. Row groups that were read are kept up to `CACHE_BYTES`,
so a folder that is larger than this is read slowly in the order of training: write it as shards
once. A row group above `CACHE_BYTES` is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from hptransfer.config import FeaturesConfig
from hptransfer.data.arrays import MOST_OPEN
from hptransfer.data.arrow import cells_of
from hptransfer.data.layouts.columns import ColumnSource
from hptransfer.data.layouts.folder_layout import FolderLayout, files_below
from hptransfer.data.reading import reading
from hptransfer.data.shards import Shards
from hptransfer.errors import UserError

if TYPE_CHECKING:  # only folders of such files need the package
    import pyarrow as pa
    from pyarrow import parquet

CACHE_BYTES = 512 * 2**20  # bytes of unpacked row groups that a data set keeps in memory


class ParquetFeatures(ColumnSource):
    """The rows of the Parquet files of a folder."""

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        self.folder, self.files = folder, files_below(folder, ".parquet")
        self._open = lru_cache(maxsize=MOST_OPEN)(self._opened)
        self._groups: list[tuple[str, int]] = []  # file and row group
        counts, names = [], []
        for name in self.files:
            file = self._open(name)
            names = names or file.schema_arrow.names
            if lost := [column for column in names if column not in file.schema_arrow.names]:
                raise UserError(
                    f"Every Parquet file must have the columns of the first, but {folder / name} "
                    f"lacks {', '.join(lost)}. Write it again, or move it elsewhere."
                )
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group)
                if rows.total_byte_size > CACHE_BYTES:
                    raise UserError(
                        f"A row group must have at most {CACHE_BYTES // 2**20} MiB, since one row "
                        f"is read by reading its group, but row group {group} of {folder / name} "
                        f"has {rows.total_byte_size // 2**20} MiB. Write it again with a smaller "
                        "row_group_size."
                    )
                if rows.num_rows:
                    self._groups.append((name, group))
                    counts.append(rows.num_rows)
        if not counts:
            raise UserError(f"{folder} must hold Parquet files with rows, but they have none.")
        self.shards = Shards(counts)
        self._starts = self._rows_before()
        self._kept: OrderedDict[tuple[str, int, str], pa.ChunkedArray] = OrderedDict()
        self._bytes, self._lock = 0, Lock()
        super().__init__(config, folder, names, folder / self.files[0])

    def _rows_before(self) -> list[int]:
        """Return how many rows of its file lie before each row group."""
        starts, at = [], {name: 0 for name in self.files}
        for name, group in self._groups:
            starts.append(at[name])
            at[name] += self._open(name).metadata.row_group(group).num_rows
        return starts

    def _opened(self, name: str) -> parquet.ParquetFile:
        from pyarrow import parquet

        with reading(self.folder / name):
            return parquet.ParquetFile(self.folder / name)

    def __len__(self) -> int:
        return len(self.shards)

    def place(self, index: int) -> str:
        group, row = self.shards.find(index)
        name, _ = self._groups[group]
        return f"{self.folder / name}, row {self._starts[group] + row},"

    def cells_at(self, column: str, indices: np.ndarray) -> list[Any]:
        cells: list[Any] = [None] * len(indices)
        for group, here, rows in self.shards.parts(indices):
            name, _ = self._groups[group]
            stored = self._column(group, column)
            with reading(f"{self.folder / name}: {column}, near row {self._starts[group]},"):
                for at, cell in zip(here, cells_of(stored.take(rows)), strict=True):
                    cells[at] = cell
        return cells

    def _column(self, group: int, column: str) -> pa.ChunkedArray:
        """Return a column of a row group; the least recently used ones leave the memory."""
        name, number = self._groups[group]
        key = (name, number, column)
        with self._lock:
            if key not in self._kept:
                with reading(self.folder / name):
                    table = self._open(name).read_row_group(number, columns=[column])
                self._kept[key] = table.column(column)
                self._bytes += self._kept[key].nbytes
            self._kept.move_to_end(key)
            while self._bytes > CACHE_BYTES and len(self._kept) > 1:
                _, left = self._kept.popitem(last=False)
                self._bytes -= left.nbytes
            return self._kept[key]


def _find(folder: Path) -> bool:
    return any(folder.rglob("*.parquet"))


LAYOUT = FolderLayout("Parquet", "*.parquet with a column of latents", _find, ParquetFeatures)
