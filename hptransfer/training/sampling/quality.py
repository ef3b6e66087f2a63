"""The quality of samples, compared with the training split in features of images.

Every trial's samples are drawn from the same noise and conditions, so that the samples of two
trials of a data set differ by the trials' weights alone. They are compared by the Fréchet distance
of Gaussians fitted to the features (arXiv 1706.08500, Eq. 6), and by precision and recall from
nearest neighbours (Kynkäänniemi 2019, arXiv 1904.06991).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import QualityConfig, TrialConfig
from hptransfer.data import Split
from hptransfer.results.trial_result import Quality
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.batches import conditions_at, with_null_condition
from hptransfer.training.sampling.features import judged_features, samples_at_once
from hptransfer.training.sampling.samplers import Model, SamplerConfig, sample

CPU = torch.device("cpu")


class Moments(NamedTuple):
    """Mean (F,) and covariance (F, F) of features, in float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Return the moments of features (N, F), where N is at least 2."""
    features = features.double()
    return Moments(features.mean(0), torch.cov(features.T))


VALUES_AT_ONCE = 2**22  # numbers of features that are collected before their moments are taken


class RunningMoments:
    """The moments of features that come in parts, of which few are kept at a time.

    Moments of sets are joined exactly (Chan, Golub, LeVeque 1979): nothing is lost to rounding as
    it is by sums of squares. Up to `VALUES_AT_ONCE` numbers the result is `moments` to the bit.
    """

    def __init__(self) -> None:
        self._count = 0
        self._known: Moments | None = None  # of the first `_count`
        self._waiting: list[Tensor] = []

    def add(self, features: Tensor) -> None:
        """Add features (B, F)."""
        if sum(part.numel() for part in self._waiting) + features.numel() > VALUES_AT_ONCE:
            self._join()
        self._waiting.append(features)

    @property
    def result(self) -> Moments:
        """The moments of all features that were added, at least 2."""
        self._join()
        assert self._known is not None, "no features were added"
        return self._known

    def _join(self) -> None:
        if not self._waiting:
            return
        features = torch.cat(self._waiting)
        self._waiting, more = [], len(features)
        new = moments(features) if more > 1 else _of_one(features)
        if self._known is not None:
            new = _joined(self._known, self._count, new, more)
        self._known, self._count = new, self._count + more


def _of_one(features: Tensor) -> Moments:
    size = features.shape[1]
    return Moments(features[0].double(), features.new_zeros(size, size, dtype=torch.float64))


def _joined(one: Moments, n: int, other: Moments, m: int) -> Moments:
    """Return the moments of n and m points together."""
    apart = other.mean - one.mean
    scatter = (n - 1) * one.covariance + (m - 1) * other.covariance
    scatter = scatter + torch.outer(apart, apart) * (n * m / (n + m))
    return Moments(one.mean + apart * (m / (n + m)), scatter / (n + m - 1))


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


# Features up to which distances are taken difference by difference. Matrix products give a point a
# small distance to itself: in float64 1e-8 of its length. With 2,048 features they are much faster.
MOST_BY_DIFFERENCE = 128


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    if points.shape[1] <= MOST_BY_DIFFERENCE:
        return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
    pair = points.double(), centres.double()
    return torch.cdist(*pair, compute_mode="use_mm_for_euclid_dist")


def draw_quality_samples(
    config: TrialConfig,
    train: Split,
    model: Model,
    device: torch.device,
    leading: tuple[int, ...] = (),
) -> Tensor:
    """Return `quality.samples` samples (*leading, n, C, H, W) of a model, on the CPU.

    Of many samples rather take them as they are drawn: `quality_chunks`.
    """
    chunks = quality_chunks(config, train, model, device, leading)
    return torch.cat([chunk.cpu() for chunk in chunks], -4)


def quality_chunks(
    config: TrialConfig,
    train: Split,
    model: Model,
    device: torch.device,
    leading: tuple[int, ...] = (),
) -> Iterator[Tensor]:
    """Yield `quality.samples` samples of a model in parts (*leading, b, C, H, W), on the device.

    `leading` is the shape of the axes before the batch axis in the model's inputs: () for a plain
    model, (T,) for a pack. The model is never given more images at once than in a training step:
    so the samples fit into memory, and a compiled model is not compiled for another size.
    """
    quality, chosen = config.quality, quality_rows(config, train)
    sampler = SamplerConfig(quality.chosen_sampler, quality.steps, quality.guidance)
    first = 0
    for index in _chunks(config):
        condition = conditions_at(config, train, chosen[index])
        null = with_null_condition(config, condition, torch.ones(len(index), dtype=torch.bool))
        start, told, untold = (
            [part.to(device).expand(*leading, *part.shape) for part in parts]
            for parts in ((quality_noise(config, index.tolist()),), condition, null)
        )
        drawn = sample(config.objective, model, start[0], told, untold, sampler)
        yield drawn[..., : quality.samples - first, :, :, :]
        first += len(index)


def quality_noise(config: TrialConfig, rows: Sequence[int] | None = None) -> Tensor:
    """Return the noise (n, C, H, W) of samples by their numbers; None: of all.

    A sample's noise does not depend on how many there are.
    """
    layout = config.data.layout
    shape = (layout.channels, layout.image_size, layout.image_size)
    rows = range(config.quality.samples) if rows is None else rows
    return torch.stack(
        [torch.randn(shape, generator=torch_generator(0, "quality", row)) for row in rows]
    )


def quality_rows(config: TrialConfig, train: Split) -> np.ndarray:
    """Return the indices (n,) of the training samples for whose conditions samples are drawn.

    They are evenly spaced in the training split ordered by class, so that each class has the share
    that it has in the split.
    """
    return _rows_by_class(config.quality.samples, train)


def _rows_by_class(samples: int, train: Split) -> np.ndarray:
    by_class = np.argsort(train.labels_at(np.arange(len(train))).numpy(), kind="stable")
    return by_class[_evenly(samples, len(by_class))]


def _evenly(chosen: int, of: int) -> np.ndarray:
    """Return `chosen` numbers (chosen,) evenly spaced in 0 to `of` - 1."""
    return (2 * np.arange(chosen) + 1) * of // (2 * chosen)


def _chunks(config: TrialConfig) -> Iterator[np.ndarray]:
    """Yield indices of samples in chunks of one size; the last chunk is filled from the first."""
    quality = config.quality
    # With guidance the model is given every sample twice.
    size = max(1, config.budget.batch_size // (1 if quality.guidance == 1 else 2))
    for first in range(0, quality.samples, size):
        yield np.arange(first, first + size) % quality.samples


MOST_COMPARED = 10_000  # samples of either side whose neighbours are counted


def compared_samples(quality: QualityConfig) -> np.ndarray:
    """Return the numbers of the samples that precision and recall are of, evenly spaced."""
    return _evenly(min(quality.samples, MOST_COMPARED), quality.samples)


def compared_rows(quality: QualityConfig, train: Split) -> np.ndarray:
    """Return the training samples that these samples are compared with: those whose conditions
    they were drawn for, each once, ordered.
    """
    return np.unique(_rows_by_class(quality.samples, train)[compared_samples(quality)])


class RealSamples(NamedTuple):
    """What samples are compared with."""

    train: Split  # whose conditions samples are drawn for
    moments: Moments  # of the training split's features, or of those in `quality.reference`
    compared: Tensor | None  # features of `compared_rows`; None: not known, of a `reference`


class SampleJudge:
    """The quality of one trial's samples, which are added as they are drawn."""

    def __init__(self, config: TrialConfig, real: RealSamples, device: torch.device) -> None:
        self._config, self._real, self._device = config, real, device
        self._moments, self._finite, self._added = RunningMoments(), True, 0
        self._waiting: list[Tensor] = []  # samples, fewer than features are computed of together
        self._compared: list[Tensor] = []  # features of some samples, on the CPU
        chosen = np.zeros(config.quality.samples, dtype=bool)
        chosen[compared_samples(config.quality)] = real.compared is not None
        self._is_compared = torch.from_numpy(chosen)

    def add(self, samples: Tensor) -> None:
        """Add samples (b, C, H, W)."""
        if not self._config.quality.extractor:
            samples = samples.cpu()
        at_once = samples_at_once(self._config.quality)
        *whole, rest = torch.cat([*self._waiting, samples]).split(at_once)
        self._waiting = [rest]
        for part in whole:
            self._judge(part)

    def _judge(self, samples: Tensor) -> None:
        features = None
        if self._finite:
            config = self._config
            features = judged_features(config.data, config.quality, samples, self._device)
        if features is None:
            self._finite = False
            return
        self._moments.add(features)
        chosen = self._is_compared[self._added : self._added + len(features)]
        self._compared.append(features.cpu()[chosen])
        self._added += len(features)

    def quality(self) -> Quality | None:
        """Return the quality of all samples; None if any value is not finite."""
        for part in self._waiting:
            self._judge(part)
        self._waiting = []
        if not self._finite:
            return None
        found, real = self._moments.result, self._real
        distance = frechet_distance(
            found, Moments(*(part.to(found.mean.device) for part in real.moments))
        )
        if real.compared is None:
            return Quality(distance)
        both = (part.to(found.mean.device) for part in (real.compared, torch.cat(self._compared)))
        return Quality(distance, *precision_and_recall(*both))


def sample_quality(
    config: TrialConfig, real: RealSamples, images: Tensor, device: torch.device = CPU
) -> Quality | None:
    """Return the quality of samples (n, C, H, W); None if any value is not finite.

    Values of images outside [-1, 1] are clipped, as in a picture. Precision and recall compare the
    samples with the training samples whose conditions they were drawn for, `MOST_COMPARED` at most.
    """
    judge = SampleJudge(config, real, device)
    judge.add(images)
    return judge.quality()
