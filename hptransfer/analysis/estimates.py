"""The answer to a sweep: every arm's optima, law, regret and verdict, as a strict-JSON record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.basin import Basin, Noise, fit_basin, pool_noise
from hptransfer.analysis.curve import Floats
from hptransfer.analysis.law import Law, Mixture, fit_drift, mix_laws
from hptransfer.analysis.notes import warnings_of
from hptransfer.analysis.realised import realised
from hptransfer.analysis.record import SCHEMA, interval, number, numbers, optimum_entry, scaled
from hptransfer.analysis.streams import stream
from hptransfer.analysis.table import Arm, read_rows, split_arms, width_grids
from hptransfer.analysis.transfer import (
    Scaling,
    build_scaling,
    constant_value,
    emitted_value,
    gain_of_doubling,
    held_out_regret,
    quantile,
    regret_limit,
    target_regret,
)
from hptransfer.analysis.verdict import Decision, Evidence, decide
from hptransfer.questions import VerdictConfig

__all__ = ["estimate", "realised"]

BAND_WIDTHS = 40
NEAR_ZERO = 0.01  # a loss below this share of the loss at init gives no percentages


@dataclass(frozen=True)
class Request:
    """What was asked of a sweep."""

    sweep_name: str
    target_width: int | None
    rule: VerdictConfig
    draws: int


@dataclass(frozen=True)
class Answer:
    """One arm's fits, before they become a record."""

    basins: dict[int, Basin]
    noise: Noise | None
    scaling: Scaling | None
    mixture: Mixture | None
    drift: Law | None  # the linear law, from two usable widths on
    gain: float | None
    theta_target: Floats | None  # (draw,)
    held_out: Floats | None
    at_target: Floats | None
    limit: float | None


def estimate(
    table: pd.DataFrame,
    *,
    sweep_name: str,
    axes: Iterable[str],
    target_width: int | None,
    rule: VerdictConfig = VerdictConfig(),
    draws: int = 2000,
) -> dict[str, Any]:
    """Return the estimates record of a sweep; the same for the same rows in any order.

    `axes` names the swept HP columns, `rule` is the verdict's.
    """
    rows = read_rows(table, list(axes))
    request = Request(sweep_name, target_width, rule, draws)
    arms = [_arm_record(arm, request) for arm in split_arms(rows)]
    return {"schema": SCHEMA, "sweep": sweep_name, "arms": arms}


def _arm_record(arm: Arm, request: Request) -> dict[str, Any]:
    names = (arm.family, arm.parametrization, arm.hp)  # the same rows, the same digits
    every = width_grids(arm.rows, arm.hp)
    grids = {width: grid for width, grid in every.items() if grid is not None}
    noise = pool_noise(grids.values(), rng=stream(*names, "noise"), draws=request.draws)
    basins = {
        width: fit_basin(grid, noise, rng=stream(*names, width), draws=request.draws)
        for width, grid in grids.items()
    }
    answer = _answer(basins, noise, request, rng=stream(*names, "law"))
    decision = _decision(answer, request.rule, hp=arm.hp)
    lost = [width for width, grid in every.items() if grid is None]
    return {
        "family": arm.family,
        "parametrization": arm.parametrization,
        "hp": arm.hp,
        "optima": [optimum_entry(width, basin, noise) for width, basin in basins.items()],
        "drift_octaves_per_doubling": _drift(answer),
        "regret": _regret(answer, loss_at_init=float(np.median(arm.rows.loss_at_init))),
        "law": _law(answer, request),
        "target": _target(answer, request),
        "gain": {"estimate": number(answer.gain)},
        "verdict": decision.verdict.value,
        "reasons": list(decision.reasons),
        "warnings": [
            *arm.warnings,
            *warnings_of(basins, noise, answer.gain, decision=decision, lost=lost),
        ],
    }


