"""Measurements of what packs cost on this machine: a few steps of real trials at a few sizes.

A size is measured in turns with the size before it, and only the ratio of their times is kept, so
that other work on the machine slows both. Costs are cached by device and shape in
`$XDG_CACHE_HOME/hptransfer/packs.json` (else `~/.cache`), which may be deleted at any time. The
results of trials do not depend on the measurements beyond float tolerance. A cache that cannot be
read or written costs a new measurement and a note, never an error.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hptransfer.config import BudgetConfig, ParametrizationConfig, RuntimeConfig, TrialConfig
from hptransfer.config.identity import canonical, shape_signature
from hptransfer.errors import MachineError, UserError
from hptransfer.execution.pack_sizes import MeasuredPack, MeasureLimits, PackCost
from hptransfer.execution.work import pack_error
from hptransfer.system.files import user_cache, write_whole
from hptransfer.system.text import rounded
from hptransfer.system.version import package_version
from hptransfer.training.batches import load_dataset
from hptransfer.training.device import (
    hardware_model,
    is_out_of_memory,
    release_memory,
    settled,
    torch_device,
    trial_too_large,
)
from hptransfer.training.flops import saved_bytes, train_step_flops, trainable_parameters
from hptransfer.training.packs.run import validation_loss
from hptransfer.training.packs.state import start_training

# Steps that are not timed: first reads, on a GPU compilation and capture.
WARMUP_STEPS, GPU_WARMUP_STEPS = 1, 6
# Timed blocks of each size, and the least seconds of one.
TURNS = 4
BLOCK_SECONDS = 0.02
# Steps that the measurement of one trial takes at least: warm-up, two to set the block, the blocks.
LEAST_STEPS = WARMUP_STEPS + 2 + TURNS
# Copies of a pack's parameters: at least weights, gradient, two moments and scratch; at the peak,
# while the pack is built, more. Found on DiTs of width 96 and 384.
LEAST_COPIES, PEAK_COPIES = 5, 8
PEAK_MARGIN = 1.25  # times the reckoned peak: what else torch allocates
# The share of the free memory that packs may take.
MEMORY_SHARE = 0.9
# Side of the square matrices whose product tells a device's speed, and the least share of that
# speed that a training step reaches (0.2 to 0.4 on one CPU thread).
PRODUCT_SIDE, STEP_SPEED = 512, 0.2
# What a CPU's compiled step takes of the uncompiled one that is measured: 0.5 at width 24, 0.7 at
# 96 and 192 (`python -m benchmarks.packing_against`); and how far off that may be.
COMPILED_SHARE, COMPILED_SPREAD = 0.67, 0.25
CACHE_SCHEMA = 1


class Allowance(NamedTuple):
    """What a measurement may still take: bytes, and the moment of `time.perf_counter` it ends."""

    bytes: float
    until: float


UNLIMITED = Allowance(math.inf, math.inf)


def measured_costs(
    groups: Sequence[Sequence[TrialConfig]],
    runtime: RuntimeConfig,
    *,
    share: float = 1.0,
    limits: MeasureLimits | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[PackCost | None], tuple[str, ...]]:
    """Return what packs of each group cost on this machine, and notes for the user.

    Args:
        groups: trials that could share a pack, for each shape that is asked for.
        share: the part of the device's memory that a pack may count on.
        limits: what a plan may take; the cost of a shape that would take more is None. A sweep,
            which runs the trials anyway, has none.
        say: is told which shape is measured.

    A trial that raises an exception here raises it again where it is trained and its failure is
    recorded. So the cost of its shape is None, and a note says why.

    Raises:
        UserError: the device is not there.
        MachineError: a single trial does not fit.
    """
    device = torch_device(runtime)
    threads = torch.get_num_threads()
    torch.set_num_threads(runtime.threads)
    cache, skipped = PackCache.read(), []
    until = time.perf_counter() + (math.inf if limits is None else limits.seconds)
    costs: dict[int, PackCost | None] = {}
    try:
        # Narrow shapes first: on a CPU memory is read off the process's peak, which only rises.
        order = sorted(range(len(groups)), key=lambda i: groups[i][0].model.width)
        for place, index in enumerate(order, 1):
            group, free = groups[index], share * free_bytes(device)
            facts, capacity = cost_facts(group, runtime, device), MEMORY_SHARE * free
            costs[index] = known = cache.cost(facts, capacity=capacity, extrapolates=runtime.on_gpu)
            if known is not None and known.next_size(len(group)) is None:
                continue
            if limits is None:
                allowed = UNLIMITED
                # On a CPU Linux would kill this process.
                if device.type == "cpu" and _least_bytes(group[0]) > free:
                    raise trial_too_large(group[0], device)
            else:
                allowed = Allowance(limits.memory_share * free, until)
                if excess := _excess(group[0], device, allowed):
                    skipped.append(
                        f"Width {group[0].model.width} is not measured: {excess}. Its time is "
                        "predicted from other widths where possible."
                    )
                    continue
            say(
                f"measuring how long packs of trials take: width {group[0].model.width}, {place} "
                f"of {len(groups)} shapes"
            )
            try:
                costs[index] = known = measure(
                    group, runtime, device, capacity, allowed, skipped.append
                )
                cache.add(facts, known)
            except (UserError, MachineError):
                raise
            except Exception as error:  # of the model, which may be the user's own
                skipped.append(_raised_note(group, error))
            finally:
                release_memory(device)
    finally:
        torch.set_num_threads(threads)
    notes = (*cache.notes, *dict.fromkeys(skipped))
    return [_as_trained(costs[i], group, runtime) for i, group in enumerate(groups)], notes


def cached_costs(
    groups: Sequence[Sequence[TrialConfig]], runtime: RuntimeConfig, *, here: bool, share: float
) -> tuple[list[PackCost | None], tuple[str, ...]]:
    """Return what was measured before of each group, None where nothing was; measure nothing.

    Args:
        here: whether packs run on this machine. Where they do not, or it lacks the device, costs
            are those of any device of the kind, and a note names it.
        share: the part of the device's memory that a pack may count on.
    """
    cache, found, notes = PackCache.read(), [], {}
    if here and not (runtime.on_gpu and not torch.cuda.is_available()):
        device = torch_device(runtime)
        capacity = MEMORY_SHARE * share * free_bytes(device)
        for group in groups:
            facts = cost_facts(group, runtime, device)
            cost = cache.cost(facts, capacity=capacity, extrapolates=runtime.on_gpu)
            found.append(_as_trained(cost, group, runtime))
        return found, cache.notes
    for group in groups:
        facts = shape_facts(group, runtime)
        name = cache.device_of(facts)
        cost = None
        if name is not None:
            notes[f"These times were measured earlier on {name}."] = None
            facts = {**facts, "device": name}
            cost = cache.cost(facts, capacity=math.inf, extrapolates=runtime.on_gpu)
        found.append(_as_trained(cost, group, runtime))
    return found, (*cache.notes, *notes)


def _as_trained(
    cost: PackCost | None, group: Sequence[TrialConfig], runtime: RuntimeConfig
) -> PackCost | None:
    """Return what packs cost in training, which on a CPU compiles long trials unlike the probe."""
    by_default = runtime.compile is None and settled(runtime, group[0]).compile
    if cost is None or not by_default:
        return cost
    points = tuple(p._replace(seconds=COMPILED_SHARE * p.seconds) for p in cost.points)
    spread = max(cost.spread or 0.0, COMPILED_SPREAD)
    return dataclasses.replace(cost, points=points, spread=spread)


def _raised_note(group: Sequence[TrialConfig], error: Exception) -> str:
    """Say that trials of a shape cannot be measured, because training them raised an exception."""
    raised = pack_error(tuple(group), error)
    return (
        f"Width {group[0].model.width} could not be measured, because training a few steps raised "
        f"{raised.reason} ({raised.frame})."
    )


def _larger_note(pack: Sequence[TrialConfig], error: Exception) -> str:
    """Say that a larger pack cannot be measured, though a smaller one of the same shape trains."""
    raised = pack_error(tuple(pack), error)
    return (
        f"Packs at width {pack[0].model.width} have fewer than {len(pack)} trials, because so many "
        f"together raised {raised.reason} ({raised.frame})."
    )


def _averages(config: TrialConfig) -> int:
    """Return the copies of a trial's parameters that are averages which decide nothing."""
    return len(config.budget.judged_ema_fractions)


