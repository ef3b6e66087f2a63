"""Samplers against the exact flow of Gaussian data, and classifier-free guidance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hptransfer.config import (
    DDPMConfig,
    DigitsConfig,
    DiTConfig,
    ObjectiveConfig,
    RectifiedFlowConfig,
    VPConfig,
)
from hptransfer.config.choices import AutoShift, Prediction
from hptransfer.errors import UserError
from hptransfer.models.families import build_architecture
from hptransfer.training.objectives import noised, shifted
from hptransfer.training.sampling.samplers import (
    Model,
    PathPoint,
    Sampler,
    SamplerConfig,
    first_order,
    guided,
    path_point,
    sample,
    sampling_times,
    second_order,
)
from tests.support.gaussian_data import MEAN, STD, exact_prediction

FLOW, DDPM, VP = RectifiedFlowConfig(), DDPMConfig(), VPConfig()
FLOW_X = RectifiedFlowConfig(prediction=Prediction.x)
SHIFTED = RectifiedFlowConfig(timestep_shift=3.0)
SHIFTED_X = RectifiedFlowConfig(prediction=Prediction.x, timestep_shift=0.5)
OBJECTIVES = pytest.mark.parametrize("objective", [FLOW, FLOW_X, DDPM, VP], ids=lambda o: o.name)
NOISE = torch.randn(64, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def at_timestep(objective: ObjectiveConfig, t: Tensor) -> PathPoint:
    """Return the point whose embedded timestep all of t is."""
    (told,) = t.unique().tolist()
    match objective:
        case DDPMConfig():
            return path_point(objective, (told + 1) / objective.timesteps)
        case VPConfig():
            return path_point(objective, told / 999)
        case _:
            return path_point(objective, told / 1000)


def exact_model(objective: ObjectiveConfig) -> Model:
    """Return the exact predictor, of pixels whose mean is the condition if there is one."""

    def model(x: Tensor, t: Tensor, mean: Tensor | float = MEAN) -> Tensor:
        at = at_timestep(objective, t)
        return exact_prediction(objective, x, at.alpha, at.sigma, mean)

    return model


def flow(x: Tensor, here: PathPoint, there: PathPoint, mean: float = MEAN) -> Tensor:
    """Carry x along the exact ODE: a pixel keeps its place in the marginals' quantiles."""
    stds = [math.hypot(at.alpha * STD, at.sigma) for at in (here, there)]
    return there.alpha * mean + stds[1] / stds[0] * (x - here.alpha * mean)


@OBJECTIVES
def test_a_path_is_what_training_sees(objective: ObjectiveConfig) -> None:
    data, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -3.0)
    start = objective.t_min if isinstance(objective, VPConfig) else 0.0
    for time in (0.2, 0.5, 0.999):
        at = path_point(objective, time)
        shift = 1e-3 if isinstance(objective, DDPMConfig) else 0  # the n-th noising is step n - 1
        u = torch.tensor([(time - start) / (1 - start) - shift / 2])
        seen = noised(objective, data, noise, u)
        assert float(seen.t) == pytest.approx(at.t, rel=1e-5)
        assert float(seen.x) == pytest.approx(2 * at.alpha - 3 * at.sigma, rel=1e-4)
    assert path_point(objective, 0)[:2] == (1, 0)


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(3.0, lambda t: 3 * t / (1 + 2 * t)), (AutoShift.auto, lambda t: 0.125 * t / (1 - 0.875 * t))],
)
def test_sampling_and_training_shift_the_times_alike(shift: float | AutoShift, expected) -> None:
    """`auto` is the root of 8·8/4096, an eighth, for images of 8x8 grey."""
    objective = RectifiedFlowConfig(timestep_shift=shift)
    times = sampling_times(objective, 8, 64)
    assert times == pytest.approx([expected(1 - i / 8) for i in range(9)])
    assert (times[0], times[-1]) == (1.0, 0.0)  # exactly: there λ is infinite
    assert {shifted(1.0, s) for s in (0.1, 0.3, 0.7, 6.93)} == {1.0}
    data = torch.zeros(9, 1, 8, 8)
    trained = noised(objective, data, data, torch.tensor([1 - i / 8 for i in range(9)]))
    assert trained.t.tolist() == pytest.approx([1000 * time for time in times])
    seen = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return x

    for name in (Sampler.euler, Sampler.dpm_solver):
        seen.clear()
        sample(objective, model, data[:1], (), (), SamplerConfig(name, 8))
        assert seen == pytest.approx([1000 * time for time in times[:-1]])


