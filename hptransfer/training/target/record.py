"""The progress, speed and records of a target's run.

A run resumes from its checkpoints alone, which hold its progress as JSON, exactly; `run.json`,
rewritten whole, and `log.jsonl`, line by line, are for people and their scripts.

Utilisation is the model's FLOP/s (forward and backward, counted by torch on meta tensors; FLOPs
that activation checkpointing repeats do not count) over the FLOP/s of one large matrix product at
the run's precision, measured on the same device when the run starts.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hptransfer.config import BudgetConfig
from hptransfer.config.choices import Precision, Status
from hptransfer.results.ledger_rows import finite_or_none
from hptransfer.system.files import opening, write_text
from hptransfer.training.device import tf32
from hptransfer.training.schedule import gives_up, has_point

TIMED_PRODUCTS = 5  # matrix products that are timed; their median counts
# Rows of the square matrices: 20 ms on a core, 2 ms on an H100.
MATRIX_ROWS = {"cpu": 768, "cuda": 8192}


def matmul_peak(device: torch.device, precision: Precision) -> float:
    """Return the FLOP/s of a product of square matrices at a precision, on one device."""
    size = MATRIX_ROWS[device.type]
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    left, right = (torch.full((size, size), 0.5, device=device, dtype=dtype) for _ in range(2))
    wait = torch.cuda.synchronize if device.type == "cuda" else torch.cpu.synchronize
    seconds = []
    with tf32(allowed=precision is not Precision.fp32_ieee):
        for _ in range(1 + TIMED_PRODUCTS):  # the first one loads kernels
            wait(device)
            began = time.perf_counter()
            torch.mm(left, right)
            wait(device)
            seconds.append(time.perf_counter() - began)
    return 2.0 * size**3 / statistics.median(seconds[1:])


@dataclass(frozen=True)
class Speed:
    """The work of a step and the peak of the devices, of all processes of a run together."""

    batch_size: int  # samples per step
    step_flops: float  # FLOPs per step, forward and backward
    peak: float  # FLOP/s of all devices

    def of(self, steps: int, seconds: float) -> dict[str, float]:
        """Return samples per second, TFLOP/s and utilisation of `steps` that took `seconds`."""
        flops = steps * self.step_flops / seconds
        return {
            "samples_per_second": float(f"{steps * self.batch_size / seconds:.6g}"),
            "tflops": float(f"{flops / 1e12:.6g}"),
            "utilisation": float(f"{flops / self.peak:.4g}"),
        }


CurvePoint = tuple[int, float]  # steps taken, loss
CURVES = ("curve", "held_out")  # fields that are lists of points


@dataclass
class RunProgress:
    """The steps taken and losses seen by a run. Its curve has points at the steps of a pack's."""

    loss_at_init: float  # held-out, of the first evaluation draw
    step: int = 0  # steps taken
    seconds: float = 0.0  # wall time until the last checkpoint, of earlier processes too
    clipped: int = 0  # steps whose gradient was clipped
    curve: list[CurvePoint] = field(default_factory=list)
    held_out: list[CurvePoint] = field(default_factory=list)
    since_report: float = 0.0  # sum of training losses since the curve's last point
    since_log: float = 0.0  # sum of training losses since the last line of the log
    logged_at: int = 0  # steps taken at the last line of the log
    diverged_at: int | None = None  # the step, from 0, whose loss or gradient was not finite
    stopped_at: int | None = None  # steps taken until the run was given up

    @staticmethod
    def of(facts: Mapping[str, Any]) -> RunProgress:
        """Return the progress whose `facts` these are."""
        curves = {name: [(step, loss) for step, loss in facts[name]] for name in CURVES}
        at_init = math.nan if facts["loss_at_init"] is None else facts["loss_at_init"]
        return RunProgress(**{**facts, **curves, "loss_at_init": at_init})

    def facts(self, seconds: float) -> dict[str, Any]:
        """Return the progress as plain JSON, `seconds` after the start."""
        return {
            **asdict(self),
            "seconds": seconds,
            "loss_at_init": finite_or_none(self.loss_at_init),
        }

    def took(self, loss: float, *, clipped: bool, sound: bool) -> None:
        """Record a step: its loss, and whether it was clipped and finite."""
        if not sound:
            self.diverged_at = self.step
        self.step += 1
        self.clipped += clipped
        self.since_report += loss
        self.since_log += loss

    def measured(self, loss: float, budget: BudgetConfig) -> None:
        """Record a held-out loss; after the last step, one that is not finite is a divergence."""
        if math.isfinite(loss):
            self.held_out.append((self.step, loss))
        elif self.step == budget.steps:
            self.diverged_at = self.step

    def report(self, budget: BudgetConfig) -> None:
        """Add a point to the curve if one is due, and give the run up if it is hopeless."""
        if self.diverged_at is not None or not has_point(self.step, budget.steps):
            return
        before = self.curve[-1][0] if self.curve else 0
        self.curve.append((self.step, self.since_report / (self.step - before)))
        self.since_report = 0.0
        losses = [loss for _, loss in self.curve]
        if gives_up(budget, self.step, losses, self.loss_at_init):
            self.stopped_at = self.step

    def logged(self) -> float:
        """Return the mean training loss since the last line of the log, and begin the next mean."""
        mean = self.since_log / (self.step - self.logged_at)
        self.since_log, self.logged_at = 0.0, self.step
        return mean

    def deciding_loss(self, budget: BudgetConfig) -> float | None:
        """Return the deciding loss of a run that completed, else None."""
        return self.held_out[-1][1] if self.status(budget) is Status.completed else None

    def status(self, budget: BudgetConfig) -> Status | None:
        """Return how the run ended; None if it has not."""
        if self.diverged_at is not None:
            return Status.diverged
        if self.stopped_at is not None:
            return Status.stopped
        measured = bool(self.held_out) and self.held_out[-1][0] == budget.steps
        return Status.completed if measured else None


class ProcessStart(NamedTuple):
    """The start of a process, or of several that train together, from which a run went on."""

    step: int  # steps taken before
    time: str  # UTC, ISO 8601
    device: str
    processes: int


@dataclass(frozen=True)
class LogEntry:
    """One line of the log; a number that is not finite is None."""

    step: int  # steps taken
    loss: float | None  # mean training loss since the previous line
    lr_multiplier: float  # of the last step
    grad_norm: float | None  # of the last step, before clipping
    samples_per_second: float  # since the previous line, time of steps alone
    tflops: float  # TFLOP/s, as `Speed.of` computes them
    utilisation: float  # model FLOP/s over the devices' peak
    held_out_loss: float | None  # None if it was not measured at this step


class RunLog:
    """The log of a run after `step` steps; lines of later steps, which it repeats, are removed."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        kept = [entry for entry in read_log(path) if entry.get("step", step) <= step]
        write_text(path, "".join(map(_line, kept)))

    def append(self, entry: LogEntry) -> None:
        """Append a line."""
        with opening(self._path.parent), self._path.open("a", encoding="utf-8") as file:
            file.write(_line(asdict(entry)))


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return a log's lines, up to the first damaged one; none if there is no log."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entries.append({**json.loads(line)})
        except (ValueError, TypeError):
            break
    return entries


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, separators=(",", ":"), allow_nan=False) + "\n"
