"""What packs of a sweep's shapes cost, each from the best source there is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hptransfer.config import ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.config.identity import trial_key
from hptransfer.config.sweep import SweepConfig
from hptransfer.execution import cached_packs, measure_packs
from hptransfer.execution.pack_sizes import (
    PLAN_LIMITS,
    MeasuredPack,
    PackCost,
    PackSize,
    Trials,
    read_packs,
)
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.training.flops import step_flops, trial_flops

Row = Mapping[str, Any]
Rows = Mapping[str, Row]  # a ledger's rows by trial_key


@dataclass(frozen=True)
class PlanInputs:
    """What a plan is made from: a sweep, where it runs, and what its folder records."""

    sweep: SweepConfig
    runtime: RuntimeConfig
    executor: ExecutorConfig
    rows: Rows  # the sweep's
    target_rows: Sequence[Row]
    sizes: Mapping[str, PackSize]  # the pack sizes that the folder records, by `shape_key`
    workers: int | None  # packs that run at a time; None: as many as there are places
    measure: bool  # whether costs that no file tells may be measured, within `PLAN_LIMITS`
    say: Callable[[str], None]  # is told how far a measurement is


def read_inputs(
    sweep: SweepConfig,
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    root: Path,
    workers: int | None,
    measure: bool,
    say: Callable[[str], None],
) -> PlanInputs:
    """Return the inputs of a plan, with what the sweep's folder under `root` records."""
    folder = ResultsFolder(root / sweep.name)
    return PlanInputs(
        sweep,
        runtime,
        executor,
        rows={row["trial_key"]: row for row in read_ledger_rows(folder.path)},
        target_rows=read_ledger_rows(folder.target),
        sizes=read_packs(folder.path),
        workers=workers or executor.workers,
        measure=measure,
        say=say,
    )


class KnownCost(NamedTuple):
    """What packs of a shape cost, and the source of that."""

    cost: PackCost
    source: str  # recorded (in packs.json), cached, measured, rows, or FLOPs (and another shape)


class Throughput(NamedTuple):
    """What packs cost, and how many run at a time."""

    costs: Mapping[str, KnownCost]  # by `shape_key`: of every shape that was asked for, or of none
    workers: int
    notes: tuple[str, ...]  # sentences for the user


def throughput(
    inputs: PlanInputs,
    groups: Mapping[str, Trials],
    asked: Collection[str],
    at_once: int | None = None,
) -> Throughput:
    """Return what packs of the shapes that are asked for cost.

    A cost is taken from the first of these that tells it: the pack sizes that the folder records,
    the cache, a measurement, the shape's own rows, and the FLOPs with the cost of another shape.

    Args:
        groups: trials by `shape_key`; also of shapes that may only tell of the others.
        asked: the keys of the shapes whose costs are needed.
        at_once: the most trials of a shape that run in one round; None: all.

    Raises:
        UserError: resources, a device or data that are not there, where packs are measured.
        MachineError: a single trial does not fit, where packs are measured.
    """
    runtime, executor = inputs.runtime, inputs.executor
    kept = {} if runtime.pack_size else inputs.sizes
    known = {key: KnownCost(kept[key].cost(), "recorded") for key in groups if key in kept}
    unknown = [key for key in asked if key not in known]
    together = [groups[key][:at_once] for key in unknown]
    if inputs.measure and (unknown or inputs.workers is None):
        found = measure_packs(together, runtime, executor, limits=PLAN_LIMITS, say=inputs.say)
    else:
        found = cached_packs(together, runtime, executor)
    for key, cost in found.by_key(unknown).items():
        known[key] = KnownCost(cost, "cached" if cost.cached else "measured")
    for key in groups.keys() - known.keys():
        if seconds := recorded_seconds(groups[key], inputs.rows, on_gpu=runtime.on_gpu):
            known[key] = KnownCost(_cost_of_rows(groups[key][0], seconds), "rows")
    notes, workers = found.notes, inputs.workers or found.workers
    if known and workers is None:
        notes = (
            *notes,
            "No cluster was asked, so one pack is taken to run at a time. Say how many do with "
            "--workers.",
        )
    costs = {key: known.get(key) or _scaled(groups, key, known) for key in asked} if known else {}
    return Throughput(costs, workers or 1, notes)


def recorded_seconds(group: Trials, rows: Rows, *, on_gpu: bool) -> list[float]:
    """Return the seconds of a shape's trials that were recorded on such a device."""
    recorded = [rows[key]["cost"] for config in group if (key := trial_key(config)) in rows]
    return [c["seconds"] for c in recorded if (c["device"] != "cpu") == on_gpu and c["seconds"] > 0]


def _cost_of_rows(config: TrialConfig, seconds: Sequence[float]) -> PackCost:
    """Return a cost by which each trial takes the median of the recorded seconds."""
    of_training = statistics.median(seconds) / (1.0 + evaluation_share(config))
    return PackCost((MeasuredPack(1, of_training / config.budget.steps, 0.0),))


def _scaled(groups: Mapping[str, Trials], key: str, known: Mapping[str, KnownCost]) -> KnownCost:
    """Return the cost of the shape of nearest FLOPs, in proportion to the FLOPs of a step."""
    flops = {other: flops_of_step(groups[other][0]) for other in {key, *known}}
    near = min(known, key=lambda other: abs(math.log(flops[other] / flops[key])))
    cost, steps = known[near].cost, groups[near][0].budget.steps
    size = cost.best_size(len(groups[near]), steps)
    seconds = cost.seconds(size) * flops[key] / flops[near]
    return KnownCost(PackCost((MeasuredPack(size, seconds, 0.0),), cost.warmup), "FLOPs")


def flops_of_step(config: TrialConfig) -> float:
    """Return the FLOPs of one training step of a trial."""
    return step_flops(config.model, config.data.layout, config.budget.batch_size)[1]


def evaluation_share(config: TrialConfig) -> float:
    """Return the FLOPs of a trial's evaluations over those of its training steps."""
    return trial_flops(config) / (config.budget.steps * flops_of_step(config)) - 1.0
