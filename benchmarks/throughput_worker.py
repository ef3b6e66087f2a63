"""One process of `benchmarks.throughput`: takes a job, measures it, writes its answer.

    python -m benchmarks.throughput_worker JOB FOLDER NUMBER

JOB is JSON; the answer is FOLDER/answer-NUMBER.json. A job that cannot be measured ends the process
with an exception, which the parent records.
"""

from __future__ import annotations

import gc
import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.throughput_baseline import PlainDiT, stepper
from benchmarks.throughput_profile import profiled
from benchmarks.throughput_roofline import measured_peaks
from benchmarks.throughput_shapes import CHANNELS, Shape, members
from hptransfer.config import RuntimeConfig
from hptransfer.data import Dataset, MemorySplit
from hptransfer.system.files import write_text
from hptransfer.training.packs.state import TrainingState, start_training

SAMPLES = 4096  # of the synthetic data
WARMUP_STEPS = {"cuda": 10, "cpu": 3}  # compiling and capturing are over after five
AHEAD = 10  # steps whose inputs a pack may have made before they are taken
POLL_SECONDS = 0.002


def main(argv: Sequence[str]) -> int:
    """Do one job."""
    job, folder, number = json.loads(argv[0]), Path(argv[1]), int(argv[2])
    torch.set_num_threads(job["threads"])
    device = torch.device(job["device"])
    if device.type == "cuda":
        torch.zeros(1, device=device)  # the driver's start is not part of a warm-up
    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "peaks": _peaks,
        "plain": _plain,
        "ours": _ours,
        "profile": _profile,
    }
    answer = kinds[job["kind"]](job, device, folder, number)
    write_text(folder / f"answer-{number}.json", json.dumps(answer, allow_nan=False))
    return 0


def synthetic(shape: Shape) -> Dataset:
    """Return random latents with random labels in main memory; nothing is held out."""
    generator = torch.Generator().manual_seed(0)
    side, none = shape.image_size, torch.zeros(1, 0)
    split = MemorySplit(
        torch.randn(SAMPLES, CHANNELS, side, side, generator=generator),
        torch.randint(0, shape.classes, (SAMPLES,), generator=generator),
        torch.zeros(SAMPLES, dtype=torch.long),
        (none.unsqueeze(-1), none.bool(), none),
    )
    return Dataset(split, split)


def _peaks(job: dict[str, Any], device: torch.device, folder: Path, number: int) -> dict[str, Any]:
    peaks = measured_peaks(job["device"], small=job["small"])
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": _triton()}
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "versions": {"python": platform.python_version(), **versions},
        "peaks": peaks.record(),
    }


def _triton() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def _plain(job: dict[str, Any], device: torch.device, folder: Path, number: int) -> dict[str, Any]:
    """Train one plain trial until the common window is over; say when each step ended."""
    torch.manual_seed(number)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    shape = Shape(**job["shape"])
    began = time.perf_counter()
    step = stepper(
        PlainDiT(shape), shape, device, bf16=job["precision"] == "bf16", compiled=job["compiled"]
    )
    for _ in range(WARMUP_STEPS[device.type]):
        step()
    warm = time.perf_counter()
    loss = step()
    alone = time.perf_counter() - warm
    write_text(folder / f"ready-{number}", json.dumps({"step_seconds": alone}))
    window = _go(folder / "go")
    ends = [time.monotonic()]
    while ends[-1] < window["end"]:
        loss = step()
        ends.append(time.monotonic())
    if not math.isfinite(loss):
        raise RuntimeError(f"a plain trial's loss became {loss}, so its steps are no measurement")
    return {"ends": ends, "warmup_seconds": warm - began, "gib": _gib(device)}


def _go(file: Path) -> dict[str, float]:
    """Wait for the parent's word, or end where there is no parent any more."""
    parent = os.getppid()
    while not file.exists():
        if os.getppid() != parent:
            raise RuntimeError("the benchmark that started this process is gone")
        time.sleep(POLL_SECONDS)
    return json.loads(file.read_text(encoding="utf-8"))


def _ours(job: dict[str, Any], device: torch.device, folder: Path, number: int) -> dict[str, Any]:
    """Train a pack: warm up, then time blocks of steps with one synchronisation at each end."""
    with _warm_pack(job, device) as (state, warmup):
        taken, rates = WARMUP_STEPS[device.type], []

        def block(steps: int) -> float:
            nonlocal taken
            began = time.perf_counter()
            for step in range(taken, taken + steps):
                state.train_step(step)
            taken += steps
            _finish(device)
            return time.perf_counter() - began

        if job["blocks"]:
            block(AHEAD)  # inputs that were made during the warm-up are used up
            steps = max(3, math.ceil(job["seconds"] * 3 / block(3)))
            rates = [job["size"] * steps / block(steps) for _ in range(job["blocks"])]
        _require_alive(state, taken)
    return {"rates": rates, "warmup_seconds": warmup, "gib": _gib(device)}


def _profile(
    job: dict[str, Any], device: torch.device, folder: Path, number: int
) -> dict[str, Any]:
    with _warm_pack(job, device) as (state, _):
        return profiled(state.train_step, WARMUP_STEPS[device.type], device, folder)


@contextmanager
def _warm_pack(job: dict[str, Any], device: torch.device) -> Iterator[tuple[TrainingState, float]]:
    """Give a pack in steady state, and the seconds from its configs to there."""
    shape = Shape(**job["shape"])
    dataset = synthetic(shape)
    runtime = RuntimeConfig(
        device=job["device"], threads=job["threads"], compile=job["compile"], graph=job["graph"]
    )
    began = time.perf_counter()
    state = start_training(members(shape, job["precision"], job["size"]), dataset, device, runtime)
    try:
        for step in range(WARMUP_STEPS[device.type]):
            state.train_step(step)
        _finish(device)
        yield state, time.perf_counter() - began
    finally:
        state.close()


def _require_alive(state: TrainingState, step: int) -> None:
    losses = state.mean_losses(step).cpu()  # of the dead not a number
    weights = torch.isfinite(state.deciding_weights()).all(dim=1).cpu()
    if not bool((torch.isfinite(losses) & weights).all()):
        raise RuntimeError(f"a member of the pack died, so its steps are no measurement: {losses}")


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _gib(device: torch.device) -> float:
    """Return the peak memory: what torch reserved on a GPU, the whole process on the CPU."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
