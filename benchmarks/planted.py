"""Whether answers hold where the truth is planted: laws of the optimum, shapes, designs.

    python -m benchmarks.planted [--repeats 40] [--others 20] [--jobs 1] [--page FILE]

A cell is a law of the optimum over log2 width, a shape of the basin and a design; `--repeats` arms
are drawn of each cell of the reference design and `--others` of the rest, and read through
`estimate` as a sweep's rows are, the target one doubling beyond the widest. Until all are done
finished cells are kept in FILE.cells, one a line; the same command goes on from there.

The log of a trial's loss is its width's level, which falls by 0.06 a doubling, plus 0.02 times the
shape's rise, plus a seed's effect at that width (sd 1 %) and the trial's noise (0.2 %). Trials more
than 3.6 octaves above the optimum fail. The grid has eight octaves, the narrowest width's optimum
lies within half an octave of its middle. The constants of the analysis were chosen by looking at
what TUNED_ON names (at other random numbers), and at nothing else of what is planted here.

Reported per cell: the share of arms whose 90 % interval holds the optimum at the target, and the
drift (the straight line through the swept widths' true optima); whose emitted value truly costs at
most the upper end that was told; that are told wrongly (ignoring the movement does not matter,
where keeping the widest width's true optimum costs more than twice the limit; or the optimum moves,
where it does by less than the limit); that are told a false alarm (it matters, where it costs less
than half the limit); and that are told `unclear` on either question.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from hptransfer.analysis.answer.estimates import estimate
from hptransfer.analysis.basins.curve import Floats
from hptransfer.config.sweep import VerdictConfig
from tests.support import planted as rows

ROOT = Path(__file__).resolve().parents[1]

RISE = 0.02  # of the log loss per unit of a shape's rise
FALL = 0.06  # of the log loss per doubling of the width
WIDTH_COMPUTE = 2.0  # doublings of compute for one of the width
SEED_SD = 0.01  # of the log loss
NOISE = 0.002  # of the log loss
CLIFF = 3.6  # octaves above the optimum from which trials fail
LOWEST, HIGHEST = -10.0, -3.0  # of the grid
MIDDLE, OFF_MIDDLE = -6.0, 0.5  # the narrowest optimum, octaves
DRAWS = 600
RULE = VerdictConfig()


def _softplus(u: Floats) -> Floats:
    return 0.3 * np.logaddexp(0.0, (u - 1.0) / 0.3)


def _softplus_wall(u: Floats) -> Floats:
    """Return a parabola and a softplus less its tangent at 0, so that the minimum stays there."""
    at = 1.0 / (1.0 + np.exp(1.0 / 0.3))
    return u * u + 6.0 * (_softplus(u) - _softplus(np.zeros(1)) - at * u)


def _two_minima(u: Floats) -> Floats:
    """Return a parabola beside a second one, 2.6 octaves below and higher by 0.5, both rounded."""
    return -0.2 * (
        np.logaddexp(-u * u / 0.2, -(0.5 + (u + 2.6) ** 2) / 0.2)
        - np.logaddexp(0.0, -(0.5 + 2.6**2) / 0.2)
    )


SHAPES: Mapping[str, Callable[[Floats], Floats]] = {  # rise at octaves from the optimum
    "parabola": lambda u: u * u,
    "skewed": lambda u: 2.0 * (np.expm1(1.5 * u) - 1.5 * u) / 1.5**2,
    "negative skew": lambda u: 2.0 * (np.expm1(-0.5 * u) + 0.5 * u) / 0.5**2,
    "quartic": lambda u: 0.5 * u**2 + 0.3 * u**4,
    "cosh": lambda u: 2.0 * (np.cosh(0.9 * u) - 1.0) / 0.9**2,
    "softplus wall": _softplus_wall,
    "wall": lambda u: u * u + 8.0 * np.maximum(u - 1.0, 0.0) ** 2,
    "kink": lambda u: np.where(u > 0, 2.4, 0.6) * u * u,
    "V": lambda u: 0.8 * np.abs(u),
    "two minima": _two_minima,
}

LAWS: Mapping[str, Callable[[Floats, np.random.Generator], Floats]] = {  # of doublings of the width
    "constant": lambda x, _: 0.0 * x,
    "linear -0.3": lambda x, _: -0.3 * x,
    "linear -0.7": lambda x, _: -0.7 * x,
    "late bend": lambda x, _: -0.5 * np.maximum(x - 2.0, 0.0),
    "turn": lambda x, _: 0.35 * np.abs(x - 1.5),
    "converging": lambda x, _: -1.2 * (1.0 - 2.0**-x),
    "jitter": lambda x, rng: rng.uniform(-0.25, 0.25, len(x)),
}


@dataclass(frozen=True)
class Design:
    """What a sweep trains, and what its noise is like."""

    seeds: int = 3
    step: float = 1.0  # octaves
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    uneven: bool = False  # each width's noise is 0.5 to 2.8 times the usual
    tails: bool = False  # Student's t with 2.5 degrees of freedom
    missing: float = 0.0  # share of trials that were not run
    copied: bool = False  # the first seed's losses stand there again under another seed


REFERENCE = "reference"
DESIGNS: Mapping[str, Design] = {
    REFERENCE: Design(),
    "one seed": Design(seeds=1),
    "half octave": Design(step=0.5),
    "ten seeds, quarter octave": Design(seeds=10, step=0.25),
    "three widths": Design(widths=(64, 128, 256)),
    "uneven noise": Design(uneven=True),
    "heavy tails": Design(tails=True),
    "15 % missing": Design(missing=0.15),
    "copied seed": Design(copied=True),
}
TUNED_ON = {
    "shapes": ("parabola", "skewed", "quartic", "kink", "V", "two minima"),
    "laws": ("constant", "linear -0.3", "late bend", "turn", "jitter"),
    "designs": (REFERENCE, "one seed", "half octave"),
}
SMOOTH = ("parabola", "skewed", "negative skew", "quartic", "cosh", "softplus wall")
COLUMNS = ("", "arms", "target %", "drift %", "cost %", "wrong %", "alarm %", "unclear %", "width")


@dataclass(frozen=True)
class Cell:
    """A law, a shape and a design, by their names."""

    design: str
    law: str
    shape: str


@dataclass(frozen=True)
class Arm:
    """A drawn sweep and its truth."""

    drawn: rows.Drawn
    optima: Floats  # of the swept widths and, last, of the target
    target: int
    shape: Callable[[Floats], Floats]

    def cost(self, value: float) -> float:
        """Return the rise of the target's log loss at a value; infinite beyond the cliff."""
        off = np.array([value - self.optima[-1]])
        return np.inf if off[0] > CLIFF else RISE * float(self.shape(off)[0])

    @property
    def movement(self) -> float:
        """How far the optimum moves from the widest width to the target, octaves."""
        return float(self.optima[-1] - self.optima[-2])

    @property
    def drift(self) -> float:
        """The slope of the straight line through the swept optima."""
        swept = self.optima[:-1]
        return float(np.polyfit(np.arange(len(swept)), swept, 1)[0])

    @property
    def ignoring_percent(self) -> float:
        """What keeping the widest width's optimum costs, in percent of the target's compute."""
        doublings = WIDTH_COMPUTE * self.cost(float(self.optima[-2])) / FALL
        return 100.0 * float(np.expm1(np.log(2.0) * min(doublings, 100.0)))


