"""What adaptive refinement saves against a grid, replayed on recorded basins.

    python -m benchmarks.refine [--budgets 4,5,6,7,8] [--out FILE]

The four studies of results/studies are on one-octave grids of the learning rate (8 points, widths
24, 48 and 96, two arms, 3 seeds, target of width 192). The points half-way between are real
trials too, in results/benchmarks/half_octave, each family's made by

    hptransfer sweep quickstart model=FAMILY search.lr.low=-9.5 search.lr.high=-3.5

so that a refinement of the same axis, whose finest distance is half its step, can be replayed
without inventing a loss. For each budget (points of an arm at a width, on average) the replay asks
for rounds until it ends; its rows, and those of both grids, are then fitted as `hptransfer fit`
does. Reported: trials, FLOPs, and for each arm the width of the 90 % interval of the target's
optimum in octaves, null where fewer than three widths resolved an optimum.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from hptransfer.analysis.answer.estimates import estimate
from hptransfer.config import TrialConfig
from hptransfer.config.choices import Method, Scaling
from hptransfer.config.hyperparameters import hps
from hptransfer.config.identity import arm_of, trial_key, with_width
from hptransfer.config.sweep import Axis, DesignConfig, SweepConfig
from hptransfer.results.ledger_rows import read_ledger
from hptransfer.results.table import rows_table
from hptransfer.sweeping.design.rounds import asked

RESULTS = Path(__file__).resolve().parents[1] / "results"
STUDIES = {
    "dit": "quickstart",
    "uvit": "quickstart-uvit",
    "pixart": "quickstart-pixart",
    "mmdit": "quickstart-mmdit",
}
AXIS = "log2_lr"
ARMS = (Scaling.mup, Scaling.standard)
COLUMNS = ("family", "design", "trials", "FLOPs", "µP interval", "standard interval")

Row = Mapping[str, Any]


def question(budget: int) -> SweepConfig:
    """Return the studies' sweep as a refinement with this budget."""
    return SweepConfig(
        name="refine",
        question="How many trials does refinement spend for the grid's interval?",
        statistic="Trials and FLOPs, and the interval of the target's optimum.",
        base=TrialConfig(),
        widths=(24, 48, 96),
        parametrizations=ARMS,
        seeds=(0, 1, 2),
        search=(("lr", Axis(-10, -3)),),
        target=with_width(TrialConfig(), 192),
        design=DesignConfig(Method.refine, budget),
    )


def replay(rows: Sequence[Row], sweep: SweepConfig) -> tuple[list[Row], int]:
    """Answer every round from recorded rows; return the rows used and the number of rounds."""
    recorded = {
        (row["parametrization"], row["width"], row["seed"], row["hps"][AXIS]): row for row in rows
    }
    known: dict[str, Row] = {}
    while True:
        rounds = asked(sweep, known)
        fresh = [config for config in rounds[-1] if trial_key(config) not in known]
        if not fresh:
            return list(known.values()), len(rounds)
        for config in fresh:
            at = hps(config, [AXIS])[AXIS]
            place = (arm_of(config), config.model.width, config.seed, at)
            known[trial_key(config)] = recorded[place]


def measured(rows: Sequence[Row], sweep: SweepConfig) -> dict[str, Any]:
    """Return what a design's rows cost and how well they fix the target's optimum."""
    assert sweep.target is not None, "the question names its target"
    fitted = estimate(
        rows_table(rows), sweep_name=sweep.name, axes=[AXIS], target_width=sweep.target.model.width
    )
    targets = {arm["parametrization"]: arm["target"] for arm in fitted["arms"]}
    return {
        "trials": len(rows),
        "flops": sum(row["cost"]["flops"] for row in rows),
        "optimum": {arm.value: targets[arm.value]["optimum"] for arm in ARMS},
        "interval": {arm.value: _width(targets[arm.value]) for arm in ARMS},
    }


def _width(target: Mapping[str, Any]) -> float | None:
    low, high = target["low"], target["high"]
    return None if low is None else round(high - low, 3)


def compare(family: str, budgets: Sequence[int]) -> list[dict[str, Any]]:
    """Return an entry for each grid and each budget of refinement."""
    coarse = read_ledger(RESULTS / "studies" / STUDIES[family]).rows
    between = read_ledger(RESULTS / "benchmarks" / "half_octave" / f"{family}.jsonl").rows
    rows, sweep = [*coarse, *between], question(budgets[0])
    answers = [
        {"family": family, "design": "grid, one octave", **measured(coarse, sweep)},
        {"family": family, "design": "grid, half an octave", **measured(rows, sweep)},
    ]
    for budget in budgets:
        sweep = dataclasses.replace(sweep, design=DesignConfig(Method.refine, budget))
        used, rounds = replay(rows, sweep)
        answer = {"family": family, "design": f"refine, {budget} points", "rounds": rounds}
        answers.append({**answer, **measured(used, sweep)})
    return answers


def main(argv: Sequence[str] | None = None) -> int:
    """Replay, print the table and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refine", description=__doc__)
    parser.add_argument("--budgets", default="4,5,6,7,8", help="points of an arm at a width")
    parser.add_argument("--out", type=Path, default=RESULTS / "benchmarks" / "refine.json")
    arguments = parser.parse_args(argv)
    budgets = [measure.count(text) for text in arguments.budgets.split(",")]
    answer = measure.record("refine", {"budgets": budgets}, measure.machine())
    answer["designs"] = [entry for family in STUDIES for entry in compare(family, budgets)]
    measure.publish(answer, COLUMNS, [_cells(e) for e in answer["designs"]], arguments.out)
    return 0


def _cells(entry: Mapping[str, Any]) -> list[str]:
    intervals = (entry["interval"][arm.value] for arm in ARMS)
    shown = ["none" if width is None else f"{width:.2f}" for width in intervals]
    return [
        *(entry["family"], entry["design"], str(entry["trials"]), f"{entry['flops']:.2e}"),
        *shown,
    ]


if __name__ == "__main__":
    sys.exit(main())
