"""Samples made of named columns: which column is what, and their cells as tensors.

MDS, WebDataset, Parquet and Hugging Face's datasets all hold samples as columns of any names. A
column is taken by its usual name (`USUAL`), or as data.latent_column and its like say. Of the
columns only these are read.

A cell of an array may be an array, nested lists, the bytes of an npy file, or raw values. Raw bytes
say neither shape nor dtype: these are taken from the columns NAME_shape and NAME_dtype if there are
such, and else the shape is the config's, at two bytes a value float16 and at four float32.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import FeaturesConfig, Layout
from hptransfer.data.arrays import FLOATS, INTEGERS, NPY_MAGIC, npy_array, require_array
from hptransfer.data.captions import encode_captions
from hptransfer.data.layouts.folder_layout import LatentSource
from hptransfer.data.reading import reading
from hptransfer.data.source import Captions
from hptransfer.errors import UserError

# The usual names of a column, the first that a folder has is taken; `npy`, `cls` and `txt` are
# WebDataset's endings.
USUAL = {
    "latent": ("latents", "latent", "vae_latents", "image_latents", "npy"),
    "label": ("labels", "label", "class", "class_id", "cls"),
    "token": (
        *("tokens", "caption_feature", "caption_latents", "text_features", "text_embeds"),
        "prompt_embeds",
    ),
    "mask": ("mask", "attention_mask", "tokens_mask", "prompt_attention_mask"),
    "pooled": ("pooled", "pooled_prompt_embeds", "pooled_embeds"),
    "caption": ("caption", "captions", "text", "prompt", "txt"),
    "feature": ("features",),
}
RAW_DTYPES = {2: "float16", 4: "float32"}  # of raw bytes, by bytes a value


def columns_of(config: FeaturesConfig, columns: Sequence[str], place: Path) -> dict[str, str]:
    """Return the column of every role that a folder has, by the role.

    Raises:
        UserError: a column that the config names is missing, or there are no latents.
    """
    found = {}
    for role, names in USUAL.items():
        stated = getattr(config, f"{role}_column")
        if stated and stated not in columns:
            raise UserError(
                f"{place} must have the column {stated} that data.{role}_column names, but has "
                f"{', '.join(columns)}. Name one of these."
            )
        name = stated or next((name for name in names if name in columns), "")
        if name:
            found[role] = name
    if "latent" not in found:
        raise UserError(
            f"{place} must have a column of latents, named {', '.join(USUAL['latent'])}, but has "
            f"{', '.join(columns) or 'none'}. Set data.latent_column to the one that holds them."
        )
    return found


def asks_features(config: FeaturesConfig) -> bool:
    """Whether a config states features of a frozen encoder.

    If not, a column that happens to be called `features` may hold anything.
    """
    return bool(config.feature_channels or config.feature_column)


def needed_columns(config: FeaturesConfig, found: Mapping[str, str]) -> list[str]:
    """Return the columns, of those of all roles, that every sample must have."""
    return [name for role, name in found.items() if role != "feature" or asks_features(config)]


class ColumnSource(LatentSource):
    """The samples of columns; captions that are text are encoded here, as those of images are."""

    def __init__(
        self,
        config: FeaturesConfig,
        folder: Path,
        columns: Sequence[str],
        place: Path,
        classes: int | None = None,
    ) -> None:
        """Find the columns and their shapes from the first sample.

        Args:
            columns: the names of all columns.
            place: the file whose columns they are, for errors.
            classes: how many classes the folder says it has; None: it does not say.
        """
        super().__init__(config, folder)
        self._all, self.columns = frozenset(columns), columns_of(config, columns, place)
        latent = self._array("latent", np.array([0]))[0]
        if len(latent.shape) != 3 or latent.shape[1] != latent.shape[2]:
            raise UserError(
                f"{self.place(0)} must have a square latent (C, H, H) in {self.columns['latent']}, "
                f"but it has shape {tuple(latent.shape)}. Extract again, or set data.latent_column."
            )
        self._shape = tuple(latent.shape)
        self.captions_are_text = "caption" in self.columns and "token" not in self.columns
        named = config.classes if classes is None else classes
        channels, size, _ = self._shape
        labels = named if "label" in self.columns else 1
        self._cells, features = self._feature_shape()
        self.layout = Layout(channels, size, labels, *self._caption_shapes(), features)

    def _caption_shapes(self) -> tuple[int, int, int]:
        """Return tokens, channels of a token, and pooled channels; zero where there are none."""
        config = self.config
        if "token" in self.columns:
            length, channels = self._tokens(np.array([0]))[0].shape
            pooled = 0
            if "pooled" in self.columns:
                (pooled,) = self._array("pooled", np.array([0]))[0].shape
            return max(length, config.caption_tokens), channels, pooled
        if "caption" in self.columns and config.caption_tokens:
            return config.caption_tokens, config.caption_channels, config.caption_channels
        return 0, 0, 0

    def _feature_shape(self) -> tuple[int, int]:
        """Return cells and channels of the first sample's features; zero where there are none."""
        if "feature" not in self.columns:
            return 0, 0
        try:
            cells, channels = self._features(np.array([0]))[0].shape
        except UserError:
            if asks_features(self.config):
                raise
            return 0, 0  # a column of something else
        return cells, channels

    @abstractmethod
    def cells_at(self, column: str, indices: np.ndarray) -> list[Any]:
        """Return the cells of a column: arrays, numbers, text or bytes.

        Raises:
            UserError: one is missing or broken.
        """

    def stored_at(self, indices: np.ndarray) -> Tensor:
        latents = self._array("latent", indices)
        for index, latent in zip(indices.tolist(), latents, strict=True):
            if latent.shape != self._shape:
                raise UserError(
                    f"{self.place(index)} must have latents of shape {self._shape} as the first "
                    f"sample, but has {tuple(latent.shape)}. Extract it again, or leave it out."
                )
        return torch.stack(latents)

    def labels_at(self, indices: np.ndarray) -> Tensor:
        if "label" not in self.columns:
            return super().labels_at(indices)
        column = self.columns["label"]
        cells = self.cells_at(column, indices)
        return torch.tensor([self._label(*pair) for pair in zip(indices, cells, strict=True)])

    def _label(self, index: int, cell: Any) -> int:
        value = cell.decode(errors="replace") if isinstance(cell, bytes) else cell
        if isinstance(value, np.ndarray | np.generic) and value.size == 1:
            value = value.item()
        try:
            if isinstance(value, bool | float):
                raise ValueError
            return int(value)
        except (ValueError, TypeError):
            raise UserError(
                f"{self.place(int(index))} must have a whole number as its "
                f"{self.columns['label']}, but has {str(value)[:40]!r}. Fill it in, or set "
                "data.label_column."
            ) from None

    def captions_at(self, indices: np.ndarray) -> Captions:
        if "token" not in self.columns:
            return self._encoded(indices)
        length, channels = self.layout.caption_tokens, self.layout.caption_channels
        tokens = torch.zeros(len(indices), length, channels)
        mask = torch.zeros(len(indices), length, dtype=torch.bool)
        found = self._tokens(indices)
        real = self._masks(indices, [len(each) for each in found])
        for row, (index, features) in enumerate(zip(indices.tolist(), found, strict=True)):
            if len(features) > length or features.shape[1] != channels:
                raise UserError(
                    f"{self.place(index)} must have a caption of at most {length} tokens of "
                    f"{channels} channels, but has {tuple(features.shape)}. Raise "
                    "data.caption_tokens, or extract again."
                )
            tokens[row, : len(features)] = features.masked_fill(~real[row].unsqueeze(-1), 0)
            mask[row, : len(features)] = real[row]
        return tokens, mask, self._pooled(indices)

    def _masks(self, indices: np.ndarray, lengths: list[int]) -> list[Tensor]:
        """Return which tokens of each caption are real; all, if there is no such column."""
        if "mask" not in self.columns:
            return [torch.ones(length, dtype=torch.bool) for length in lengths]
        masks = [mask.flatten().bool() for mask in self._array("mask", indices)]
        for index, mask, length in zip(indices.tolist(), masks, lengths, strict=True):
            if len(mask) != length:
                raise UserError(
                    f"{self.place(index)} must have as many tokens in {self.columns['mask']} as in "
                    f"{self.columns['token']}, but has {len(mask)} and {length}. Extract again."
                )
        return masks

    def _pooled(self, indices: np.ndarray) -> Tensor:
        channels = self.layout.pooled_channels
        if not channels:
            return torch.zeros(len(indices), 0)
        pooled = self._array("pooled", indices)
        for index, each in zip(indices.tolist(), pooled, strict=True):
            if each.shape != (channels,):
                raise UserError(
                    f"{self.place(index)} must have {channels} pooled features, but has shape "
                    f"{tuple(each.shape)}. Extract it again."
                )
        return torch.stack(pooled)

    def _encoded(self, indices: np.ndarray) -> Captions:
        """Return captions of text, encoded in the shapes of the config."""
        cells = self.cells_at(self.columns["caption"], indices)
        encoded = []
        for index, cell in zip(indices.tolist(), cells, strict=True):
            text = cell.decode(errors="replace") if isinstance(cell, bytes) else cell
            if not isinstance(text, str):
                raise UserError(
                    f"{self.place(index)} must have text as its {self.columns['caption']}, but has "
                    f"{str(text)[:40]!r}. Fill it in, or set data.caption_column."
                )
            try:
                length, channels = self.config.caption_tokens, self.config.caption_channels
                encoded.append(encode_captions([text], length, channels))
            except UserError as error:
                raise UserError(f"{self.place(index)}: {error}") from None
        tokens, mask, pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        return tokens, mask, pooled

    def features_at(self, indices: np.ndarray) -> Tensor:
        if not self.layout.feature_channels:
            return super().features_at(indices)
        found, wanted = self._features(indices), (self._cells, self.layout.feature_channels)
        for index, each in zip(indices.tolist(), found, strict=True):
            if each.shape != wanted:
                raise UserError(
                    f"{self.place(index)} must have features of shape {wanted} as the first "
                    f"sample, but has {tuple(each.shape)}. Extract it again, or leave it out."
                )
        return torch.stack(found)

    def _features(self, indices: np.ndarray) -> list[Tensor]:
        """Return features (N, D) of square maps; one vector (D,) is a map of one cell."""
        found = self._array("feature", indices)
        found = [each.unsqueeze(0) if each.ndim == 1 else each for each in found]
        for index, each in zip(indices.tolist(), found, strict=True):
            if each.ndim != 2 or math.isqrt(len(each)) ** 2 != len(each):
                raise UserError(
                    f"{self.place(index)} must have features (N, D) of a square map of N cells in "
                    f"{self.columns['feature']}, but they have shape {tuple(each.shape)}. Drop "
                    "class and register tokens, or set data.feature_column."
                )
        return found

    def _tokens(self, indices: np.ndarray) -> list[Tensor]:
        tokens = self._array("token", indices)
        for index, each in zip(indices.tolist(), tokens, strict=True):
            if each.ndim != 2:
                raise UserError(
                    f"{self.place(index)} must have tokens (L, K) in {self.columns['token']}, but "
                    f"they have shape {tuple(each.shape)}. Extract again, or set data.token_column."
                )
        return tokens

    def _array(self, role: str, indices: np.ndarray) -> list[Tensor]:
        """Return the arrays of a role as float32, or int64 for a mask, without leading ones."""
        column = self.columns[role]
        cells = self.cells_at(column, indices)
        shapes = self._told(f"{column}_shape", indices, cells)
        dtypes = self._told(f"{column}_dtype", indices, cells)
        arrays = []
        for index, cell, shape, dtype in zip(indices.tolist(), cells, shapes, dtypes, strict=True):
            with reading(lambda index=index: self.place(index)):
                array = self._decoded(role, cell, shape, dtype)
            kinds = INTEGERS if role == "mask" else FLOATS
            if str(array.dtype) not in kinds:
                place = f"{self.place(index)} {column}"
                require_array(place, array.shape, str(array.dtype), None, kinds)
            while array.ndim > _DIMENSIONS.get(role, 1) and array.shape[0] == 1:
                array = array[0]
            kind = torch.int64 if role == "mask" else torch.float32
            arrays.append(torch.from_numpy(np.array(array)).to(kind))
        return arrays

    def _told(self, column: str, indices: np.ndarray, cells: list[Any]) -> list[Any]:
        """Return what a column says of the raw bytes in another one; None without it."""
        if column not in self._all or not isinstance(cells[0], bytes):
            return [None] * len(indices)
        return self.cells_at(column, indices)

    def _decoded(self, role: str, cell: Any, shape: Any, dtype: Any) -> np.ndarray:
        if not isinstance(cell, bytes):
            if isinstance(cell, str) or cell is None:
                raise ValueError(f"its {self.columns[role]} is {str(cell)[:40]!r} and no array")
            return np.asarray(cell)
        if cell.startswith(NPY_MAGIC):
            return npy_array(cell)
        sizes = tuple(np.asarray(shape).tolist()) if shape is not None else self._stated_shape(role)
        values = math.prod(sizes)
        if dtype is None:
            dtype = RAW_DTYPES.get(len(cell) // values if values else 0)
        if dtype is None or len(cell) != values * np.dtype(str(dtype)).itemsize:
            stated = f"as {_KEYS[role]}, or " if role in _KEYS else ""
            raise ValueError(
                f"its {self.columns[role]} has {len(cell)} raw bytes, which are not {sizes} values "
                f"of {dtype or 'float16 or float32'}; the shape of raw bytes must be stated, "
                f"{stated}in a column {self.columns[role]}_shape"
            )
        return np.frombuffer(cell, np.dtype(str(dtype))).reshape(sizes)

    def _stated_shape(self, role: str) -> tuple[int, ...]:
        config = self.config
        return {
            "latent": (config.channels, config.image_size, config.image_size),
            "token": (config.caption_tokens, config.caption_channels),
            "mask": (config.caption_tokens,),
            "pooled": (config.pooled_channels,),
            "feature": (0, config.feature_channels),  # the cells are stated nowhere
        }[role]


_DIMENSIONS = {"latent": 3, "token": 2, "feature": 2}  # of a role's arrays; of all others 1
# The keys that state a role's shape, for errors.
_KEYS = {
    "latent": "data.channels and data.image_size",
    "token": "data.caption_tokens and data.caption_channels",
    "mask": "data.caption_tokens",
    "pooled": "data.pooled_channels",
}
