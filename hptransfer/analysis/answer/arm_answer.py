"""One arm's answer: from its basins to law, drift, regrets, limit and verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.answer.verdict import Decision, Evidence, decide
from hptransfer.analysis.basins.basin import Basin, Noise
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.conditions.conditions import Shift
from hptransfer.analysis.laws.law import Law, Mixture, fit_drift, mix_laws
from hptransfer.analysis.laws.regret import (
    ArmOptima,
    arm_optima_of,
    constant_value,
    gain_of_doubling,
    held_out_regret,
    regret_limit,
    target_regret,
)
from hptransfer.config.sweep import VerdictConfig


@dataclass(frozen=True)
class Request:
    """What is asked of every arm of a sweep."""

    target_width: int | None
    rule: VerdictConfig
    draws: int
    at: Mapping[str, float | None] | None  # condition at which width is judged; None: by the rows
    target_at: Mapping[str, float | None] | None  # the target's depth, batch size and steps


@dataclass(frozen=True)
class ArmAnswer:
    """One arm's fits, before they become a record."""

    basins: dict[int, Basin]
    noise: Noise | None
    arm_optima: ArmOptima | None
    mixture: Mixture | None
    drift: Law | None  # the linear law, from two usable widths on
    gain: float | None
    moved: float  # octaves from the condition of the basins to the target's, the median
    optimum_target: float | None  # the target's condition included, as in its draws
    theta_target: Floats | None  # (draw,)
    held_out: Floats | None
    at_target: Floats | None
    limit: float | None


def answer_of(
    basins: dict[int, Basin],
    noise: Noise | None,
    request: Request,
    *,
    shift: Shift,
    rng: np.random.Generator,
) -> ArmAnswer:
    """Fit an arm's laws and what follows from them.

    Args:
        shift: from the condition of the basins to the target's. Where it is needed and not known,
            nothing is said of the target but the constant law's value.
    """
    arm_optima = arm_optima_of(basins)
    mixture = (
        None
        if arm_optima is None
        else mix_laws(arm_optima, rng=rng, common_sd=arm_optima.common_sd)
    )
    optimum, theta, at_target = None, None, None
    moved = 0.0 if shift.draws is None else float(np.median(shift.draws))
    width = request.target_width if shift.reason is None else None
    if width is not None and mixture is not None and arm_optima is not None:
        widths = np.array([width])
        optimum = float(mixture.at(widths)[0]) + moved
        theta = mixture.draws_at(widths)[:, 0]
        theta = theta if shift.draws is None else theta + shift.draws
        at_target = target_regret(arm_optima, constant_value(arm_optima), theta, width=width)
    gain, limit = tolerance_of(basins, request.rule)
    return ArmAnswer(
        basins=basins,
        noise=noise,
        arm_optima=arm_optima,
        mixture=mixture,
        drift=None if arm_optima is None else fit_drift(arm_optima),
        gain=gain,
        moved=moved,
        optimum_target=optimum,
        theta_target=theta,
        held_out=None if arm_optima is None else held_out_regret(arm_optima),
        at_target=at_target,
        limit=limit,
    )


def tolerance_of(
    basins: Mapping[int, Basin], rule: VerdictConfig
) -> tuple[float | None, float | None]:
    """Return G, the gain of the last width doubling, and δ, the regret that is still no drift."""
    usable = [width for width, basin in basins.items() if basin.usable]
    gain = gain_of_doubling(usable, [basins[width].loss for width in usable])
    run_sd = basins[usable[-1]].run_sd if usable else None
    return gain, regret_limit(gain, run_sd, rule)


def decision_of(answer: ArmAnswer, rule: VerdictConfig, *, hp: str) -> Decision:
    """Apply the verdict's rule to an arm."""
    evidence = Evidence(
        basins=answer.basins,
        arm_optima=answer.arm_optima,
        has_noise=answer.noise is not None,
        limit=answer.limit,
        held_out=answer.held_out,
        at_target=answer.at_target,
        drift=None if answer.drift is None else answer.drift.coefficient_draws[:, 1],
    )
    return decide(evidence, rule, hp=hp)
