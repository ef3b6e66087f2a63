"""Fréchet distance, precision and recall of points, and the classifiers behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from benchmarks.classifier import RECIPES, accuracy, trained
from hptransfer.config import (
    DataConfig,
    DigitsConfig,
    FashionMNISTConfig,
    QualityConfig,
    RuntimeConfig,
    TrialConfig,
)
from hptransfer.data import load_data
from hptransfer.errors import UserError
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.packs import run as trial_module
from hptransfer.training.packs.run import run_pack
from hptransfer.training.sampling.classifier import classifier_facts, load_classifier, weights_file
from hptransfer.training.sampling.quality import (
    Moments,
    frechet_distance,
    moments,
    precision_and_recall,
)
from tests.support.data_folders import FASHION_MNIST, needs_fashion_mnist

TRAIN = load_data(DigitsConfig(), None).train


def gaussian(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch_generator(seed, "points"), dtype=torch.float64)


def test_the_distance_of_axes_aligned_gaussians_is_that_of_their_means_and_deviations() -> None:
    one = Moments(torch.tensor([1.0, 2.0]).double(), torch.tensor([4.0, 9.0]).double().diag())
    other = Moments(torch.tensor([4.0, 6.0]).double(), torch.tensor([1.0, 0.0]).double().diag())
    assert frechet_distance(one, other) == pytest.approx(9 + 16 + (2 - 1) ** 2 + (3 - 0) ** 2)
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-12)


def test_the_distance_is_the_formula_with_scipys_root() -> None:
    one, other = (moments(gaussian(50, 6, seed) @ gaussian(6, 6, seed + 9)) for seed in (1, 2))
    root: Any = scipy.linalg.sqrtm((one.covariance @ other.covariance).numpy())
    expected = (one.mean - other.mean).square().sum() + torch.trace(
        one.covariance + other.covariance - 2 * torch.from_numpy(np.real(root))
    )
    assert frechet_distance(one, other) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), rel=1e-9)


def test_moments_are_the_means_and_covariances_of_columns() -> None:
    points = gaussian(40, 3)
    found = moments(points.float())
    assert found.mean.dtype == torch.float64
    np.testing.assert_allclose(found.covariance, np.cov(points.float().numpy().T), rtol=1e-6)


@pytest.mark.parametrize(("size", "shift"), [(4, 0.5), (300, 0.3)])
def test_precision_and_recall_are_those_of_the_definition(size: int, shift: float) -> None:
    real, drawn = gaussian(37, size, 1).numpy(), 0.7 * gaussian(23, size, 2).numpy() + shift

    def covered(points: np.ndarray, centres: np.ndarray) -> float:
        def radius(centre: np.ndarray) -> float:
            return sorted(np.linalg.norm(centres - centre, axis=1))[3]  # the first is its own

        return np.mean(
            [any(np.linalg.norm(p - c) <= radius(c) for c in centres) for p in points], dtype=float
        )

    found = precision_and_recall(torch.from_numpy(real), torch.from_numpy(drawn))
    assert found == (pytest.approx(covered(drawn, real)), pytest.approx(covered(real, drawn)))
    assert 0.1 < found[0] != found[1] < 0.9


def test_samples_of_one_of_two_kinds_are_precise_and_recall_half() -> None:
    kinds = torch.cat([gaussian(1500, 4), gaussian(1500, 4, 1) + 100])
    assert precision_and_recall(kinds, kinds) == (1.0, 1.0)
    assert precision_and_recall(kinds, kinds[:1500]) == (1.0, 0.5)
    assert precision_and_recall(kinds, kinds - 500) == (0.0, 0.0)


def held_out_accuracy(data: DataConfig, folder: str | None) -> float:
    split = load_data(data, folder).validation
    every = np.arange(len(split))
    with torch.no_grad():
        found = load_classifier(data)(split.images_at(every)).argmax(1)
    return float((found == split.labels_at(every)).double().mean())


def test_the_digits_classifier_is_as_right_as_its_file_says() -> None:
    assert classifier_facts(DigitsConfig())["held_out_accuracy"] > 0.98
    assert held_out_accuracy(DigitsConfig(), None) == pytest.approx(
        classifier_facts(DigitsConfig())["held_out_accuracy"], abs=1e-4
    )


@pytest.mark.slow
@needs_fashion_mnist
def test_the_clothes_classifier_is_as_right_as_its_file_says() -> None:
    data, folder = FashionMNISTConfig(), FASHION_MNIST
    assert classifier_facts(data)["held_out_accuracy"] > 0.9
    assert held_out_accuracy(data, folder) == pytest.approx(
        classifier_facts(data)["held_out_accuracy"], abs=1e-3
    )


@pytest.mark.slow
def test_the_command_makes_the_shipped_digits_classifier_again() -> None:
    again, shipped = trained(RECIPES["digits"], TRAIN), load_classifier(DigitsConfig())
    split = load_data(DigitsConfig(), None).validation
    images = split.images_at(np.arange(len(split)))
    with torch.no_grad():
        alike = again(images).argmax(1) == shipped(images).argmax(1)
    assert accuracy(again, split) > 0.98 and alike.float().mean() > 0.98


def test_the_shipped_weights_are_small() -> None:
    sizes = [weights_file(data).stat().st_size for data in (DigitsConfig(), FashionMNISTConfig())]
    assert sum(sizes) < 1e6


def test_other_content_than_the_classifiers_is_refused_before_training(monkeypatch) -> None:
    monkeypatch.setattr(trial_module, "train_pack", lambda *_: pytest.fail("it trained"))
    monkeypatch.setattr(trial_module, "load_dataset", lambda *_: load_data(DigitsConfig(), None))
    config = TrialConfig(data=DigitsConfig(sha256="00"), quality=QualityConfig(samples=100))
    with pytest.raises(UserError, match="was trained on the content 8b3b6ae90863430b"):
        run_pack([config], RuntimeConfig())