def _least_bytes(config: TrialConfig) -> int:
    return (LEAST_COPIES + _averages(config)) * _parameter_bytes(config)


def _parameter_bytes(config: TrialConfig) -> int:
    return 4 * trainable_parameters(config.model, config.layout)


def _excess(config: TrialConfig, device: torch.device, allowed: Allowance) -> str | None:
    """Say what one trial would take more than is allowed, by its shapes; None where it is less."""
    batch_size = config.budget.batch_size
    activations = saved_bytes(config.model, config.layout, batch_size)
    copies = PEAK_COPIES + _averages(config)
    taken = PEAK_MARGIN * (copies * _parameter_bytes(config) + activations)
    if taken > allowed.bytes:
        return (
            f"one trial takes about {rounded(taken / 2**30)} GiB, and a plan may take "
            f"{rounded(allowed.bytes / 2**30)} GiB of what is free"
        )
    flops = train_step_flops(config)
    seconds = LEAST_STEPS * flops / (STEP_SPEED * _flops_per_second(device))
    left = allowed.until - time.perf_counter()
    if seconds > left:
        return f"that takes about {seconds:.0f} s, and {max(left, 0.0):.0f} s of a plan's are left"
    return None


def _flops_per_second(device: torch.device) -> float:
    """Return how fast the device multiplies matrices, from the best of a few products."""
    matrix = torch.rand(PRODUCT_SIDE, PRODUCT_SIDE, device=device)
    seconds = []
    for _ in range(5):
        _finish(device)
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        _finish(device)
        seconds.append(time.perf_counter() - started)
    return 2.0 * PRODUCT_SIDE**3 / min(seconds)