def plant(cell: Cell, repeat: int) -> Arm:
    """Draw an arm of a cell; it depends on the cell's names and the number alone."""
    rng = np.random.default_rng([repeat, zlib.crc32(repr(cell).encode())])
    design, shape = DESIGNS[cell.design], SHAPES[cell.shape]
    doublings = np.arange(len(design.widths) + 1.0)
    optima = LAWS[cell.law](doublings, rng) + MIDDLE + rng.uniform(-OFF_MIDDLE, OFF_MIDDLE)
    theta = np.arange(LOWEST, HIGHEST + design.step / 2.0, design.step)
    drawn = {}
    for x, width, optimum in zip(doublings, design.widths, optima, strict=False):
        y = -1.0 - FALL * x + RISE * shape(theta - optimum) + _scatter(design, len(theta), rng)
        losses = np.where(theta - optimum > CLIFF, np.inf, np.exp(y))
        losses = np.where(rng.uniform(size=losses.shape) < design.missing, np.nan, losses)
        drawn[width] = theta, np.vstack([losses, losses[:1]]) if design.copied else losses
    return Arm(drawn, optima, 2 * design.widths[-1], shape)


def _scatter(design: Design, points: int, rng: np.random.Generator) -> Floats:
    """Return seeds' effects and noise at one width, (seed, point)."""
    effects = SEED_SD * rng.standard_normal((design.seeds, 1))
    sd = NOISE * (2.0 ** rng.uniform(-1.0, 1.5) if design.uneven else 1.0)
    size = (design.seeds, points)
    noise = rng.standard_t(2.5, size) / 1.6 if design.tails else rng.standard_normal(size)
    return effects + sd * noise


