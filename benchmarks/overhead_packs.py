"""What a pack costs beside its training, under Ray: packs that sleep a second, on two workers.

    python -m benchmarks.overhead_packs [--packs 500] [--seconds 1] [--workers 2]
                                        [--out results/benchmarks/overhead_packs.json]

Actors are warm once each worker has ended its first pack; from then on to the last result,
overhead per pack = (workers x elapsed seconds - seconds asleep) / packs. A sleep takes no core, so
the driver is not in the packs' way; `python -m benchmarks.overhead` has real training.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measure
from hptransfer.config import ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Status
from hptransfer.execution import run_packs
from hptransfer.results.trial_result import TrialResult


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead_packs", description=__doc__
    )
    parser.add_argument("--packs", type=measure.count, default=500)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a pack takes")
    parser.add_argument("--workers", type=measure.count, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/overhead_packs.json"))
    arguments = parser.parse_args(argv)
    if arguments.packs <= arguments.workers:
        raise SystemExit("--packs must be more than --workers: the first of each only warm up.")
    described = measure.machine()
    slept, ended, first = run(arguments.packs, arguments.seconds, arguments.workers)
    figures = summarised(slept, ended, arguments.workers)
    figures.append(measure.Figure("start to the first result", "s", (first,)))
    settings = {name: getattr(arguments, name) for name in ("packs", "seconds", "workers")}
    answer = measure.record("overhead_packs", settings, described)
    answer["figures"] = [figure.record() for figure in figures]
    cells = [figure.cells() for figure in figures]
    measure.publish(answer, measure.FIGURE_COLUMNS, cells, arguments.out)
    return 0


def run(packs: int, seconds: float, workers: int) -> tuple[list[float], list[float], float]:
    """Run sleeping packs; return what each slept and when each ended, in the order of their ends,
    and the seconds from the start to the first end.
    """
    slept: list[float] = []
    ended: list[float] = []

    def on_results(index: int, results: list[TrialResult]) -> None:
        slept.append(results[0].seconds)
        ended.append(time.perf_counter())

    started = time.perf_counter()
    run_packs(
        [(TrialConfig(seed=seed),) for seed in range(packs)],
        RuntimeConfig(data_folder=str(seconds)),
        ExecutorConfig(name="ray", workers=workers, cpus=1.0),
        on_results=on_results,
        run_pack=asleep,
    )
    return slept, ended, ended[0] - started


def asleep(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Sleep for `runtime.data_folder` seconds in place of training, and tell how long it was."""
    started = time.perf_counter()
    time.sleep(float(runtime.data_folder or 0.0))
    taken = time.perf_counter() - started
    return [
        TrialResult(
            config=config,
            status=Status.completed,
            loss=0.5,
            loss_at_init=1.0,
            train_loss=0.5,
            diverged_at_step=None,
            clipped_share=0.0,
            flops=1.0,
            seconds=taken,
            device="cpu",
        )
        for config in configs
    ]


def summarised(
    slept: Sequence[float], ended: Sequence[float], workers: int
) -> list[measure.Figure]:
    """Return the figures of the packs after each worker's first, given in the order of their ends.

    The workers' last packs do not end together; the time that one waits for the other is less than
    a pack and counts as overhead.
    """
    counted = slept[workers:]
    elapsed = ended[-1] - ended[workers - 1]
    overhead = (workers * elapsed - sum(counted)) / len(counted)
    share = sum(counted) / (workers * elapsed)
    return [
        measure.Figure("overhead of a pack", "s", (overhead,), 0.3),
        measure.Figure("worker time that is not training", "share", (1.0 - share,), 0.1),
    ]


if __name__ == "__main__":
    sys.exit(main())
