"""Whether a budget's proposed design does what was predicted, on sweeps whose truth is planted.

    python -m benchmarks.budget [--repeats 200] [--shapes cliff] [--drifts 0.1] [--out FILE]

For each cell a pilot is drawn from the planted basins (8 rates, 3 seeds, the narrowest width) and a
design proposed for two budgets: what a usual sweep costs (widths 8, 16 and 32, nine rates by one
octave, no thought given) with 2 seeds, and with 8. Trials cost what their width says, one after
another. The usual sweep and the proposed one are then drawn `repeats` times and fitted by the real
estimator; realised regret is what its emitted value costs at the planted target (width 128), in
percent of the loss, a failed target run all that training gains. `best` is the least of the
proposed one and 8 affordable designs, tried on 20 sweeps each (the 3 that are predicted best and
5 at random) and drawn afresh `repeats` times. `drift` is the sd of the optimum's drift in octaves
per doubling, drawn anew for each sweep; the prediction always assumes 0.1. `ratio` is predicted
over realised. The standard error of a realised mean is about a tenth of it at 200 repeats.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from hptransfer.analysis.answer.estimates import estimate
from hptransfer.config import BudgetConfig, DiTConfig, TrialConfig
from hptransfer.config.choices import Scaling
from hptransfer.config.identity import with_width
from hptransfer.config.sweep import Axis, SweepConfig
from hptransfer.execution.pack_sizes import MeasuredPack, PackCost
from hptransfer.sweeping.plan.budget.candidates import Candidate, candidates
from hptransfer.sweeping.plan.budget.costs import CandidateCosts
from hptransfer.sweeping.plan.budget.knowledge import known_from
from hptransfer.sweeping.plan.budget.propose import best, priced
from hptransfer.sweeping.plan.budget.regret import Predictor, Proposal
from hptransfer.sweeping.plan.budget.units import Meter
from hptransfer.sweeping.plan.plan import Occupancy
from hptransfer.system.random_streams import stream
from tests.support import planted

ROOT = Path(__file__).resolve().parents[1]

WIDTHS, TARGET = (8, 16, 32), 128
USUAL = Axis(-10.0, -2.0)
SEEDS = (2, 8)  # of the usual sweep, whose costs are the budgets
SHAPES, NOISES, DRIFTS = ("quadratic", "asymmetric", "cliff"), (0.001, 0.004), (0.1, 0.25)
DRAWS = 200  # of the estimator
TOP, OTHERS, TRIES = 3, 5, 20
COLUMNS = (
    *("shape", "noise", "drift", "budget", "widths", "step", "seeds"),
    *("predicted", "realised", "usual", "best", "ratio"),
)


@dataclasses.dataclass(frozen=True)
class World:
    """What is planted: a shape of basin, its noise, how far optima drift, and where they are."""

    shape: str
    noise: float
    drift: float
    optimum: float = -5.8

    def cell(self, seeds: int) -> planted.Cell:
        """Return the planted setting with so many seeds."""
        return planted.Cell(
            seeds=seeds, step=1.0, shape=self.shape, noise=self.noise, widths=WIDTHS
        )

    def draw(
        self, widths: Sequence[int], axis: Axis, seeds: int, rng: np.random.Generator
    ) -> tuple[planted.Drawn, planted.Truth]:
        """Return a sweep's points, and the truth of this draw."""
        drift = self.drift * rng.standard_normal()
        cell = self.cell(seeds)
        truth = planted.Truth(cell, lambda width: self.optimum + drift * np.log2(width / WIDTHS[0]))
        theta = np.array(axis.points)
        points = {
            width: (theta, planted._losses(cell, width, theta - truth.optimum(width), rng))
            for width in widths
        }
        return points, truth

    def realised(self, design: Candidate, repeats: int, name: str) -> float:
        """Return the mean regret of the emitted value at the target, in percent of the loss."""
        rng = stream("benchmark", name, self.shape, self.noise, self.drift)
        regrets = [self._regret(design, rng) for _ in range(repeats)]
        return float(np.mean(regrets))

    def _regret(self, design: Candidate, rng: np.random.Generator) -> float:
        points, truth = self.draw(design.widths, design.axis, len(design.seeds), rng)
        fitted = estimate(
            planted.table(points),
            sweep_name="budget",
            axes=["log2_lr"],
            target_width=TARGET,
            draws=DRAWS,
        )
        loss = planted.level(truth.cell, TARGET)
        most = planted.LOSS_AT_INIT - loss
        regret = truth.regret(TARGET, fitted["arms"][0]["target"]["emitted"])
        return 100.0 * min(regret, most) / loss


