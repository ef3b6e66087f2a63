"""A sweep on a thousand nodes, simulated with the seconds that real packs took.

    python -m benchmarks.scale [--workers 1000]

Packs are cut and ordered as a sweep does it, by the sizes and seconds that the recorded
quickstart measured (results/studies/quickstart); each then takes what was reckoned times a ratio
of recorded to reckoned seconds, drawn from those of the quickstart's own packs. The sweep is the
quickstart's with a seed for each worker, its trials trained `LONGER` times as long, so that packs
take an hour or so. Nodes are lost at a constant rate and replaced after `REPLACED` seconds; a lost
pack is next in turn and goes on from its last checkpoint, or begins anew. Deterministic.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hptransfer.config.compose.compose import compose_file, shipped_folder, sweep_config
from hptransfer.execution.pack_sizes import (
    Trials,
    by_shape,
    longest_first,
    lower_bound,
    makespan,
    read_packs,
)
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.sweeping.design.trials import wanted
from hptransfer.sweeping.plan.plan import cut_into_packs, measured_over_predicted

RECORDED = Path(__file__).resolve().parents[1] / "results" / "studies" / "quickstart"
LONGER = 400
REPLACED = 300.0
LOSSES_PER_HOUR = (0.0, 0.01, 0.1)  # of a node
CHECKPOINTS = (60.0, None)  # seconds between two; None: a lost pack begins anew
COLUMNS = ("losses/node/h", "checkpoints", "lost", "makespan", "over the bound", "utilisation")


def simulated(workers: int) -> dict[str, Any]:
    """Return the simulated schedules, and what they were made from."""
    reckoned, ratios = recorded_seconds(seeds=workers)
    drawn = np.random.default_rng(0).choice(ratios, len(reckoned)).tolist()
    seconds = [taken * ratio for taken, ratio in zip(reckoned, drawn, strict=True)]
    cases = [(0.0, None)] + [(rate, c) for rate in LOSSES_PER_HOUR if rate for c in CHECKPOINTS]
    return {
        "workers": workers,
        "packs": len(seconds),
        "pack_seconds": {"median": float(np.median(seconds)), "max": max(seconds)},
        "ratio": {"median": float(np.median(ratios)), "min": min(ratios), "max": max(ratios)},
        "lower_bound": lower_bound(seconds, workers),
        "makespan_if_seconds_were_known": makespan(seconds, workers),
        "cases": [schedule(seconds, workers, rate, every, seed=1) for rate, every in cases],
    }


def recorded_seconds(seeds: int) -> tuple[list[float], list[float]]:
    """Return the reckoned seconds of the grown sweep's packs in order, and the recorded ratios."""
    sizes = read_packs(RECORDED)
    rows = {row["trial_key"]: row for row in read_ledger_rows(RECORDED)}
    own = [cut_into_packs(group, sizes[key], None) for key, group in _groups().items()]
    ratios = [
        ratio for packs in own for ratio in measured_over_predicted(packs, rows, on_gpu=False)
    ]
    grown = _groups(f"sweep.seeds={list(range(seeds))}".replace(" ", ""))
    packs = [
        pack for key, group in grown.items() for pack in cut_into_packs(group, sizes[key], None)
    ]
    return [LONGER * pack.seconds for pack in longest_first(packs)], ratios


def _groups(*overrides: str) -> dict[str, Trials]:
    composed = compose_file(shipped_folder("sweeps") / "quickstart.yaml", list(overrides))
    return by_shape(wanted(sweep_config(composed)).values())


def schedule(
    seconds: Sequence[float], workers: int, rate: float, every: float | None, *, seed: int
) -> dict[str, Any]:
    """Simulate workers that take packs in order and are lost at a rate per hour."""
    rng = np.random.default_rng(seed)
    waiting, idle = deque(seconds), workers
    ends: list[tuple[float, float]] = []  # when a worker ends, and what of its pack is left then
    now = worked = 0.0
    back: list[float] = []  # when lost nodes are replaced
    losses = 0
    while waiting or ends:
        while waiting and idle:
            idle -= 1
            left = waiting.popleft()
            until_loss = float(rng.exponential(3600.0 / rate)) if rate else float("inf")
            kept = 0.0 if every is None else until_loss // every * every if rate else 0.0
            lost = until_loss < left
            ran = until_loss if lost else left
            worked += ran
            heapq.heappush(ends, (now + ran, left - kept if lost else 0.0))
        if back and (not ends or back[0] <= ends[0][0]):
            now = heapq.heappop(back)
            idle += 1
            continue
        now, left = heapq.heappop(ends)
        if left:
            losses += 1
            waiting.appendleft(left)
            heapq.heappush(back, now + REPLACED)
        else:
            idle += 1
    bound = lower_bound(seconds, workers)
    return {
        "losses_per_hour": rate,
        "checkpoint_seconds": every,
        "lost": losses,
        "makespan": now,
        "over_bound": now / bound,
        "utilisation": sum(seconds) / (workers * now),
        "repeated_share": worked / sum(seconds) - 1.0,
    }


def cells(answer: dict[str, Any]) -> list[list[str]]:
    """Return the schedules as cells of `COLUMNS`."""
    return [
        [
            f"{case['losses_per_hour']:g}",
            "none" if case["checkpoint_seconds"] is None else f"{case['checkpoint_seconds']:g} s",
            str(case["lost"]),
            f"{case['makespan'] / 3600:.2f} h",
            f"{case['over_bound']:.3f}",
            f"{case['utilisation']:.1%}",
        ]
        for case in answer["cases"]
    ]
