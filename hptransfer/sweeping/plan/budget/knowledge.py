"""What is known of a sweep's basins before it is designed: from its rows, or from a pilot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.estimates import estimate
from hptransfer.analysis.basins.curve import Curves, fit_curves
from hptransfer.config import ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Scaling
from hptransfer.config.hyperparameters import hps, with_hyperparameters
from hptransfer.config.identity import with_scaling, with_width
from hptransfer.config.sweep import SweepConfig
from hptransfer.errors import UserError
from hptransfer.execution import run_packs
from hptransfer.execution.pack_sizes import Trials
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.results.table import rows_table
from hptransfer.results.trial_result import TrialResult

# The sd of the optimum's drift before a sweep has run, in octaves per width doubling.
DRIFT_SD = {Scaling.mup: 0.1}
OTHER_DRIFT_SD = 0.5  # under every other parametrization
# The sd of the optimum's move with the length of training, in octaves per doubling of the steps: on
# the digits it lies at -5.2, -5.9 and -6.2 after 75, 150 and 300 steps.
STEPS_SD = 0.5
UNKNOWN_SD = 0.5  # the sd of an optimum that has no interval, in octaves
NORMAL_90 = 2 * 1.645  # length of a normal's 90 % interval over its sd
UNIFORM = 12**0.5  # length of an interval over the sd of a uniform draw from it

PILOT_RATES = 8  # learning rates that a pilot trains
PILOT_SEEDS = (3, 2)  # seeds that a pilot trains: the first number that the budget pays
# Octaves by which a pilot's highest rate rises for each halving of its steps: a shorter run bears
# higher rates.
PILOT_SHIFT = 0.5


@dataclass(frozen=True)
class Knowledge:
    """What is taken for known of the basins, which have one shape at every width."""

    shape: Curves  # a bundle of one curve with its optimum at 0, in units of the loss
    level: float  # the loss at the optimum
    loss_at_init: float
    noise: float  # sd of one trial's loss within a seed
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


class BasinSummary(NamedTuple):
    """One width's basin, read off its entry in the estimates."""

    entry: Mapping[str, Any]
    rises: tuple[float, float]  # of the loss, one octave below and above the optimum
    optimum: float  # log2 of the HP
    sd: float  # of the optimum, octaves


def known_from(
    trials: pd.DataFrame, axis: str, scaling: Scaling, *, steps: int, source: str
) -> Knowledge | None:
    """Return what trials tell of an arm; None where they show no basin or no noise."""
    if trials.empty:
        return None
    fitted = estimate(trials, sweep_name=source, axes=[axis], target_width=None)
    arms = [a for a in fitted["arms"] if a["parametrization"] in (scaling.value, "shared")]
    if not arms:
        return None
    optima, noise = arms[0]["optima"], _noise(arms[0]["optima"])
    seen = [basin for entry in optima if (basin := _basin(entry)) is not None]
    if not seen or not noise:
        return None
    low, high = np.mean([basin.rises for basin in seen], axis=0)
    cliffs = [b.entry["cliff"] for b in seen if b.entry["cliff"] is not None]
    drift, drift_sd = _drift(arms[0]["drift_octaves_per_doubling"], scaling)
    return Knowledge(
        shape=shape_of(float(low), float(high)),
        level=seen[-1].entry["loss"],
        loss_at_init=float(np.median(trials["loss_at_init"])),
        noise=noise,
        cliff=min(cliffs, default=np.inf),
        optimum=seen[0].optimum,
        optimum_sd=seen[0].sd,
        width=seen[0].entry["width"],
        drift=drift,
        drift_sd=drift_sd,
        steps=steps,
        source=source,
        trials=len(trials),
    )


