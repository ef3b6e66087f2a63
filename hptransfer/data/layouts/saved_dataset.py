"""A dataset of Hugging Face's package `datasets` with latents, as `save_to_disk` writes it.

Latents may be `Array3D` columns, nested lists or bytes. A data set of images is `data=huggingface`.
The package `datasets` maps the files into memory; nothing is downloaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from hptransfer.config import FeaturesConfig
from hptransfer.data.arrow import cells_of
from hptransfer.data.images import saved_dataset
from hptransfer.data.layouts.columns import ColumnSource, columns_of
from hptransfer.data.layouts.folder_layout import FolderLayout
from hptransfer.data.reading import reading


class SavedDatasetFeatures(ColumnSource):
    """The rows of a saved `datasets.Dataset`."""

    def __init__(self, config: FeaturesConfig, folder: Path) -> None:
        self.folder, table = folder, saved_dataset(folder, "data=features")
        self._rows, self._table = len(table), table.with_format("arrow")
        paths = [file["filename"] for file in table.cache_files]
        self.files = sorted(Path(os.path.relpath(path, folder)).as_posix() for path in paths)
        named = {
            name: kind.num_classes
            for name, kind in table.features.items()
            if hasattr(kind, "num_classes")
        }
        label = columns_of(config, table.column_names, folder).get("label", "")
        super().__init__(config, folder, table.column_names, folder, named.get(label))

    def __len__(self) -> int:
        return self._rows

    def place(self, index: int) -> str:
        return f"{self.folder}, sample {index},"

    def cells_at(self, column: str, indices: np.ndarray) -> list[Any]:
        with reading(f"{self.folder}: {column}, near sample {int(indices[0])},"):
            table = self._table.select_columns([column])[indices.tolist()]
            return cells_of(table.column(column))


def _find(folder: Path) -> bool:
    names = {path.name for path in folder.glob("*.json")}
    return "dataset_dict.json" in names or {"state.json", "dataset_info.json"} <= names


LAYOUT = FolderLayout(
    "Hugging Face dataset",
    "state.json and data-*.arrow, as save_to_disk writes them",
    _find,
    SavedDatasetFeatures,
)
