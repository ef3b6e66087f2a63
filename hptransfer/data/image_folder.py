"""Images in one folder per class: ROOT/CLASS/**/*.png, jpg, jpeg or webp, classes sorted by name.

Captions, if the config asks for them, come from the first of these that exists:

    ROOT/CLASS/NAME.txt       beside NAME.png: the whole file is its caption
    ROOT/CLASS/captions.txt   lines `NAME.png<TAB>caption`, for the images of its own folder
    the class's name          in one of a few sentences, underscores read as spaces
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import ImageFolderConfig, Layout
from hptransfer.data.captions import encode_named_captions
from hptransfer.data.images import DecodedImages
from hptransfer.data.reading import reading
from hptransfer.data.split import Captions
from hptransfer.errors import UserError

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
