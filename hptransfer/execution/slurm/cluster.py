"""SLURM as a sweep uses it: submit jobs, ask for their states, find and cancel them.

Jobs are submitted by submitit. `LocalCluster` is the same for processes of this machine, to try a
sweep out without SLURM.
"""

from __future__ import annotations

import getpass
import importlib.util
import logging
import os
import re
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

from hptransfer.config import ExecutorConfig
from hptransfer.errors import UserError
from hptransfer.execution.resources import Resources, usable_cpus
from hptransfer.execution.slurm.files import JobRecord
from hptransfer.execution.slurm.job import PackJob
from hptransfer.execution.slurm.request import limit_s, sbatch_parameters, warning_s

MOST_IN_ARRAY = 1000  # jobs, which is what SLURM allows where the site has not said otherwise
PROGRAMS = ("sbatch", "srun", "squeue", "scancel")


class State(Enum):
    """Where a job is, as far as SLURM tells."""

    waiting = "waiting"
    running = "running"
    unknown = "unknown"  # SLURM did not answer
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"
    timeout = "at its time limit"
    out_of_memory = "out of memory"
    node_fail = "lost with its node"
    preempted = "preempted"
    gone = "gone"  # SLURM does not know the job any more

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self not in (State.waiting, State.running, State.unknown)


# SLURM's words; every other one is of a job that waits or is about to end.
STATES = {
    **{state.name.upper(): state for state in State if state.is_final},
    **{"BOOT_FAIL": State.node_fail, "DEADLINE": State.timeout, "REVOKED": State.cancelled},
    **{"RUNNING": State.running, "COMPLETING": State.running, "UNKNOWN": State.unknown},
}


def state_of(text: str) -> State:
    """Return a state from SLURM's text, such as `CANCELLED by 1000`."""
    word = text.split()[0].rstrip("+").upper() if text.strip() else "UNKNOWN"
    return STATES.get(word, State.waiting)


def require_slurm(executor: ExecutorConfig) -> None:
    """Refuse a machine without submitit or without SLURM's programs."""
    if importlib.util.find_spec("submitit") is None:
        raise UserError(
            "executor=slurm needs the package submitit, which is not installed. Install it with "
            "pip install 'hptransfer[slurm]'."
        )
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if executor.slurm.cluster == "slurm" and missing:
        raise UserError(
            f"executor=slurm needs SLURM's program {missing[0]}, which is not there. Start the "
            "sweep on a login node, or try it out on this machine with "
            "executor.slurm.cluster=local."
        )


def cluster_of(executor: ExecutorConfig) -> Cluster:
    """Return the cluster that an executor submits to; see `require_slurm` for what it raises."""
    require_slurm(executor)
    logging.getLogger("submitit").setLevel(logging.ERROR)  # it prints on standard output
    return LocalCluster(executor) if executor.slurm.cluster == "local" else SlurmCluster(executor)


class Cluster(ABC):
    """Where jobs are submitted to."""

    name: str
    poll_s: float  # seconds between two looks at the jobs
    limit: int | None  # jobs that may run at a time; None: any number
    most: int  # jobs of one submission

    @abstractmethod
    def submit(
        self, jobs: Sequence[PackJob], folder: Path, request: Resources, at_once: int
    ) -> list[str]:
        """Submit jobs as one array; return their ids.

        Args:
            folder: a new one, for submitit; its name is the submission's.
        """

    @abstractmethod
    def states(self, job_ids: Sequence[str]) -> dict[str, State]:
        """Return the states of jobs by their ids, by one question for all of them."""

    @abstractmethod
    def find(self, record: JobRecord) -> str | None:
        """Return the id of a submission whose id was not written down; None: it never came."""

    @abstractmethod
    def cancel_command(self, job_ids: Iterable[str]) -> list[str]:
        """Return the words of the command that ends jobs."""

    @abstractmethod
    def cancel(self, records: Sequence[JobRecord]) -> None:
        """End jobs, but none that only has the id of one of them."""


