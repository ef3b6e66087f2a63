"""Data sets of images: a folder per class, or a folder of the Hugging Face package `datasets`.

Images are resized and cropped to the centre as in arXiv 2105.05233.

An image folder is ROOT/CLASS/**/*.png, jpg, jpeg or webp, with classes sorted by name. Captions, if
the config asks for them, come from the first of these that exists:

    ROOT/CLASS/NAME.txt       beside NAME.png: the whole file is its caption
    ROOT/CLASS/captions.txt   lines `NAME.png<TAB>caption`, for the images of its own folder
    the class's name          in one of a few sentences, underscores read as spaces
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hptransfer.config import HuggingFaceConfig, ImageFolderConfig, Layout
from hptransfer.data.captions import encode_named_captions
from hptransfer.data.source import Captions, reader_threads, reading
from hptransfer.errors import UserError

IMAGE_MODES = {1: "L", 3: "RGB"}  # Pillow's mode by number of channels
CACHE_BYTES = 256 * 2**20  # bytes of decoded images that a data set keeps in memory


def decode_image(content: bytes, channels: int, size: int, place: str) -> np.ndarray:
    """Return an image's pixels (C, size, size) as uint8."""
    try:
        with reading(place), Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its mode {image.mode} has more than 8 bits a channel")
            pixels = np.asarray(centre_crop(image.convert(IMAGE_MODES[channels]), size))
    except Image.DecompressionBombError as error:
        raise UserError(f"{place} is too large an image: {error} Leave it out.") from error
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)


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


class DecodedImages:
    """Images by index, decoded by threads when they are asked for.

    The first images that fit into `cache_bytes` are kept. None is replaced, since every epoch reads
    every image once.
    """

    def __init__(
        self,
        content: Callable[[int], bytes],
        place: Callable[[int], str],
        channels: int,
        size: int,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._content, self._place = content, place
        self._shape = channels, size
        self._room = cache_bytes // (channels * size * size)
        self._kept: dict[int, np.ndarray] = {}
        self._lock = Lock()

    def at(self, indices: np.ndarray) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1]."""
        pixels = np.stack(list(reader_threads().map(self._pixels, indices.tolist())))
        return torch.from_numpy(pixels).float() / 127.5 - 1

    def _pixels(self, index: int) -> np.ndarray:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        place = self._place(index)
        with reading(place):
            content = self._content(index)
        pixels = decode_image(content, *self._shape, place)
        with self._lock:
            if len(self._kept) < self._room:
                self._kept[index] = np.ascontiguousarray(pixels)
        return pixels


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TEMPLATES = ("a photo of a {}", "a picture of a {}", "an image that shows a {}", "this is a {}")
LIST = "captions.txt"  # file of captions in a class's folder


class ImageFolder:
    """The images of a folder with one folder per class."""

    advice = ()

    def __init__(self, config: ImageFolderConfig, folder: Path) -> None:
        self.folder, self.config = folder, config
        with os.scandir(folder) as entries:
            folders = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
        self.classes = sorted(folders)
        found = [sorted(_files(folder, name)) for name in self.classes]
        self.images = [n for names in found for n in names if n.lower().endswith(SUFFIXES)]
        self._known = frozenset(self.images)
        self.texts = {n for names in found for n in names if n.endswith(".txt")}
        self._refuse_empty()
        number = {name: index for index, name in enumerate(self.classes)}
        self.labels = torch.tensor([number[n.split("/", 1)[0]] for n in self.images])
        self.files = [*self.images, *sorted(self.texts)]
        self.layout: Layout = _layout(config, len(self.classes))
        self._decoded = DecodedImages(self._content, self.place, config.channels, config.image_size)

    def _refuse_empty(self) -> None:
        """Refuse a folder without classes, a class without images, and a misplaced list."""
        filled = {name.split("/", 1)[0] for name in self.images}
        empty = [name for name in self.classes if name not in filled]
        if empty or not self.classes:
            what = f"{self.folder / empty[0]} holds none" if empty else "there is no class folder"
            raise UserError(
                f"{self.folder} must hold one folder a class with {', '.join(SUFFIXES)} images in "
                f"it, but {what}. Fill or remove it, or set runtime.data_folder."
            )
        if self.config.caption_tokens and (self.folder / LIST).is_file():
            raise UserError(
                f"Captions are read from {LIST} in each class's folder, but there is "
                f"{self.folder / LIST} beside them. Cut it up by class, and remove it."
            )

    def __len__(self) -> int:
        return len(self.images)

    def place(self, index: int) -> str:
        """Return the name of a sample's file, for errors."""
        return str(self.folder / self.images[index])

    def images_at(self, indices: np.ndarray) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1]."""
        return self._decoded.at(indices)

    def _content(self, index: int) -> bytes:
        return (self.folder / self.images[index]).read_bytes()

    def labels_at(self, indices: np.ndarray) -> Tensor:
        """Return labels (B,): the place of the class's name in sorted order."""
        return self.labels[torch.from_numpy(indices)]

    def captions_at(self, indices: np.ndarray) -> Captions:
        """Return tokens, mask and pooled features of each image's sentence."""
        places = [self.place(i) for i in indices]
        return encode_named_captions([self.sentence(int(i)) for i in indices], places, self.config)

    def sentence(self, index: int) -> str:
        """Return the caption of an image."""
        name = self.images[index]
        folder, file = name.rsplit("/", 1)
        beside, listed = f"{name.rsplit('.', 1)[0]}.txt", f"{folder}/{LIST}"
        if beside in self.texts and beside != listed:
            with reading(self.folder / beside):
                return (self.folder / beside).read_text(encoding="utf-8").strip()
        lines = self._listed(folder) if listed in self.texts else {}
        noun = name.split("/", 1)[0].replace("_", " ")
        return lines.get(file, TEMPLATES[index % len(TEMPLATES)].format(noun))

    def _listed(self, folder: str) -> dict[str, str]:
        """Return the captions of a folder's list by image; each image must be in the folder."""
        path = self.folder / folder / LIST
        captions = _listed_captions(path, path.stat().st_mtime_ns)
        for name in captions:
            if f"{folder}/{name}" not in self._known:
                raise UserError(
                    f"Every line of {path} must name an image of its folder, but there is no "
                    f"{name!r}. Write its whole name, or remove the line."
                )
        return captions


def _layout(config: ImageFolderConfig, classes: int) -> Layout:
    """Return the shapes: those of the config, and the number of classes found."""
    length, features = config.caption_tokens, config.caption_channels
    return Layout(
        config.channels, config.image_size, classes, length, features, config.pooled_channels
    )


def _files(root: Path, name: str) -> Iterator[str]:
    """Yield all files below a class's folder, relative to the root."""
    for folder, _, files in os.walk(root / name, followlinks=True):
        inside = Path(folder).relative_to(root).as_posix()
        yield from (f"{inside}/{file}" for file in files if not file.startswith("."))


@lru_cache(maxsize=1024)
def _listed_captions(path: Path, _modified: int) -> dict[str, str]:
    with reading(path):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    pairs = [line.split("\t", 1) for line in lines]
    if any(len(pair) != 2 for pair in pairs):
        number = next(i for i, pair in enumerate(pairs) if len(pair) != 2)
        raise UserError(
            f"Every line of {path} must read file name, tab, caption, but one is "
            f"{lines[number]!r}. Put a tab between the two."
        )
    return {name.strip(): caption.strip() for name, caption in pairs}


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
