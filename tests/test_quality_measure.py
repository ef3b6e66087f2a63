"""Quality of samples: distance, precision and recall, what is drawn, and rows that hold them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from benchmarks.classifier import RECIPES, accuracy, trained
from hptransfer import trial as trial_module
from hptransfer.compose import compose_file
from hptransfer.config import (
    BudgetConfig,
    CheckpointConfig,
    DataConfig,
    DDPMConfig,
    DigitsConfig,
    DiTConfig,
    FashionMNISTConfig,
    FeaturesConfig,
    MMDiTConfig,
    PixArtConfig,
    QualityConfig,
    RuntimeConfig,
    TrialConfig,
    UViTConfig,
)
from hptransfer.data import load
from hptransfer.errors import UserError
from hptransfer.ledger_rows import encode, row
from hptransfer.outcome import TrialResult
from hptransfer.parametrization import build_model
from hptransfer.quality.classifier import about, load_classifier, weights_file
from hptransfer.quality.drawing import chosen_rows, draw, draw_pack, noise_of
from hptransfer.quality.frechet import Moments, frechet_distance, moments
from hptransfer.quality.measure import judged, judged_pack, reference
from hptransfer.quality.neighbours import precision_and_recall
from hptransfer.questions import with_hyperparameters
from hptransfer.streams import torch_generator
from hptransfer.training.loop import train_pack
from hptransfer.training.pack import Pack
from hptransfer.trial import run_pack
from hptransfer.vocabulary import Status

CPU = torch.device("cpu")
TRAIN = load(DigitsConfig(), None).train
FAMILIES = [DiTConfig(), UViTConfig(), PixArtConfig(), MMDiTConfig()]


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


def test_precision_and_recall_are_those_of_the_definition() -> None:
    real, drawn = gaussian(37, 4, 1).numpy(), 0.7 * gaussian(23, 4, 2).numpy() + 0.5

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
    split = load(data, folder).validation
    every = np.arange(len(split))
    with torch.no_grad():
        found = load_classifier(data)(split.images_at(every)).argmax(1)
    return float((found == split.labels_at(every)).double().mean())


def test_the_digits_classifier_is_as_right_as_its_file_says() -> None:
    assert about(DigitsConfig())["held_out_accuracy"] > 0.98
    assert held_out_accuracy(DigitsConfig(), None) == pytest.approx(
        about(DigitsConfig())["held_out_accuracy"], abs=1e-4
    )


@pytest.mark.skipif(
    "HPTRANSFER_FASHION_MNIST" not in os.environ,
    reason="HPTRANSFER_FASHION_MNIST names no folder with the four IDX files",
)
def test_the_clothes_classifier_is_as_right_as_its_file_says() -> None:
    data, folder = FashionMNISTConfig(), os.environ["HPTRANSFER_FASHION_MNIST"]
    assert about(data)["held_out_accuracy"] > 0.9
    assert held_out_accuracy(data, folder) == pytest.approx(
        about(data)["held_out_accuracy"], abs=1e-3
    )


@pytest.mark.slow
def test_the_command_makes_the_shipped_digits_classifier_again() -> None:
    again, shipped = trained(RECIPES["digits"], TRAIN), load_classifier(DigitsConfig())
    split = load(DigitsConfig(), None).validation
    images = split.images_at(np.arange(len(split)))
    with torch.no_grad():
        alike = again(images).argmax(1) == shipped(images).argmax(1)
    assert accuracy(again, split) > 0.98 and alike.float().mean() > 0.98


def test_the_shipped_weights_are_small() -> None:
    sizes = [weights_file(data).stat().st_size for data in (DigitsConfig(), FashionMNISTConfig())]
    assert sum(sizes) < 1e6


def test_other_content_than_the_classifiers_is_refused_before_training(monkeypatch) -> None:
    monkeypatch.setattr(trial_module, "train_pack", lambda *_: pytest.fail("it trained"))
    monkeypatch.setattr(trial_module, "load", lambda *_: load(DigitsConfig(), None))
    config = TrialConfig(data=DigitsConfig(sha256="00"), quality=QualityConfig(samples=100))
    monkeypatch.setattr("hptransfer.quality.measure.load", lambda *_: load(DigitsConfig(), None))
    with pytest.raises(UserError, match="was trained on content 8b3b6ae90863430b"):
        run_pack([config], RuntimeConfig())


def asking(samples: int, model: Any = FAMILIES[0], **changes: Any) -> TrialConfig:
    budget = BudgetConfig(steps=6, batch_size=changes.pop("batch_size", 32))
    quality = QualityConfig(samples=samples, steps=2, **changes)
    return TrialConfig(model=model, budget=budget, quality=quality)


def test_a_samples_noise_is_its_own_however_many_there_are() -> None:
    few, many = noise_of(asking(100)), noise_of(asking(150))
    assert torch.equal(few, many[:100])
    assert torch.equal(few[7], torch.randn(1, 8, 8, generator=torch_generator(0, "quality", 7)))
    assert torch.equal(few, noise_of(dataclasses.replace(asking(100), seed=5)))


@pytest.mark.parametrize("samples", [100, 1000, 2000])
def test_classes_have_the_shares_of_the_training_split(samples: int) -> None:
    drawn = np.bincount(TRAIN.labels_at(chosen_rows(asking(samples), TRAIN)), minlength=10)
    split = np.bincount(TRAIN.labels_at(np.arange(len(TRAIN))), minlength=10)
    assert drawn.sum() == samples
    assert abs(drawn - samples * split / split.sum()).max() <= 1
    assert len(np.unique(chosen_rows(asking(samples), TRAIN))) == min(samples, len(TRAIN))


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
    drawn = draw(config, TRAIN, identity, CPU)
    labels = TRAIN.labels_at(chosen_rows(config, TRAIN)).view(-1, 1, 1, 1)
    told = 10 + guidance * (labels - 10)  # with guidance 1 the condition alone
    torch.testing.assert_close(drawn, noise_of(config) - told, rtol=1e-5, atol=1e-5)
    assert len(set(sizes)) == 1 and (sizes[0] <= batch_size or batch_size == 1)


def trained_like(model: Any, members: int) -> tuple[Pack, Tensor]:
    """Return a pack and weights without zeros, as if trained."""
    config = asking(100, dataclasses.replace(model, width=16, base_width=8, head_dim=8))
    trials = [with_hyperparameters(config, {"log2_lr": -8.0 - i}) for i in range(members)]
    pack = Pack(trials, CPU)
    random = torch.randn(pack.flat.shape, generator=torch_generator(0, "weights"))
    return pack, pack.flat.detach() + 0.1 * random


@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: model.family)
def test_samples_depend_on_the_weights_alone_to_the_bit(model: Any) -> None:
    pack, flat = trained_like(model, 3)
    together = list(draw_pack(pack, TRAIN, flat, [0, 1, 2]))
    for member, images in enumerate(together):
        (alone,) = draw_pack(pack.keep([member]), TRAIN, flat[[member]], [0])
        (beside,) = draw_pack(pack.keep([member, 0]), TRAIN, flat[[member, 0]], [0])
        assert torch.equal(images, alone) and torch.equal(images, beside)
    assert not torch.allclose(together[0], together[1], atol=0.01)


@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: model.family)
def test_a_plain_module_draws_what_the_pack_does(model: Any) -> None:
    pack, flat = trained_like(model, 1)
    plain = build_model(pack.configs[0])
    plain.load_state_dict(pack.member_parameters(flat, 0), strict=False)
    (packed,) = draw_pack(pack, TRAIN, flat, [0])
    torch.testing.assert_close(draw(pack.configs[0], TRAIN, plain, CPU), packed)


def test_held_out_digits_are_far_better_samples_than_noise() -> None:
    known, validation = reference(DigitsConfig(), None), load(DigitsConfig(), None).validation
    config = asking(360)
    real = judged(config, known, validation.images_at(np.arange(360)))
    noise = judged(config, known, noise_of(config))
    assert real is not None and noise is not None
    assert real.frechet_distance < 0.1 * noise.frechet_distance
    assert min(real.precision, real.recall) > 0.7 > 0.1 > max(noise.precision, noise.recall)


@pytest.mark.skipif(
    "HPTRANSFER_FASHION_MNIST" not in os.environ,
    reason="HPTRANSFER_FASHION_MNIST names no folder with the four IDX files",
)
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_noise_is_no_precise_sample_of_clothes(strength: float) -> None:
    """In the features of the hidden layer it was, by 100 samples nearly all of it."""
    data, folder = FashionMNISTConfig(), os.environ["HPTRANSFER_FASHION_MNIST"]
    known, validation = reference(data, folder), load(data, folder).validation
    config = dataclasses.replace(asking(100), data=data)
    real = judged(config, known, validation.images_at(np.arange(100)))
    noise = judged(config, known, strength * noise_of(config))
    assert real is not None and noise is not None
    assert real.frechet_distance < 0.1 * noise.frechet_distance
    assert min(real.precision, real.recall) > 0.7 > 0.15 > max(noise.precision, noise.recall)


def test_samples_are_judged_as_a_picture_shows_them_and_not_at_all_if_not_finite() -> None:
    known, config = reference(DigitsConfig(), None), asking(100)
    images = 5 * noise_of(config)
    assert judged(config, known, images) == judged(config, known, images.clamp(-1, 1))
    images[3, 0, 2, 2] = torch.nan
    assert judged(config, known, images) is None


@pytest.fixture
def trials(tiny_trial: Callable[..., TrialConfig]) -> Callable[..., list[TrialConfig]]:
    def make(*rates: float, steps: int = 6, **budget: Any) -> list[TrialConfig]:
        quality = QualityConfig(samples=100, steps=2)
        configs = [dataclasses.replace(tiny_trial(rate), quality=quality) for rate in rates]
        changed = dataclasses.replace(configs[0].budget, steps=steps, **budget)
        return [dataclasses.replace(config, budget=changed) for config in configs]

    return make


def told(results: list[TrialResult]) -> list[Any]:
    return [(r.status, r.loss, r.quality) for r in results]


def test_measuring_changes_no_loss_and_rows_say_what_was_measured(trials, runtime) -> None:
    configs = trials(-7.0, -6.0, 200.0)
    measured = run_pack(configs, runtime)
    plain = run_pack([dataclasses.replace(c, quality=QualityConfig()) for c in configs], runtime)
    assert [r.loss for r in measured] == [r.loss for r in plain]
    assert [r.status for r in measured] == [Status.completed, Status.completed, Status.diverged]
    rows, without = ([row(r, {}, {}) for r in results] for results in (measured, plain))
    added = [r["metrics"].keys() - w["metrics"].keys() for r, w in zip(rows, without, strict=True)]
    assert added == [{"frechet_distance", "precision", "recall"}] * 2 + [set()]
    assert rows[0]["metrics"]["frechet_distance"] != rows[1]["metrics"]["frechet_distance"]
    assert len(encode(rows[0])) - len(encode(without[0])) < 140


def test_a_stopped_member_has_no_quality_and_the_others_keep_theirs(trials, runtime) -> None:
    configs = trials(-8.0, 0.0, 1.0, steps=60, stop_after=0.1)
    results = run_pack(configs, runtime)
    assert results[0].quality is not None
    assert Status.stopped in {r.status for r in results}
    assert all((r.quality is None) == (r.status is not Status.completed) for r in results)


def test_members_that_failed_and_were_not_left_out_are_not_judged(trials, runtime) -> None:
    configs, dataset = trials(-7.0, -6.5, -6.0), load(DigitsConfig(), None)
    outcome = train_pack(configs, dataset, CPU, runtime, lambda _: None)
    failed = outcome._replace(
        stopped_at=torch.tensor([-1, 3, -1]), diverged_at=torch.tensor([-1, -1, 5])
    )
    known = reference(DigitsConfig(), None)
    assert judged_pack(failed, known).qualities.keys() == {0}


def test_a_pack_that_was_halved_measures_what_its_halves_do(trials, runtime, monkeypatch) -> None:
    configs = trials(-7.0, -6.5, -6.0)
    halves = [*run_pack(configs[:2], runtime), *run_pack(configs[2:], runtime)]
    whole = trial_module.train_pack

    def too_small(configs: Any, *rest: Any) -> Any:
        if len(configs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(configs, *rest)

    monkeypatch.setattr(trial_module, "train_pack", too_small)
    halved = run_pack(configs, runtime)
    assert [r.pack_size for r in halved] == [2, 2, 1]
    assert told(halved) == told(halves) and all(r.quality for r in halved)


def test_a_pack_that_was_cut_off_measures_what_an_undisturbed_one_does(
    trials, runtime, tmp_path: Path
) -> None:
    configs = trials(-7.0, 200.0, -6.0, steps=60)
    expected = told(run_pack(configs, runtime))
    checkpoints = CheckpointConfig(str(tmp_path), every_s=0.0)

    def cut(report: Any) -> None:
        if report.step >= 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pack(configs, runtime, cut, checkpoints)
    results = run_pack(configs, runtime, checkpoints=checkpoints)
    assert "went on at step" in results[0].notes[0]
    assert told(results) == expected and results[0].quality and results[2].quality


def test_the_group_is_composed() -> None:
    assert compose_file(None, ["quality=frechet"]).trial.quality == QualityConfig(samples=1000)
    changed = compose_file(None, ["quality.samples=500", "quality.guidance=2"]).trial.quality
    assert changed == QualityConfig(samples=500, guidance=2.0)
    assert compose_file(None, []).trial.quality == QualityConfig()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": FeaturesConfig()}, "needs a classifier of the data, and there is one for digits"),
        (
            {"objective": DDPMConfig(timesteps=10)},
            "`quality.steps` must not exceed the schedule's steps, but got 20",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrialConfig(quality=QualityConfig(samples=100), **changes)
    TrialConfig(**changes)


@pytest.mark.parametrize(
    "fields", [{"samples": 99}, {"samples": -1}, {"steps": 0}, {"guidance": -1.0}]
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"`quality.{next(iter(fields))}`"):
        QualityConfig(**fields)
