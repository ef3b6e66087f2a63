"""What `benchmarks.convergence` trains: a swept folder's target at the rates that are compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hptransfer.analysis.answer.realised import realised_regret
from hptransfer.analysis.answer.transferred import arm_rows, transferred
from hptransfer.analysis.of_folder import asked_conditions, estimated, table_of, wanted_rows
from hptransfer.config import TrialConfig
from hptransfer.config.choices import Scaling, Schedule, Weights
from hptransfer.config.compose.compose import Composed, compose_file, sweep_config
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.config.identity import canonical, trial_key, with_scaling
from hptransfer.config.sweep import SweepConfig
from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder, find_folder
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.results.sweep_file import read_facts
from hptransfer.results.table import conditions_of, rows_table
from hptransfer.sweeping.design.trials import points
from hptransfer.sweeping.run.driver import run_trials
from hptransfer.sweeping.run.job import Job
from hptransfer.training.flops import trial_flops

AXIS = "log2_lr"
# What the originals' code trains with (AdamW): DiT's train.py, U-ViT's and PixArt-α's configs for
# ImageNet and SA-1B. For MMDiT it is DiT's.
DEFAULT_RATES = {"dit": 1e-4, "uvit": 2e-4, "pixart": 2e-5, "mmdit": 1e-4}

Row = Mapping[str, Any]  # of the ledger


@dataclass(frozen=True)
class Candidate:
    """A rate at which the target is trained, and what choosing it cost in target runs."""

    name: str
    label: str
    scaling: Scaling
    log2_lr: float
    tuning: float


@dataclass(frozen=True)
class Study:
    """A swept question with a target, and what its proxies say of the rate."""

    folder: ResultsFolder
    composed: Composed
    sweep: SweepConfig
    target: TrialConfig
    proxies: Any  # the table of their rows
    estimates: Mapping[str, Any]

    @property
    def rows(self) -> Path:
        """Where the target's runs are recorded."""
        return self.folder.path / "convergence"

    def configs(self, scaling: Scaling, log2_lr: float) -> list[TrialConfig]:
        """Return the target at a rate, every seed."""
        at = with_hyperparameters(with_scaling(self.target, scaling), {AXIS: log2_lr})
        return [dataclasses.replace(at, seed=seed) for seed in self.sweep.seeds]

    def recorded(self) -> dict[str, Row]:
        """Return the target's rows by trial key."""
        return {row["trial_key"]: row for row in read_ledger_rows(self.rows)}

    def grid(self) -> list[float]:
        """Return the rates of the target's own search: the proxies' grid."""
        return [point[AXIS] for point in points(self.sweep)]


def opened(path: Path) -> Study:
    """Open a swept folder; refuse one whose runs cannot be compared by their steps."""
    folder = find_folder(path)
    composed = compose_file(folder.sweep_file, [])
    sweep = sweep_config(composed)
    _require_comparable(sweep, folder)
    assert sweep.target is not None, "it was required"
    target = with_scaling(sweep.target, Scaling.mup)
    facts = read_facts(folder)
    proxies = table_of(wanted_rows(folder, facts), folder.path)
    at, _ = asked_conditions(facts)
    estimates = estimated(facts, proxies, at=at, target_at=conditions_of(canonical(target)))
    return Study(folder, composed, sweep, target, proxies, estimates)


def _require_comparable(sweep: SweepConfig, folder: ResultsFolder) -> None:
    budget, name = sweep.base.budget, folder.path.name
    if (budget.schedule, budget.weights) != (Schedule.constant, Weights.ema):
        raise UserError(
            "A point of a run is the end of a shorter one only at a constant rate with a moving "
            f"average, but {name} has schedule={budget.schedule.value} and "
            f"weights={budget.weights.value}. Sweep with budget=constant_ema."
        )
    arms = {Scaling.mup, Scaling.standard}
    if sweep.axes != (AXIS,) or sweep.target is None or not arms <= set(sweep.parametrizations):
        raise UserError(
            "Convergence is compared for a sweep of the learning rate alone, under mup and "
            f"standard, with a target, but {name} is none. See sweeps/convergence.yaml."
        )
    if sweep.target.budget != budget:
        raise UserError(
            f"The target must train as long as the proxies, but {name} gives it another budget. "
            "Remove sweep.target.budget."
        )
    if sweep.target.model.family not in DEFAULT_RATES:
        raise UserError(
            f"There is an original's default rate for {', '.join(DEFAULT_RATES)}, but "
            f"{name} has model={sweep.target.model.family}."
        )


