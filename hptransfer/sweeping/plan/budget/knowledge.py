"""What is known of a sweep's basins before it is designed: from its rows, or from a pilot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.fitted_arm import FittedArm, Request, fit_arm
from hptransfer.analysis.basins.basin import Basin, Censoring
from hptransfer.analysis.basins.curve import Curves
from hptransfer.analysis.basins.rows import read_rows, split_arms
from hptransfer.analysis.basins.scale import Scale
from hptransfer.config import ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import TRANSFERRING, Scaling
from hptransfer.config.hyperparameters import hps, with_hyperparameters
from hptransfer.config.identity import with_scaling, with_width
from hptransfer.config.sweep import SweepConfig, VerdictConfig
from hptransfer.errors import UserError
from hptransfer.execution import run_packs
from hptransfer.execution.pack_sizes import Trials
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.results.table import rows_table
from hptransfer.results.trial_result import TrialResult

# The sd of the optimum's drift before a sweep has run, in octaves per width doubling.
DRIFT_SD: dict[Scaling, float] = dict.fromkeys(TRANSFERRING, 0.1)
OTHER_DRIFT_SD = 0.5  # under every other parametrization
# The sd of the optimum's move with the length of training, in octaves per doubling of the steps: on
# the digits it lies at -5.2, -5.9 and -6.2 after 75, 150 and 300 steps.
STEPS_SD = 0.5
DRAWS = 2000  # of what the trials tell
LEAST_RISE = 3.0  # sds of a point's mean loss by which a flat basin's sides must rise

PILOT_RATES = 8  # learning rates that a pilot trains
PILOT_SEEDS = (3, 2)  # seeds that a pilot trains: the first number that the budget pays
# Octaves by which a pilot's highest rate rises for each halving of its steps: a shorter run bears
# higher rates.
PILOT_SHIFT = 0.5


@dataclass(frozen=True)
class Knowledge:
    """What is taken for known of the basins, which have one shape at every width."""

    scale: Scale  # of losses; what follows is on it
    shape: Curves  # a bundle of one curve with its optimum and level at 0
    level: float  # y at the optimum
    start: float  # y before training
    noise: float  # sd of one trial's y within a seed
    cliff: float  # octaves from the optimum to the first rate that fails; inf: none seen
    optimum: float  # log2 of the HP at `width`
    optimum_sd: float
    width: int
    drift: float  # octaves per width doubling
    drift_sd: float
    steps: int  # of the trials that told it
    source: str  # of the trials: rows or pilot
    trials: int  # number of them

    def expected(self, width: int) -> float:
        """Return the optimum that is expected at a width."""
        return self.optimum + self.drift * float(np.log2(width / self.width))


def known_from(
    trials: pd.DataFrame, axis: str, scaling: Scaling, *, steps: int, source: str
) -> Knowledge | None:
    """Return what trials tell of an arm; None where they show no basin or no noise."""
    arm = _fitted(trials, axis, scaling)
    if arm is None or arm.noise is None:
        return None
    seen = [setting for setting in arm.on_main if _is_seen(arm.basins[setting], arm.noise.sd)]
    if not seen:
        return None
    curves = [arm.basins[setting].curve for setting in seen]
    k = np.exp(np.mean([np.log(curve.curvature) for curve in curves], axis=0))
    skew = np.mean([curve.skew for curve in curves], axis=0)
    optimum = arm.optimum_draws(seen[0])
    drift, drift_sd = _drift(arm, DRIFT_SD.get(scaling, OTHER_DRIFT_SD))
    return Knowledge(
        scale=arm.scale,
        shape=Curves(np.zeros(1), np.zeros(1), k, skew),
        level=float(curves[-1].level[0]),
        start=float(np.median(arm.arm.rows.loss_at_init)),
        noise=arm.noise.sd,
        cliff=arm.cliff,
        optimum=float(optimum.mean()),
        optimum_sd=float(optimum.std()),
        width=seen[0].width,
        drift=drift,
        drift_sd=drift_sd,
        steps=steps,
        source=source,
        trials=len(trials),
    )


def _fitted(trials: pd.DataFrame, axis: str, scaling: Scaling) -> FittedArm | None:
    if trials.empty:
        return None
    request = Request(None, VerdictConfig(), DRAWS, at=None, target_at=None)
    for arm in split_arms(read_rows(trials, [axis])):
        if arm.parametrization in (scaling.value, "shared"):
            return fit_arm(arm, request)[0][0]
    return None


def _is_seen(basin: Basin, noise: float) -> bool:
    """Say whether the points bend up on both sides, next to a failed point on the low one."""
    ends = basin.grid.theta[basin.grid.sound[[0, -1]]]
    rises = basin.curve.rise(ends - basin.optimum)[0]
    if basin.censored is Censoring.divergence:
        rises = rises[:1]
    return bool(rises.min() > LEAST_RISE * noise / np.sqrt(len(basin.grid.losses)))


def _drift(arm: FittedArm, usual: float) -> tuple[float, float]:
    """Return mean and sd of the drift: the fitted and the usual one, weighted by precision."""
    slope = arm.slopes.get("width")
    if slope is None:
        return 0.0, usual
    own = float(slope.std())
    share = usual**2 / (usual**2 + own**2)
    return share * float(slope.mean()), float(np.sqrt(share)) * own


def pilot_trials(sweep: SweepConfig, *, steps: int, seeds: int) -> tuple[TrialConfig, ...]:
    """Return a pilot's trials: rates over the sweep's range at the narrowest width."""
    assert sweep.target is not None, "a budget is planned for a target"
    ((name, axis),) = sweep.search
    base = with_scaling(
        with_width(sweep.base, sweep.widths[0]), sweep.target.parametrization.scaling
    )
    base = dataclasses.replace(base, budget=dataclasses.replace(base.budget, steps=steps))
    shift = PILOT_SHIFT * float(np.log2(sweep.base.budget.steps / steps))
    values = np.round(np.linspace(axis.low, axis.high + shift, PILOT_RATES), 3)
    return tuple(
        dataclasses.replace(with_hyperparameters(base, {f"log2_{name}": float(value)}), seed=seed)
        for seed in range(seeds)
        for value in values
    )


def run_pilot(
    packs: Sequence[Trials],
    sweep: SweepConfig,
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    say: Callable[[str], None],
) -> Knowledge:
    """Train a pilot and return what its trials tell; no row is recorded.

    Raises:
        UserError: the range holds no basin with its minimum inside.
    """
    finished: list[TrialResult] = []
    count = sum(map(len, packs))

    def on_results(_: int, results: list[TrialResult]) -> None:
        finished.extend(results)
        say(f"pilot    {len(finished)} of {count} trials have ended")

    run_packs(packs, runtime, executor, on_results=on_results)
    assert sweep.target is not None, "a budget is planned for a target"
    scaling, (axis,) = sweep.target.parametrization.scaling, sweep.axes
    found = rows_table(ledger_row(result, hps(result.config, [axis]), {}) for result in finished)
    steps = packs[0][0].budget.steps
    known = known_from(found, axis, scaling, steps=steps, source="pilot")
    if known is None:
        raise UserError(_no_basin(_fitted(found, axis, scaling), axis, len(found), steps=steps))
    return known


def _no_basin(arm: FittedArm | None, axis: str, trials: int, *, steps: int) -> str:
    """Say what a pilot found instead of a basin."""
    name, why = axis.removeprefix("log2_"), "every trial failed"
    how = {
        Censoring.grid_low: f"the lowest of them; lower search.{name}.low",
        Censoring.grid_high: f"the highest of them; raise search.{name}.high",
        Censoring.too_few: (
            f"among too few that trained; lower search.{name}.low and search.{name}.high"
        ),
    }
    if arm is not None and arm.on_main:
        basin = arm.basins[arm.on_main[0]]
        advice = "no better than the others; lengthen budget.steps"
        said = advice if basin.censored is None else how.get(basin.censored, advice)
        why = f"its best point is {basin.optimum:g}, {said}"
    return (
        "A plan needs a curve of loss against the hyperparameter with its minimum inside the "
        f"swept range, but the pilot of {trials} trials of {steps} steps shows none: {why}."
    )