def outcome(arm: Arm) -> dict[str, float]:
    """Return what the analysis of an arm's rows got right."""
    answer = estimate(
        rows.table(arm.drawn), sweep_name="planted", axes=["log2_lr"], target_width=arm.target,
        rule=RULE, draws=DRAWS,
    )["arms"][0]  # fmt: skip
    target, drift = answer["target"], answer["drift_octaves_per_doubling"]
    upper = answer["cost"]["emitted"]["percent"]["high"]  # null: past the cliff
    cost = 100.0 * float(np.expm1(min(arm.cost(target["emitted"]), 100.0)))
    limit, moves, matters = RULE.max_compute_percent, answer["moves"], answer["matters"]
    still = abs(arm.movement) < RULE.max_octaves - 1e-9  # the late bend's is the limit itself
    return {
        "target": target["low"] <= arm.optima[-1] <= target["high"],
        "drift": drift["low"] <= arm.drift <= drift["high"],
        "cost": upper is None or cost <= upper,
        "wrong": (matters == "no" and arm.ignoring_percent > 2.0 * limit)
        or (moves == "yes" and still),
        "alarm": matters == "yes" and arm.ignoring_percent < limit / 2.0,
        "unclear": "unclear" in (moves, matters),
        "unclear_moves": moves == "unclear",
        "unclear_matters": matters == "unclear",
        "width": target["high"] - target["low"],
        "cost_percent": cost,
    }


def entry(cell: Cell, repeats: int) -> dict[str, Any]:
    """Return a cell's means over its arms: shares, the interval's width, what the value costs."""
    found = [outcome(plant(cell, repeat)) for repeat in range(repeats)]
    means = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    return {**asdict(cell), "n": repeats, **{n: round(mean, 4) for n, mean in means.items()}}


def cells() -> list[Cell]:
    """Return every cell, the reference design's first."""
    return [Cell(*names) for names in product(DESIGNS, LAWS, SHAPES)]


def every_entry(repeats: int, others: int, jobs: int, kept: Path) -> list[dict[str, Any]]:
    """Return every cell's entry; those in the file `kept` are read, the others added to it."""
    lines = kept.read_text().splitlines() if kept.exists() else []
    asked = {cell: repeats if cell.design == REFERENCE else others for cell in cells()}
    known = {_cell(found): found for found in map(json.loads, lines)}
    known = {cell: found for cell, found in known.items() if found["n"] == asked[cell]}
    left = [cell for cell in asked if cell not in known]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs) as pool, kept.open("a") as file:
        for done in as_completed([pool.submit(entry, cell, asked[cell]) for cell in left]):
            found = done.result()
            known[_cell(found)] = found
            print(json.dumps(found), file=file, flush=True)
            print(f"{len(known)} of {len(asked)} cells", file=sys.stderr)
    return [known[cell] for cell in asked]


