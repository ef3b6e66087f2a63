"""A folder of the Hugging Face package `datasets`, written by its `save_to_disk`."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import HuggingFaceConfig, Layout
from hptransfer.data.captions import encode_named_captions
from hptransfer.data.images import DecodedImages
from hptransfer.data.reading import reading
from hptransfer.data.split import Captions
from hptransfer.errors import UserError


class HuggingFace:
    """The samples of a saved `datasets.Dataset`, memory-mapped by Arrow; nothing is downloaded."""

    advice = ()

    def __init__(self, config: HuggingFaceConfig, folder: Path) -> None:
        self.folder, self.config = folder, config
        table = _opened(folder)
        for name in self._columns():
            _require_column(table, name, folder)
        self.layout: Layout = Layout(
            config.channels,
            config.image_size,
            _classes(config, table),
            config.caption_tokens,
            config.caption_channels,
            config.pooled_channels,
        )
        self.images = _undecoded(table, config.image_column, folder)
        self.table = table
        paths = [file["filename"] for file in table.cache_files]
        self.files = sorted(Path(os.path.relpath(path, folder)).as_posix() for path in paths)
        self._decoded = DecodedImages(self._content, self.place, config.channels, config.image_size)

    def _columns(self) -> list[str]:
        asked = [self.config.image_column, self.config.label_column]
        return [*asked, self.config.caption_column] if self.config.caption_tokens else asked

    def __len__(self) -> int:
        return len(self.table)

    def place(self, index: int) -> str:
        """Return the name of a sample, for errors."""
        return f"{self.folder}, sample {index},"

    def images_at(self, indices: np.ndarray) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1]."""
        return self._decoded.at(indices)

    def _content(self, index: int) -> bytes:
        content = self.images[index][self.config.image_column]["bytes"]
        if content is None:
            raise ValueError("the image's bytes are not in it; save_to_disk puts them there")
        return content

    def labels_at(self, indices: np.ndarray) -> Tensor:
        """Return labels (B,)."""
        return torch.tensor(self._values(self.config.label_column, indices, int))

    def captions_at(self, indices: np.ndarray) -> Captions:
        """Return tokens, mask and pooled features of each image's sentence."""
        sentences = self._values(self.config.caption_column, indices, str)
        return encode_named_captions(sentences, [self.place(int(i)) for i in indices], self.config)

    def _values(self, column: str, indices: np.ndarray, kind: type) -> list[Any]:
        values = self.table.select_columns([column])[indices.tolist()][column]
        for index, value in zip(indices, values, strict=True):
            if type(value) is not kind:
                raise UserError(
                    f"{self.place(int(index))} must have a {column} of type {kind.__name__}, but "
                    f"has {value!r}. Fill it in, or name another column."
                )
        return values


def _opened(folder: Path) -> Any:
    """Return a saved dataset, which must not be a dictionary of splits."""
    if find_spec("datasets") is None:
        raise UserError(
            "data=huggingface needs the package datasets, but it is not installed. Run "
            "pip install 'hptransfer[huggingface]'."
        )
    import datasets  # takes a second, and only this source needs it

    with reading(folder):
        table = datasets.load_from_disk(str(folder))
    if isinstance(table, datasets.DatasetDict):
        names = sorted(str(name) for name in table)
        raise UserError(
            f"data=huggingface reads one split, but {folder} holds {', '.join(names)}. Set "
            f"runtime.data_folder={folder / names[0]} or another of them."
        )
    return table.with_format(None)


def _require_column(table: Any, name: str, folder: Path) -> None:
    if name not in table.column_names:
        raise UserError(
            f"{folder} must have the column {name}, but has {', '.join(table.column_names)}. Set "
            "data.image_column, data.label_column or data.caption_column."
        )


def _undecoded(table: Any, column: str, folder: Path) -> Any:
    """Return the column of images as the bytes that were saved."""
    import datasets

    if not isinstance(table.features[column], datasets.Image):
        raise UserError(
            f"The column {column} in {folder} must be of images, but is {table.features[column]}. "
            "Set data.image_column, or cast it to datasets.Image()."
        )
    return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _classes(config: HuggingFaceConfig, table: Any) -> int:
    """Return the number of classes that the table names, or the config's if it names none."""
    return getattr(table.features[config.label_column], "num_classes", config.classes)
