"""What a sweep costs beside its training: start-up, hand-over between packs, and the end.

    python -m benchmarks.overhead [--executor ray|local] [--small] [--runs 1] [--out FILE]

Runs `hptransfer sweep quickstart` into an empty temporary folder, in a process of its own, without
the coordinate check (which is work, not overhead). Definitions, in seconds of wall time:

first pack      from the start of the process to the first pack handed to a worker
first training  from the start of the process to the first step of training: the earliest of a
                pack's finish less its training time. Between the two a Ray worker imports torch.
wall            from the start of the process to its end, Ray's shutdown included
training        the sum over packs of the pack's own wall time in its worker (its rows' `seconds`)
workers         the most packs that ran at once
imbalance       after the last pack was handed out: worker-seconds without a pack, until the last
                pack finished. That is the sweep's shape, not the executor's doing.
after first     workers x (wall - first pack): the worker-seconds there were for training
overhead        (after first - training - imbalance) / training, in per cent
in all          (after first - training) / training, in per cent: overhead and imbalance; the same
                as (wall - first pack - training per worker) / training per worker

What the driver takes from cores on which packs train is not seen here but as longer training:
compare `training` under `--executor local`, where nothing runs beside the one pack. Nor is what a
worker's first pack takes longer than its next ones: it counts as training, as in the rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure

FIRST_PACK_AIM = 15.0  # seconds
OVERHEAD_AIM = 10.0  # per cent
SMALL = (
    "sweep.widths=[24,48]",
    "sweep.seeds=[0]",
    "search.lr.low=-7",
    "search.lr.high=-4",
    "budget.steps=10",
    "budget.eval_samples=32",
    "budget.eval_draws=2",
)


@dataclass(frozen=True)
class PackTimes:
    """When a pack was handed out and finished, from the start of the process; its training time."""

    index: int
    width: int
    trials: int
    started: float
    finished: float
    training_seconds: float


@dataclass(frozen=True)
class Run:
    """One sweep as timed."""

    wall: float
    packs: tuple[PackTimes, ...]

    @property
    def first_pack(self) -> float:
        """Seconds to the first pack handed to a worker."""
        return min(pack.started for pack in self.packs)

    @property
    def first_training(self) -> float:
        """Seconds to the first step of training."""
        return min(pack.finished - pack.training_seconds for pack in self.packs)

    @property
    def training(self) -> float:
        """Seconds of training, summed over packs."""
        return sum(pack.training_seconds for pack in self.packs)

    @property
    def workers(self) -> int:
        """The most packs that ran at once."""
        return max(
            sum(other.started <= pack.started < other.finished for other in self.packs)
            for pack in self.packs
        )

    @property
    def imbalance(self) -> float:
        """Worker-seconds without a pack between the last hand-out and the last finish."""
        last_start = max(pack.started for pack in self.packs)
        ends = sorted(pack.finished for pack in self.packs)
        return sum(ends[-1] - max(end, last_start) for end in ends[-self.workers :])

    @property
    def after_last(self) -> float:
        """Seconds from the last finish to the end of the process."""
        return self.wall - max(pack.finished for pack in self.packs)

    @property
    def imbalance_percent(self) -> float:
        """Imbalance as a share of training."""
        return 100 * self.imbalance / self.training

    @property
    def in_all_percent(self) -> float:
        """All worker-seconds after the first hand-out that did not train, over training."""
        return 100 * (self.workers * (self.wall - self.first_pack) / self.training - 1)

    @property
    def overhead_percent(self) -> float:
        """The same without imbalance."""
        return self.in_all_percent - self.imbalance_percent


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--executor", choices=("ray", "local"), default="ray")
    parser.add_argument("--small", action="store_true", help="a sweep of seconds, to try it out")
    parser.add_argument("--runs", type=measure.count, default=1, help="sweeps to time")
    parser.add_argument(
        "--out", type=Path, help="default: results/benchmarks/overhead_EXECUTOR.json"
    )
    arguments = parser.parse_args(argv)
    out = arguments.out or Path(f"results/benchmarks/overhead_{arguments.executor}.json")
    described = measure.machine()
    overrides = [f"executor={arguments.executor}", "sweep.gate=false"]
    overrides += SMALL if arguments.small else ()
    runs = [timed_run(overrides) for _ in range(arguments.runs)]
    settings = {"executor": arguments.executor, "overrides": overrides, "runs": arguments.runs}
    figures = _figures(runs)
    answer = measure.record("overhead", settings, described)
    answer["figures"] = [figure.record() for figure in figures]
    answer["packs"] = [[_rounded(pack) for pack in run.packs] for run in runs]
    cells = [figure.cells() for figure in figures]
    measure.publish(answer, measure.FIGURE_COLUMNS, cells, out)
    return 0


def timed_run(overrides: Sequence[str]) -> Run:
    """Run the quickstart's sweep in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="hpt-overhead-") as folder:
        log = Path(folder) / "packs.json"
        words = ["sweep", "quickstart", *overrides, "--quiet", f"--results={folder}"]
        began = time.time()
        command = [sys.executable, "-m", "benchmarks.timed_sweep", str(log), *words]
        wall = measure.wall_seconds(command)
        return Run(wall, read_packs(json.loads(log.read_text()), began))


def read_packs(events: Any, began: float) -> tuple[PackTimes, ...]:
    """Join the events of each pack; one that was handed out again counts from the last time."""
    started = {e["pack"]: e["time"] - began for e in events if e["event"] == "started"}
    return tuple(
        PackTimes(
            index=e["pack"],
            width=e["width"],
            trials=e["trials"],
            started=started[e["pack"]],
            finished=e["time"] - began,
            training_seconds=e["training_seconds"],
        )
        for e in events
        if e["event"] == "finished"
    )


def _figures(runs: Sequence[Run]) -> list[measure.Figure]:
    listed = (
        ("process start to first pack", "s", "first_pack", FIRST_PACK_AIM),
        ("process start to first training", "s", "first_training", None),
        ("wall", "s", "wall", None),
        ("last pack to process end", "s", "after_last", None),
        ("training, summed over packs", "s", "training", None),
        ("workers", "packs at once", "workers", None),
        ("imbalance over training", "%", "imbalance_percent", None),
        ("overhead over training", "%", "overhead_percent", OVERHEAD_AIM),
        ("overhead and imbalance in all", "%", "in_all_percent", None),
    )
    return [
        measure.Figure(name, unit, tuple(float(getattr(run, field)) for run in runs), aim)
        for name, unit, field, aim in listed
    ]


def _rounded(pack: PackTimes) -> dict[str, Any]:
    return {name: round(value, 3) for name, value in asdict(pack).items()}


if __name__ == "__main__":
    sys.exit(main())
