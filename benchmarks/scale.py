"""A sweep of 100,000 trials: planned, recorded, resumed, counted and fitted, without training.

    python -m benchmarks.scale [--trials 100000] [--runs 3] [--out results/benchmarks/scale.json]

Four widths, two arms, fifty rates and as many seeds as it takes; losses are invented
(`synthetic.py`), everything else is what a sweep does. Seconds of this process: planning (compose,
trials, keys, shapes, pack sizes from a given cost, cut and order); appending every row in batches
as packs of 8 and of 64 report them, each batch on disk before the next; resuming (open a ledger
with half of the packs, find the packs that are pending). The peak memory is that of a driver in a
process of its own (`scale_driver.py`). Seconds of whole processes: `status` and `fit`, which read
every line. The aim of appending is 5,000 rows/s. `schedule` is in `scale_schedule.py`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import measure, scale_schedule
from benchmarks.synthetic import rows_of
from hptransfer.config.compose.compose import (
    Composed,
    compose_file,
    resolved_yaml,
    shipped_folder,
    sweep_config,
)
from hptransfer.execution.pack_sizes import (
    MeasuredPack,
    PackCost,
    Trials,
    by_shape,
    choose_sizes,
    longest_first,
    timed_packs,
)
from hptransfer.results.curves import write_curve
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_writer import LedgerWriter
from hptransfer.sweeping.design.trials import pending, wanted
from hptransfer.system.files import write_text

T = TypeVar("T")
TRIALS_PER_SEED = 4 * 2 * 50
SHAPE = (
    "sweep.widths=[48,96,192,384]",  # beyond base width 24, where arms would share their trials
    "sweep.target.model.width=768",
    "search.lr.low=-12.25",
    "search.lr.high=0",
    "search.lr.step=0.25",
)
# Seconds of a step and bytes of a pack, as a CPU's probe finds them.
COST = PackCost(
    tuple(MeasuredPack(t, 0.02 + 0.004 * t, 1e6 * t) for t in (1, 2, 4, 8)), warmup=0.01
)
WORKERS = 64
BATCHES = (8, 64)
CURVES, CURVE_POINTS = 500, 10
ROWS_PER_SECOND = 5000  # the aim of appending


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--trials", type=measure.count, default=100_000)
    parser.add_argument("--runs", type=measure.count, default=3, help="of each figure")
    parser.add_argument("--workers", type=measure.count, default=1000, help="of the schedule")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/scale.json"))
    arguments = parser.parse_args(argv)
    if arguments.trials % TRIALS_PER_SEED:
        raise SystemExit(
            f"--trials must be a multiple of {TRIALS_PER_SEED}, but got {arguments.trials}."
        )
    described = measure.machine()
    with tempfile.TemporaryDirectory(prefix="hpt-scale-") as temporary:
        figures, counts = _figures(Path(temporary), arguments.trials, arguments.runs)
    settings = {name: getattr(arguments, name) for name in ("trials", "runs", "workers")}
    answer = measure.record("scale", settings, described)
    answer["figures"] = [figure.record() for figure in figures]
    answer["counts"] = counts
    answer["schedule"] = scale_schedule.simulated(arguments.workers)
    cells = [figure.cells() for figure in figures]
    measure.publish(answer, measure.FIGURE_COLUMNS, cells, arguments.out)
    columns, rows = scale_schedule.COLUMNS, scale_schedule.cells(answer["schedule"])
    print(measure.table_text(columns, rows))
    return 0


def _figures(root: Path, count: int, runs: int) -> tuple[list[measure.Figure], dict[str, int]]:
    planning, (composed, packs) = _timed(lambda: planned(count), runs)
    trials = [config for pack in packs for config in pack]
    rows = rows_of(trials, sweep_config(composed))
    batched, folders = [], {}
    for size in BATCHES:
        seconds = []
        for run in range(runs):
            folders[size] = root / f"batches-{size}-{run}"
            seconds.append(appended(folders[size], rows, size))
        name = f"append all rows in batches of {size}"
        batched.append(measure.Figure(name, "s", tuple(seconds), count / ROWS_PER_SECOND))
    half = root / "half"
    appended(half, rows[: len(rows) // 2], BATCHES[-1])
    resuming, left = _timed(lambda: resumed(half, packs), runs)
    curves, _ = _timed(lambda: write_curves(root / "curves", rows), runs)
    peak = _peak_of_driver(count, half, folders[BATCHES[0]])
    folder = ResultsFolder(folders[BATCHES[0]])
    write_text(folder.sweep_file, resolved_yaml(composed, name="scale"))
    status = [sys.executable, "-m", "hptransfer", "status", str(folder.path)]
    fit = [sys.executable, "-m", "hptransfer", "fit", str(folder.path)]
    measure.wall_seconds(status)  # warms up
    counted = [measure.wall_seconds(status) for _ in range(runs)]
    fitted = [measure.wall_seconds(fit) for _ in range(runs)]
    figures = [
        measure.Figure("plan", "s", tuple(planning), 5.0),
        *batched,
        measure.Figure("resume: open half a ledger, find pending packs", "s", tuple(resuming)),
        measure.Figure(f"write {CURVES} curves", "s", tuple(curves)),
        measure.Figure("peak memory of the driver", "GiB", (peak,), 1.0),
        measure.Figure("status", "s", tuple(counted), 10.0),
        measure.Figure("fit", "s", tuple(fitted)),
    ]
    counts = {"trials": len(trials), "packs": len(packs), "pending_packs": len(left)}
    return figures, {**counts, "rows": len(rows)}


def _peak_of_driver(count: int, half: Path, whole: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.scale_driver", str(count), str(half), str(whole)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _timed(work: Callable[[], T], runs: int) -> tuple[list[float], T]:
    """Return the seconds of each run, and what the last one gave."""
    seconds, answers = [], []
    for _ in range(runs):
        answers.clear()
        started = time.perf_counter()
        answers.append(work())
        seconds.append(time.perf_counter() - started)
    return seconds, answers[0]


def planned(count: int) -> tuple[Composed, list[Trials]]:
    """Compose a sweep of so many trials and cut it into packs, the longest first."""
    seeds = f"sweep.seeds={list(range(count // TRIALS_PER_SEED))}".replace(" ", "")
    composed = compose_file(shipped_folder("sweeps") / "quickstart.yaml", [*SHAPE, seeds])
    groups = by_shape(wanted(sweep_config(composed)).values())
    chosen = choose_sizes(groups, dict.fromkeys(groups, COST), WORKERS)
    packs = [
        pack
        for key, choice in chosen.items()
        for pack in timed_packs(groups[key], choice.size, choice.cost())
    ]
    return composed, [pack.trials for pack in longest_first(packs)]


def appended(folder: Path, rows: Sequence[dict[str, Any]], size: int) -> float:
    """Append rows in batches, each on disk before the next; return the seconds."""
    with LedgerWriter(folder) as writer:
        started = time.perf_counter()
        for first in range(0, len(rows), size):
            writer.append(rows[first : first + size])
        return time.perf_counter() - started


def resumed(folder: Path, packs: Sequence[Trials]) -> list[Trials]:
    """Open a ledger and return the packs that it lacks rows of."""
    with LedgerWriter(folder) as writer:
        return pending(packs, writer.keys)


def write_curves(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the curves of some trials, as a sweep does before their rows."""
    curve = [(step, 1.0 / (1 + step)) for step in range(CURVE_POINTS)]
    for line in rows[:CURVES]:
        write_curve(folder, line["trial_key"], curve)


if __name__ == "__main__":
    sys.exit(main())
