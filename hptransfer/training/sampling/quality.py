"""The quality of samples, compared with the training split in a classifier's features."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import DataConfig, TrialConfig
from hptransfer.data import Split, load_data
from hptransfer.results.trial_result import Quality
from hptransfer.training.sampling.classifier import features_of
from hptransfer.training.sampling.draw import quality_rows
from hptransfer.training.sampling.frechet import Moments, frechet_distance, moments
from hptransfer.training.sampling.neighbours import precision_and_recall

IMAGES_READ_AT_ONCE = 2000  # images of the training split in memory at once


class RealSamples(NamedTuple):
    """The training split in the classifier's features, with which samples are compared."""

    train: Split
    features: Tensor  # (N, F), on the CPU
    moments: Moments


@lru_cache(maxsize=2)
def load_real_samples(data: DataConfig, folder: str | None) -> RealSamples:
    """Return the training split of a data set with its features; the last two are cached.

    Raises:
        UserError: the data set's classifier was trained on other content.
    """
    train = load_data(data, folder).train
    parts = np.array_split(np.arange(len(train)), -(-len(train) // IMAGES_READ_AT_ONCE))
    features = torch.cat([features_of(data, train.images_at(part)) for part in parts])
    return RealSamples(train, features, moments(features))


def sample_quality(config: TrialConfig, real: RealSamples, images: Tensor) -> Quality | None:
    """Return the quality of samples (n, C, H, W) on the CPU; None if any value is not finite.

    Values outside [-1, 1] are clipped, as in a picture. Precision and recall compare the samples
    with the n training samples whose conditions they were drawn for.
    """
    if not torch.isfinite(images).all():
        return None
    drawn = features_of(config.data, images.clamp(-1, 1))
    compared = real.features[np.unique(quality_rows(config, real.train))]
    return Quality(
        frechet_distance(moments(drawn), real.moments), *precision_and_recall(compared, drawn)
    )
