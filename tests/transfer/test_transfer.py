"""Regret, its limit, the emitted value and the verdict on planted scalings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hptransfer.analysis.answer.verdict import Decision, Evidence, Verdict, decide
from hptransfer.analysis.basins.basin import Basin, build_grid, fit_basin, pool_noise
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.laws.law import fit_drift, mix_laws
from hptransfer.analysis.laws.regret import (
    COMMON,
    ArmOptima,
    arm_optima_of,
    constant_value,
    emitted_value,
    gain_of_doubling,
    held_out_regret,
    known_curvatures,
    regret_draws,
    regret_limit,
    target_curvatures,
    target_regret,
)
from hptransfer.config.sweep import VerdictConfig
from hptransfer.errors import UserError
from tests.support.basins import fitted

RULE = VerdictConfig()
THETA = np.arange(-10.0, -2.0)


def basins_at(optima: dict[int, float], *, k: float = 0.01, cliff: float = np.inf) -> dict:
    rng = np.random.default_rng(4)
    grids = {}
    for width, optimum in optima.items():
        losses = 0.5 + k * (THETA - optimum) ** 2 + 0.001 * rng.standard_normal((3, len(THETA)))
        losses[:, THETA - optimum > cliff] = np.inf
        grids[width] = build_grid(THETA, losses, loss_at_init=10.0)
    noise = pool_noise(grids.values(), rng=rng)
    return {width: fit_basin(grid, noise, rng=rng) for width, grid in grids.items()}


def arm_optima_at(optima: dict[int, float], *, k: float = 0.01, cliff: float = np.inf) -> ArmOptima:
    arm_optima = arm_optima_of(basins_at(optima, k=k, cliff=cliff))
    assert arm_optima is not None
    return arm_optima


def decision(basins: dict[int, Basin], *, limit: float | None, noise: bool = True) -> Decision:
    arm_optima = arm_optima_of(basins)
    mixture = drift = held = at_target = None
    if arm_optima is not None:
        mixture = mix_laws(arm_optima, rng=np.random.default_rng(0))
        drift, held = fit_drift(arm_optima), held_out_regret(arm_optima)
    if arm_optima is not None and mixture is not None:
        theta = mixture.draws_at(np.array([192.0]))[:, 0]
        at_target = target_regret(arm_optima, constant_value(arm_optima), theta, width=192)
    evidence = Evidence(
        basins=basins,
        arm_optima=arm_optima,
        has_noise=noise,
        limit=limit,
        held_out=held,
        at_target=at_target,
        drift=None if drift is None else drift.coefficient_draws[:, 1],
    )
    return decide(evidence, RULE, hp="log2_lr")


def evidence_of(
    basins: dict[int, Basin], *, held_out: Floats, at_target: Floats, drift: Floats
) -> Evidence:
    """Return evidence of these regrets and drifts (draw,), against a limit of 0.01."""
    return Evidence(
        basins=basins,
        arm_optima=arm_optima_of(basins),
        has_noise=True,
        limit=0.01,
        held_out=held_out,
        at_target=at_target,
        drift=drift,
    )


def test_regret_is_two_sided_and_infinite_past_the_cliff() -> None:
    theta, k_low, k_high = np.full(1, -6.0), np.full(1, 0.01), np.full(1, 0.03)

    def at(x: float) -> float:
        return float(regret_draws(x, theta, k_low=k_low, k_high=k_high, cliff=1.5)[0])

    assert at(-8.0) == pytest.approx(0.04)
    assert at(-5.0) == pytest.approx(0.03)
    assert at(-6.0) == 0.0
    assert at(-4.5) == np.inf


def test_held_out_regret_uses_the_constant_without_the_widest() -> None:
    arm_optima = arm_optima_at({24: -6.0, 48: -6.0, 96: -8.0})
    held = held_out_regret(arm_optima)
    assert held is not None
    assert np.median(held) == pytest.approx(0.01 * 2.0**2, rel=0.2)
    assert held_out_regret(arm_optima_at({24: -6.0, 48: -8.0})) is None


def test_held_out_regret_follows_the_widest_widths_own_curve_up_a_wall() -> None:
    def steep(theta: Floats, optimum: float) -> Floats:
        wall = 0.2 * np.maximum(theta - optimum - 1.0, 0.0) ** 2
        return 0.5 + 0.01 * (theta - optimum) ** 2 + wall

    theta, rng = np.arange(-10.0, -2.0, 0.5), np.random.default_rng(0)
    noise = 0.0002 * rng.standard_normal((3, 3, len(theta)))
    grids = {
        width: build_grid(theta, steep(theta, optimum) + error, loss_at_init=10.0)
        for (width, optimum), error in zip({24: -5, 48: -5, 96: -6.5}.items(), noise, strict=True)
    }
    pooled = pool_noise((g for g in grids.values() if g is not None), rng=rng)
    arm_optima = arm_optima_of(
        {w: fit_basin(g, pooled, rng=rng) for w, g in grids.items() if g is not None}
    )
    assert arm_optima is not None
    held = held_out_regret(arm_optima)
    assert held is not None
    assert np.median(held) == pytest.approx(0.01 * 1.5**2 + 0.2 * 0.5**2, rel=0.2)
    without = held_out_regret(dataclasses.replace(arm_optima, widest=None))
    assert without is not None and np.median(without) < 0.045


def test_the_error_that_widths_share_comes_from_what_shapes_leave_open() -> None:
    basins = basins_at({24: -5.7, 48: -5.5, 96: -5.6})
    arm_optima = arm_optima_of(basins)
    assert arm_optima is not None
    squares = np.mean([basin.model_sd**2 for basin in basins.values()])
    assert arm_optima.common_sd == pytest.approx(np.sqrt(COMMON * squares)) and squares > 0


def test_limit_is_the_larger_of_noise_and_a_quarter_of_the_gain() -> None:
    assert regret_limit(0.04, 0.002, RULE) == pytest.approx(0.01)
    assert regret_limit(0.004, 0.002, RULE) == pytest.approx(0.002)
    assert regret_limit(-0.1, 0.002, RULE) == pytest.approx(0.002)
    assert regret_limit(0.04, 0.002, VerdictConfig(max_regret=0.5)) == 0.5
    assert regret_limit(None, None, RULE) is None


def test_gain_is_per_doubling() -> None:
    assert gain_of_doubling([24, 96], [0.6, 0.5]) == pytest.approx(0.05)
    assert gain_of_doubling([24], [0.6]) is None


def replaced(
    arm_optima: ArmOptima, *, k_low: float, k_high: float, cliff: float = np.inf
) -> ArmOptima:
    shape = arm_optima.k_low.shape
    return ArmOptima(
        widths=arm_optima.widths,
        optima=arm_optima.optima,
        variances=arm_optima.variances,
        theta_draws=arm_optima.theta_draws,
        k_low=np.full(shape, k_low),
        k_high=np.full(shape, k_high),
        high_side_seen=True,
        cliffs=np.full(shape[1], cliff),
        fit_sd=0.1,
        model_sd=0.15,
    )


def expected(arm_optima: ArmOptima, x: float, theta: Floats) -> float:
    return float(target_regret(arm_optima, x, theta, width=192).mean())


def test_emitted_value_minimises_expected_regret() -> None:
    arm_optima = arm_optima_at({24: -6.0, 48: -6.0, 96: -6.0})
    theta = np.random.default_rng(0).normal(-6.0, 0.5, len(arm_optima.theta_draws))
    assert emitted_value(
        replaced(arm_optima, k_low=0.01, k_high=0.01), theta, width=192
    ) == pytest.approx(theta.mean())
    steep = replaced(arm_optima, k_low=0.01, k_high=0.05)
    x = emitted_value(steep, theta, width=192)
    assert x < theta.mean() - 0.1
    assert expected(steep, x, theta) <= min(
        expected(steep, other, theta) for other in np.linspace(-7.5, -5.0, 251)
    )


def test_emitted_value_keeps_off_the_cliff() -> None:
    arm_optima = arm_optima_at({24: -6.0, 48: -6.0, 96: -6.0})
    theta = np.random.default_rng(0).normal(-6.0, 0.5, len(arm_optima.theta_draws))
    near = replaced(arm_optima, k_low=0.01, k_high=0.01, cliff=0.6)
    x = emitted_value(near, theta, width=192)
    assert x < theta.mean() - 0.3
    assert np.isinf(target_regret(near, x, theta, width=192)).mean() <= 0.0101


def test_the_narrowest_cliff_counts() -> None:
    arm_optima = arm_optima_at({24: -6.0, 48: -6.0, 96: -6.6}, cliff=1.5)
    assert arm_optima.cliffs == pytest.approx([2.0, 2.0, 1.6], abs=0.15)
    theta = np.full(len(arm_optima.theta_draws), -6.0)
    assert np.isinf(target_regret(arm_optima, -4.2, theta, width=192)).all()
    assert np.isfinite(target_regret(arm_optima, -4.6, theta, width=192)).all()


def test_steady_optima_transfer_and_moving_ones_drift() -> None:
    steady = decision(basins_at({24: -5.7, 48: -5.5, 96: -5.6}), limit=0.008)
    moving = decision(basins_at({24: -5.7, 48: -6.4, 96: -7.2}), limit=0.008)
    assert (steady.verdict, moving.verdict) == (Verdict.transfers, Verdict.drifts)
    assert all("within the limit" in reason for reason in steady.reasons)
    assert all("limit 0.008" in reason for reason in moving.reasons)


def test_a_limit_inside_the_range_is_inconclusive_and_names_an_action() -> None:
    answer = decision(basins_at({24: -5.7, 48: -5.5, 96: -5.6}), limit=0.0001)
    assert answer.verdict is Verdict.inconclusive
    assert answer.reasons[-1].startswith("Do next: ")


def test_minimum_on_an_edge_extends_and_says_where_to() -> None:
    answer = decision(basins_at({24: -6.0, 48: -8.0, 96: -10.4}), limit=0.008)
    assert answer.verdict is Verdict.extend
    assert answer.reasons == (
        "At width 96 the minimum is at the low end of the grid in 100% of draws: "
        "extend log2_lr from -10 down to -12.",
    )


def test_what_is_missing_is_named() -> None:
    two = decision(basins_at({24: -5.7, 48: -5.5}), limit=0.008)
    silent = decision(basins_at({24: -5.7, 48: -5.5, 96: -5.6}), limit=0.008, noise=False)
    cut = decision(basins_at({24: -6.0, 48: -6.0, 96: -6.0}, cliff=0.5), limit=0.008)
    assert {two.verdict, silent.verdict, cut.verdict} == {Verdict.inconclusive}
    assert "the sweep has 2: add widths" in two.reasons[0]
    assert "add seeds" in silent.reasons[0]
    assert "refine the grid" in cut.reasons[0]


def test_a_bracketed_optimum_has_its_rise_per_octave_squared() -> None:
    theta = np.arange(-8.0, -4.0, 0.5)
    losses = np.tile(0.5 + 0.01 * (theta + 5.0) ** 2, (2, 1))
    losses[:, theta > -5.0] = np.inf
    basin = fitted(theta, losses)
    arm_optima = arm_optima_of({24: basin})
    assert arm_optima is not None
    assert arm_optima.k_low[:, 0] == pytest.approx(0.01)


def planted_curvatures(k: dict[int, float]) -> ArmOptima:
    rng = np.random.default_rng(0)
    draws = np.array(list(k.values())) * np.exp2(0.05 * rng.standard_normal((500, len(k))))
    flat = np.zeros((500, len(k))) + 0.01 * rng.standard_normal((500, len(k)))
    return ArmOptima(
        widths=np.array(list(k), dtype=float),
        optima=np.full(len(k), -6.0),
        variances=np.full(len(k), 1e-4),
        theta_draws=flat - 6.0,
        k_low=draws,
        k_high=3.0 * draws,
        high_side_seen=True,
        cliffs=np.full(len(k), np.inf),
        fit_sd=0.01,
        model_sd=0.0,
    )


def test_curvatures_follow_the_width_to_the_target() -> None:
    fading = planted_curvatures({32: 0.016, 64: 0.008, 128: 0.004, 256: 0.002})
    k_low, k_high = target_curvatures(fading, 1024)
    assert np.median(k_low) == pytest.approx(0.0005, rel=0.15)
    assert k_high / k_low == pytest.approx(np.full(500, 3.0))
    regret = target_regret(fading, -7.0, np.full(500, -6.0), width=1024)
    assert np.median(regret) == pytest.approx(0.0005, rel=0.15)
    steady = planted_curvatures({32: 0.004, 64: 0.004, 128: 0.004, 256: 0.004})
    assert np.median(target_curvatures(steady, 1024)[0]) == pytest.approx(0.004, rel=0.05)


def test_either_side_follows_a_power_of_the_width_of_its_own() -> None:
    arm_optima = planted_curvatures({32: 0.016, 64: 0.008, 128: 0.004, 256: 0.002})
    noise = np.random.default_rng(1).standard_normal(arm_optima.k_high.shape)
    sides = dataclasses.replace(arm_optima, k_high=0.01 * np.exp2(0.05 * noise))
    k_low, k_high = target_curvatures(sides, 1024)
    assert np.median(k_low) == pytest.approx(0.0005, rel=0.05)
    assert np.median(k_high) == pytest.approx(0.01, rel=0.05)


def test_two_widths_curvatures_are_averaged() -> None:
    two = planted_curvatures({32: 0.004, 64: 0.002})
    assert np.median(target_curvatures(two, 1024)[0]) == pytest.approx(0.003, rel=0.05)


def test_a_rise_of_zero_is_no_curvature_to_extrapolate() -> None:
    arm_optima = planted_curvatures({32: 0.016, 64: 0.008, 128: 0.004, 256: 0.002})
    arm_optima.k_low[0, 1] = arm_optima.k_high[0, 1] = 0.0
    known = known_curvatures(arm_optima, arm_optima.k_low)
    assert list(known.widths) == [32.0, 128.0, 256.0]
    assert np.isfinite(known.theta_draws).all()


def test_errors_of_a_scaling_are_the_worst_widths() -> None:
    basins = basins_at({24: -5.7, 48: -5.5, 96: -5.6})
    arm_optima = arm_optima_of(basins)
    assert arm_optima is not None
    assert arm_optima.fit_sd == max(basin.fit_sd for basin in basins.values())
    assert len({basin.fit_sd for basin in basins.values()}) == 3


@pytest.mark.parametrize(("share", "verdict"), [(0.5, Verdict.inconclusive), (0.8, Verdict.drifts)])
def test_a_certain_drift_needs_a_likely_cost(share: float, verdict: Verdict) -> None:
    basins = basins_at({24: -5.7, 48: -6.4, 96: -7.2})
    evidence = evidence_of(
        basins,
        held_out=np.zeros(1000),
        at_target=np.where(np.arange(1000) < 1000 * share, 0.02, 0.0),
        drift=np.full(1000, -0.7),
    )
    answer = decide(evidence, RULE, hp="log2_lr")
    assert answer.verdict is verdict
    assert ("octaves per width doubling" in answer.reasons[0]) == (verdict is Verdict.drifts)


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.9, Verdict.transfers), (0.99, Verdict.inconclusive)]
)
def test_how_sure_the_rule_must_be_is_a_setting(share: float, verdict: Verdict) -> None:
    basins = basins_at({24: -5.7, 48: -5.5, 96: -5.6})
    evidence = evidence_of(
        basins,
        held_out=np.zeros(1000),
        at_target=np.where(np.arange(1000) < 50, 0.02, 0.0),
        drift=np.zeros(1000),
    )
    assert decide(evidence, VerdictConfig(sure=share), hp="log2_lr").verdict is verdict
    with pytest.raises(UserError, match="must lie above"):
        VerdictConfig(sure=0.4)


@pytest.mark.parametrize(("share", "extends"), [(0.04, False), (0.06, True)])
@pytest.mark.parametrize("edge", ["edge_low", "edge_high"])
def test_a_twentieth_of_the_draws_on_an_edge_extends(
    share: float, extends: bool, edge: str
) -> None:
    basins = basins_at({24: -5.7, 48: -5.5, 96: -5.6})
    basins[48] = dataclasses.replace(basins[48], **{edge: share})
    verdict = decision(basins, limit=0.008).verdict
    assert (verdict is Verdict.extend) == extends


def test_a_value_beyond_the_cliff_costs_no_number() -> None:
    basins = basins_at({24: -5.7, 48: -6.4, 96: -7.2})
    evidence = evidence_of(
        basins,
        held_out=np.full(1000, np.inf),
        at_target=np.full(1000, 0.02),
        drift=np.full(1000, -0.7),
    )
    said = " ".join(decide(evidence, RULE, hp="log2_lr").reasons)
    assert "lies beyond the cliff: an infinite regret, more than the limit 0.01." in said
    assert "inf " not in said
