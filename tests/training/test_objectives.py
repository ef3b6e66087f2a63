"""Noising paths, targets, evaluation triples and data."""

from __future__ import annotations

import dataclasses
import gzip
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import logit
from scipy.stats import kstest, norm
from sklearn.datasets import load_digits
from torch import Tensor

from hptransfer.config import (
    DDPMConfig,
    DigitsConfig,
    DiTConfig,
    FashionMNISTConfig,
    ObjectiveConfig,
    RectifiedFlowConfig,
    RuntimeConfig,
    TrialConfig,
    VPConfig,
)
from hptransfer.config.choices import AutoShift, BetaSchedule, Prediction, TimestepSampling
from hptransfer.data import Split, batch_indices, digits, fashion_mnist, load_data
from hptransfer.errors import UserError
from hptransfer.training.batches import evaluation_batches
from hptransfer.training.objectives import (
    Noised,
    alphas_cumprod,
    flow_times,
    noised,
    objective_loss,
    sample_losses,
    shifted,
    squared_error,
)
from hptransfer.training.packs.run import run_pack
from tests.support.data_folders import FASHION_MNIST, needs_fashion_mnist
from tests.support.gaussian_data import MEAN, STD, exact_prediction, remaining_variance

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
U = torch.tensor([0.0, 0.25, 0.5, 0.999999])


def test_rectified_flow_is_a_straight_line_whose_target_is_its_speed() -> None:
    x_t, t, target, clean = noised(RectifiedFlowConfig(), X, NOISE, U)
    assert clean is X
    torch.testing.assert_close(x_t[0], X[0])
    torch.testing.assert_close(x_t[2], (X[2] + NOISE[2]) / 2)
    torch.testing.assert_close(t, 1000 * U)
    torch.testing.assert_close(target, NOISE - X)
    torch.testing.assert_close(x_t - U[:, None, None, None] * target, X, rtol=1e-4, atol=1e-5)


def test_ddpm_keeps_the_variance_and_predicts_the_noise() -> None:
    objective = DDPMConfig()
    kept = alphas_cumprod(objective).float()
    assert float(kept[0]) == pytest.approx(1 - 1e-4, rel=1e-6)
    assert float(kept[-1]) == pytest.approx(4.04e-5, rel=0.01)  # arXiv 2006.11239: L_T ≈ 1e-5
    x_t, step, target, _ = noised(objective, X, NOISE, U)
    assert step.tolist() == [0, 250, 500, 999]
    torch.testing.assert_close(target, NOISE)
    for i, t in enumerate(step.long()):
        torch.testing.assert_close(x_t[i], kept[t].sqrt() * X[i] + (1 - kept[t]).sqrt() * NOISE[i])


def test_squared_error_keeps_leading_axes() -> None:
    prediction = torch.zeros(3, 4, 1, 8, 8)
    target = torch.arange(1.0, 4.0)[:, None, None, None, None].expand_as(prediction)
    assert squared_error(prediction, target).tolist() == [1.0, 4.0, 9.0]


LOGIT_NORMAL = RectifiedFlowConfig(
    timesteps=TimestepSampling.logit_normal, logit_mean=-0.5, logit_std=0.8
)


PREDICTS_X = RectifiedFlowConfig(
    timesteps=TimestepSampling.logit_normal,
    logit_mean=0.8,
    logit_std=0.8,
    prediction=Prediction.x,
    timestep_shift=AutoShift.auto,
)


