"""The answer to a table of optima with errors: drift, target and movement, without any loss.

Every optimum is a normal posterior, to which the law of the hierarchical model is fitted as to
those of basins. What a value costs is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.estimates import (
    conditions_entry,
    law_band,
    layout_caveats,
    setting_entry,
    target_entry,
)
from hptransfer.analysis.answer.fitted_arm import FittedArm, Request
from hptransfer.analysis.answer.headline import (
    one_value_sentence,
    reasons,
    slope_words,
)
from hptransfer.analysis.answer.settings import Setting, lay_out
from hptransfer.analysis.answer.verdict import Judged, Verdict
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.noise import Noise, NoiseSource
from hptransfer.analysis.basins.numbers import SCHEMA, interval, number, quantile
from hptransfer.analysis.basins.rows import Arm, read_rows, split_arms
from hptransfer.analysis.basins.scale import Scale
from hptransfer.analysis.laws.hierarchy import Law, fit_densities
from hptransfer.config.hyperparameters import hp_words, value_text
from hptransfer.config.sweep import AXIS_WORDS, CONDITIONS, VerdictConfig
from hptransfer.errors import UserError
from hptransfer.system.text import factor_text

NINETY = 1.645  # sds from a normal's middle to the ends of its 90 % interval
REACH = 6.0  # sds beyond the outermost optima up to which candidates lie
FINEST = 0.5  # of the smallest sd: the distance of candidates
MOST_CANDIDATES = 20_001
NO_COST = (
    "What ignoring the movement costs is not known, because a table of optima holds no losses. "
    "Import the trials to learn it."
)


@dataclass(frozen=True)
class GivenOptimum:
    """One setting's optimum as a normal distribution, where a fit would have a basin."""

    optimum: float  # log2 of the hyperparameter
    sd: float  # octaves

    censored = None
    beyond = (0.0, 0.0)  # shares of the posterior beyond a grid's ends; there is no grid
    skews = np.zeros(1)

    @property
    def interval(self) -> tuple[float, float]:
        """The 90 % interval."""
        return self.optimum - NINETY * self.sd, self.optimum + NINETY * self.sd


@dataclass(frozen=True)
class OptimaArm(FittedArm):
    """One arm's optima; it has no basins, so that only what follows from optima is known."""

    @cached_property
    def law(self) -> Law:
        """The law of the optimum over all settings."""
        given: list[Any] = list(self.basins.values())
        means = np.array([each.optimum for each in given])
        sds = np.array([each.sd for each in given])
        low, high = means.min() - REACH * sds.max(), means.max() + REACH * sds.max()
        spacing = max(FINEST * sds.min(), (high - low) / (MOST_CANDIDATES - 1))
        candidates = np.linspace(low, high, int(np.ceil((high - low) / spacing)) + 1)
        sds = np.maximum(sds, candidates[1] - candidates[0])
        density: Floats = np.exp(-0.5 * ((candidates - means[:, None]) / sds[:, None]) ** 2)
        density /= density.sum(axis=1, keepdims=True)
        axes = self.layout.log2(list(self.basins))
        return fit_densities(axes, density[None], candidates, np.zeros(1))


def estimate_optima(
    optima: Sequence[Mapping[str, Any]],
    *,
    sweep_name: str,
    target_width: int | None,
    rule: VerdictConfig,
    at: Mapping[str, float | None] | None,
    target_at: Mapping[str, float | None] | None,
    draws: int = 2000,
) -> dict[str, Any]:
    """Return the estimates record of a table of optima, shaped as that of a sweep.

    Args:
        optima: each with family, parametrization, width, axis, optimum and sd, and conditions.
        rule: the verdict's.
        at: depth, batch size and steps at which the answer is read, where optima differ in them.
        target_at: the target's; None: the same.
        draws: of the posterior.
    """
    request = Request(target_width, rule, draws, at, target_at)
    axis = str(optima[0]["axis"])
    arms = split_arms(read_rows(_table(optima, axis), [axis]))
    records = [_record(_fitted(arm, axis, optima, request)) for arm in arms]
    return {"schema": SCHEMA, "sweep": sweep_name, "arms": records, "surfaces": []}


def _table(optima: Sequence[Mapping[str, Any]], axis: str) -> pd.DataFrame:
    """Return optima as rows of trials without losses, by which settings are told apart."""
    missing = dict.fromkeys(("loss", "loss_at_init", "loss_sd", "flops"), np.nan)
    rows = [
        {
            **missing,
            **{name: each.get(name) for name in CONDITIONS},
            **{name: each[name] for name in ("family", "parametrization", "width")},
            **{"status": "completed", "seed": 0, "n_seeds": 1, axis: each["optimum"]},
        }
        for each in optima
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(CONDITIONS, "float64"))


