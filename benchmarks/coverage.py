"""How often the 90 % interval of an optimum holds the truth, per seeds, grid step and shape.

Sweeps of five widths are invented (tests/support/planted.py), each with its own grid and optima,
and read as `fit` reads a real one: grids, pooled noise, basins. Of the optima that are not
censored the share inside their interval is counted. A cell's repeats depend on its name and
number alone, so that a run may be cut and continued: cells in the record with as many repeats are
not run again. `--held-out` takes the shapes that the estimator was not tuned on at first, with
random numbers of their own: those that led to a change of it since, and those that it never saw.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from hptransfer.analysis.basins.basin import Basin, build_grid, fit_basin, pool_noise
from hptransfer.results.folder import write_json
from hptransfer.system.random_streams import stream
from tests.support import planted

SEEDS = (1, 2, 3, 5, 10)
STEPS = (0.5, 1.0, 2.0)
DRAWS = 400
SPREAD = 0.5  # octaves by which widths' optima scatter about the grid's centre
RECORD = Path("results/benchmarks/coverage.json")
HELD_OUT_SEEDS, HELD_OUT_STEPS = (3, 5, 10), (0.5, 1.0)
HELD_OUT_RECORD = Path("results/benchmarks/coverage_held_out.json")


def cells() -> list[planted.Cell]:
    """Return every cell that the constants were tuned on, shapes outermost."""
    return [
        planted.Cell(seeds, step, shape)
        for shape, step, seeds in product(planted.SHAPES, STEPS, SEEDS)
    ]


def held_out() -> list[planted.Cell]:
    """Return the cells that they were not tuned on, or not at first."""
    shapes = (*planted.ONCE_HELD_OUT, *planted.HELD_OUT)
    return [
        planted.Cell(seeds, step, shape)
        for shape, step, seeds in product(shapes, HELD_OUT_STEPS, HELD_OUT_SEEDS)
    ]


def _purpose(shape: str) -> str:
    """Return the name of a shape's random numbers."""
    if shape in planted.HELD_OUT:
        return "held out, second set"
    return "held out" if shape in planted.ONCE_HELD_OUT else "coverage"


def sweep_basins(
    cell: planted.Cell, repeat: int, *, draws: int = DRAWS
) -> Iterator[tuple[float, Basin]]:
    """Yield a repeat's optima with the basins fitted to them."""
    rng = stream(_purpose(cell.shape), cell, repeat)
    optima = {width: planted.CENTRE + rng.uniform(-SPREAD, SPREAD) for width in cell.widths}
    drawn = planted.draw(cell, optima, rng)
    grids = {
        width: build_grid(theta, losses, loss_at_init=planted.LOSS_AT_INIT)
        for width, (theta, losses) in drawn.items()
    }
    sound = {width: grid for width, grid in grids.items() if grid is not None}
    noise = pool_noise(sound.values(), rng=rng, draws=draws)
    for width, grid in sound.items():
        yield optima[width], fit_basin(grid, noise, rng=rng, draws=draws)


def measure(cell: planted.Cell, repeats: int) -> dict:
    """Return a cell's coverage, shares and medians in octaves."""
    found = [pair for repeat in range(repeats) for pair in sweep_basins(cell, repeat)]
    kept = [(optimum, basin) for optimum, basin in found if basin.censored is None]
    ends = [
        (optimum, b.low, b.high) for optimum, b in kept if b.low is not None and b.high is not None
    ]
    errors = [abs(basin.optimum - optimum) for optimum, basin in kept]
    return {
        "seeds": cell.seeds,
        "step": cell.step,
        "shape": cell.shape,
        "repeats": repeats,
        "coverage": _mean([low <= optimum <= high for optimum, low, high in ends]),
        "censored": round(1.0 - len(kept) / len(found), 4),
        "without_interval": round(1.0 - len(ends) / max(len(kept), 1), 4),
        "width": _median([high - low for _, low, high in ends]),
        "error": _median(errors),
        "fit_sd": _median([b.fit_sd for _, b in kept if b.fit_sd is not None]),
        "model_sd": _median([basin.model_sd for _, basin in kept]),
    }


def _mean(values: list) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _median(values: list) -> float | None:
    return round(float(np.median(values)), 4) if values else None


def passes(entry: dict) -> bool:
    """Whether a cell is within 85 to 95 %, or at least 85 % where little can be asked of it."""
    if entry["coverage"] is None:
        return True
    demanding = entry["seeds"] >= 3 and entry["step"] <= 1.0
    return 0.85 <= entry["coverage"] <= (0.95 if demanding else 1.0)


def as_table(entries: list[dict]) -> str:
    """Return a Markdown table: a row per shape and step, a column per number of seeds."""
    columns = sorted({entry["seeds"] for entry in entries})
    lines = [
        "| shape | step | " + " | ".join(f"{seeds} seeds" for seeds in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    by_cell = {(e["shape"], e["step"], e["seeds"]): e for e in entries}
    for shape, step in dict.fromkeys((e["shape"], e["step"]) for e in entries):
        texts = [_text(by_cell.get((shape, step, seeds))) for seeds in columns]
        lines.append(f"| {shape} | {step:g} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _text(entry: dict | None) -> str:
    if entry is None or entry["coverage"] is None:
        return "–"
    censored = f" ({entry['censored']:.0%} censored)" if entry["censored"] >= 0.005 else ""
    mark = "" if passes(entry) else " !"
    return f"{entry['coverage']:.1%}, {entry['width']:.2f}, {entry['error']:.3f}{censored}{mark}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000, help="sweeps a cell (default 2000)")
    parser.add_argument("--cells", default="", help="only cells whose shape/step/seeds begin so")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--held-out", action="store_true", help="shapes not tuned on at first")
    parser.add_argument("--out", type=Path, help=f"default {RECORD}, or {HELD_OUT_RECORD}")
    options = parser.parse_args()
    known = held_out() if options.held_out else cells()
    out = options.out or (HELD_OUT_RECORD if options.held_out else RECORD)
    before = json.loads(out.read_text())["cells"] if out.exists() else []
    done = {_name(e): e for e in before if e["repeats"] == options.repeats}
    wanted = [cell for cell in known if _name(asdict(cell)).startswith(options.cells)]
    missing = [cell for cell in wanted if _name(asdict(cell)) not in done]
    with ProcessPoolExecutor(options.workers) as pool:
        for entry in pool.map(partial(measure, repeats=options.repeats), missing):
            done[_name(entry)] = entry
            print(_name(entry), _text(entry), flush=True)
            ordered = [done[name] for c in known if (name := _name(asdict(c))) in done]
            write_json(out, {"draws": DRAWS, "cells": ordered})
    print(as_table([done[_name(asdict(cell))] for cell in wanted]))


def _name(cell: dict) -> str:
    return f"{cell['shape']}/{cell['step']:g}/{cell['seeds']}"


if __name__ == "__main__":
    main()
