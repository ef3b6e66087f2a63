"""The small classifiers whose features measure the quality of samples, and serve REPA.

There is one per data set.

`python -m benchmarks.classifier` trains them anew with a fixed seed, and writes the weight files
beside this module, with their accuracy and the hash of their data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from hptransfer.config import DataConfig, Layout
from hptransfer.errors import UserError
from hptransfer.training.device import tf32

FEATURES = 64  # features per image
# Channels of the convolutions, by the image's side in pixels. The first convolution keeps the size,
# the others halve it down to 4.
CHANNELS = {8: (32, 64), 32: (16, 32, 64, 64)}
# Whether the features are the last convolution's channels averaged over the image, as FID's are, or
# else the hidden layer. The hidden layer cannot tell clothes from noise: see
# docs/how_to/quality_of_samples.md.
POOLED = {8: False, 32: True}
IMAGES_AT_ONCE = 500  # images of one forward of the classifier


class Classifier(nn.Module):
    """A classifier of convolutions and one hidden layer; one of these gives the features."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        widths = (layout.channels, *CHANNELS[layout.image_size])
        self.pooled = POOLED[layout.image_size]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=1 if first else 2, padding=1)
            for first, before, after in zip(
                [True] + [False] * len(widths), widths, widths[1:], strict=False
            )
        )
        self.hidden = nn.Linear(widths[-1] * 4 * 4, FEATURES)
        self.classes = nn.Linear(FEATURES, layout.classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the features (B, 64) of images (B, C, H, W) in [-1, 1]."""
        convolved = self._convolved(images)
        return convolved.mean((-2, -1)) if self.pooled else self._hidden(convolved)

    def feature_map(self, images: Tensor) -> Tensor:
        """Return the last convolution's channels at each place (B, 64, 4, 4)."""
        return self._convolved(images)

    def forward(self, images: Tensor) -> Tensor:
        """Return one logit per class (B, classes)."""
        return self.classes(self._hidden(self._convolved(images)))

    def _convolved(self, images: Tensor) -> Tensor:
        for convolution in self.convolutions:
            images = convolution(images).relu()
        return images

    def _hidden(self, convolved: Tensor) -> Tensor:
        return self.hidden(convolved.flatten(1)).relu()


def weights_file(data: DataConfig) -> Path:
    """Return the path of a data set's classifier in the package."""
    return Path(__file__).parent / f"{data.name}.safetensors"


def classifier_facts(data: DataConfig) -> dict[str, Any]:
    """Return the facts in a classifier's file: its data's hash, its accuracy, its command."""
    with safe_open(str(weights_file(data)), framework="pt") as file:
        return json.loads(file.metadata()["about"])


@lru_cache(maxsize=2)
def load_classifier(data: DataConfig) -> Classifier:
    """Return the classifier of a data set, on the CPU.

    Raises:
        UserError: the classifier was trained on other content of the same name.
    """
    trained_on = classifier_facts(data)["data_sha256"]
    if trained_on != data.sha256:
        raise UserError(
            "Samples can be judged only by a classifier of the same data, but the one for "
            f"{data.name} was trained on the content {trained_on}, and this is "
            f"data.sha256={data.sha256}. Set quality.samples=0 to judge none."
        )
    model = Classifier(data.layout)
    model.load_state_dict(load_file(weights_file(data)), strict=True)
    return model.requires_grad_(False).eval()


def features_of(data: DataConfig, images: Tensor) -> Tensor:
    """Return the features (N, 64) of images (N, C, H, W) in [-1, 1], on the images' device."""
    return _in_parts(load_classifier(data).to(images.device).features, images)


def feature_maps_of(data: DataConfig, images: Tensor) -> Tensor:
    """Return features by place (N, 16, 64), of a map of 4x4 cells, row by row, for REPA."""
    maps = _in_parts(load_classifier(data).to(images.device).feature_map, images)
    return maps.flatten(-2).mT


@torch.no_grad()
def _in_parts(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with fixed_arithmetic():
        return torch.cat([function(part) for part in images.split(IMAGES_AT_ONCE)])


@contextmanager
def fixed_arithmetic() -> Iterator[None]:
    """Let a GPU compute features in the same way each time, without TF32, in a `with` block.

    By default it would multiply in TF32, and choose its algorithm by timing.
    """
    unchanged: dict[str, Any] = {"allow_tf32": None, "fp32_precision": None}
    flags = torch.backends.cudnn.flags(deterministic=True, benchmark=False, **unchanged)
    with tf32(allowed=False), flags:
        yield