def _fitted(
    arm: Arm, axis: str, optima: Sequence[Mapping[str, Any]], request: Request
) -> OptimaArm:
    layout = lay_out(arm.rows, request.at)
    labels = (arm.parametrization, "shared")
    own = [o for o in optima if o["family"] == arm.family and o["parametrization"] in labels]
    given: dict[Setting, Any] = {}
    for setting in layout.settings:
        found = [each for each in own if _is_at(each, setting)]
        if len(found) > 1:
            raise UserError(
                f"Every setting has one optimum, but {arm.parametrization} has {len(found)} at "
                f"width {setting.width}. Name what differs with a column of depth, batch_size or "
                "steps."
            )
        given[setting] = GivenOptimum(found[0]["optimum"], found[0]["sd"])
    noise = Noise(float(np.mean([each.sd for each in given.values()])), 1.0, NoiseSource.given)
    names = (arm.family, arm.parametrization, axis)
    return OptimaArm(arm, axis, Scale(is_log=False), layout, given, noise, request, names=names)


def _is_at(optimum: Mapping[str, Any], setting: Setting) -> bool:
    held = {name: getattr(setting, name) for name in CONDITIONS}
    return optimum["width"] == setting.width and all(
        value is None or optimum.get(name) == value for name, value in held.items()
    )


def _record(found: OptimaArm) -> dict[str, Any]:
    judged, moved = Judged(found, None), reasons(Judged(found, None))[0]
    nothing: dict[str, None] = dict.fromkeys(("mean", "low", "high"))
    no_cost = {"loss": nothing, "percent": None, "compute_percent": None}
    main = found.layout.main
    ignoring = {
        **no_cost,
        "value": number(quantile(found.optimum_draws(found.origin), 0.5)),
        "kept_from": number(found.origin.value(main)),
        "movement": interval(found.movement),
        "limit": None,
    }
    return {
        "family": found.arm.family,
        "parametrization": found.arm.parametrization,
        "hp": found.hp,
        "axis": main,
        "at": {name: number(value) for name, value in found.layout.at.items()},
        "optima": [
            {**_optimum(found.basins[setting]), **setting_entry(found, setting)}
            for setting in found.on_main
        ],
        "drift_octaves_per_doubling": interval(found.slopes.get(main)),
        "law": {"band": law_band(found)},
        "loss_law": None,
        "conditions": conditions_entry(found),
        "target": _target(found, nothing) if found.has_target else None,
        "cost": {"emitted": no_cost, "ignoring": ignoring, "curve": None},
        "verdict": Verdict.inconclusive.value,
        "moves": judged.moves.value,
        "matters": "unclear",
        "headline": "\n".join(_headline(found)),
        "extend": [],
        "reasons": [moved, NO_COST],
        "warnings": layout_caveats(found),
    }


def _optimum(given: Any) -> dict[str, Any]:
    """Return an optimum's entry: what only losses tell is null or empty."""
    low, high = given.interval
    return {
        "optimum": number(given.optimum),
        "low": number(low),
        "high": number(high),
        "loss": None,
        "n_seeds": 0,
        "n_points": 0,
        "censored": None,
        "loss_at_optimum": dict.fromkeys(("estimate", "low", "high")),
        "curvature": {"low": None, "high": None},
        "cliff": None,
        "edge": {"low": 0.0, "high": 0.0},
        "isolated_failures": 0,
        "missing_runs": 0,
        "noise": {"sd": None, "source": NoiseSource.given.value},
        "basin": {
            **{name: [] for name in ("theta", "mean", "low", "high", "failed")},
            **{"window": [None, None], "fit_theta": [], "fit_loss": []},
        },
    }


def _target(found: OptimaArm, nothing: Mapping[str, None]) -> dict[str, Any]:
    """Return the optimum at the target; the value to emit is its median."""
    entry = target_entry(found)
    return {**entry, "emitted": entry["optimum"], "expected_regret": dict(nothing)}


def _headline(found: OptimaArm) -> list[str]:
    main, there = found.layout.main, found.destination_draws
    middle, low, high = (
        value_text(found.hp, found.value(quantile(there, q))) for q in (0.5, 0.05, 0.95)
    )
    place = f"{AXIS_WORDS[main]} {2.0 ** found.destination[0]:.6g}"
    slope = found.slopes.get(main)
    moved = one_value_sentence(main)
    if slope is not None:
        ends = [factor_text(quantile(slope, q)) for q in (0.5, 0.05, 0.95)]
        moved = (
            f"{slope_words(found.hp, main, ends[0])} (90 % interval {ends[1]} to {ends[2]}). What "
            "ignoring that costs is not known without losses."
        )
    count = len(found.basins)
    return [
        f"Use {hp_words(found.hp)} {middle} at {place} (90 % interval {low} to {high}). What that "
        "costs is not known without losses.",
        moved,
        f"This rests on {count} given {'optimum' if count == 1 else 'optima'} with "
        f"{'its error' if count == 1 else 'their errors'}, and on no trial.",
    ]
