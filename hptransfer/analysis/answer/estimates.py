"""The answer to a sweep: every arm's optima, law, regret and verdict, as a strict-JSON record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.arm_answer import ArmAnswer, Request, answer_of, decision_of
from hptransfer.analysis.answer.arm_record import (
    at_target_entry,
    drift_entry,
    law_entry,
    regret_entry,
)
from hptransfer.analysis.answer.optimum_record import optimum_entry
from hptransfer.analysis.answer.warnings import warnings_of
from hptransfer.analysis.basins.basin import Basin, Noise, fit_basin, pool_noise
from hptransfer.analysis.basins.numbers import SCHEMA, number
from hptransfer.analysis.basins.rows import Arm, TrialArrays, read_rows, split_arms, width_grids
from hptransfer.analysis.conditions.conditions import Shift, conditions_block, unfitted_shift
from hptransfer.analysis.conditions.reference import caveats, reference, rows_at_condition
from hptransfer.analysis.laws.loss_law import curvature_law, loss_law
from hptransfer.analysis.laws.usefulness import transfer_quality
from hptransfer.analysis.surfaces.points import varying
from hptransfer.analysis.surfaces.record import surface_entry, surface_notes
from hptransfer.analysis.surfaces.surface import ArmSurfaces, arm_surfaces
from hptransfer.config.sweep import VerdictConfig
from hptransfer.system.random_streams import stream


@dataclass(frozen=True)
class FittedArm:
    """The fits of one arm and one HP: a basin per width, the noise, and the target's shift."""

    arm: Arm
    hp: str
    where: Mapping[str, float | None]  # the condition at which width is judged
    basins: dict[int, Basin]
    noise: Noise | None
    lost: list[int]  # widths without a sound point
    shift: Shift
    conditions: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, str, str]:
        """The names of the arm's random streams, so that the same rows give the same digits."""
        return (self.arm.family, self.arm.parametrization, self.hp)


def estimate(
    table: pd.DataFrame,
    *,
    sweep_name: str,
    axes: Iterable[str],
    target_width: int | None,
    rule: VerdictConfig = VerdictConfig(),
    at: Mapping[str, float | None] | None = None,
    target_at: Mapping[str, float | None] | None = None,
    draws: int = 2000,
) -> dict[str, Any]:
    """Return the estimates record of a sweep; the same for the same rows in any order.

    Args:
        axes: the swept HP columns.
        rule: the verdict's.
        at: depth, batch size and steps at which width is judged, where rows differ in them.
        target_at: the target's; None: the same.
        draws: of noise.
    """
    request = Request(target_width, rule, draws, at, target_at)
    arms: list[dict[str, Any]] = []
    surfaces: list[dict[str, Any]] = []
    for arm in split_arms(read_rows(table, list(axes))):
        records, surface = _answered(arm, request)
        arms += records
        surfaces += surface
    return {"schema": SCHEMA, "sweep": sweep_name, "arms": arms, "surfaces": surfaces}


def _answered(arm: Arm, request: Request) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return an arm's record per HP, and the surface over them where several vary."""
    found, fitted = fit_basins_of_arm(arm, request)
    answers = {each.hp: _answer(each, request) for each in found}
    records = [_record(each, answers[each.hp], request) for each in found]
    if fitted is None:
        return records, []
    targets = {hp: a.theta_target for hp, a in answers.items() if a.theta_target is not None}
    entry = surface_entry(arm.family, arm.parametrization, fitted, theta_target=targets)
    return records, [entry]


def fit_basins_of_arm(arm: Arm, request: Request) -> tuple[list[FittedArm], ArmSurfaces | None]:
    """Return an arm's fitted basins for every HP that varies, and the surface of several HPs.

    Notes on the surface stand with its first HP.
    """
    where = reference(arm.rows, request.at)
    rows = rows_at_condition(arm.rows, where)
    hps = varying(rows) or tuple(rows.hps)[:1]
    if len(hps) == 1:
        return [_alone(arm, rows, where, request, hp=hps[0])], None
    fitted = arm_surfaces(rows, arm.family, arm.parametrization, draws=request.draws)
    shift = unfitted_shift(arm.rows, where, request.target_at)
    together = [
        FittedArm(arm, hp, where, fitted.basins(hp), fitted.noise, fitted.lost, shift) for hp in hps
    ]
    together[0] = replace(together[0], notes=tuple(surface_notes(fitted)))
    return together, fitted


def _alone(
    arm: Arm, rows: TrialArrays, where: Mapping[str, float | None], request: Request, *, hp: str
) -> FittedArm:
    """Fit the basins of the only HP that varies, and how they follow what varies beside width."""
    names = (arm.family, arm.parametrization, hp)
    block, shift = conditions_block(
        arm.rows, where, request.target_at, hp=hp, names=names, draws=request.draws
    )
    every = width_grids(rows, hp)
    grids = {width: grid for width, grid in every.items() if grid is not None}
    noise = pool_noise(grids.values(), rng=stream(*names, "noise"), draws=request.draws)
    basins = {
        width: fit_basin(grid, noise, rng=stream(*names, width), draws=request.draws)
        for width, grid in grids.items()
    }
    lost = [width for width, grid in every.items() if grid is None]
    return FittedArm(arm, hp, where, basins, noise, lost, shift, block)


def _answer(found: FittedArm, request: Request) -> ArmAnswer:
    rng = stream(*found.names, "law")
    return answer_of(found.basins, found.noise, request, shift=found.shift, rng=rng)


def _record(found: FittedArm, answer: ArmAnswer, request: Request) -> dict[str, Any]:
    arm, basins, noise, width = found.arm, found.basins, found.noise, request.target_width
    decision = decision_of(answer, request.rule, hp=found.hp)
    loss_at_init = float(np.median(arm.rows.loss_at_init))
    drift = drift_entry(answer)
    told = warnings_of(basins, noise, answer.gain, decision=decision, drift=drift, lost=found.lost)
    return {
        "family": arm.family,
        "parametrization": arm.parametrization,
        "hp": found.hp,
        "at": {name: number(value) for name, value in found.where.items()},
        "optima": [optimum_entry(width, basin, noise) for width, basin in basins.items()],
        "drift_octaves_per_doubling": drift,
        "regret": regret_entry(answer, loss_at_init=loss_at_init),
        "law": law_entry(answer, width),
        "loss_law": loss_law(basins, width, rng=stream(*found.names, "loss")),
        "curvature_law": curvature_law(
            basins, answer.arm_optima, rng=stream(*found.names, "curvature")
        ),
        "quality": transfer_quality(basins, answer.arm_optima, rng=stream(*found.names, "quality")),
        "conditions": found.conditions,
        "target": at_target_entry(answer, width),
        "gain": {"estimate": number(answer.gain)},
        "verdict": decision.verdict.value,
        "reasons": list(decision.reasons),
        "warnings": [*caveats(arm.rows, found.where), *found.notes, *told, *found.shift.warnings],
    }
