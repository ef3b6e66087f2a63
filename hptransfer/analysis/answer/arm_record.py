"""An arm's answer as strict JSON: drift, regret, law, and the value for the target."""

from __future__ import annotations

from typing import Any

import numpy as np

from hptransfer.analysis.answer.arm_answer import ArmAnswer
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import interval, number, quantile, scaled
from hptransfer.analysis.laws.loss_law import band_entry, mixture_entry
from hptransfer.analysis.laws.regret import constant_value, emitted_value, target_regret

NEAR_ZERO = 0.01  # a loss below this share of the loss at init gives no percentages


def drift_entry(answer: ArmAnswer) -> dict[str, Any]:
    """Return the drift in octaves per width doubling."""
    if answer.drift is not None:
        slope, draws = answer.drift.coefficients[1], answer.drift.coefficient_draws[:, 1]
        return interval(draws, estimate=float(slope), noisy=answer.noise is not None)
    if len(answer.basins) < 2:
        return interval(None)
    optima = [basin.optimum for basin in answer.basins.values()]
    slope = np.polyfit(np.log2(list(answer.basins)), optima, 1)[0]
    return interval(None, estimate=float(slope))


def regret_entry(answer: ArmAnswer, *, loss_at_init: float) -> dict[str, Any]:
    """Return the constant law's regrets in units of the loss, as a share of G, and in percent."""
    noisy = answer.noise is not None
    held_out = interval(answer.held_out, noisy=noisy)
    at_target = None if answer.at_target is None else interval(answer.at_target, noisy=noisy)
    deciding = held_out if at_target is None else at_target
    gain = answer.gain
    loss = list(answer.basins.values())[-1].loss if answer.basins else 0.0
    near_zero = loss <= 0 or loss < NEAR_ZERO * loss_at_init
    return {
        "held_out": held_out,
        "at_target": at_target,
        "delta": number(answer.limit),
        "share_of_gain": None if gain is None or gain <= 0 else scaled(deciding, 1.0 / gain),
        "percent": None if near_zero else scaled(deciding, 100.0 / loss),
    }


def law_entry(answer: ArmAnswer, target_width: int | None) -> dict[str, Any]:
    """Return the laws with their weights, and the mixture's 90 % band over width."""
    noisy = answer.noise is not None
    band = band_entry(answer.mixture, target_width, quantity="theta", noisy=noisy)
    return {**mixture_entry(answer.mixture), "band": band}


def at_target_entry(answer: ArmAnswer, width: int | None) -> dict[str, Any] | None:
    """Return the optimum at the target, the value to emit, and what that should cost."""
    arm_optima = answer.arm_optima
    if width is None or not answer.basins:
        return None
    optimum = answer.optimum_target
    if arm_optima is None or answer.theta_target is None or optimum is None:
        widest = list(answer.basins.values())[-1].optimum
        value = answer.moved + (widest if arm_optima is None else constant_value(arm_optima))
        return _at_target(width, value, emitted=value)
    emitted = emitted_value(arm_optima, answer.theta_target, width=width)
    if answer.noise is None:
        return _at_target(width, optimum, emitted=emitted)
    regret = target_regret(arm_optima, emitted, answer.theta_target, width=width)
    ends = (quantile(answer.theta_target, 0.05), quantile(answer.theta_target, 0.95))
    return _at_target(width, optimum, emitted=emitted, ends=ends, regret=regret)


def _at_target(
    width: int,
    optimum: float,
    *,
    emitted: float,
    ends: tuple[float, float] | None = None,
    regret: Floats | None = None,
) -> dict[str, Any]:
    low, high = (None, None) if ends is None else ends
    expected = {"mean": None, "low": None, "high": None}
    if regret is not None:
        expected = {
            "mean": number(float(regret[np.isfinite(regret)].mean())),
            "low": number(quantile(regret, 0.05)),
            "high": number(quantile(regret, 0.95)),
        }
    return {
        "width": width,
        "optimum": number(optimum),
        "low": number(low),
        "high": number(high),
        "emitted": number(emitted),
        "expected_regret": expected,
    }
