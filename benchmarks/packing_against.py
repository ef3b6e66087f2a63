"""How much faster packs train on a CPU core than with the code in another checkout.

    python -m benchmarks.packing_against FOLDER [--widths 24 96 192] [--sizes 1 2 4 8]
                                         [--seconds 0.5] [--repeats 5] [--out FILE]

FOLDER is a checkout of hptransfer, such as a `git worktree` of an earlier commit. At the
quickstart's shapes, batch and objective, on one thread:

before      the code in FOLDER, as `runtime` has it by default
eager       this code, not compiled: `runtime.compile=false`
compiled    this code, compiled: `runtime.compile=true`

Each has a process of its own, which keeps its packs. All (way, size) of a width take turns, forth
and back, `--repeats` times after one untimed turn, in blocks of `--seconds`. Seconds are those in
which the process had the core, so that other programs disturb less. `best` is the size of the
highest median rate of a way; a ratio is taken within a turn, best against best. The core's own rate
is that of `torch.mm` on two float32 matrices of 512 x 512, in the same turns: MKL's where torch has
MKL. A model's FLOPs are those of its products.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BEFORE, EAGER, COMPILED = "before", "eager", "compiled"
WAYS: dict[str, bool | None] = {BEFORE: None, EAGER: False, COMPILED: True}  # runtime.compile
CORE = "core"  # stands for the product of matrices among the ways
COLUMNS = ("width", "way", "pack", "trial-steps/s", "over before", "of the core's product")
SIDE = 512  # of the matrices


class Worker:
    """A process that trains packs with the code of one folder."""

    def __init__(self, way: str, folder: Path) -> None:
        known = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--worker", way],
            cwd=folder,
            env=known,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def rate(self, width: int, size: int, seconds: float) -> float:
        """Return trial-steps a second of a block; of the core, FLOPs a second."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([width, size, seconds]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("A process that trains packs ended; its error stands above.")
        return float(answer)

    def end(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the record."""
    from benchmarks import measure

    arguments = _arguments(argv)
    described, here = measure.machine(), Path(__file__).resolve().parents[1]
    folders = {way: arguments.folder.resolve() if way == BEFORE else here for way in WAYS}
    workers = {way: Worker(way, folder) for way, folder in {**folders, CORE: here}.items()}
    try:
        found = [entry for w in arguments.widths for entry in _of_width(arguments, workers, w)]
    finally:
        for worker in workers.values():
            worker.end()
    settings = {k: v for k, v in vars(arguments).items() if k not in ("out", "folder")}
    settings["before"] = _commit(arguments.folder)
    answer = {**measure.record("packing_against", settings, described), "ways": found}
    measure.publish(answer, COLUMNS, [_cells(entry) for entry in found], arguments.out)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from benchmarks import measure

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.packing_against",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a checkout of the code to compare with")
    parser.add_argument("--widths", type=int, nargs="+", default=[24, 96, 192])
    parser.add_argument("--sizes", type=measure.count, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=0.5, help="of one block")
    parser.add_argument("--repeats", type=measure.count, default=5, help="timed turns")
    out = Path("results/benchmarks/packing_against.json")
    parser.add_argument("--out", type=Path, default=out)
    return parser.parse_args(argv)


def _commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _of_width(
    arguments: argparse.Namespace, workers: dict[str, Worker], width: int
) -> list[dict[str, Any]]:
    """Return an entry for each way at a width."""
    asked = [*((way, size) for way in WAYS for size in arguments.sizes), (CORE, 1)]
    rates: dict[tuple[str, int], list[float]] = {each: [] for each in asked}
    for turn in range(arguments.repeats + 1):
        for way, size in asked if turn % 2 else reversed(asked):
            rate = workers[way].rate(width, size, arguments.seconds)
            if turn:
                rates[way, size].append(rate)
    return entries(width, arguments.sizes, rates, flops_of_step(width))


def entries(
    width: int, sizes: Sequence[int], rates: dict[tuple[str, int], list[float]], flops: float
) -> list[dict[str, Any]]:
    """Return each way's rates, and those of its best size over the best size before."""
    from benchmarks.measure import spread

    def best(way: str) -> int:
        return max(sizes, key=lambda size: statistics.median(rates[way, size]))

    def over(way: str, other: tuple[str, int], factor: float = 1.0) -> dict[str, Any]:
        pairs = zip(rates[way, best(way)], rates[other], strict=True)
        return spread([factor * mine / theirs for mine, theirs in pairs])

    return [
        {
            "width": width,
            "way": way,
            "best": best(way),
            "trial_steps_per_second": {str(s): spread(rates[way, s]) for s in sizes},
            "over_before": over(way, (BEFORE, best(BEFORE))),
            "of_core": over(way, (CORE, 1), flops),
        }
        for way in WAYS
    ]


def _cells(entry: dict[str, Any]) -> list[str]:
    rate = entry["trial_steps_per_second"][str(entry["best"])]
    texts = [
        f"{part['median']:.{digits}f} ({part['min']:.{digits}f} to {part['max']:.{digits}f})"
        for part, digits in ((rate, 0), (entry["over_before"], 2), (entry["of_core"], 2))
    ]
    return [str(entry["width"]), entry["way"], str(entry["best"]), *texts]


def flops_of_step(width: int) -> float:
    """Return the FLOPs of one trial's step at the quickstart's shapes."""
    from hptransfer.training.flops import train_step_flops

    return train_step_flops(_trials(width, 1)[0])


def _trials(width: int, count: int) -> list[Any]:
    from benchmarks.packing import members
    from hptransfer.config.compose.compose import compose_file, shipped_folder, sweep_config

    composed = compose_file(shipped_folder("sweeps") / "quickstart.yaml", [])
    return members(sweep_config(composed), width, count)


def work(way: str) -> None:
    """Answer each line [width, size, seconds] of the input by a rate, until the input ends."""
    import torch

    torch.set_num_threads(1)
    steps: dict[tuple[int, int], Callable[[], None]] = {}
    for line in sys.stdin:
        width, size, seconds = json.loads(line)
        if (width, size) not in steps:
            steps[width, size] = _product() if way == CORE else _stepper(width, size, WAYS[way])
            steps[width, size]()  # compiles
        step, count, began = steps[width, size], 0, time.process_time()
        while count < 3 or time.process_time() - began < seconds:
            step()
            count += 1
        done = 2.0 * SIDE**3 if way == CORE else size
        print(done * count / (time.process_time() - began), flush=True)


def _product() -> Callable[[], None]:
    import torch

    left, right, out = torch.rand(3, SIDE, SIDE)

    def product() -> None:
        torch.mm(left, right, out=out)

    return product


def _stepper(width: int, size: int, compiles: bool | None) -> Callable[[], None]:
    """Return what takes the next step of a pack; past its budget the schedule starts again."""
    import torch

    from hptransfer.config import RuntimeConfig
    from hptransfer.data import load_data
    from hptransfer.training.packs.state import start_training

    trials, cpu = _trials(width, size), torch.device("cpu")
    dataset = load_data(trials[0].data, None)
    state = start_training(trials, dataset, cpu, RuntimeConfig(compile=compiles))
    taken = iter(range(10**9))
    return lambda: state.train_step(next(taken) % trials[0].budget.steps)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2])
    else:
        sys.exit(main())
