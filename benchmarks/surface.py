"""How well the surface of several HPs finds a planted joint optimum, and whether intervals cover.

    python -m benchmarks.surface [--repeats 300] [--out docs/how_to/several_hyperparameters.md]

Surfaces have a random optimum, random curvatures (0.4 to 1 % of the loss one octave off) and random
interactions; points lie on a grid, a Sobol sequence, or half-way clustered as an adaptive search
leaves them. Each cell draws `--repeats` sweeps of one width with three seeds (or one) and trial
noise of 0.2 %. Reported are, over all HPs and repeats, the median error of the optimum in octaves,
the share of 90 % intervals that hold it, their median width, and the share of HPs left unresolved.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from hptransfer.analysis.answer.settings import Setting
from hptransfer.analysis.surfaces.points import build_points
from hptransfer.analysis.surfaces.surface import ArmSurfaces, fit_surface, points_noise
from hptransfer.system.random_streams import stream
from tests.support.surface_truth import NAMES, Cell, plant

DRAWS = 500
WIDTH = Setting(64)
SIZES = ((2, 16), (2, 36), (3, 64), (4, 81))
COLUMNS = ("HPs", "points", "design", "shape", "seeds", "median error", "covered", "width", "open")


def cells() -> list[Cell]:
    """Return the cells of the table."""
    three = [
        Cell(hps, points, design, shape)
        for hps, points in SIZES
        for design in ("grid", "sobol", "clustered")
        for shape in ("quadratic", "skewed")
    ]
    one = [Cell(hps, points, "sobol", "quadratic", seeds=1) for hps, points in SIZES]
    return three + one


def measure(cell: Cell, repeats: int) -> tuple[float, float, float, float]:
    """Return median error and interval width in octaves, coverage, and the unresolved share."""
    errors: list[float] = []
    covered: list[bool] = []
    widths: list[float] = []
    for repeat in range(repeats):
        rng = stream("surface", cell, repeat)
        planted = plant(cell, rng)
        hps = NAMES[: cell.hps]
        points = build_points(hps, planted.positions, planted.losses, loss_at_init=1.0)
        assert points is not None, "no planted point fails"
        noise = points_noise([points])
        surface = fit_surface(points, noise, rng=rng, draws=DRAWS)
        fitted = ArmSurfaces(hps, {WIDTH: surface}, noise)
        for hp, truth in zip(hps, planted.optimum, strict=True):
            basin = fitted.basins(hp)[WIDTH]
            low, high = basin.interval
            if basin.censored is None and low is not None and high is not None:
                errors.append(abs(basin.optimum - float(truth)))
                covered.append(bool(low <= truth <= high))
                widths.append(high - low)
    unresolved = 1.0 - len(errors) / (repeats * cell.hps)
    if not errors:
        return np.nan, np.nan, np.nan, unresolved
    return float(np.median(errors)), float(np.mean(covered)), float(np.median(widths)), unresolved


def row(cell: Cell, repeats: int) -> tuple[str, ...]:
    """Return one row of the table."""
    error, covered, width, unresolved = measure(cell, repeats)
    return (
        *(str(cell.hps), str(cell.points), cell.design, cell.shape, str(cell.seeds)),
        *(f"{error:.3f}", f"{100 * covered:.0f} %", f"{width:.2f}", f"{100 * unresolved:.0f} %"),
    )


def main() -> None:
    """Measure every cell and print the table, or write it into the page between its marks."""
    parser = argparse.ArgumentParser(description="Planted surfaces of several HPs.")
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(row(c, options.repeats) for c in cells())]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if options.out is None:
        print(table)
        return
    text = options.out.read_text()
    before, rest = text.split("<!-- table -->\n")
    after = rest.split("<!-- end -->")[1]
    options.out.write_text(f"{before}<!-- table -->\n{table}\n<!-- end -->{after}")


if __name__ == "__main__":
    main()
