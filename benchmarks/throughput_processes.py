"""Processes of `benchmarks.throughput`: started together, timed in a common window, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hptransfer.system.files import write_text

POLL_SECONDS = 0.05
FEWEST_STEPS = 3  # of the slowest process in a block
OUT_OF_MEMORY = "out of memory"
_MEMORY = ("OutOfMemoryError", "CUDA out of memory", "STATUS_ALLOC_FAILED", "MemoryError")


class Cut(Exception):
    """The benchmark's whole time is over: what was under way is no measurement and no failure."""


class Failed(Exception):
    """A process could not measure what it was asked."""


@dataclass(frozen=True)
class Machine:
    """Where jobs run and for how long."""

    device: str
    threads: int
    seconds: float  # of a timed block, about
    blocks: int
    limit: float  # seconds of one measurement, start and warm-up included
    deadline: float  # of the whole benchmark, on the monotonic clock

    @property
    def gpu(self) -> bool:
        """Whether the device is one."""
        return self.device.startswith("cuda")


def run(
    machine: Machine, jobs: Sequence[dict[str, Any]], cache: Path
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Run jobs at once, a process each; return their answers and the window they shared, if any."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _started(machine, jobs, folder, cache) as processes:
            _wait(machine, processes, folder)
        names = [f"answer-{i}.json" for i in range(len(jobs))]
        answers = [json.loads((folder / name).read_text(encoding="utf-8")) for name in names]
        go = folder / "go"
        return answers, json.loads(go.read_text(encoding="utf-8")) if go.exists() else {}


def plain_rates(answers: Sequence[dict[str, Any]], window: dict[str, float]) -> list[float]:
    """Return the steps per second of all processes together in each block of the window."""
    edges = np.arange(window["start"], window["end"] + window["block"] / 2, window["block"])
    done = sum(np.interp(edges, a["ends"], np.arange(len(a["ends"]))) for a in answers)
    return [float(steps) / window["block"] for steps in np.diff(done)]


def window_of(machine: Machine, ready: Sequence[dict[str, Any]], now: float) -> dict[str, float]:
    """Return a window that begins when all processes are at work, in which each takes steps."""
    slowest = max(one["step_seconds"] for one in ready) * len(ready)
    block = max(machine.seconds, FEWEST_STEPS * slowest)
    start = now + 0.2 + slowest
    return {"start": start, "block": block, "end": start + machine.blocks * block}


@contextlib.contextmanager
def _started(
    machine: Machine, jobs: Sequence[dict[str, Any]], folder: Path, cache: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    caches = {"TORCHINDUCTOR_CACHE_DIR": cache / "inductor", "TRITON_CACHE_DIR": cache / "triton"}
    environment = {**os.environ, **{key: str(value) for key, value in caches.items()}}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, job in enumerate(jobs):
            words = {"device": machine.device, "threads": machine.threads, **job}
            command = [sys.executable, "-m", "benchmarks.throughput_worker"]
            with (folder / f"output-{number}").open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        [*command, json.dumps(words), str(folder), str(number)],
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env=environment,
                        start_new_session=True,
                    )
                )
        yield processes
    finally:
        for process in processes:
            # Its own session: compilers that it started end with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(machine: Machine, processes: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    ends, go = time.monotonic() + machine.limit, folder / "go"
    while any(process.poll() is None for process in processes):
        _require_sound(processes, folder)
        ready = [folder / f"ready-{i}" for i in range(len(processes))]
        if not go.exists() and all(file.exists() for file in ready):
            said = [json.loads(file.read_text(encoding="utf-8")) for file in ready]
            write_text(go, json.dumps(window_of(machine, said, time.monotonic())))
        if time.monotonic() > machine.deadline:
            raise Cut
        if time.monotonic() > ends:
            raise Failed(f"took longer than {machine.limit:.0f} s")
        time.sleep(POLL_SECONDS)
    _require_sound(processes, folder)


def _require_sound(processes: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    for number, process in enumerate(processes):
        if process.poll():
            output = (folder / f"output-{number}").read_text(encoding="utf-8", errors="replace")
            raise Failed(fault(output, process.returncode))


def fault(output: str, code: int) -> str:
    """Say in one line why a process ended: its last words, memory first of all."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if "Error" in line), (lines or [""])[-1])
    if any(word in output for word in _MEMORY):
        return f"{OUT_OF_MEMORY}: {last[:300]}"
    return f"ended with code {code}: {last[:300]}"
