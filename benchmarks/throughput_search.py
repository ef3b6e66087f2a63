"""One method at one shape: which sizes are tried, in which order, and when to stop."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.throughput_processes import (
    OUT_OF_MEMORY,
    Failed,
    Machine,
    plain_rates,
    run,
)
from benchmarks.throughput_rows import Row, rate, size_run
from benchmarks.throughput_shapes import Shape

LEAST_GAIN = 1.03  # a larger pack must bring this much more, or no larger one is tried
Keep = Callable[[list[Row], Row], None]  # told of all runs, and of the latest
FAILURES = 2  # in a row, whatever the reason, after which no other size is tried


@dataclass(frozen=True)
class Task:
    """A method at a shape, and the switches that our training is started with."""

    shape: Shape
    method: str
    precision: str
    compile: bool | None = None
    graph: bool | None = None

    @property
    def packed(self) -> bool:
        """Whether this is ours."""
        return self.method.startswith("ours")

    def job(self, machine: Machine, size: int) -> dict[str, Any]:
        """Return what one of its processes is told; `size` is that of a pack."""
        return {
            "kind": "ours" if self.packed else "plain",
            "shape": self.shape.fields(),
            "precision": self.precision,
            "size": size,
            "compiled": self.method == "shared_compiled",
            "compile": self.compile,
            "graph": self.graph,
            "seconds": machine.seconds,
            "blocks": machine.blocks,
        }


def search(
    machine: Machine,
    task: Task,
    sizes: Sequence[int],
    runs: Sequence[Row],
    keep: Keep,
    *,
    first_only: bool = False,
) -> list[Row]:
    """Measure a method at rising sizes, each in processes of its own; `keep` is told of every one.

    What `runs` hold already is not measured again, but for failures other than of memory. A pack
    stops growing when it gains less than 3 % on a GPU, where each size costs a warm-up, or memory
    is out; all other sizes are tried. With `first_only` the first size that succeeds is enough.
    """
    found = {one["size"]: one for one in runs}
    with tempfile.TemporaryDirectory() as name:
        best, failures = None, 0
        for size in sizes:
            if size not in found or not _settled(found[size]):
                found[size] = attempt(machine, task, size, _cache(task, Path(name), size))
                keep(list(found.values()), found[size])
            one = found[size]
            failures = failures + 1 if one["error"] else 0
            if failures and (failures == FAILURES or _hopeless(one)):
                break
            if first_only and not failures:
                break
            grown = best is None or bool(failures) or rate(one) >= LEAST_GAIN * rate(best)
            if task.packed and machine.gpu and not grown:
                break
            if not failures and (best is None or rate(one) > rate(best)):
                best = one
        _warm_again(machine, task, found, Path(name), keep)
    return list(found.values())


def attempt(machine: Machine, task: Task, size: int, cache: Path) -> Row:
    """Measure one size; a failure is a finding."""
    count = 1 if task.packed else size
    try:
        answers, window = run(machine, [task.job(machine, size)] * count, cache)
    except Failed as error:
        return size_run(size, error=str(error))
    return size_run(
        size,
        rates=answers[0]["rates"] if task.packed else plain_rates(answers, window),
        warmup_seconds=max(answer["warmup_seconds"] for answer in answers),
        gib=sum(answer["gib"] for answer in answers),
    )


def _cache(task: Task, folder: Path, size: int) -> Path:
    """Return torch's cache: a pack's own, so that its warm-up is cold; one for all processes."""
    return folder / (str(size) if task.packed else "shared")


def _settled(one: Row) -> bool:
    return one["error"] is None or one["error"].startswith(OUT_OF_MEMORY)


def _hopeless(one: Row) -> bool:
    return one["error"].startswith((OUT_OF_MEMORY, "took longer"))


def _warm_again(
    machine: Machine,
    task: Task,
    found: dict[int, Row],
    folder: Path,
    keep: Keep,
) -> None:
    """Time the warm-up of our fastest pack in a second process, with the first one's cache."""
    sound = [one for one in found.values() if one["trial_steps_per_second"]]
    compiles = machine.gpu if task.compile is None else task.compile
    if not (task.packed and compiles and sound):
        return
    best = max(sound, key=rate)
    if best["warmup_cached_seconds"] is not None:
        return
    only_warm, cache = replace(machine, blocks=0), _cache(task, folder, best["size"])
    if not cache.exists():  # measured by an earlier command, whose cache is gone
        attempt(only_warm, task, best["size"], cache)
    again = attempt(only_warm, task, best["size"], cache)
    best["warmup_cached_seconds"] = again["warmup_seconds"]
    keep(list(found.values()), best)