def question() -> SweepConfig:
    """Return the usual sweep."""
    base = TrialConfig(
        model=DiTConfig(width=8, base_width=8, depth=1, head_dim=4),
        budget=BudgetConfig(steps=100, batch_size=8, eval_samples=16),
    )
    return SweepConfig(
        name="budget",
        question="",
        statistic="",
        base=base,
        widths=WIDTHS,
        parametrizations=(Scaling.mup,),
        seeds=(0, 1, 2),
        search=(("lr", USUAL),),
        target=with_width(base, TARGET),
    )


def compare(world: World, repeats: int) -> list[dict[str, Any]]:
    """Return an entry for each budget."""
    sweep = question()
    pilot_rng = stream("benchmark", "pilot", world.shape, world.noise, world.drift)
    rates = Axis(USUAL.low, USUAL.low + 7 * 8 / 7, 8 / 7)
    points, _ = world.draw(WIDTHS[:1], rates, 3, pilot_rng)
    known = known_from(planted.table(points), "log2_lr", Scaling.mup, steps=100, source="pilot")
    if known is None:
        return []
    costs = CandidateCosts(sweep, {width: _cost(width) for width in (8, 16, 32, 64)}, 1)
    meter = Meter("cpuh", Occupancy("core", 1.0, None), 1, 1.0)
    judge = Predictor(known, target_width=TARGET, target_steps=100)
    usual = [Candidate(WIDTHS, USUAL, tuple(range(seeds)), 100) for seeds in SEEDS]
    amounts = [spent for _, _, spent in priced(usual, costs, meter)]
    full = [design for design in candidates(sweep, known) if design.steps == 100]
    found = best(priced(full, costs, meter), judge, amounts)
    return [
        {
            **dataclasses.asdict(world),
            "budget": seeds,
            **_tried(world, plain, ranked, repeats),
        }
        for seeds, plain, ranked in zip(SEEDS, usual, found, strict=True)
    ]


def _cost(width: int) -> PackCost:
    return PackCost((MeasuredPack(1, width / 8.0, 1.0),))


def _tried(
    world: World, usual: Candidate, ranked: Sequence[Proposal], repeats: int
) -> dict[str, Any]:
    chosen = ranked[0].candidate
    rng = stream("benchmark", "others", len(usual.seeds))
    others = rng.choice(len(ranked), min(OTHERS, len(ranked)), replace=False)
    rivals = [*(p.candidate for p in ranked[:TOP]), *(ranked[int(i)].candidate for i in others)]
    tries = [world.realised(design, TRIES, "tries") for design in rivals]
    winner = rivals[int(np.argmin(tries))]
    realised = world.realised(chosen, repeats, "realised")
    predicted = ranked[0].regret.percent
    assert predicted is not None, "planted losses are positive"
    return {
        "widths": list(chosen.widths),
        "step": chosen.axis.step,
        "seeds": len(chosen.seeds),
        "predicted": predicted,
        "realised": realised,
        "usual": world.realised(usual, repeats, "usual"),
        "best": min(realised, world.realised(winner, repeats, "best")),
        "ratio": predicted / realised,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print the table and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument("--repeats", type=measure.count, default=200)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of planted basins")
    parser.add_argument("--drifts", default=",".join(map(str, DRIFTS)), help="sds in octaves")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks" / "budget.json")
    arguments = parser.parse_args(argv)
    drifts = [float(text) for text in arguments.drifts.split(",")]
    shapes = arguments.shapes.split(",")
    worlds = itertools.starmap(World, itertools.product(shapes, NOISES, drifts))
    settings = {"repeats": arguments.repeats, "shapes": shapes, "drifts": drifts}
    answer = measure.record("budget", settings, measure.machine())
    answer["cells"] = []
    for world in worlds:
        answer["cells"] += compare(world, arguments.repeats)
        for entry in answer["cells"][-len(SEEDS) :]:
            print(*_cells(entry), sep="  ", file=sys.stderr, flush=True)
    measure.publish(answer, COLUMNS, [_cells(entry) for entry in answer["cells"]], arguments.out)
    return 0


def _cells(entry: Mapping[str, Any]) -> list[str]:
    figures = ("predicted", "realised", "usual", "best")
    return [
        *(entry["shape"], f"{entry['noise']:.1%}", f"{entry['drift']:g}", str(entry["budget"])),
        " ".join(map(str, entry["widths"])),
        *(f"{entry['step']:g}", str(entry["seeds"])),
        *(f"{entry[name]:.3f}" for name in figures),
        f"{entry['ratio']:.2f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
