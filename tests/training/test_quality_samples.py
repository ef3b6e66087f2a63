"""Samples that quality is measured by: what is drawn, from which weights, and how it is judged."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hptransfer.config import (
    BudgetConfig,
    DigitsConfig,
    DiTConfig,
    DiTModernConfig,
    FashionMNISTConfig,
    MMDiTConfig,
    PixArtConfig,
    QualityConfig,
    TrialConfig,
    UViTConfig,
)
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.data import load_data
from hptransfer.models.parametrization.rules import build_model
from hptransfer.results.trial_result import Quality
from hptransfer.system.random_streams import torch_generator
from hptransfer.training.packs.pack import Pack
from hptransfer.training.packs.run import pack_sample_chunks
from hptransfer.training.sampling.quality import (
    draw_quality_samples,
    quality_noise,
    quality_rows,
    sample_quality,
)
from hptransfer.training.sampling.reference import load_real_samples
from tests.support.data_folders import FASHION_MNIST, needs_fashion_mnist

CPU = torch.device("cpu")
TRAIN = load_data(DigitsConfig(), None).train
FAMILIES = [DiTConfig(), DiTModernConfig(), UViTConfig(), PixArtConfig(), MMDiTConfig()]


def asking(samples: int, model: Any = FAMILIES[0], **changes: Any) -> TrialConfig:
    budget = BudgetConfig(steps=6, batch_size=changes.pop("batch_size", 32))
    quality = QualityConfig(samples=samples, steps=2, **changes)
    return TrialConfig(model=model, budget=budget, quality=quality)


def test_a_samples_noise_is_its_own_however_many_there_are() -> None:
    few, many = quality_noise(asking(100)), quality_noise(asking(150))
    assert torch.equal(few, many[:100])
    assert torch.equal(few[7], torch.randn(1, 8, 8, generator=torch_generator(0, "quality", 7)))
    assert torch.equal(few, quality_noise(dataclasses.replace(asking(100), seed=5)))
    assert torch.equal(few[[7, 3]], quality_noise(asking(100), [7, 3]))


@pytest.mark.parametrize("samples", [100, 1000, 2000])
def test_classes_have_the_shares_of_the_training_split(samples: int) -> None:
    drawn = np.bincount(TRAIN.labels_at(quality_rows(asking(samples), TRAIN)), minlength=10)
    split = np.bincount(TRAIN.labels_at(np.arange(len(TRAIN))), minlength=10)
    assert drawn.sum() == samples
    assert abs(drawn - samples * split / split.sum()).max() <= 1
    assert len(np.unique(quality_rows(asking(samples), TRAIN))) == min(samples, len(TRAIN))


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_chunks_show_a_model_no_more_than_a_batch_and_end_with_the_last_sample(
    batch_size: int, guidance: float
) -> None:
    sizes = []

    def identity(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert len(x) == len(t) == len(labels)
        sizes.append(len(x))
        return torch.zeros_like(x) + labels.view(-1, 1, 1, 1)

    config = asking(100, batch_size=batch_size, guidance=guidance)
    drawn = draw_quality_samples(config, TRAIN, identity, CPU)
    labels = TRAIN.labels_at(quality_rows(config, TRAIN)).view(-1, 1, 1, 1)
    told = 10 + guidance * (labels - 10)  # with guidance 1 the condition alone
    torch.testing.assert_close(drawn, quality_noise(config) - told, rtol=1e-5, atol=1e-5)
    assert len(set(sizes)) == 1 and (sizes[0] <= batch_size or batch_size == 1)


def trained_like(model: Any, members: int) -> tuple[Pack, Tensor]:
    """Return a pack and weights without zeros, as if trained."""
    config = asking(100, dataclasses.replace(model, width=16, base_width=8, head_dim=8))
    trials = [with_hyperparameters(config, {"log2_lr": -8.0 - i}) for i in range(members)]
    pack = Pack(trials, CPU)
    random = torch.randn(pack.flat.shape, generator=torch_generator(0, "weights"))
    return pack, pack.flat.detach() + 0.1 * random


def drawn_by(pack: Pack, flat: Tensor, members: list[int]) -> list[Tensor]:
    """Return all samples of each member."""
    parts: dict[int, list[Tensor]] = {member: [] for member in members}
    for chosen, drawn in pack_sample_chunks(pack, TRAIN, flat, members):
        for member, samples in zip(chosen, drawn, strict=True):
            parts[member].append(samples)
    return [torch.cat(parts[member]) for member in members]


@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: model.family)
def test_samples_depend_on_the_weights_alone_to_the_bit(model: Any) -> None:
    pack, flat = trained_like(model, 3)
    together = drawn_by(pack, flat, [0, 1, 2])
    assert {len(images) for images in together} == {100}
    for member, images in enumerate(together):
        (alone,) = drawn_by(pack.keep([member]), flat[[member]], [0])
        (beside,) = drawn_by(pack.keep([member, 0]), flat[[member, 0]], [0])
        assert torch.equal(images, alone) and torch.equal(images, beside)
    assert not torch.allclose(together[0], together[1], atol=0.01)


@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: model.family)
def test_a_plain_module_draws_what_the_pack_does(model: Any) -> None:
    pack, flat = trained_like(model, 1)
    plain = build_model(pack.configs[0])
    plain.load_state_dict(pack.member_parameters(flat, 0), strict=False)
    (packed,) = drawn_by(pack, flat, [0])
    torch.testing.assert_close(draw_quality_samples(pack.configs[0], TRAIN, plain, CPU), packed)


def shares(quality: Quality) -> tuple[float, float]:
    """Return precision and recall."""
    assert quality.precision is not None and quality.recall is not None
    return quality.precision, quality.recall


def test_held_out_digits_are_far_better_samples_than_noise() -> None:
    config, validation = asking(360), load_data(DigitsConfig(), None).validation
    known = load_real_samples(config, None)
    real = sample_quality(config, known, validation.images_at(np.arange(360)))
    noise = sample_quality(config, known, quality_noise(config))
    assert real is not None and noise is not None
    assert real.frechet_distance < 0.1 * noise.frechet_distance
    assert min(shares(real)) > 0.7 > 0.1 > max(shares(noise))


@needs_fashion_mnist
@pytest.mark.slow
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_noise_is_no_precise_sample_of_clothes(strength: float) -> None:
    """In the features of the hidden layer it was, by 100 samples nearly all of it."""
    data, folder = FashionMNISTConfig(), FASHION_MNIST
    config = dataclasses.replace(asking(100), data=data)
    known = load_real_samples(config, folder)
    validation = load_data(data, folder).validation
    real = sample_quality(config, known, validation.images_at(np.arange(100)))
    noise = sample_quality(config, known, strength * quality_noise(config))
    assert real is not None and noise is not None
    assert real.frechet_distance < 0.1 * noise.frechet_distance
    assert min(shares(real)) > 0.7 > 0.15 > max(shares(noise))


def test_samples_are_judged_as_a_picture_shows_them_and_not_at_all_if_not_finite() -> None:
    known, config = load_real_samples(asking(100), None), asking(100)
    images = 5 * quality_noise(config)
    assert sample_quality(config, known, images) == sample_quality(
        config, known, images.clamp(-1, 1)
    )
    images[3, 0, 2, 2] = torch.nan
    assert sample_quality(config, known, images) is None