def candidates(study: Study) -> list[Candidate]:
    """Return the rates that are known before the target is trained, µP's first."""
    ours = transferred(study.estimates, Scaling.mup.value)
    theirs = transferred(study.estimates, Scaling.standard.value)
    family = study.target.model.family
    default = DEFAULT_RATES[family]
    mup, standard = (_arm_cost(study, s) for s in (Scaling.mup, Scaling.standard))
    return [
        Candidate("mup", "µP, transferred rate", Scaling.mup, ours.point[AXIS], mup),
        Candidate(
            "default",
            f"standard, default rate {default:g}",
            Scaling.standard,
            round(math.log2(default), 6),
            0.0,
        ),
        Candidate(
            "proxy_tuned",
            f"standard, tuned at width {max(study.sweep.widths)}",
            Scaling.standard,
            float(theirs.first["optima"][-1]["optimum"]),
            standard,
        ),
        Candidate(
            "law_tuned",
            "standard, as its drift predicts",
            Scaling.standard,
            theirs.point[AXIS],
            standard,
        ),
    ]


def _arm_cost(study: Study, scaling: Scaling) -> float:
    """Return the FLOPs of an arm's proxies, every seed, in target runs."""
    flops = arm_rows(study.proxies, scaling.value)["flops"].to_numpy(dtype=np.float64)
    return float(flops.sum()) / trial_flops(study.target)


def target_tuned(study: Study) -> Candidate:
    """Return the optimum fitted to the target's own grid under the standard parametrization: the
    last rate to be known, and the dearest.
    """
    grid = study.grid()
    fitted = own_fit(study, Scaling.standard, grid[0])["optimum"]
    return Candidate(
        "target_tuned",
        "standard, tuned at the target",
        Scaling.standard,
        float(fitted["optimum"]),
        float(len(grid) * len(study.sweep.seeds)),
    )


def own_fit(study: Study, scaling: Scaling, log2_lr: float) -> dict[str, Any]:
    """Return the optimum of the target's own grid, and what a rate costs beside it."""
    rows = study.recorded()
    places = [study.configs(scaling, value) for value in {*study.grid(), log2_lr}]
    emitted = transferred(study.estimates, scaling.value)
    predicted = emitted.expected_regret if emitted.point[AXIS] == log2_lr else {}
    return realised_regret(
        rows_table([rows[trial_key(config)] for configs in places for config in configs]),
        transferred=log2_lr,
        predicted=predicted,
        hp=AXIS,
        width=study.target.model.width,
    )


def train(study: Study, *, quiet: bool) -> list[Candidate]:
    """Train the target wherever a row of it is missing; return the rates to compare, µP's first."""
    known = candidates(study)
    places = [(each.scaling, each.log2_lr) for each in known]
    places += [(s, value) for s in (Scaling.mup, Scaling.standard) for value in study.grid()]
    _run(study, places, quiet=quiet)
    last = target_tuned(study)
    _run(study, [(last.scaling, last.log2_lr)], quiet=quiet)
    return [*known, last]


def _run(study: Study, places: Sequence[tuple[Scaling, float]], *, quiet: bool) -> None:
    """Run the target at rates through the sweep's packs, its held-out loss taken at reports."""
    trials = {trial_key(c): c for place in places for c in study.configs(*place)}
    runtime = dataclasses.replace(study.composed.runtime, held_out_curve=True)
    composed = dataclasses.replace(study.composed, runtime=runtime)
    job = Job(composed, study.sweep, study.folder, quiet)
    run_trials(job, study.rows, list(trials.values()))