def cost_facts(
    group: Sequence[TrialConfig], runtime: RuntimeConfig, device: torch.device
) -> dict[str, object]:
    """Return everything that decides what a pack costs on a device: the cache's key.

    Devices of equal speed share a name: the GPU's, or the CPU's with its cores.
    """
    model = hardware_model(device)
    name = model if device.type == "cuda" else f"{model} x {os.cpu_count()}"
    return {**shape_facts(group, runtime), "device": name}


def shape_facts(group: Sequence[TrialConfig], runtime: RuntimeConfig) -> dict[str, object]:
    """Return everything that decides what a pack costs but the device's model.

    Fields that change numbers but no shape (parametrization, init, schedule, length) are left out.
    """
    signature = shape_signature(group[0])
    budget = signature.budget
    shape = dataclasses.replace(
        signature,
        parametrization=ParametrizationConfig(),
        init=TrialConfig().init,
        budget=BudgetConfig(
            batch_size=budget.batch_size,
            weights=budget.weights,
            judged_ema_fractions=budget.judged_ema_fractions,
            eval_samples=budget.eval_samples,
        ),
    )
    return {
        "kind": "gpu" if runtime.on_gpu else "cpu",
        "torch": torch.__version__,
        "threads": runtime.threads,
        "compiled": runtime.compiled,
        "captured": runtime.captured,
        "clipped": any(config.optimizer.clip_norm is not None for config in group),
        "decayed": any(config.optimizer.weight_decay > 0 for config in group),
        "shape": canonical(shape),
    }


