"""The features in which samples are judged: our classifier's, or those of the user's own functions.

`quality.extractor` and `quality.decoder` name the functions. A decoder is given latents as they are
stored, which is what a VAE's own `decode` takes: `data.shift` and `data.scale` are undone. It
returns images, which are cut off at -1 and 1. An extractor is given images in [-1, 1], or such
latents where there is no decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hptransfer.config import DataConfig, FeaturesConfig, QualityConfig
from hptransfer.data.layouts.folder_layout import as_stored
from hptransfer.errors import UserError, require
from hptransfer.models.user_functions import error_text, user_function
from hptransfer.training.device import is_out_of_memory
from hptransfer.training.sampling.classifier import IMAGES_AT_ONCE, features_of, fixed_arithmetic

SAMPLES_AT_ONCE = 50  # samples that the user's functions are given at once
# What the two keys must name.
EXTRACTOR = "the function that gives images (B, C, H, W) features (B, F)"
DECODER = "the function that makes images (B, 3, H, W) of stored latents (B, c, h, w)"


def samples_at_once(quality: QualityConfig) -> int:
    """Return of how many samples features are computed together."""
    return SAMPLES_AT_ONCE if quality.extractor else IMAGES_AT_ONCE


def require_functions(quality: QualityConfig) -> None:
    """Raise a `UserError` if one of the user's functions cannot be imported."""
    if quality.extractor:
        user_function(quality.extractor, "quality.extractor", EXTRACTOR)
    if quality.decoder:
        user_function(quality.decoder, "quality.decoder", DECODER)


def judged_features(
    data: DataConfig, quality: QualityConfig, samples: Tensor, device: torch.device
) -> Tensor | None:
    """Return features (B, F) of samples (B, C, H, W) as a model sees them, in float32.

    Our classifier computes and returns them on the CPU, the user's functions on `device`. None: a
    sample, its image or its features are not finite.

    Raises:
        UserError: a function cannot be imported, raises, or returns something of another shape.
    """
    if not torch.isfinite(samples).all():
        return None
    if not quality.extractor:
        return features_of(data, samples.cpu().clamp(-1, 1))
    parts = []
    with torch.no_grad(), fixed_arithmetic():
        for part in samples.split(SAMPLES_AT_ONCE):
            images = _decoded(data, quality, part.to(device))
            features = None if images is None else _extracted(quality, images)
            if features is None:
                return None
            parts.append(features)
    return torch.cat(parts)


def _decoded(data: DataConfig, quality: QualityConfig, samples: Tensor) -> Tensor | None:
    """Return what an extractor is given; None where an image is not finite."""
    if not isinstance(data, FeaturesConfig):
        return samples.clamp(-1, 1)
    latents = as_stored(data, samples)
    if not quality.decoder:
        return latents
    images = _called("quality.decoder", quality.decoder, DECODER, latents)
    require(
        isinstance(images, Tensor)
        and images.ndim == 4
        and len(images) == len(latents)
        and images.shape[1] in (1, 3)
        and images.is_floating_point(),
        f"`quality.decoder` must return {len(latents)} images of 1 or 3 channels (B, C, H, W) for "
        f"as many latents, in floating point, but {quality.decoder} returns {_described(images)}.",
    )
    return images.float().clamp(-1, 1) if torch.isfinite(images).all() else None


def _extracted(quality: QualityConfig, images: Tensor) -> Tensor | None:
    """Return features (B, F) of what an extractor is given; None where one is not finite."""
    features = _called("quality.extractor", quality.extractor, EXTRACTOR, images)
    require(
        isinstance(features, Tensor) and features.ndim == 2 and len(features) == len(images),
        f"`quality.extractor` must return {len(images)} rows of features (B, F) for as many "
        f"images, but {quality.extractor} returns {_described(features)}.",
    )
    return features.float() if torch.isfinite(features).all() else None


def _called(setting: str, name: str, what: str, given: Tensor) -> Any:
    """Return what the user's function returns; errors other than a full memory are named."""
    function: Callable[[Tensor], Any] = user_function(name, setting, what)
    try:
        return function(given)
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"`{setting}` must accept {tuple(given.shape)} values on {given.device}, but {name} "
            f"raises {error_text(error)}."
        ) from error


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor of shape {tuple(value.shape)} and type {str(value.dtype).split('.')[-1]}"