def _answer(
    basins: dict[int, Basin], noise: Noise | None, request: Request, *, rng: np.random.Generator
) -> Answer:
    scaling = build_scaling(basins)
    mixture = None if scaling is None else mix_laws(scaling, rng=rng)
    theta, at_target = None, None
    if request.target_width is not None and mixture is not None and scaling is not None:
        theta = mixture.draws_at(np.array([request.target_width]))[:, 0]
        at_target = target_regret(scaling, constant_value(scaling), theta)
    widths = [width for width, basin in basins.items() if basin.usable]
    gain = gain_of_doubling(widths, [basins[width].loss for width in widths])
    run_sd = basins[widths[-1]].run_sd if widths else None
    return Answer(
        basins=basins,
        noise=noise,
        scaling=scaling,
        mixture=mixture,
        drift=None if scaling is None else fit_drift(scaling),
        gain=gain,
        theta_target=theta,
        held_out=None if scaling is None else held_out_regret(scaling),
        at_target=at_target,
        limit=regret_limit(gain, run_sd, request.rule),
    )


def _decision(answer: Answer, rule: VerdictConfig, *, hp: str) -> Decision:
    evidence = Evidence(
        basins=answer.basins,
        scaling=answer.scaling,
        has_noise=answer.noise is not None,
        limit=answer.limit,
        held_out=answer.held_out,
        at_target=answer.at_target,
        drift=None if answer.drift is None else answer.drift.coefficient_draws[:, 1],
    )
    return decide(evidence, rule, hp=hp)


def _drift(answer: Answer) -> dict[str, Any]:
    if answer.drift is not None:
        slope, draws = answer.drift.coefficients[1], answer.drift.coefficient_draws[:, 1]
        return interval(draws, estimate=float(slope), noisy=answer.noise is not None)
    if len(answer.basins) < 2:
        return interval(None)
    optima = [basin.optimum for basin in answer.basins.values()]
    slope = np.polyfit(np.log2(list(answer.basins)), optima, 1)[0]
    return interval(None, estimate=float(slope))


def _regret(answer: Answer, *, loss_at_init: float) -> dict[str, Any]:
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


def _law(answer: Answer, request: Request) -> dict[str, Any]:
    mixture = answer.mixture
    if mixture is None or answer.scaling is None:
        return {"name": "none", "candidates": [], "band": None}
    candidates = [
        {
            "name": law.name.value,
            "weight": number(float(weight)),
            "coefficients": dict(zip("ab", numbers(law.coefficients), strict=False)),
            "chi2": number(law.chi2),
        }
        for law, weight in zip(mixture.laws, mixture.weights, strict=True)
    ]
    widest = max(float(answer.scaling.widths[-1]), float(request.target_width or 0))
    widths = np.geomspace(answer.scaling.widths[0], widest, BAND_WIDTHS)
    low, high = np.quantile(mixture.draws_at(widths), (0.05, 0.95), axis=0)
    noisy = answer.noise is not None
    band = {
        "width": numbers(widths),
        "theta": numbers(mixture.at(widths)),
        "low": numbers(low) if noisy else [None] * BAND_WIDTHS,
        "high": numbers(high) if noisy else [None] * BAND_WIDTHS,
    }
    return {"name": mixture.favourite.name.value, "candidates": candidates, "band": band}


def _target(answer: Answer, request: Request) -> dict[str, Any] | None:
    width, scaling = request.target_width, answer.scaling
    if width is None or not answer.basins:
        return None
    if scaling is None or answer.theta_target is None or answer.mixture is None:
        widest = list(answer.basins.values())[-1].optimum
        value = widest if scaling is None else constant_value(scaling)
        return _target_entry(width, value, emitted=value)
    optimum = float(answer.mixture.at(np.array([width]))[0])
    emitted = emitted_value(scaling, answer.theta_target)
    if answer.noise is None:
        return _target_entry(width, optimum, emitted=emitted)
    regret = target_regret(scaling, emitted, answer.theta_target)
    ends = (quantile(answer.theta_target, 0.05), quantile(answer.theta_target, 0.95))
    return _target_entry(width, optimum, emitted=emitted, ends=ends, regret=regret)


def _target_entry(
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
