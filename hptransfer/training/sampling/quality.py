"""The quality of samples, compared with the training split in a classifier's features.

Every trial's samples are drawn from the same noise and conditions, so that the samples of two
trials of a data set differ by the trials' weights alone. They are compared by the Fréchet distance
of Gaussians fitted to the features (arXiv 1706.08500, Eq. 6), and by precision and recall from
nearest neighbours (Kynkäänniemi 2019, arXiv 1904.06991).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import DataConfig, TrialConfig
from hptransfer.data import Split, load_data
from hptransfer.results.trial_result import Quality
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.batches import conditions_at, with_null_condition
from hptransfer.training.sampling.classifier import features_of
from hptransfer.training.sampling.samplers import Model, SamplerConfig, sample


class Moments(NamedTuple):
    """Mean (F,) and covariance (F, F) of features, in float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Return the moments of features (N, F), where N is at least 2."""
    features = features.double()
    return Moments(features.mean(0), torch.cov(features.T))


def frechet_distance(one: Moments, other: Moments) -> float:
    """Return |μ - μ'|² + tr(Σ + Σ' - 2 (Σ^½ Σ' Σ^½)^½), which is 0 for equal moments."""
    # Eigenvalues that rounding made negative are zero.
    values, vectors = torch.linalg.eigh(one.covariance)
    root = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T
    # The eigenvalues of Σ^½ Σ' Σ^½ are those of ΣΣ', and real even for singular covariances.
    product = root @ other.covariance @ root
    eigenvalues = torch.linalg.eigvalsh((product + product.T) / 2)
    common = eigenvalues.clamp_min(0.0).sqrt().sum()
    spread = one.covariance.trace() + other.covariance.trace() - 2 * common
    return float((one.mean - other.mean).square().sum() + spread)


NEIGHBOURS = 3  # k: a point's radius is its distance to the k-th nearest, as in the paper
DISTANCE_ROWS = 1000  # points whose distances are computed at once


def precision_and_recall(real: Tensor, drawn: Tensor) -> tuple[float, float]:
    """Return precision and recall of drawn features (M, F) against real ones (N, F).

    Precision is the share of drawn points within a real point's radius, recall the share of real
    points within a drawn point's radius. Both depend on N and M: compare at equal numbers only.
    """
    return share_covered(drawn, real), share_covered(real, drawn)


def share_covered(points: Tensor, centres: Tensor) -> float:
    """Return the share of points (M, F) that lie within the radius of any centre (N, F).

    A centre's radius is the distance to its third nearest other centre.
    """
    radii = torch.cat(
        [  # the nearest of all is the centre itself
            _distances(part, centres).kthvalue(NEIGHBOURS + 1, dim=1).values
            for part in centres.split(DISTANCE_ROWS)
        ]
    )
    covered = [
        (_distances(part, centres) <= radii).any(1).double() for part in points.split(DISTANCE_ROWS)
    ]
    return float(torch.cat(covered).mean())


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    # Matrix products are faster, but would give a point a small distance to itself.
    return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")


def draw_quality_samples(
    config: TrialConfig,
    train: Split,
    model: Model,
    device: torch.device,
    leading: tuple[int, ...] = (),
) -> Tensor:
    """Return `quality.samples` samples (*leading, n, C, H, W) of a model, on the CPU.

    `leading` is the shape of the axes before the batch axis in the model's inputs: () for a plain
    model, (T,) for a pack. The model is never given more images at once than in a training step:
    so the samples fit into memory, and a compiled model is not compiled for another size.
    """
    noise, chosen = quality_noise(config), quality_rows(config, train)
    sampler = SamplerConfig(steps=config.quality.steps, guidance=config.quality.guidance)
    chunks = []
    for index in _chunks(config):
        condition = conditions_at(config, train, chosen[index])
        null = with_null_condition(config, condition, torch.ones(len(index), dtype=torch.bool))
        start, told, untold = (
            [part.to(device).expand(*leading, *part.shape) for part in parts]
            for parts in ((noise[index],), condition, null)
        )
        drawn = sample(config.objective, model, start[0], told, untold, sampler)
        chunks.append(drawn.cpu())
    return torch.cat(chunks, -4)[..., : len(noise), :, :, :]


def quality_noise(config: TrialConfig) -> Tensor:
    """Return the noise (n, C, H, W) of samples; a sample's noise does not depend on n."""
    layout = config.data.layout
    shape = (layout.channels, layout.image_size, layout.image_size)
    rows = range(config.quality.samples)
    return torch.stack(
        [torch.randn(shape, generator=torch_generator(0, "quality", row)) for row in rows]
    )


def quality_rows(config: TrialConfig, train: Split) -> np.ndarray:
    """Return the indices (n,) of the training samples for whose conditions samples are drawn.

    They are evenly spaced in the training split ordered by class, so that each class has the share
    that it has in the split.
    """
    by_class = np.argsort(train.labels_at(np.arange(len(train))).numpy(), kind="stable")
    samples = config.quality.samples
    return by_class[(2 * np.arange(samples) + 1) * len(by_class) // (2 * samples)]


def _chunks(config: TrialConfig) -> Iterator[np.ndarray]:
    """Yield indices of samples in chunks of one size; the last chunk is filled from the first."""
    quality = config.quality
    # With guidance the model is given every sample twice.
    size = max(1, config.budget.batch_size // (1 if quality.guidance == 1 else 2))
    for first in range(0, quality.samples, size):
        yield np.arange(first, first + size) % quality.samples


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
