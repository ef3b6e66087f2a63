"""The records of a target's run: `run.json`, rewritten whole, and `log.jsonl`, line by line.

Both are for people and their scripts; a run resumes from its checkpoints alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hptransfer.config import RuntimeConfig, TrainerConfig, TrialConfig
from hptransfer.config.identity import trial_key
from hptransfer.models.parametrization import parameter_count
from hptransfer.results.folder import RunFolder, write_json
from hptransfer.results.ledger_rows import finite_or_none
from hptransfer.results.provenance import provenance, utc_now
from hptransfer.system.files import opening, write_text
from hptransfer.training.continuing import software_versions
from hptransfer.training.target.progress import RunProgress
from hptransfer.training.target.throughput import Speed

SPEED_FIELDS = ("samples_per_second", "tflops", "utilisation")  # of `Speed.of`, in `run.json`
# The definition of `utilisation`, which `run.json` holds beside the number.
UTILISATION = (
    "model FLOP/s over the FLOP/s of a large matrix product at the run's precision, measured on "
    "the same devices when the last of `starts` began"
)


class ProcessStart(NamedTuple):
    """The start of a process, or of several that train together, from which a run went on."""

    step: int  # steps taken before
    time: str  # UTC, ISO 8601
    device: str
    processes: int

    @staticmethod
    def now(step: int, device: str, processes: int) -> ProcessStart:
        """Return the start of the present processes."""
        return ProcessStart(step, utc_now(), device, processes)


@dataclass(frozen=True)
class LogEntry:
    """One line of the log; a number that is not finite is None."""

    step: int  # steps taken
    loss: float | None  # mean training loss since the previous line
    lr_multiplier: float  # of the last step
    grad_norm: float | None  # of the last step, before clipping
    samples_per_second: float  # since the previous line, time of steps alone
    tflops: float  # TFLOP/s, as `Speed.of` computes them
    utilisation: float  # see UTILISATION
    held_out_loss: float | None  # None if it was not measured at this step


def run_origin(
    runtime: RuntimeConfig, trainer: TrainerConfig, processes: int, device: str
) -> dict[str, Any]:
    """Return what must be equal for a run to resume with the same bits."""
    return {
        **software_versions(),
        "device": device,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": runtime.threads,
        "compile": runtime.compile,
        "parallel": trainer.parallel.value,
        "processes": processes,
        "accumulate": trainer.accumulate,
        "activation_checkpointing": trainer.activation_checkpointing,
    }


def write_run_record(
    folder: RunFolder,
    config: TrialConfig,
    progress: RunProgress,
    status: str,
    *,
    origin: Mapping[str, Any],
    starts: Sequence[ProcessStart],
    speed: Speed,
    measured: Mapping[str, float] | None,
    seconds: float,
) -> None:
    """Write `run.json`; after a kill without warning its status remains `running`."""
    record = {
        "trial_key": trial_key(config),
        "status": status,
        "steps": config.budget.steps,
        "steps_done": progress.step,
        "loss": progress.deciding_loss(config.budget),
        "loss_at_init": finite_or_none(progress.loss_at_init),
        "diverged_at_step": progress.diverged_at,
        "stopped_at_step": progress.stopped_at,
        "parameters": parameter_count(config),
        "precision": config.precision.value,
        **origin,
        "flops_per_step": speed.step_flops,
        **{name: (measured or {}).get(name) for name in SPEED_FIELDS},
        "matmul_peak_tflops": float(f"{speed.peak / 1e12:.4g}"),
        "utilisation_is": UTILISATION,
        "seconds": float(f"{seconds:.6g}"),
        "starts": [start._asdict() for start in starts],
        "provenance": provenance(),
    }
    write_json(folder.record_file, record)


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
