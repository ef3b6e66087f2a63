"""What the job of a pack asks SLURM for."""

from __future__ import annotations

import math
from typing import Any

from hptransfer.config import ExecutorConfig
from hptransfer.errors import require
from hptransfer.execution.resources import Resources
from hptransfer.execution.work import PackTask

LONGEST_WARNING_S = 90  # before the time limit, at which a job is told to end in order
SHARE_OF_WARNING = 0.25  # of the time limit, where that is less


def request_of(task: PackTask) -> Resources:
    """Return what a pack asks for.

    Raises:
        UserError: parts of a CPU or of a GPU, which SLURM does not hand out.
    """
    for name in ("cpus", "gpus"):
        amount = getattr(task.request, name)
        require(
            amount == int(amount),
            f"`executor.{name}` must be a whole number with executor=slurm, but got {amount:g}.",
        )
    return task.request


def limit_s(executor: ExecutorConfig) -> float:
    """Return the time limit of a job in seconds."""
    return 60.0 * executor.slurm.timeout_min


def warning_s(executor: ExecutorConfig) -> int:
    """Return how many seconds before its time limit a job is told to end in order."""
    return int(min(LONGEST_WARNING_S, SHARE_OF_WARNING * limit_s(executor)))


def sbatch_parameters(
    request: Resources, executor: ExecutorConfig, *, name: str, at_once: int
) -> dict[str, Any]:
    """Return the parameters of submitit's SLURM executor, by its names.

    Args:
        name: of the job or the array.
        at_once: jobs of the array that may run at a time.
    """
    asked, cpus = executor.slurm, int(request.cpus)
    further = {k: True if v.lower() == "true" else v for k, v in asked.parameters.items()}
    parameters = {
        "job_name": name,
        "time": asked.timeout_min,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "ntasks_per_node": 1,
        "cpus_per_task": cpus,
        "gpus_per_node": int(request.gpus) or None,
        "mem": f"{math.ceil(request.memory_gib * 1024)}M" if request.memory_gib else None,
        "array_parallelism": at_once,
        "signal_delay_s": warning_s(executor),
        "stderr_to_stdout": True,
        "setup": list(asked.setup) or None,
        "wckey": None,
        "srun_args": ["--cpus-per-task", str(cpus)],  # newer ones do not take it from sbatch
        "additional_parameters": further or None,
    }
    return {key: value for key, value in parameters.items() if value is not None or key == "wckey"}