def test_the_loss_of_a_predicted_x_is_that_of_its_velocity() -> None:
    objective = RectifiedFlowConfig(prediction=Prediction.x)
    at = noised(objective, X, NOISE, torch.tensor([0.02, 0.25, 0.5, 1.0]))
    prediction = torch.sin(7 * at.x)
    time = (at.t / 1000).view(-1, 1, 1, 1)
    velocity, true = (at.x - prediction) / time, NOISE - X
    errors = (velocity - true).square().mean((1, 2, 3))
    errors[0] *= (0.02 / 0.05) ** 2  # below `least_time` the divisor stays
    assert float(objective_loss(objective, prediction, at)) == pytest.approx(
        float(errors.mean()), rel=1e-4
    )
    each = sample_losses(objective, prediction, at, None)
    torch.testing.assert_close(each, errors, rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_predicted_x_is_finite_without_noise() -> None:
    at = noised(PREDICTS_X, X, NOISE, torch.zeros(4))
    expected = X.square().mean() / 0.05**2
    torch.testing.assert_close(objective_loss(PREDICTS_X, torch.zeros_like(X), at), expected)


def test_a_shift_moves_times_to_more_noise_and_none_leaves_their_bits() -> None:
    plain = noised(RectifiedFlowConfig(), X, NOISE, U)
    for shift, compare in ((2.0, torch.gt), (0.5, torch.lt)):
        moved = noised(RectifiedFlowConfig(timestep_shift=shift), X, NOISE, U)
        assert bool(compare(moved.t[1:3], plain.t[1:3]).all())
    # 64 numbers: an eighth. Of a quarter, (1/8)·(1/4) / (1 - (7/8)·(1/4)) is left.
    moved = noised(RectifiedFlowConfig(timestep_shift=AutoShift.auto), X, NOISE, U)
    assert float(moved.t[1]) == pytest.approx(1000 * (1 / 32) / (25 / 32))
    torch.testing.assert_close(moved.x[1], X[1] + 0.04 * (NOISE[1] - X[1]))
    assert torch.equal(shifted(U, None), U)


def test_vp_integrates_its_rate_and_is_told_999_t() -> None:
    objective = VPConfig()
    x_t, t, target, _ = noised(objective, X, NOISE, U)
    time = objective.t_min + U.double() * (1 - objective.t_min)
    torch.testing.assert_close(t.double(), 999 * time)
    torch.testing.assert_close(target, NOISE)
    for i in range(len(U)):
        rate, _ = quad(lambda s: 0.1 + s * 19.9, 0, float(time[i]))  # arXiv 2011.13456, Eq. 32
        signal = math.exp(-rate)
        expected = signal**0.5 * X[i] + (1 - signal) ** 0.5 * NOISE[i]
        torch.testing.assert_close(x_t[i], expected, rtol=1e-5, atol=1e-5)


def test_logit_normal_times_have_their_distribution() -> None:
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    t = noised(LOGIT_NORMAL, X[:1], NOISE[:1], uniform).t / 1000

    def cdf(value: np.ndarray) -> np.ndarray:
        return norm.cdf((logit(value) + 0.5) / 0.8)

    assert kstest(t.numpy(), cdf).pvalue > 1e-3
    u = (torch.arange(100) + 0.5) / 100  # strata of the quantiles are strata of the times
    np.testing.assert_allclose(cdf(flow_times(LOGIT_NORMAL, u.double()).numpy()), u, atol=1e-6)


def test_the_first_quantile_is_data_without_noise_and_the_last_is_noise() -> None:
    for objective in (RectifiedFlowConfig(), LOGIT_NORMAL):
        at = noised(objective, X[:2], NOISE[:2], torch.tensor([0.0, 1.0]))
        assert at.t.tolist() == [0.0, 1000.0]
        torch.testing.assert_close(at.x, torch.stack([X[0], NOISE[1]]))


def scales(objective: ObjectiveConfig, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return signal and noise at embedded timesteps, from the papers rather than the code."""
    match objective:
        case RectifiedFlowConfig():
            return 1 - t / 1000, t / 1000
        case DDPMConfig():
            kept = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000)))[t.long()]
        case _:
            kept = torch.exp(-0.1 * (t / 999) - 0.5 * 19.9 * (t / 999) ** 2)
    return kept.sqrt(), (1 - kept).sqrt()


@pytest.mark.parametrize(
    "objective", [RectifiedFlowConfig(), LOGIT_NORMAL, DDPMConfig(), VPConfig()], ids=str
)
def test_the_exact_predictor_reaches_the_least_loss(objective: ObjectiveConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = 20_000
    data = MEAN + STD * torch.randn(draws, 1, 2, 2, generator=generator)
    noise = torch.randn(draws, 1, 2, 2, generator=generator)
    at = noised(objective, data, noise, (torch.arange(draws) + 0.5) / draws)
    alpha, sigma = (part.double()[:, None, None, None] for part in scales(objective, at.t.double()))
    prediction = exact_prediction(objective, at.x.double(), alpha, sigma)
    losses = objective_loss(objective, prediction.unsqueeze(1), Noised(*(p[:, None] for p in at)))
    least = torch.as_tensor(remaining_variance(objective, alpha, sigma)).mean()
    standard_error = float(losses.std()) / draws**0.5
    assert float(losses.mean()) == pytest.approx(float(least), abs=4 * standard_error)
    assert standard_error < 0.02 * float(least)


def test_a_prediction_of_the_targets_channels_costs_its_squared_error() -> None:
    prediction = torch.zeros(3, 4, 1, 8, 8)
    at = noised(DDPMConfig(), X, NOISE, U)
    expected = NOISE.square().mean().expand(3)
    torch.testing.assert_close(objective_loss(DDPMConfig(), prediction, at), expected)


@pytest.mark.parametrize(
    ("objective", "learn_sigma"),
    [
        (DDPMConfig(), False),
        (DDPMConfig(), True),
        (VPConfig(), False),
        (LOGIT_NORMAL, False),
        (PREDICTS_X, False),
    ],
    ids=["ddpm", "hybrid", "vp", "logit_normal", "x"],
)
def test_every_objective_trains(
    tiny_trial: Callable[..., TrialConfig],
    runtime: RuntimeConfig,
    objective: ObjectiveConfig,
    learn_sigma: bool,
) -> None:
    model = DiTConfig(width=16, base_width=8, depth=1, head_dim=4, learn_sigma=learn_sigma)
    (result,) = run_pack(
        [dataclasses.replace(tiny_trial(), model=model, objective=objective)], runtime
    )
    if not isinstance(objective, RectifiedFlowConfig):
        assert result.loss_at_init == pytest.approx(1.0, abs=0.1)  # E|noise|²
    assert result.loss is not None and result.loss < result.loss_at_init


def test_digits_are_scikit_learns() -> None:
    images, labels = digits.read()
    theirs, their_labels = load_digits(return_X_y=True)
    np.testing.assert_array_equal(16 * images.reshape(-1, 64), theirs)
    np.testing.assert_array_equal(labels, their_labels)


def everything(split: Split) -> tuple[Tensor, Tensor]:
    """Return all images and labels."""
    chosen = np.arange(len(split))
    return split.images_at(chosen), split.labels_at(chosen)


def test_digits_are_real_split_and_scaled() -> None:
    (images, _), (others, labels) = (everything(split) for split in load_data(DigitsConfig(), None))
    assert images.shape == (1437, 1, 8, 8) and others.shape == (360, 1, 8, 8)
    assert float(images.min()) == -1 and float(images.max()) == 1
    assert np.bincount(labels.numpy(), minlength=10).min() > 20
    train = {image.numpy().tobytes() for image in images}
    held_out = [image.numpy().tobytes() in train for image in others]
    assert not any(held_out)


def test_content_that_is_not_the_named_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"Set data.sha256=8b3b6ae90863430b to train on this"):
        load_data(DigitsConfig(sha256="0"), None)


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
    held_out = load_data(DigitsConfig(), None).validation
    first, second = (list(evaluation_batches(tiny_trial(seed=seed), held_out)) for seed in (0, 5))
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
        assert torch.equal(a.condition[0], b.condition[0])
    strata = torch.stack([(batch.u * len(first)).long() for batch in first])
    assert torch.equal(strata.sort(0).values, torch.arange(len(first))[:, None].expand_as(strata))


@needs_fashion_mnist
def test_fashion_mnist_is_the_standard_content() -> None:
    (images, _), (_, labels) = (
        everything(split) for split in load_data(FashionMNISTConfig(), FASHION_MNIST)
    )
    assert images.shape == (60_000, 1, 32, 32)
    assert np.bincount(labels.numpy()).tolist() == [1000] * 10
    assert (images[:, :, :2] == -1).all()  # the padding is black


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
        load_data(FashionMNISTConfig(), str(tmp_path))
    found = str(caught.value).split("data.sha256=")[1].split()[0]
    images, _ = everything(load_data(FashionMNISTConfig(sha256=found), str(tmp_path)).train)
    assert images.shape == (12, 1, 32, 32)


def test_fashion_mnist_without_its_files_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Set runtime.data_folder=/path/to/it."):
        load_data(FashionMNISTConfig(), None)
    with pytest.raises(UserError, match=r"needs the file train-images-idx3-ubyte or "):
        load_data(FashionMNISTConfig(), str(tmp_path))
    small_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x0cshort")
    with pytest.raises(UserError, match=r"must hold 12 bytes for its shape \(12,\), but holds 5"):
        load_data(FashionMNISTConfig(), str(tmp_path))


def test_every_evaluation_draw_has_the_whole_time_axis_and_its_own_noise(tiny_trial) -> None:
    first, second = evaluation_batches(tiny_trial(), load_data(DigitsConfig(), None).validation)
    assert len(first.images) == len(first.condition[0]) == 16  # budget.eval_samples
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


def test_the_latent_schedule_is_linear_in_the_square_root() -> None:
    config = DDPMConfig(beta_first=0.00085, beta_last=0.012, schedule=BetaSchedule.scaled_linear)
    kept = alphas_cumprod(config)
    betas = 1 - kept / torch.cat([torch.ones(1, dtype=kept.dtype), kept[:-1]])
    assert float(betas[0]) == pytest.approx(0.00085, rel=1e-9)
    assert float(betas[-1]) == pytest.approx(0.012, rel=1e-9)
    steps = betas.sqrt().diff()
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=1e-6, atol=0)
    assert float(kept[-1]) == pytest.approx(0.00466, rel=1e-3)  # as Stable Diffusion's
