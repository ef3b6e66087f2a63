"""The learned variance: the variational bound and the hybrid loss (arXiv 2102.09672)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from hptransfer.config import DDPMConfig, RuntimeConfig
from hptransfer.training.objectives import (
    Noised,
    discretised_nll,
    noised,
    objective_loss,
    squared_error,
    variational_bound,
)
from hptransfer.training.packs.run import run_pack
from tests.support.gaussian_data import MEAN, STD, exact_prediction
from tests.support.tiny import TINY

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def steps(*numbers: int) -> Tensor:
    return (torch.tensor(numbers) + 0.5) / 1000


def hybrid(weight: float, prediction: Tensor, at: Noised) -> Tensor:
    return objective_loss(DDPMConfig(vlb_weight=weight), prediction, at)


def test_the_hybrid_loss_keeps_leading_axes_and_trains_each_half_by_its_own_term() -> None:
    at = noised(DDPMConfig(), X, NOISE, steps(0, 1, 500, 999))
    prediction = torch.randn(3, 4, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    prediction.requires_grad_()
    losses = hybrid(2e-3, prediction, at)
    for row, loss in zip(prediction, losses, strict=True):
        torch.testing.assert_close(hybrid(2e-3, row, at), loss)
    simple = squared_error(prediction[:, :, :1], NOISE)
    bound = variational_bound(DDPMConfig(), prediction[:, :, :1], prediction[:, :, 1:], at)
    torch.testing.assert_close(losses, simple + 2e-3 * 1000 * bound.mean(-1))
    (gradient,) = torch.autograd.grad(losses.sum(), prediction, retain_graph=True)
    (of_mean,) = torch.autograd.grad(simple.sum(), prediction)
    torch.testing.assert_close(gradient[:, :, :1], of_mean[:, :, :1])
    assert (gradient[:, :, 1:].abs().amax((-3, -2, -1)) > 0).all()


def test_the_bound_of_known_data_is_zero_but_for_the_width_of_a_bin() -> None:
    at = noised(DDPMConfig(), torch.zeros_like(X), NOISE, steps(0, 1, 500, 999))
    bits = variational_bound(DDPMConfig(), NOISE, -torch.ones_like(X), at)  # -1: variance β̃
    betas = np.linspace(1e-4, 2e-2, 1000)
    first = betas[0] * betas[1] / (1 - (1 - betas[0]) * (1 - betas[1]))  # β̃ of the second step
    mass = norm.cdf(1 / 255, scale=first**0.5) - norm.cdf(-1 / 255, scale=first**0.5)
    torch.testing.assert_close(bits, torch.tensor([-math.log2(mass), 0.0, 0.0, 0.0]))


@pytest.mark.parametrize("step", [3, 60, 700])
def test_the_bound_of_gaussian_data_is_the_information_in_them(step: int) -> None:
    """At the true variance of x_{t-1} given x_t: half the log of it over that given x_0 too."""
    kept = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))[step - 1 : step + 1]
    before, after = kept * STD**2 + 1 - kept
    ratio = kept[1] / kept[0]
    variance = before - ratio * before**2 / after
    posterior, beta = (1 - ratio) * (1 - kept[0]) / (1 - kept[1]), 1 - ratio
    fraction = 2 * math.log(variance / posterior) / math.log(beta / posterior) - 1
    generator = torch.Generator().manual_seed(step)
    data = MEAN + STD * torch.randn(20_000, 1, 2, 2, generator=generator)
    noise = torch.randn(data.shape, generator=generator)
    at = noised(DDPMConfig(), data, noise, steps(step).expand(len(data)))
    mean = exact_prediction(DDPMConfig(), at.x, kept[1] ** 0.5, (1 - kept[1]) ** 0.5)
    bits = variational_bound(DDPMConfig(), mean, torch.full_like(mean, fraction), at)
    expected = 0.5 * math.log2(variance / posterior)
    error = 4 * float(bits.std()) / len(bits) ** 0.5
    assert float(bits.mean()) == pytest.approx(expected, abs=error)
    assert error < 0.03 * expected


def test_the_bins_of_a_pixel_share_all_of_the_mass() -> None:
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, std in ((0.0, 0.01), (0.9, 0.2), (-1.3, 0.05), (0.2, 3.0)):
        log_variance = torch.full_like(levels, 2 * math.log(std))
        nats = discretised_nll(levels, levels - mean, log_variance)
        assert float(torch.exp(-nats).sum()) == pytest.approx(1, abs=1e-9)
    far = discretised_nll(torch.zeros(1), torch.tensor([0.5]), torch.tensor([2 * math.log(0.01)]))
    assert float(far) == pytest.approx(1225, rel=0.01)  # (0.5 - 1/255)²/2/0.01²: no floor


@pytest.mark.parametrize("deciding", [None, 1e-2])
def test_members_of_a_pack_have_their_own_weight_and_one_deciding_loss(deciding: float) -> None:
    configs = [
        dataclasses.replace(
            TINY,
            model=dataclasses.replace(TINY.model, learn_sigma=True),
            objective=DDPMConfig(vlb_weight=weight, deciding_vlb_weight=deciding),
        )
        for weight in (1e-4, 1e-3, 1e-1)
    ]
    together = run_pack(configs, RuntimeConfig())
    alone = [run_pack([config], RuntimeConfig())[0] for config in configs]
    losses = [result.loss for result in together]
    assert losses == pytest.approx([result.loss for result in alone], rel=1e-6)
    assert len(set(losses)) == 3
    at_init = {round(result.loss_at_init, 9) for result in together}
    assert len(at_init) == (3 if deciding is None else 1)  # the same model, judged alike
