"""How good samples are: compared with the training split in the features of our classifier."""

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

IMAGES_READ_AT_ONCE = 2000  # images read at a time


class RealSamples(NamedTuple):
    """What samples are compared with: the training split in the classifier's features."""

    train: Split
    features: Tensor  # (N, F), on the CPU
    moments: Moments


@lru_cache(maxsize=2)
def load_real_samples(data: DataConfig, folder: str | None) -> RealSamples:
    """Return the training split of a data set with its features, kept for the next pack.

    Raises:
        UserError: its classifier was trained on other content.
    """
    train = load_data(data, folder).train
    parts = np.array_split(np.arange(len(train)), -(-len(train) // IMAGES_READ_AT_ONCE))
    features = torch.cat([features_of(data, train.images_at(part)) for part in parts])
    return RealSamples(train, features, moments(features))


def sample_quality(config: TrialConfig, known: RealSamples, images: Tensor) -> Quality | None:
    """Judge samples (n, C, H, W) in [-1, 1] on the CPU; None unless all are finite.

    What lies outside is cut off, as in a picture. Precision and recall are against as many training
    samples as samples, the ones whose conditions these have.
    """
    if not torch.isfinite(images).all():
        return None
    drawn = features_of(config.data, images.clamp(-1, 1))
    real = known.features[np.unique(quality_rows(config, known.train))]
    return Quality(
        frechet_distance(moments(drawn), known.moments), *precision_and_recall(real, drawn)
    )