def _basin(entry: Mapping[str, Any]) -> BasinSummary | None:
    """Return the summary of a width's basin; None where its points bend up nowhere.

    Next to a failed point only the rise from below is seen, and it is taken for both sides. Where
    noise hides the minimum, the curve through all sound points is taken, and the optimum may lie
    anywhere between them.
    """
    low, high = entry["low"], entry["high"]
    if entry["curvature"] is not None:
        rises = entry["curvature"]["low"], entry["curvature"]["high"]
        return BasinSummary(entry, rises, entry["optimum"], _sd(entry, UNKNOWN_SD))
    basin = entry["basin"]
    every = zip(basin["theta"], basin["mean"], basin["failed"], strict=True)
    points = np.array([(theta, mean) for theta, mean, failed in every if not failed])
    if entry["censored"] == "divergence":
        (left, above), (at, least) = points[-2:]
        rise = (above - least) / (at - left) ** 2
        return BasinSummary(entry, (rise, rise), (low + high) / 2, (high - low) / UNIFORM)
    if entry["censored"] != "flat":
        return None
    curve = fit_curves(points[:, 0], points[None, :, 1])
    low_rise, high_rise = curve.rise(np.array([-1.0, 1.0]))[0]
    span = float(np.ptp(points[:, 0]))
    rises = float(low_rise), float(high_rise)
    return (
        BasinSummary(entry, rises, float(curve.optimum[0]), span / UNIFORM)
        if sum(rises) > 0
        else None
    )


def _noise(optima: Iterable[Mapping[str, Any]]) -> float | None:
    return next((entry["noise"]["loss_sd"] for entry in optima), None)


def _sd(entry: Mapping[str, Any], unknown: float) -> float:
    """Return the sd of the normal whose 90 % interval an entry gives; `unknown` without one."""
    if entry["low"] is None or entry["high"] is None:
        return unknown
    return (entry["high"] - entry["low"]) / NORMAL_90


def _drift(entry: Mapping[str, Any], scaling: Scaling) -> tuple[float, float]:
    """Return mean and sd of the drift: the recorded and the usual one, weighted by precision."""
    usual = DRIFT_SD.get(scaling, OTHER_DRIFT_SD)
    if entry["low"] is None or entry["high"] is None:
        return 0.0, usual
    own = max(_sd(entry, usual), 1e-3)
    share = usual**2 / (usual**2 + own**2)
    return share * entry["estimate"], float(np.sqrt(share) * own)


def shape_of(rise_low: float, rise_high: float) -> Curves:
    """Return the curve with its optimum at 0 that rises so much one octave below and above it."""
    zero, one = np.zeros(1), np.ones(1)
    ends = np.array([-1.0, 1.0])
    slow, fast = (Curves(zero, zero, s, f).rise(ends)[0] for s, f in ((one, zero), (zero, one)))
    wanted = np.array([rise_low, rise_high])
    amplitudes = np.linalg.solve(np.stack([slow, fast], axis=1), wanted)
    if amplitudes.min() < 0:  # steeper on a side than either: the nearest curve that can be
        bases = [slow, fast]
        leader = int(amplitudes.argmax())
        amplitudes = np.zeros(2)
        amplitudes[leader] = wanted @ bases[leader] / (bases[leader] @ bases[leader])
    return Curves(zero, zero, amplitudes[:1], amplitudes[1:])


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
        raise UserError(_no_basin(found, axis, steps=steps))
    return known


def _no_basin(trials: pd.DataFrame, axis: str, *, steps: int) -> str:
    """Say what a pilot found instead of a basin."""
    fitted = estimate(trials, sweep_name="pilot", axes=[axis], target_width=None)
    entry = next(iter(fitted["arms"][0]["optima"]), None)
    name = axis.removeprefix("log2_")
    how = {
        "grid_low": f"the lowest of them; lower search.{name}.low",
        "grid_high": f"the highest of them; raise search.{name}.high",
        "too_few": f"among too few that trained; lower search.{name}.low and search.{name}.high",
    }
    advice = "no better than the others; lengthen budget.steps"
    why = "every trial failed"
    if entry is not None:
        why = f"its best point is {entry['optimum']:g}, {how.get(entry['censored'], advice)}"
    return (
        f"A design needs a basin with its minimum inside, but the pilot of {len(trials)} trials of "
        f"{steps} steps shows none: {why}."
    )
