"""The two files by which a sweep and the job of one of its packs know of each other.

Both lie in the pack's folder, `trials/<key>/` below the folder with the ledger. The sweep writes
`job.json` before it submits the job and again when it knows the job's id. The job writes
`outcome.json` at its end. Both are gone once the pack is recorded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.config.choices import Status
from hptransfer.config.identity import trial_key
from hptransfer.errors import MachineError, UserError
from hptransfer.execution.pack_sizes import Trials
from hptransfer.execution.work import PackError
from hptransfer.results.folder import trial_folder
from hptransfer.results.trial_result import Quality, TrialResult
from hptransfer.system.files import opening, sync_folder, write_whole

JOB_FILE, OUTCOME_FILE = "job.json", "outcome.json"
REFUSALS = {error.__name__: error for error in (UserError, MachineError)}
# Fields of a result that are whole numbers, text or none; all others are named below.
PLAIN = ("diverged_at_step", "stopped_at_step", "device", "mode", "pack_size")
NUMBERS = (
    *("loss", "loss_at_init", "train_loss", "clipped_share", "small_root_share", "flops"),
    "seconds",
)
CURVES = ("curve", "held_out")


def pack_folder(folder: Path, configs: Trials) -> Path:
    """Return the folder of a pack: that of its trial, or one of its own where it has several."""
    keys = [trial_key(config) for config in configs]
    joined = hashlib.sha256(" ".join(keys).encode()).hexdigest()[:12]
    return trial_folder(folder, keys[0] if len(keys) == 1 else f"pack-{joined}")


@dataclass(frozen=True)
class JobRecord:
    """The job of a pack: `job.json`."""

    submission: str  # the name of the job, or of the array of jobs, which no other has
    index: int  # in the array
    count: int  # of jobs in the array
    cluster: str  # slurm or local
    submitted_at: str  # UTC, in ISO 8601
    job_id: str | None = None  # SLURM's; None: a sweep was killed while it submitted the job

    def with_main_id(self, main: str) -> JobRecord:
        """Return the record with its id, from that of the array or the single job."""
        job_id = main if self.count == 1 else f"{main}_{self.index}"
        return dataclasses.replace(self, job_id=job_id)


def write_job(folder: Path, record: JobRecord) -> None:
    """Write a pack's `job.json`, which is on the disk when this returns."""
    with opening(folder, "start the sweep where it can be written"):
        content = json.dumps(dataclasses.asdict(record), indent=1)
        write_whole(folder / JOB_FILE, content.encode())
        sync_folder(folder)


def read_job(folder: Path) -> JobRecord | None:
    """Return a pack's `job.json`; None where no job is under way.

    Raises:
        UserError: the file is not as hptransfer wrote it.
    """
    told = _read(folder / JOB_FILE)
    if told is None:
        return None
    try:
        record = JobRecord(**told)
        if record.job_id is not None and not re.fullmatch(r"\d+(_\d+)?", record.job_id):
            raise ValueError(record.job_id)  # it becomes a word of commands
        return record
    except (TypeError, ValueError):
        raise _foreign(folder / JOB_FILE) from None


def forget_job(folder: Path) -> None:
    """Remove both files: the pack has no job any more, and one that still begins ends at once."""
    with opening(folder, "start the sweep where it can be written"):
        for name in (JOB_FILE, OUTCOME_FILE):
            (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Lost:
    """The end of a job that was ended from outside, so that its pack is not finished."""

    reason: str
    at_time_limit: bool = False  # whether SLURM ended it for its time


JobEnd = Sequence[TrialResult] | PackError | UserError | MachineError | Lost


def write_outcome(folder: Path, submission: str, ended: JobEnd) -> None:
    """Write how the job of a pack ended, whole or not at all."""
    content = json.dumps({"submission": submission, **encoded(ended)}, allow_nan=False)
    write_whole(folder / OUTCOME_FILE, content.encode())


def read_outcome(folder: Path, submission: str, configs: Trials) -> JobEnd | None:
    """Return how a submitted job of a pack ended; None where it has not said so.

    Raises:
        UserError: the file is not as hptransfer wrote it.
    """
    told = _read(folder / OUTCOME_FILE)
    if told is None or told.get("submission") != submission:
        return None
    try:
        return decoded(told, configs)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _foreign(folder / OUTCOME_FILE) from None


def encoded(ended: JobEnd) -> dict[str, Any]:
    """Return the JSON object of a job's end; `decoded` reads it."""
    if isinstance(ended, Lost):
        return {"kind": "lost", **dataclasses.asdict(ended)}
    if isinstance(ended, PackError):
        where = {"frame": ended.frame, "text": ended.traceback_text, "is_lost": ended.is_lost}
        return {"kind": "failed", "reason": ended.reason, **where}
    if isinstance(ended, Exception):
        return {"kind": "refused", "error": type(ended).__name__, "text": str(ended)}
    return {"kind": "results", "results": [_encoded_result(result) for result in ended]}


def decoded(told: Mapping[str, Any], configs: Trials) -> JobEnd:
    """Return the end of a pack's job from its JSON object."""
    kind = told["kind"]
    if kind == "lost":
        return Lost(str(told["reason"]), bool(told["at_time_limit"]))
    if kind == "failed":
        reason, frame, text = (str(told[name]) for name in ("reason", "frame", "text"))
        keys = [trial_key(config) for config in configs]
        return PackError(keys, reason, frame, text, is_lost=bool(told["is_lost"]))
    if kind == "refused":
        return REFUSALS[told["error"]](str(told["text"]))
    if kind != "results" or len(told["results"]) != len(configs):
        raise ValueError(kind)
    pairs = zip(told["results"], configs, strict=True)
    return [_decoded_result(result, config) for result, config in pairs]


def _encoded_result(result: TrialResult) -> dict[str, Any]:
    quality = result.quality
    return {
        "trial_key": trial_key(result.config),
        "status": result.status.value,
        **{name: _number(getattr(result, name)) for name in NUMBERS},
        **{name: getattr(result, name) for name in PLAIN},
        **{name: [[s, _number(loss)] for s, loss in getattr(result, name)] for name in CURVES},
        "metrics": {name: _number(value) for name, value in result.metrics.items()},
        "quality": None if quality is None else [_number(value) for value in quality],
        "notes": list(result.notes),
    }


def _decoded_result(told: Mapping[str, Any], config: Any) -> TrialResult:
    if told["trial_key"] != trial_key(config):
        raise ValueError("the result of another trial")
    quality = told["quality"]
    fields: dict[str, Any] = {
        **{name: told[name] for name in PLAIN},
        **{name: None if told[name] is None else float(told[name]) for name in NUMBERS},
        **{name: tuple((int(s), float(loss)) for s, loss in told[name]) for name in CURVES},
    }
    return TrialResult(
        config=config,
        status=Status(told["status"]),
        **fields,
        metrics={str(name): float(value) for name, value in told["metrics"].items()},
        quality=None if quality is None else Quality(*map(_maybe_number, quality)),
        notes=tuple(map(str, told["notes"])),
    )


def _maybe_number(told: Any) -> Any:
    return None if told is None else float(told)


def _number(value: float | None) -> float | str | None:
    """Return a number as strict JSON holds it: `nan`, `inf` and `-inf` as text."""
    return value if value is None or math.isfinite(value) else str(value)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise _foreign(path) from None
    if not isinstance(told, dict):
        raise _foreign(path)
    return told


def _foreign(path: Path) -> UserError:
    return UserError(
        f"{path} is not as hptransfer wrote it. Delete it; its trials are then submitted again, "
        "and finished trials are not affected."
    )