class SlurmCluster(Cluster):
    """A SLURM cluster."""

    name = "slurm"

    def __init__(self, executor: ExecutorConfig) -> None:
        self._executor = executor
        self.poll_s, self.limit = executor.slurm.poll_s, executor.workers
        self.most = MOST_IN_ARRAY

    def submit(
        self, jobs: Sequence[PackJob], folder: Path, request: Resources, at_once: int
    ) -> list[str]:
        """See `Cluster.submit`."""
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import clean_env

        parameters = sbatch_parameters(request, self._executor, name=folder.name, at_once=at_once)
        try:
            with clean_env():  # a sweep that runs in a job must not hand that job's on
                submitter = SlurmExecutor(folder=folder, max_num_timeout=0)
                submitter.update_parameters(**parameters)
                return [job.job_id for job in submitter.submit_array(list(jobs))]
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(
                f"SLURM must take the jobs of a sweep, but sbatch refused: {_sbatch_says(error)} "
                f"Correct executor.slurm, cpus, gpus or memory_gib. The script is in {folder}."
            ) from error

    def states(self, job_ids: Sequence[str]) -> dict[str, State]:
        """See `Cluster.states`; what sacct does not know yet, squeue is asked for."""
        from submitit.slurm.slurm import SlurmInfoWatcher

        if not job_ids:
            return {}
        watcher = SlurmInfoWatcher()  # a new one, since submitit's does not ask for ended jobs
        for job_id in job_ids:
            watcher.register_job(job_id)
        watcher.update()
        found = {job_id: state_of(watcher.get_state(job_id, "cache")) for job_id in job_ids}
        if State.unknown in found.values():
            queued = self._queued()
            for job_id, state in found.items():
                if state is State.unknown and queued is not None:
                    found[job_id] = queued.get(job_id, State.gone)
        return found

    def _queued(self) -> dict[str, State] | None:
        """Return the states of the user's jobs in the queue; None where SLURM did not answer."""
        text = _output("squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%i|%T")
        if text is None:
            return None
        pairs = (line.strip().partition("|") for line in text.splitlines() if "|" in line)
        return {job_id: state_of(state) for job_id, _, state in pairs}

    def find(self, record: JobRecord) -> str | None:
        """See `Cluster.find`: the queue is asked first, which knows a job at once."""
        name = record.submission
        texts = (
            _output("squeue", "-h", "-u", getpass.getuser(), "-n", name, "-o", "%F"),
            _output(
                *("sacct", "-X", "-n", "-P", "-o", "JobID"),
                *("--name", name, "-S", record.submitted_at[:10]),
            ),
        )
        ids = (re.match(r"\d+", text.strip()) for text in texts if text)
        return next((match[0] for match in ids if match), None)

    def cancel_command(self, job_ids: Iterable[str]) -> list[str]:
        """See `Cluster.cancel_command`."""
        return ["scancel", *grouped(job_ids)]

    def cancel(self, records: Sequence[JobRecord]) -> None:
        """See `Cluster.cancel`."""
        for name in dict.fromkeys(record.submission for record in records):
            ids = [r.job_id for r in records if r.submission == name and r.job_id is not None]
            _output("scancel", "--name", name, *grouped(ids))


def grouped(job_ids: Iterable[str]) -> list[str]:
    """Return ids with those of an array as one: 7_1, 7_2 and 7_5 are 7_[1-2,5]."""
    arrays: dict[str, list[int]] = {}
    for job_id in job_ids:
        main, _, index = job_id.partition("_")
        arrays.setdefault(main, []).extend([int(index)] if index else [])
    return [f"{main}_[{_ranges(i)}]" if i else main for main, i in arrays.items()]


def _ranges(numbers: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in runs)


def _sbatch_says(error: Exception) -> str:
    """Return the sentence of sbatch in submitit's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = [line.partition("error:")[2].strip() for line in lines if "sbatch: error:" in line]
    text = (own or lines or ["it said nothing"])[-1]
    return f"{text[:300].rstrip('.')}."


def _output(*words: str) -> str | None:
    """Return what a program prints; None where it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


class LocalCluster(Cluster):
    """Processes of this machine that outlive the sweep's, as jobs do."""

    name = "local"
    most = 1  # each has a folder of its own, by which it is found

    def __init__(self, executor: ExecutorConfig) -> None:
        self._executor = executor
        self.poll_s = min(executor.slurm.poll_s, 1.0)
        places = max(int(usable_cpus() / executor.cpus), 1)
        self.limit = min(executor.workers or places, places)
        self._jobs: dict[str, Any] = {}  # submitit's, so that ended processes are waited for

    def submit(
        self, jobs: Sequence[PackJob], folder: Path, request: Resources, at_once: int
    ) -> list[str]:
        """See `Cluster.submit`."""
        from submitit import LocalExecutor
        from submitit.helpers import clean_env

        with clean_env(), _sigint_ignored():  # Ctrl-C ends the sweep and not its jobs
            submitter = LocalExecutor(folder=folder, max_num_timeout=0)
            submitter.update_parameters(
                timeout_min=limit_s(self._executor) / 60,
                signal_delay_s=warning_s(self._executor),
                gpus_per_node=int(request.gpus),
                stderr_to_stdout=True,
                setup=list(self._executor.slurm.setup),
            )
            found = [submitter.submit(job) for job in jobs]
        self._jobs |= {job.job_id: job for job in found}
        return [job.job_id for job in found]

    def states(self, job_ids: Sequence[str]) -> dict[str, State]:
        """See `Cluster.states`."""
        for job in self._jobs.values():
            job.done()  # waits for a process that has ended
        living = {pid for pid, words in _processes() if "submitit.local._local" in words}
        return {each: State.running if each in living else State.gone for each in job_ids}

    def find(self, record: JobRecord) -> str | None:
        """See `Cluster.find`."""
        return next((pid for pid, words in _processes() if record.submission in words), None)

    def cancel_command(self, job_ids: Iterable[str]) -> list[str]:
        """See `Cluster.cancel_command`."""
        return ["kill", *job_ids]

    def cancel(self, records: Sequence[JobRecord]) -> None:
        """See `Cluster.cancel`."""
        living = dict(_processes())
        for record in records:
            if record.submission in living.get(record.job_id or "", ""):
                _output("kill", record.job_id or "")


@contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Ignore SIGINT for a moment, so that processes that start in it ignore it for good."""
    before = None
    with suppress(ValueError):  # outside the main thread signals cannot be set
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _processes() -> Iterator[tuple[str, str]]:
    """Yield the id and the command line of every process of the user."""
    text = _output("ps", "-ww", "-u", str(os.getuid()), "-o", "pid=,args=") or ""
    for line in text.splitlines():
        pid, _, words = line.strip().partition(" ")
        yield pid, words
