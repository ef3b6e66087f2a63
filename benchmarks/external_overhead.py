"""What hptransfer adds to a trial of the user's own command: seconds beside the command itself.

    python -m benchmarks.external_overhead [--trials 20] [--seconds 0.2] [--skip-ray] [--out FILE]

The command sleeps and prints a loss. It is run alone first and last, and between as the trials of
two sweeps, `executor=local` and `executor=ray` with one worker, each in a process and an empty
temporary folder of its own. Definitions, in seconds of wall time:

command         one run of the command alone, from its start to its end
trial           from the end of a trial, as the driver learns it, to that of the next; the first
                trial, whose worker has to start, does not count
added           a trial less the median of the command
ratio           a trial over the median of the command
first trial     from the start of the sweep's process to the end of its first trial
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.overhead import read_packs
from hptransfer.system.files import write_text

AIM = 1.0  # seconds that Ray and hptransfer may add to a trial
SWEEP = """\
name: external
train: {{command: "sh -c 'sleep {seconds}; echo loss=0.5'", result: "loss=(.*)"}}
sweep: {{widths: [64], seeds: {seeds}}}
search: {{lr: [0.5, 1.0]}}
"""
RAY = ("executor=ray", "executor.workers=1")


@dataclass(frozen=True)
class Sweep:
    """When the trials of a sweep ended, in seconds from the start of its process."""

    ends: tuple[float, ...]

    @property
    def trials(self) -> tuple[float, ...]:
        """Seconds from the end of each trial to that of the next."""
        return tuple(after - before for before, after in itertools.pairwise(self.ends))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.external_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=measure.count, default=20, help="trials that count")
    parser.add_argument("--seconds", type=float, default=0.2, help="that the command sleeps")
    parser.add_argument("--skip-ray", action="store_true", help="only the local sweep")
    parser.add_argument(
        "--out", type=Path, default=Path("results/benchmarks/external_overhead.json")
    )
    arguments = parser.parse_args(argv)
    described = measure.machine()
    executors = {"local": ("executor=local",)} | ({} if arguments.skip_ray else {"Ray": RAY})
    alone = command_seconds(arguments.seconds, arguments.trials)
    sweeps = {
        name: timed_sweep(arguments.seconds, arguments.trials + 1, words)
        for name, words in executors.items()
    }
    alone += command_seconds(arguments.seconds, arguments.trials)
    figures = [measure.Figure("command alone", "s", alone)]
    for name, sweep in sweeps.items():
        figures += figures_of(name, sweep, statistics.median(alone))
    settings = {"trials": arguments.trials, "seconds": arguments.seconds, "workers": 1}
    answer = measure.record("external_overhead", settings, described)
    answer["figures"] = [figure.record() for figure in figures]
    cells = [figure.cells() for figure in figures]
    measure.publish(answer, measure.FIGURE_COLUMNS, cells, arguments.out)
    return 0


def command_seconds(seconds: float, runs: int) -> tuple[float, ...]:
    """Return how long the command takes alone, run by run."""
    command = ["sh", "-c", f"sleep {seconds:g}; echo loss=0.5"]
    return tuple(measure.wall_seconds(command) for _ in range(runs))


def timed_sweep(seconds: float, trials: int, words: Sequence[str]) -> Sweep:
    """Run the sweep of as many trials or one more, in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="hpt-external-") as folder:
        path, log = Path(folder) / "external.yaml", Path(folder) / "packs.json"
        write_text(path, SWEEP.format(seconds=f"{seconds:g}", seeds=(trials + 1) // 2))
        command = [sys.executable, "-m", "benchmarks.timed_sweep", str(log), "sweep", str(path)]
        began = time.time()
        measure.wall_seconds([*command, *words, "--quiet", f"--results={folder}"])
        packs = read_packs(json.loads(log.read_text()), began)
        return Sweep(tuple(sorted(pack.finished for pack in packs))[:trials])


def figures_of(name: str, sweep: Sweep, alone: float) -> list[measure.Figure]:
    """Return the figures of a sweep whose command takes so many seconds alone."""
    aim = AIM if name == "Ray" else None
    return [
        measure.Figure(f"trial, {name}", "s", sweep.trials),
        measure.Figure(f"added, {name}", "s", tuple(t - alone for t in sweep.trials), aim),
        measure.Figure(f"ratio, {name}", "trial / command", tuple(t / alone for t in sweep.trials)),
        measure.Figure(f"first trial, {name}", "s", sweep.ends[:1]),
    ]


if __name__ == "__main__":
    sys.exit(main())
