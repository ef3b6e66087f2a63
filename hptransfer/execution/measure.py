"""What packs of a shape cost here, measured: a few steps of real trials at a few sizes.

A size is measured in turns with the one before it and only their ratio is kept, so that a machine
that is busy meanwhile slows both. Results are cached by device and shape in
`$XDG_CACHE_HOME/hptransfer/packs.json` (else `~/.cache`), which may be deleted at any time.
Nothing of a trial's result depends on any of this beyond float tolerance.
"""

from __future__ import annotations

import dataclasses
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from hptransfer.config import BudgetConfig, ParametrizationConfig, RuntimeConfig, TrialConfig
from hptransfer.config.identity import canonical, shape_signature
from hptransfer.execution.pack_cache import PackCache
from hptransfer.execution.pack_cost import MeasuredPack, PackCost
from hptransfer.training.dataset import load_dataset
from hptransfer.training.device import (
    hardware_model,
    is_out_of_memory,
    release_memory,
    torch_device,
    trial_too_large,
)
from hptransfer.training.packs.state import start_training

# Steps that are not timed: first reads, on a GPU compilation and capture.
WARMUP_STEPS, GPU_WARMUP_STEPS = 1, 6
# Timed blocks of each size, and the least seconds of one.
TURNS = 4
BLOCK_SECONDS = 0.02
# Copies of a pack's parameters at least: weights, gradient, two moments and scratch.
_TENSORS = 5
# The share of the free memory that packs may take.
MEMORY_SHARE = 0.9


def measured_costs(
    groups: Sequence[Sequence[TrialConfig]], runtime: RuntimeConfig, share: float = 1.0
) -> tuple[list[PackCost], tuple[str, ...]]:
    """Return what packs of each group cost on this machine, and notes for the user.

    Args:
        groups: trials that could share a pack, for each shape that is asked for.
        share: the part of the device's memory that a pack may count on.

    Raises:
        UserError: the device is not there.
        MachineError: a single trial does not fit.
    """
    device = torch_device(runtime)
    threads = torch.get_num_threads()
    torch.set_num_threads(runtime.threads)
    cache = PackCache.read()
    costs: dict[int, PackCost] = {}
    try:
        # Narrow shapes first: on a CPU memory is read off the process's peak, which only rises.
        for index in sorted(range(len(groups)), key=lambda i: groups[i][0].model.width):
            group = groups[index]
            facts = cost_facts(group, runtime, device)
            capacity = MEMORY_SHARE * share * free_bytes(device)
            known = cache.cost(facts, capacity=capacity, extrapolates=runtime.on_gpu)
            if known is None or known.next_size(len(group)) is not None:
                known = measure(group, runtime, device, capacity)
                cache.add(facts, known)
            costs[index] = known
    finally:
        torch.set_num_threads(threads)
    return [costs[index] for index in range(len(groups))], cache.notes


def cost_facts(
    group: Sequence[TrialConfig], runtime: RuntimeConfig, device: torch.device
) -> dict[str, object]:
    """Return everything that shapes what a pack costs: the cache's key.

    Fields that change numbers but no shape (parametrization, init, schedule, length) are left out.
    """
    signature = shape_signature(group[0])
    budget = signature.budget
    shape = dataclasses.replace(
        signature,
        parametrization=ParametrizationConfig(),
        init=TrialConfig().init,
        budget=BudgetConfig(batch_size=budget.batch_size, weights=budget.weights),
    )
    return {
        "device": _speed_class(device),
        "torch": torch.__version__,
        "threads": runtime.threads,
        "compiled": runtime.compiled,
        "captured": runtime.captured,
        "clipped": any(config.optimizer.clip_norm is not None for config in group),
        "decayed": any(config.optimizer.weight_decay > 0 for config in group),
        "shape": canonical(shape),
    }


def measure(
    group: Sequence[TrialConfig], runtime: RuntimeConfig, device: torch.device, capacity: float
) -> PackCost:
    """Measure packs of 1, 2, 4, ... of these trials, while it pays and they fit."""
    try:
        return _climbed(group, runtime, device, capacity)
    finally:
        release_memory(device)