def _cell(found: Mapping[str, Any]) -> Cell:
    return Cell(found["design"], found["law"], found["shape"])


def tables(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows of the table: the reference design by law and shape, and every design."""
    reference = [each for each in found if each["design"] == REFERENCE]
    chosen = {f"{REFERENCE}: {law}": [e for e in reference if e["law"] == law] for law in LAWS}
    chosen |= {f"{REFERENCE}: {s}": [e for e in reference if e["shape"] == s] for s in SHAPES}
    chosen |= {design: [e for e in found if e["design"] == design] for design in DESIGNS}
    chosen[f"{REFERENCE}: smooth shapes"] = [e for e in reference if e["shape"] in SMOOTH]
    chosen["all designs: smooth shapes"] = [e for e in found if e["shape"] in SMOOTH]
    chosen["what was tuned on"] = [each for each in found if _was_tuned_on(each)]
    chosen["shapes never tuned on"] = [e for e in found if e["shape"] not in TUNED_ON["shapes"]]
    return [_cells(name, part) for name, part in chosen.items() if part]


def _was_tuned_on(each: Mapping[str, Any]) -> bool:
    return all(each[kind[:-1]] in TUNED_ON[kind] for kind in TUNED_ON)


def failing(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return where a coverage is below 80 %, or two answers and more than 2 % are wrong.

    Cells of the reference design stand by themselves; of other designs, all laws of a shape
    together, since they have few arms each.
    """
    chosen: dict[str, list[Mapping[str, Any]]] = {}
    for each in found:
        law = f"{each['law']}, " if each["design"] == REFERENCE else ""
        chosen.setdefault(f"{each['design']}: {law}{each['shape']}", []).append(each)
    return [_cells(name, part) for name, part in chosen.items() if _fails(part)]


def _fails(part: Sequence[Mapping[str, Any]]) -> bool:
    target, drift, wrong = (
        float(np.mean([each[name] for each in part])) for name in ("target", "drift", "wrong")
    )
    arms = sum(each["n"] for each in part)
    return min(target, drift) < 0.8 or (wrong > 0.02 and wrong * arms > 1.5)


def _cells(name: str, part: Sequence[Mapping[str, Any]]) -> list[str]:
    shares = ("target", "drift", "cost", "wrong", "alarm", "unclear")
    told = [f"{100 * np.mean([each[share] for each in part]):.1f}" for share in shares]
    count = sum(each["n"] for each in part)
    return [name, str(count), *told, f"{np.median([each['width'] for each in part]):.2f}"]


def page_tables(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the tables of docs/evidence."""
    return {
        "planted": measure.table_text(COLUMNS, tables(found)),
        "failing": measure.table_text(COLUMNS, failing(found)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Plant, print the tables and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planted", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--repeats", type=measure.count, default=40, help="of the reference design")
    parser.add_argument("--others", type=measure.count, default=20, help="of every other design")
    parser.add_argument("--jobs", type=measure.count, default=1, help="processes")
    out = ROOT / "results" / "benchmarks" / "planted.json"
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--page", type=Path, help="into which the tables are written")
    arguments = parser.parse_args(argv)
    settings = {"repeats": arguments.repeats, "others": arguments.others, "draws": DRAWS}
    answer = measure.record("planted", settings, measure.machine())
    kept = arguments.out.with_suffix(arguments.out.suffix + ".cells")
    answer["cells"] = every_entry(arguments.repeats, arguments.others, arguments.jobs, kept)
    measure.publish(answer, COLUMNS, tables(answer["cells"]), arguments.out)
    print(measure.table_text(COLUMNS, failing(answer["cells"])))
    if arguments.page is not None:
        for name, text in page_tables(answer["cells"]).items():
            measure.write_between(arguments.page, name, text)
    kept.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