def measure(
    group: Sequence[TrialConfig],
    runtime: RuntimeConfig,
    device: torch.device,
    capacity: float,
    allowed: Allowance = UNLIMITED,
    tell: Callable[[str], None] = lambda text: None,
) -> PackCost:
    """Measure packs of 1 and ever more of these trials, while it pays, they fit and it is allowed.

    Where one trial trains and a larger pack raises, of whatever kind, packs stay smaller, and
    `tell` is told why unless the memory ran out.

    Raises:
        MachineError: one trial does not fit into the device's memory.
    """
    started = time.perf_counter()
    try:
        last = PackStepper(group[:1], runtime, device)
        blocks = [last.block() for _ in range(TURNS)]
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise trial_too_large(group[0], device) from error
        raise
    points = (MeasuredPack(1, statistics.median(blocks), last.bytes),)
    spread = half_range(blocks)
    cost = PackCost(points, last.warmup, capacity, extrapolates=runtime.on_gpu, spread=spread)
    within = min(capacity, allowed.bytes)
    while (size := dataclasses.replace(cost, capacity=within).next_size(len(group))) is not None:
        now, times = time.perf_counter(), size / cost.points[-1].size
        if now + (1 + times) * (now - started) > allowed.until:  # both sizes run in turns
            break
        started = now
        try:
            larger, ratios = _beside(last, group[:size], runtime, device)
        except (UserError, MachineError):
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                tell(_larger_note(group[:size], error))
            cost = dataclasses.replace(cost, too_large=size)
            continue  # with a size between, on a GPU
        seconds = statistics.median(ratios) * cost.points[-1].seconds
        points = (*cost.points, MeasuredPack(size, seconds, larger.bytes))
        warmup, spread = min(cost.warmup, larger.warmup), max(spread, half_range(ratios))
        cost = dataclasses.replace(cost, points=points, warmup=warmup, spread=spread)
        last.close()
        last = larger
    last.close()
    return cost


def _beside(
    last: PackStepper, pack: Sequence[TrialConfig], runtime: RuntimeConfig, device: torch.device
) -> tuple[PackStepper, list[float]]:
    """Return a larger pack in training, and how much longer its step takes than the last one's."""
    larger = PackStepper(pack, runtime, device)
    return larger, step_ratios(larger.block, last.block)