@OBJECTIVES
@pytest.mark.parametrize(("solve", "order"), [(first_order, 1), (second_order, 2)])
def test_halving_the_step_divides_the_error_by_two_to_the_order(
    objective: ObjectiveConfig, solve, order: int
) -> None:
    if isinstance(objective, DDPMConfig):  # the same path in finer steps than the 128 need
        objective = DDPMConfig(timesteps=8192, beta_first=1.25e-5, beta_last=2.5e-3)

    def error(steps: int) -> float:
        points = [path_point(objective, 0.75 - 0.5 * i / steps) for i in range(steps + 1)]
        out = solve(objective, exact_model(objective), NOISE, points)
        return float((out - flow(NOISE, points[0], points[-1])).abs().max())

    assert math.log2(error(64) / error(128)) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(
    ("objective", "name", "steps", "bound"),
    [
        (FLOW, Sampler.euler, 250, 1e-2),
        (FLOW, Sampler.dpm_solver, 250, 1e-3),
        (SHIFTED, Sampler.euler, 250, 2e-2),
        (SHIFTED, Sampler.dpm_solver, 250, 3e-3),
        (FLOW_X, Sampler.euler, 250, 1e-2),
        (SHIFTED_X, Sampler.euler, 250, 1e-2),
        (SHIFTED_X, Sampler.dpm_solver, 250, 1e-3),
        (DDPM, Sampler.ddim, 250, 3e-2),
        (DDPM, Sampler.dpm_solver, 250, 1e-3),
        (VP, Sampler.ddim, 250, 3e-2),
        (VP, Sampler.dpm_solver, 250, 1e-3),
    ],
)
def test_noise_becomes_the_data_it_flows_to(
    objective: ObjectiveConfig, name: Sampler, steps: int, bound: float
) -> None:
    out = sample(objective, exact_model(objective), NOISE, (), (), SamplerConfig(name, steps))
    expected = flow(NOISE, path_point(objective, 1), PathPoint(1, 0, 0))
    assert float((out - expected).abs().max()) < bound
    signal = path_point(objective, 1).alpha  # what is left of the data where sampling starts
    torch.testing.assert_close(expected, MEAN + STD * NOISE, rtol=0, atol=2 * signal + 1e-9)


@OBJECTIVES
@pytest.mark.parametrize("solve", [first_order, second_order])
def test_one_step_is_the_datas_mean_given_the_noise(objective: ObjectiveConfig, solve) -> None:
    start = path_point(objective, 1)
    out = solve(objective, exact_model(objective), NOISE, [start, path_point(objective, 0)])
    gain = start.alpha * STD**2 / (start.alpha**2 * STD**2 + start.sigma**2)
    torch.testing.assert_close(out, MEAN + gain * (NOISE - start.alpha * MEAN))


def test_ddim_on_straight_paths_would_be_euler() -> None:
    points = [path_point(FLOW, 1 - i / 10) for i in range(11)]
    x, model = NOISE, exact_model(FLOW)
    for i in range(10):
        x = x - 0.1 * model(x, torch.full((64,), 1000 * (1 - i / 10), dtype=x.dtype))
    torch.testing.assert_close(first_order(FLOW, model, NOISE, points), x)


@OBJECTIVES
def test_guidance_between_two_gaussians_moves_the_mean(objective: ObjectiveConfig) -> None:
    """Both predictions are linear in the mean, so the guided one is a third Gaussian's."""
    condition, null = (torch.full_like(NOISE, mean) for mean in (1.0, -0.5))
    for scale in (0.0, 1.0, 3.0):
        config = SamplerConfig(Sampler.dpm_solver, 250, guidance=scale)
        out = sample(objective, exact_model(objective), NOISE, [condition], [null], config)
        expected = flow(
            NOISE, path_point(objective, 1), PathPoint(1, 0, 0), mean=-0.5 + 1.5 * scale
        )
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-3)


def test_guidance_is_one_batch_and_exact_at_its_ends() -> None:
    torch.manual_seed(0)
    config = DiTConfig(width=16, base_width=16, depth=1, head_dim=4, learn_sigma=True)
    dit = build_architecture(config, DigitsConfig().layout)
    batches = []

    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        batches.append(len(x))
        return dit(x, t, labels)

    x, t = torch.randn(3, 1, 8, 8), torch.full((3,), 500.0)
    labels, null = torch.tensor([1, 2, 3]), torch.full((3,), 10)
    with torch.no_grad():
        conditional, unconditional = (dit(x, t, y)[:, :1] for y in (labels, null))
        assert not torch.allclose(conditional, unconditional, atol=1e-3)
        for scale in (0.0, 1.0, 4.0):
            out = guided(model, [labels], [null], scale)(x, t)
            expected = unconditional + scale * (conditional - unconditional)
            torch.testing.assert_close(out, expected)
    assert batches == [6, 3, 6]


def test_a_trial_axis_is_kept_and_no_gradient_is() -> None:
    stacked = torch.stack([NOISE, -NOISE]).requires_grad_()
    config = SamplerConfig(Sampler.dpm_solver, 5, guidance=2.0)
    means = [torch.full_like(stacked, mean) for mean in (1.0, 0.0)]

    def stacked_model(x: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        assert len(x) == len(t) == len(mean) == 2  # a row per trial, however large its batch
        return exact_model(DDPM)(x, t, mean)

    both = sample(DDPM, stacked_model, stacked, means[:1], means[1:], config)
    for noise, out in zip(stacked, both, strict=True):
        alone = sample(DDPM, exact_model(DDPM), noise, [means[0][0]], [means[1][0]], config)
        torch.testing.assert_close(out, alone)
    assert not both.requires_grad


@pytest.mark.parametrize(
    ("objective", "config", "message"),
    [
        (
            DDPM,
            SamplerConfig(Sampler.euler),
            "but got euler; objective=ddpm takes ddim or dpm_solver",
        ),
        (FLOW, SamplerConfig(Sampler.ddim), "got ddim; objective=rectified_flow takes euler"),
        (DDPM, SamplerConfig(Sampler.ddim, 1001), "got 1001 with objective.timesteps=1000."),
    ],
)
def test_what_does_not_fit_is_refused(
    objective: ObjectiveConfig, config: SamplerConfig, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        sample(objective, exact_model(objective), NOISE, (), (), config)
    with pytest.raises(UserError, match=r"A sampler's steps must be positive, but got 0."):
        SamplerConfig(steps=0)
