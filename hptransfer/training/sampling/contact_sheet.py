"""Samples of a trained model as a grid of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GAP = 1  # pixels between images, before they are enlarged
SIDE = 64  # least side of an image in pixels, after it is enlarged


def lay_out_samples(samples: np.ndarray) -> np.ndarray:
    """Return samples (rows, columns, C, H, W) in [-1, 1] on one white page (H', W', 3) in [0, 1].

    One channel is shown as grey, three as colours; values outside [-1, 1] are clipped.
    """
    rows, columns, channels, height, width = samples.shape
    assert channels in (1, 3), f"{channels} channels are no image"
    images = np.clip((samples + 1) / 2, 0, 1).transpose(0, 1, 3, 4, 2)
    images = np.broadcast_to(images, (rows, columns, height, width, 3))
    padded = np.pad(images, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=1.0)
    page = padded.transpose(0, 2, 1, 3, 4).reshape(rows * (height + GAP), -1, 3)
    scale = max(1, -(-SIDE // height))
    return page[:-GAP, :-GAP].repeat(scale, axis=0).repeat(scale, axis=1)


def write_samples_png(path: Path, page: np.ndarray) -> None:
    """Write a page (H, W, 3) in [0, 1] as PNG."""
    from matplotlib import image

    path.parent.mkdir(parents=True, exist_ok=True)
    image.imsave(path, page)
