"""Data sets of images: a folder per class, or a folder of the Hugging Face package `datasets`.

Images are resized and cropped to the centre as in arXiv 2105.05233.

An image folder is ROOT/CLASS/**/*.png, jpg, jpeg or webp, with classes sorted by name. Captions, if
the config asks for them, come from the first of these that exists:

    ROOT/CLASS/NAME.txt       beside NAME.png: the whole file is its caption
    ROOT/CLASS/captions.txt   lines `NAME.png<TAB>caption`, for the images of its own folder
    the class's name          in one of a few sentences, underscores read as spaces
"""

from __future__ import annotations

import dataclasses
import io
import os
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hptransfer.config import HuggingFaceConfig, ImageFolderConfig
from hptransfer.config.trial import PixelsConfig
from hptransfer.data.captions import encode_captions
from hptransfer.data.reading import reader_threads, reading
from hptransfer.data.source import Captions, Source
from hptransfer.errors import UserError

IMAGE_MODES = {1: "L", 3: "RGB"}  # Pillow's mode by number of channels
CACHE_BYTES = 256 * 2**20  # bytes of decoded images that a data set keeps in memory
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TEMPLATES = ("a photo of a {}", "a picture of a {}", "an image that shows a {}", "this is a {}")
LIST = "captions.txt"  # file of captions in a class's folder


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the image with its shorter side resized to `size` and its centre cropped.

    As long as both sides stay at least twice `size`, the image is halved by averaging pixels.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


class PixelSource(Source):
    """Images, decoded by threads when they are asked for, with sentences encoded as captions.

    The first images that fit into `CACHE_BYTES` are kept. None is replaced, since every epoch reads
    every image once.
    """

    captions_are_text = True

    def __init__(self, config: PixelsConfig, folder: Path, classes: int) -> None:
        self.config, self.folder = config, folder
        self.layout = dataclasses.replace(config.layout, classes=classes)
        self._room = CACHE_BYTES // (config.channels * config.image_size**2)
        self._kept: dict[int, np.ndarray] = {}

    @abstractmethod
    def content(self, index: int) -> bytes:
        """Return the bytes of an image's file."""

    @abstractmethod
    def sentences(self, indices: Sequence[int]) -> list[str]:
        """Return the captions of images."""

    def stored_at(self, indices: np.ndarray) -> Tensor:
        pixels = list(reader_threads().map(self._pixels, indices.tolist()))
        for index, image in zip(indices.tolist(), pixels, strict=True):
            if len(self._kept) < self._room:
                self._kept[index] = image
        return torch.from_numpy(np.stack(pixels)).float() / 127.5 - 1

    def _pixels(self, index: int) -> np.ndarray:
        """Return an image's pixels (C, size, size) as uint8."""
        if index in self._kept:
            return self._kept[index]
        place, channels, size = self.place(index), self.config.channels, self.config.image_size
        try:
            with reading(place), Image.open(io.BytesIO(self.content(index))) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"its mode {image.mode} has more than 8 bits a channel")
                pixels = np.asarray(centre_crop(image.convert(IMAGE_MODES[channels]), size))
        except Image.DecompressionBombError as error:
            raise UserError(f"{place} is too large an image: {error} Leave it out.") from error
        return pixels.reshape(size, size, channels).transpose(2, 0, 1)

    def captions_at(self, indices: np.ndarray) -> Captions:
        length, channels = self.config.caption_tokens, self.config.caption_channels
        encoded = []
        for index, sentence in zip(indices.tolist(), self.sentences(indices.tolist()), strict=True):
            try:
                encoded.append(encode_captions([sentence], length, channels))
            except UserError as error:
                raise UserError(f"{self.place(index)}: {error}") from None
        tokens, mask, pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        return tokens, mask, pooled


