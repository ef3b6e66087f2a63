"""Decoding of images to arrays, resized and cropped to the centre as in arXiv 2105.05233."""

from __future__ import annotations

import io
from collections.abc import Callable
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hptransfer.data.reading import reading
from hptransfer.data.seal import reader_threads
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