def half_range(values: Sequence[float]) -> float:
    """Return half the range of some values, over their median."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


def step_ratios(larger: Callable[[], float], smaller: Callable[[], float]) -> list[float]:
    """Return how much longer a step of the larger pack takes in each turn.

    Args:
        larger: times a block of the larger pack's steps and returns the seconds of one.
        smaller: does so with the smaller pack.
    """
    ratios = []
    for turn in range(TURNS):
        order = (larger, smaller) if turn % 2 else (smaller, larger)
        taken = {block: block() for block in order}
        ratios.append(taken[larger] / taken[smaller])
    return ratios


class PackStepper:
    """A pack in training, past its first evaluation and its warm-up, of which steps are timed.

    `bytes` is the most memory that it took: an evaluation may take more than a step.
    """

    def __init__(
        self, trials: Sequence[TrialConfig], runtime: RuntimeConfig, device: torch.device
    ) -> None:
        self._device, self._budget = device, trials[0].budget.steps
        self._taken = 0
        if not runtime.on_gpu and runtime.compile is None:
            # A CPU compiles long trials. Compiling each size would take longer than the sizes
            # save, and which size is best hardly depends on it.
            runtime = dataclasses.replace(runtime, compile=False)
        before = _start_of_peak(device)
        started = time.perf_counter()
        dataset = load_dataset(trials[0], runtime)
        self._state = start_training(trials, dataset, device, runtime)
        pack = self._state.pack
        validation_loss(pack, dataset.validation, flat=pack.flat, draws=1)
        untimed = GPU_WARMUP_STEPS if runtime.on_gpu else WARMUP_STEPS
        self._steps(untimed)
        elapsed = time.perf_counter() - started
        copies = LEAST_COPIES + _averages(trials[0])
        self.bytes = max(_peak(device) - before, copies * pack.flat.nbytes)
        step = self._steps(2)
        self.warmup = max(elapsed - untimed * step, 0.0)
        self._block = max(math.ceil(BLOCK_SECONDS / step), 1)

    def block(self) -> float:
        """Time a block; return the seconds of one step."""
        return self._steps(self._block)

    def close(self) -> None:
        """End the threads that make its inputs."""
        self._state.close()

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


def cache_file() -> Path:
    """Return `$XDG_CACHE_HOME/hptransfer/packs.json`, by default in `~/.cache`."""
    return user_cache() / "packs.json"


class PackCache:
    """The costs that were measured before, by everything that decides a pack's cost.

    Attributes:
        notes: sentences for the user, of a cache that could not be used.
    """

    def __init__(self, path: Path, entries: Mapping[str, Any], notes: tuple[str, ...] = ()) -> None:
        self.path, self.notes = path, notes
        self._entries = dict(entries)

    @classmethod
    def read(cls) -> PackCache:
        """Read the cache; one that is not ours counts as empty and is noted."""
        path = cache_file()
        try:
            return cls(path, _entries(path))
        except (OSError, ValueError) as error:
            note = (
                f"{path} is not a file of pack sizes as hptransfer wrote it ({error}), so it is "
                "ignored and the sizes are measured again."
            )
            return cls(path, {}, (note,))

    def cost(
        self, facts: Mapping[str, object], *, capacity: float, extrapolates: bool
    ) -> PackCost | None:
        """Return what was measured, on a device of today's capacity, or None."""
        entry = self._entries.get(_key(facts))
        if entry is None:
            return None
        try:
            return recorded_cost(entry["cost"], capacity=capacity, extrapolates=extrapolates)
        except (ValueError, TypeError, KeyError) as error:
            self._note(
                f"An entry of {self.path} is damaged ({error!r}), so its size is measured again."
            )
            return None

    def device_of(self, facts: Mapping[str, object]) -> str | None:
        """Return the device that was measured last with these facts, which name none; or None."""
        for key, entry in reversed(self._entries.items()):
            device = entry.get("facts", {}).get("device") if isinstance(entry, dict) else None
            if isinstance(device, str) and key == _key({**facts, "device": device}):
                return device
        return None

    def add(self, facts: Mapping[str, object], cost: PackCost) -> None:
        """Keep what was measured, beside what other processes kept meanwhile."""
        key, entry = _key(facts), {"facts": dict(facts), "cost": cost_record(cost)}
        self._entries[key] = entry
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path.with_suffix(".lock")):
                try:
                    kept = _entries(self.path)
                except ValueError:
                    kept = {}
                content = {"schema": CACHE_SCHEMA, "packs": {**kept, key: entry}}
                write_whole(self.path, json.dumps(content, indent=1, allow_nan=False).encode())
        except OSError as error:
            self._note(
                f"{self.path} could not be written ({error.strerror}), so sizes are measured "
                "again each time."
            )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes = (*self.notes, text)


def _key(facts: Mapping[str, object]) -> str:
    text = json.dumps({**facts, "hptransfer": package_version()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _entries(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    if not isinstance(found, dict) or found.get("schema") != CACHE_SCHEMA:
        raise ValueError(f"no object of schema {CACHE_SCHEMA}")
    if not isinstance(found.get("packs"), dict):
        raise ValueError("no `packs`")
    return found["packs"]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def cost_record(cost: PackCost) -> dict[str, Any]:
    """Return a cost as JSON values: what was measured, without what depends on the moment."""
    kept = {name: getattr(cost, name) for name in ("warmup", "too_large", "spread")}
    return {"points": [list(point) for point in cost.points], **kept}


def recorded_cost(found: Mapping[str, Any], *, capacity: float, extrapolates: bool) -> PackCost:
    """Return the cost that `cost_record` wrote, on a device of today's capacity.

    Raises:
        ValueError, TypeError, KeyError: it was not written by `cost_record`.
    """
    too_large, spread = found["too_large"], found.get("spread")  # older entries have no spread
    return PackCost(
        tuple(MeasuredPack(int(size), float(s), float(b)) for size, s, b in found["points"]),
        float(found["warmup"]),
        capacity,
        extrapolates,
        None if too_large is None else int(too_large),
        None if spread is None else float(spread),
        cached=True,
    )
