"""Noising paths, targets, evaluation triples and data."""

from __future__ import annotations

import dataclasses
import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hptransfer.config import (
    DDPMConfig,
    DigitsConfig,
    FashionMNISTConfig,
    RectifiedFlowConfig,
    RuntimeConfig,
    TrialConfig,
)
from hptransfer.data import batch_indices, digits, fashion_mnist, load
from hptransfer.errors import UserError
from hptransfer.objectives import alphas_cumprod, noised, squared_error
from hptransfer.training.evaluation import evaluation_batches
from hptransfer.trial import run_pack

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
U = torch.tensor([0.0, 0.25, 0.5, 0.999999])


def test_rectified_flow_is_a_straight_line_whose_target_is_its_speed() -> None:
    x_t, t, target = noised(RectifiedFlowConfig(), X, NOISE, U)
    torch.testing.assert_close(x_t[0], X[0])
    torch.testing.assert_close(x_t[2], (X[2] + NOISE[2]) / 2)
    torch.testing.assert_close(t, 1000 * U)
    torch.testing.assert_close(target, NOISE - X)
    torch.testing.assert_close(x_t - U[:, None, None, None] * target, X, rtol=1e-4, atol=1e-5)


def test_ddpm_keeps_the_variance_and_predicts_the_noise() -> None:
    objective = DDPMConfig()
    kept = alphas_cumprod(objective)
    assert float(kept[0]) == pytest.approx(1 - 1e-4, rel=1e-6)
    assert float(kept[-1]) == pytest.approx(4.04e-5, rel=0.01)  # arXiv 2006.11239: L_T ≈ 1e-5
    x_t, step, target = noised(objective, X, NOISE, U)
    assert step.tolist() == [0, 250, 500, 999]
    torch.testing.assert_close(target, NOISE)
    for i, t in enumerate(step.long()):
        torch.testing.assert_close(x_t[i], kept[t].sqrt() * X[i] + (1 - kept[t]).sqrt() * NOISE[i])


def test_squared_error_keeps_leading_axes() -> None:
    prediction = torch.zeros(3, 4, 1, 8, 8)
    target = torch.arange(1.0, 4.0)[:, None, None, None, None].expand_as(prediction)
    assert squared_error(prediction, target).tolist() == [1.0, 4.0, 9.0]


def test_both_objectives_train(
    tiny_trial: Callable[..., TrialConfig], runtime: RuntimeConfig
) -> None:
    config = dataclasses.replace(tiny_trial(), objective=DDPMConfig())
    (result,) = run_pack([config], runtime)
    assert result.loss_at_init == pytest.approx(1.0, abs=0.1)  # E|noise|²
    assert result.loss is not None and result.loss < result.loss_at_init


def test_digits_are_scikit_learns() -> None:
    images, labels = digits.read()
    theirs, their_labels = load_digits(return_X_y=True)
    np.testing.assert_array_equal(16 * images.reshape(-1, 64), theirs)
    np.testing.assert_array_equal(labels, their_labels)


def test_digits_are_real_split_and_scaled() -> None:
    dataset = load(DigitsConfig(), None)
    assert dataset.train.images.shape == (1437, 1, 8, 8)
    assert dataset.validation.images.shape == (360, 1, 8, 8)
    assert float(dataset.train.images.min()) == -1 and float(dataset.train.images.max()) == 1
    assert np.bincount(dataset.validation.labels.numpy(), minlength=10).min() > 20
    train = {image.numpy().tobytes() for image in dataset.train.images}
    held_out = [image.numpy().tobytes() in train for image in dataset.validation.images]
    assert not any(held_out)


def test_content_that_is_not_the_named_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"Set data.sha256=8b3b6ae90863430b to train on this"):
        load(DigitsConfig(sha256="0"), None)


def test_batches_are_permutations_back_to_back() -> None:
    steps = [batch_indices(10, 4, seed=3, step=step) for step in range(5)]
    stream = np.concatenate(steps)
    assert sorted(stream[:10]) == sorted(stream[10:20]) == list(range(10))
    assert list(stream[:10]) != list(stream[10:20])
    assert list(batch_indices(10, 4, seed=3, step=2)) == list(steps[2])
    assert list(batch_indices(10, 4, seed=4, step=2)) != list(steps[2])


def test_evaluation_is_the_same_for_every_seed_and_stratified(
    tiny_trial: Callable[..., TrialConfig],
) -> None:
    held_out = load(DigitsConfig(), None).validation
    first, second = (list(evaluation_batches(tiny_trial(seed=seed), held_out)) for seed in (0, 5))
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    strata = torch.stack([(batch.u * len(first)).long() for batch in first])
    assert torch.equal(strata.sort(0).values, torch.arange(len(first))[:, None].expand_as(strata))


FOLDER = os.environ.get("HPTRANSFER_FASHION_MNIST")


@pytest.mark.skipif(
    FOLDER is None, reason="HPTRANSFER_FASHION_MNIST names no folder with the four IDX files"
)
def test_fashion_mnist_is_the_standard_content() -> None:
    dataset = load(FashionMNISTConfig(), FOLDER)
    assert dataset.train.images.shape == (60_000, 1, 32, 32)
    assert np.bincount(dataset.validation.labels.numpy()).tolist() == [1000] * 10
    assert (dataset.train.images[:, :, :2] == -1).all()  # the padding is black


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def small_fashion(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "t10k"):
        write_idx(
            folder / f"{split}-images-idx3-ubyte.gz", generator.integers(0, 256, (12, 28, 28))
        )
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", generator.integers(0, 10, 12))


def test_idx_files_are_read_padded_and_checked(tmp_path: Path) -> None:
    small_fashion(tmp_path)
    with pytest.raises(UserError) as caught:
        load(FashionMNISTConfig(), str(tmp_path))
    found = str(caught.value).split("data.sha256=")[1].split()[0]
    images = load(FashionMNISTConfig(sha256=found), str(tmp_path)).train.images
    assert images.shape == (12, 1, 32, 32)


def test_fashion_mnist_without_its_files_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Set runtime.data_folder=/path/to/fashion-mnist."):
        load(FashionMNISTConfig(), None)
    with pytest.raises(UserError, match=r"needs the file train-images-idx3-ubyte or "):
        load(FashionMNISTConfig(), str(tmp_path))
    small_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x0cshort")
    with pytest.raises(UserError, match=r"must hold 12 bytes for its shape \(12,\), but holds 5"):
        load(FashionMNISTConfig(), str(tmp_path))


def test_every_evaluation_draw_has_the_whole_time_axis_and_its_own_noise(tiny_trial) -> None:
    first, second = evaluation_batches(tiny_trial(), load(DigitsConfig(), None).validation)
    assert len(first.labels) == 16  # budget.eval_samples
    for batch in (first, second):
        assert float(batch.u.min()) < 0.5 < float(batch.u.max())
    assert not torch.equal(first.noise, second.noise)


def test_fashion_mnist_is_padded_on_all_sides(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:

    white = np.full((2, 28, 28), 255)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", white)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([3, 7]))
    images, labels = fashion_mnist.read(tmp_path, "train")
    expected = np.zeros((2, 1, 32, 32), np.float32)
    expected[:, :, 2:30, 2:30] = 1.0
    np.testing.assert_array_equal(images, expected)
    assert labels.tolist() == [3, 7]