class ImageFolder(PixelSource):
    """The images of a folder with one folder per class; a label is the class's place by name."""

    def __init__(self, config: ImageFolderConfig, folder: Path) -> None:
        with os.scandir(folder) as entries:
            classes = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
        super().__init__(config, folder, len(classes))
        found = [_files(folder, name) for name in classes]
        images = [[n for n in names if n.lower().endswith(SUFFIXES)] for names in found]
        empty = [name for name, names in zip(classes, images, strict=True) if not names]
        if empty or not classes:
            what = f"{folder / empty[0]} holds none" if empty else "there is no class folder"
            raise UserError(
                f"{folder} must hold one folder a class with {', '.join(SUFFIXES)} images in "
                f"it, but {what}. Fill or remove it, or set runtime.data_folder."
            )
        if config.caption_tokens and (folder / LIST).is_file():
            raise UserError(
                f"Captions are read from {LIST} in each class's folder, but there is "
                f"{folder / LIST} beside them. Cut it up by class, and remove it."
            )
        self.images = [name for names in images for name in names]
        self._known = frozenset(self.images)
        self.labels = torch.tensor([label for label, names in enumerate(images) for _ in names])
        self.texts = {name for names in found for name in names if name.endswith(".txt")}
        self.files = [*self.images, *sorted(self.texts)]
        self._listed = cache(self._read_list)

    def __len__(self) -> int:
        return len(self.images)

    def place(self, index: int) -> str:
        return str(self.folder / self.images[index])

    def content(self, index: int) -> bytes:
        return (self.folder / self.images[index]).read_bytes()

    def labels_at(self, indices: np.ndarray) -> Tensor:
        return self.labels[torch.from_numpy(indices)]

    def sentences(self, indices: Sequence[int]) -> list[str]:
        return [self._sentence(index) for index in indices]

    def _sentence(self, index: int) -> str:
        name = self.images[index]
        folder, file = name.rsplit("/", 1)
        beside, listed = f"{name.rsplit('.', 1)[0]}.txt", f"{folder}/{LIST}"
        if beside in self.texts and beside != listed:
            with reading(self.folder / beside):
                return (self.folder / beside).read_text(encoding="utf-8").strip()
        lines = self._listed(folder) if listed in self.texts else {}
        noun = name.split("/", 1)[0].replace("_", " ")
        return lines.get(file, TEMPLATES[index % len(TEMPLATES)].format(noun))

    def _read_list(self, folder: str) -> dict[str, str]:
        """Return the captions of a folder's list by image; each image must be in the folder."""
        path, captions = self.folder / folder / LIST, {}
        with reading(path):
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        for line in lines:
            name, tab, caption = line.partition("\t")
            if not tab:
                raise UserError(
                    f"Every line of {path} must read file name, tab, caption, but one is "
                    f"{line!r}. Put a tab between the two."
                )
            captions[name.strip()] = caption.strip()
        for name in captions:
            if f"{folder}/{name}" not in self._known:
                raise UserError(
                    f"Every line of {path} must name an image of its folder, but there is no "
                    f"{name!r}. Write its whole name, or remove the line."
                )
        return captions


def _files(root: Path, name: str) -> list[str]:
    """Return all files below a class's folder, relative to the root and sorted."""
    found = []
    for folder, _, files in os.walk(root / name, followlinks=True):
        inside = Path(folder).relative_to(root).as_posix()
        found += [f"{inside}/{file}" for file in files if not file.startswith(".")]
    return sorted(found)


def saved_dataset(folder: Path, choice: str) -> Any:
    """Return the `datasets.Dataset` that `save_to_disk` wrote; `choice` names the kind of data."""
    if find_spec("datasets") is None:
        raise UserError(
            f"{choice} needs the package datasets to read {folder}, but it is not installed. Run "
            "pip install 'hptransfer[huggingface]'."
        )
    import datasets

    with reading(folder):
        table = datasets.load_from_disk(str(folder))
    if isinstance(table, datasets.DatasetDict):
        names = sorted(str(name) for name in table)
        raise UserError(
            f"{choice} reads one split, but {folder} holds {', '.join(names)}. Set "
            f"runtime.data_folder={folder / names[0]} or another of them."
        )
    return table


class HuggingFace(PixelSource):
    """The samples of a saved `datasets.Dataset`, memory-mapped by Arrow; nothing is downloaded."""

    config: HuggingFaceConfig

    def __init__(self, config: HuggingFaceConfig, folder: Path) -> None:
        table = saved_dataset(folder, "data=huggingface")
        import datasets  # takes a second, and only folders of this kind need it

        column = config.image_column
        captions = [config.caption_column] if config.caption_tokens else []
        for name in (column, config.label_column, *captions):
            if name not in table.column_names:
                raise UserError(
                    f"{folder} must have the column {name}, but has "
                    f"{', '.join(table.column_names)}. Set data.image_column, data.label_column or "
                    "data.caption_column, or data=features if it holds latents."
                )
        if not isinstance(table.features[column], datasets.Image):
            raise UserError(
                f"The column {column} in {folder} must be of images, but is "
                f"{table.features[column]}. Set data.image_column, or cast it to datasets.Image()."
            )
        named = getattr(table.features[config.label_column], "num_classes", config.classes)
        super().__init__(config, folder, named)
        self.table: Any = table.with_format(None)
        self.images: Any = self.table.select_columns([column]).cast_column(
            column, datasets.Image(decode=False)
        )
        paths = [file["filename"] for file in table.cache_files]
        self.files = sorted(Path(os.path.relpath(path, folder)).as_posix() for path in paths)

    def __len__(self) -> int:
        return len(self.table)

    def place(self, index: int) -> str:
        return f"{self.folder}, sample {index},"

    def content(self, index: int) -> bytes:
        content = self.images[index][self.config.image_column]["bytes"]
        if content is None:
            raise ValueError("the image's bytes are not in it; save_to_disk puts them there")
        return content

    def labels_at(self, indices: np.ndarray) -> Tensor:
        return torch.tensor(self._values(self.config.label_column, indices.tolist(), int))

    def sentences(self, indices: Sequence[int]) -> list[str]:
        return self._values(self.config.caption_column, indices, str)

    def _values(self, column: str, indices: Sequence[int], kind: type) -> list[Any]:
        values = self.table.select_columns([column])[list(indices)][column]
        for index, value in zip(indices, values, strict=True):
            if type(value) is not kind:
                raise UserError(
                    f"{self.place(index)} must have a {column} of type {kind.__name__}, but "
                    f"has {value!r}. Fill it in, or name another column."
                )
        return values