def _climbed(
    group: Sequence[TrialConfig], runtime: RuntimeConfig, device: torch.device, capacity: float
) -> PackCost:
    try:
        last = _Stepper(group[:1], runtime, device)
        blocks = [last.block() for _ in range(TURNS)]
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise trial_too_large(group[0], device) from error
        raise
    points = (MeasuredPack(1, statistics.median(blocks), last.bytes),)
    spread = half_range(blocks)
    cost = PackCost(points, last.warmup, capacity, extrapolates=runtime.on_gpu, spread=spread)
    while (size := cost.next_size(len(group))) is not None:
        try:
            larger = _Stepper(group[:size], runtime, device)
            ratios = _ratios(larger, last)
        except RuntimeError as error:
            if is_out_of_memory(error):
                return dataclasses.replace(cost, too_large=size)
            raise
        seconds = statistics.median(ratios) * cost.points[-1].seconds
        points = (*cost.points, MeasuredPack(size, seconds, larger.bytes))
        warmup, spread = min(cost.warmup, larger.warmup), max(spread, half_range(ratios))
        cost = dataclasses.replace(cost, points=points, warmup=warmup, spread=spread)
        last = larger
    return cost


def half_range(values: Sequence[float]) -> float:
    """Return half the range of some values, over their median."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


def _ratios(larger: _Stepper, smaller: _Stepper) -> list[float]:
    """Return how much longer a step of the larger pack takes, in each turn."""
    ratios = []
    for turn in range(TURNS):
        order = (larger, smaller) if turn % 2 else (smaller, larger)
        taken = {id(stepper): stepper.block() for stepper in order}
        ratios.append(taken[id(larger)] / taken[id(smaller)])
    return ratios


class _Stepper:
    """A pack in training, past its warm-up, of which blocks of steps are timed."""

    def __init__(
        self, trials: Sequence[TrialConfig], runtime: RuntimeConfig, device: torch.device
    ) -> None:
        self._device, self._budget = device, trials[0].budget.steps
        self._taken = 0
        before = _start_of_peak(device)
        started = time.perf_counter()
        dataset = load_dataset(trials[0], runtime)
        self._state = start_training(trials, dataset, device, runtime)
        untimed = GPU_WARMUP_STEPS if runtime.on_gpu else WARMUP_STEPS
        self._steps(untimed)
        elapsed = time.perf_counter() - started
        self.bytes = max(_peak(device) - before, _TENSORS * self._state.pack.flat.nbytes)
        step = self._steps(2)
        self.warmup = max(elapsed - untimed * step, 0.0)
        self._block = max(math.ceil(BLOCK_SECONDS / step), 1)

    def block(self) -> float:
        """Time a block; return the seconds of one step."""
        return self._steps(self._block)

    def _steps(self, count: int) -> float:
        _finish(self._device)
        started = time.perf_counter()
        for _ in range(count):
            self._state.train_step(self._taken % self._budget)
            self._taken += 1
        _finish(self._device)
        return (time.perf_counter() - started) / count


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _speed_class(device: torch.device) -> str:
    """Return a name that devices of equal speed share: the GPU's, or the CPU's with its cores."""
    model = hardware_model(device)
    return model if device.type == "cuda" else f"{model} x {os.cpu_count()}"


def free_bytes(device: torch.device) -> float:
    """Return the device's free memory; infinite on a CPU whose system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    facts = Path("/proc/meminfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    free = [float(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return free[0] * 1024 if free else math.inf


def _start_of_peak(device: torch.device) -> float:
    """Return the memory taken before a pack is built, in bytes.

    On a GPU it is what torch has reserved, captured graphs included. A CPU's torch does not count,
    so there it is the process's resident memory, and the peak that of its whole life: too much
    where something larger ran before, too little where freed memory is used again, and never less
    than the pack's own tensors. It keeps packs away from the machine's limit, no more.
    """
    if device.type == "cuda":
        release_memory(device)
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_reserved(device))
    facts = Path("/proc/self/statm")
    if not facts.is_file():
        return _peak(device)
    return float(facts.read_text(encoding="utf-8").split()[1]) * resource.getpagesize()


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
