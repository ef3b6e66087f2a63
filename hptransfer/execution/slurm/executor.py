"""The SLURM executor: each pack is a job, and whoever runs the sweep only waits for outcomes.

The sweep may end at any time, also by SIGKILL: its jobs go on, and the next sweep of the same
folder takes them over. In this order it is written down what is under way:

1. `job.json` of each pack, with the name of a submission that no other has and without an id;
2. the submission itself, whose job or array has that name;
3. `job.json` again, with the id.

A sweep that was killed between 1 and 3 finds the jobs in SLURM by their name. It submits them
again only where SLURM knows no such name. Two windows remain:

- The sweep is killed while sbatch runs, and the next one asks SLURM before sbatch is heard. The
  jobs of the first submission then end as soon as they start, since `job.json` names another one;
  only a job that starts before the next sweep has written that, milliseconds later, trains too.
- The sweep is killed in the instant after sbatch answered, in which submitit names the files with
  the packs after the jobs' ids. Jobs that do not find their file in a minute fail without having
  trained, and are submitted again as lost.
"""

from __future__ import annotations

import heapq
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hptransfer.config import ExecutorConfig
from hptransfer.config.identity import trial_key
from hptransfer.errors import MachineError, TrialsFailed, UserError
from hptransfer.execution.pack_sizes import Trials
from hptransfer.execution.resources import Resources
from hptransfer.execution.slurm.cluster import Cluster, State, cluster_of
from hptransfer.execution.slurm.files import (
    OUTCOME_FILE,
    JobEnd,
    JobRecord,
    Lost,
    forget_job,
    pack_folder,
    read_job,
    read_outcome,
    write_job,
)
from hptransfer.execution.slurm.job import PackJob
from hptransfer.execution.slurm.request import limit_s, request_of
from hptransfer.execution.work import OnError, OnResults, PackError, PackTask, PackTasks
from hptransfer.system.text import say

# Looks at a job that has ended after which its outcome is not waited for: a file of another node
# may be seen late.
LAST_LOOKS = 2
TAIL_BYTES = 4000  # of a job's log that a message about it keeps


def run_as_jobs(
    packs: Sequence[Trials],
    tasks: PackTasks,
    executor: ExecutorConfig,
    folder: Path,
    on_results: OnResults,
    on_start: Callable[[int], None],
    on_error: OnError,
    on_note: Callable[[str], None],
) -> None:
    """Run the packs as jobs; see `hptransfer.execution.run_packs`."""
    jobs = _Jobs(cluster_of(executor), tasks, executor, folder, on_note)
    try:
        jobs.add(tasks.after_all(packs))
        jobs.follow(on_results, on_start, on_error)
    except TrialsFailed:
        jobs.cancel()
        raise
    except BaseException:
        jobs.say_what_goes_on()
        raise


@dataclass
class _Job:
    """The job of a pack, as far as is known."""

    task: PackTask
    folder: Path  # of the pack
    record: JobRecord
    is_started: bool = False
    looks: int = 0  # since it was first seen to have ended

    @property
    def job_id(self) -> str:
        """SLURM's id."""
        assert self.record.job_id is not None, "only jobs with an id are followed"
        return self.record.job_id


class _Jobs:
    """The packs that are neither recorded nor failed: those that wait for a job, and their jobs."""

    def __init__(
        self,
        cluster: Cluster,
        tasks: PackTasks,
        executor: ExecutorConfig,
        folder: Path,
        on_note: Callable[[str], None],
    ) -> None:
        self._cluster, self._tasks, self._executor = cluster, tasks, executor
        self._folder, self._note = folder, on_note
        self._attempts = executor.retries + 1  # of one pack
        self._waiting: list[PackTask] = []  # a heap
        self._jobs: dict[int, _Job] = {}  # by the pack's index
        self._names: dict[str, str | None] = {}  # of submissions that were looked for
        self._losses: Counter[int] = Counter()
        self._given_up: dict[int, tuple[PackTask, str]] = {}  # with what was said of the last loss

    def add(self, tasks: Sequence[PackTask]) -> None:
        """Take packs over whose jobs an earlier sweep submitted; let the others wait for a job."""
        taken = []
        for task in tasks:
            job = self._earlier(task)
            if job is None:
                heapq.heappush(self._waiting, task)
            else:
                self._jobs[task.index] = job
                taken.append(job)
        if taken:
            self._note(f"{_jobs_text(len(taken))} of an earlier command are waited for.")

    def _earlier(self, task: PackTask) -> _Job | None:
        """Return the job of a pack that an earlier sweep submitted and that did not fail."""
        folder = pack_folder(self._folder, task.configs)
        record = read_job(folder)
        if record is None:
            return None
        ended = read_outcome(folder, record.submission, task.configs)
        if ended is not None and not _is_results(ended):
            forget_job(folder)  # as every failed trial, it is tried again
            return None
        if record.job_id is None:
            main = self._found(record) if record.cluster == self._cluster.name else None
            if main is None:
                return None
            record = record.with_main_id(main)
            write_job(folder, record)
        elif record.cluster != self._cluster.name and ended is None:
            return None
        return _Job(task, folder, record)

    def _found(self, record: JobRecord) -> str | None:
        """Return the id of a submission that was cut off; each is looked for once."""
        if record.submission not in self._names:
            self._names[record.submission] = self._cluster.find(record)
        return self._names[record.submission]

    def follow(
        self, on_results: OnResults, on_start: Callable[[int], None], on_error: OnError
    ) -> None:
        """Submit and report packs until none is left.

        Raises:
            MachineError: at the end, if jobs were lost more often than they are submitted again.
        """
        while self._waiting or self._jobs:
            self._submit()
            states = self._cluster.states([job.job_id for job in self._jobs.values()])
            for job in list(self._jobs.values()):
                state = states.get(job.job_id, State.unknown)
                ended = self._end_of(job, state)
                if (state is State.running or ended is not None) and not job.is_started:
                    job.is_started = True
                    on_start(job.task.index)
                if ended is not None:
                    self._report(job, ended, on_results, on_error)
            if self._jobs and not self._has_room():
                time.sleep(self._cluster.poll_s)
        if self._given_up:
            raise self._lost_for_good()

    def _has_room(self) -> bool:
        """Whether a waiting pack may be submitted now."""
        limit = self._cluster.limit
        return bool(self._waiting) and (limit is None or len(self._jobs) < limit)

    def _submit(self) -> None:
        """Submit the packs for which there is room: those that ask for the same as one array."""
        while self._has_room():
            batch, request = self._next_batch()
            submission = f"{_name_of(self._folder)}-{secrets.token_hex(4)}"
            count, limit = len(batch), self._cluster.limit
            jobs = [self._announced(t, submission, n, count) for n, t in enumerate(batch)]
            ids = self._cluster.submit(
                [self._pack_job(job) for job in jobs],
                self._folder / "slurm" / submission,
                request,
                count if limit is None else min(count, limit - len(self._jobs)),
            )
            for job, job_id in zip(jobs, ids, strict=True):
                job.record = replace(job.record, job_id=job_id)
                self._jobs[job.task.index] = job
            for job in jobs:
                write_job(job.folder, job.record)
            if count > 1:
                self._note(f"{count} jobs were submitted as the array {ids[0].split('_')[0]}.")

    def _next_batch(self) -> tuple[list[PackTask], Resources]:
        """Take the packs of the next submission from those that wait."""
        request = request_of(self._waiting[0])
        batch, others = [], []
        for task in sorted(self._waiting):
            alike = request_of(task) == request
            (batch if alike and len(batch) < self._cluster.most else others).append(task)
        self._waiting = others  # sorted, so a heap
        return batch, request

    def _announced(self, task: PackTask, submission: str, index: int, count: int) -> _Job:
        """Write down that a job is about to be submitted."""
        folder = pack_folder(self._folder, task.configs)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = JobRecord(submission, index, count, self._cluster.name, now)
        write_job(folder, record)
        (folder / OUTCOME_FILE).unlink(missing_ok=True)
        return _Job(task, folder, record)

    def _pack_job(self, job: _Job) -> PackJob:
        limit = limit_s(self._executor)
        return PackJob(job.task, str(job.folder), job.record.submission, limit)

    def _end_of(self, job: _Job, state: State) -> JobEnd | None:
        """Return how a job ended; None while that is not known.

        Results count at once. Any other end is looked at again, for SLURM's word on it: a trial
        that was killed does not know whether it was for its memory.
        """
        if state.is_final:
            with suppress(OSError):  # lets a network file system look at the folder anew
                job.folder.chmod(job.folder.stat().st_mode & 0o7777)
        ended = read_outcome(job.folder, job.record.submission, job.task.configs)
        if ended is not None and _is_results(ended):
            return ended
        if ended is None and not state.is_final:
            job.looks = 0
            return None
        job.looks += 1
        if job.looks < LAST_LOOKS and not (ended is not None and state.is_final):
            return None
        if state is State.out_of_memory:
            return self._failure(job, self._memory_sentence(job))
        if state is State.timeout or (isinstance(ended, Lost) and ended.at_time_limit):
            return self._failure(job, self._time_sentence(job))
        return ended or Lost(f"job {job.job_id} is {state.value} and left no outcome")

    def _report(self, job: _Job, ended: JobEnd, on_results: OnResults, on_error: OnError) -> None:
        """Report the end of a job, and forget it once that is recorded."""
        index = job.task.index
        del self._jobs[index]
        if isinstance(ended, UserError | MachineError):
            forget_job(job.folder)
            raise ended
        if isinstance(ended, Lost) or (isinstance(ended, PackError) and ended.is_lost):
            self._losses[index] += 1
            if self._losses[index] < self._attempts:
                self._submit_again(job, ended.reason)
                return
        if isinstance(ended, Lost):
            self._given_up[index] = (job.task, f"{ended.reason}{_tail(self._log(job))}")
            more = []
        elif isinstance(ended, PackError):
            more = self._tasks.in_place_of(job.task, on_error(index, ended) or ())
        else:
            more = self._tasks.after_all(on_results(index, list(ended)) or ())
        forget_job(job.folder)
        self.add(more)

    def _submit_again(self, job: _Job, reason: str) -> None:
        keys = " ".join(trial_key(config) for config in job.task.configs)
        self._note(f"Job {job.job_id} (trial {keys}) was lost and is submitted again: {reason}.")
        forget_job(job.folder)
        heapq.heappush(self._waiting, job.task)

    def _failure(self, job: _Job, reason: str) -> PackError:
        keys = [trial_key(config) for config in job.task.configs]
        text = f"{reason}\n{_tail(job.folder / 'log.txt')}{_tail(self._log(job))}\n"
        return PackError(keys, reason, "", text)

    def _memory_sentence(self, job: _Job) -> str:
        asked = self._executor.memory_gib
        what = "what the site gives by default" if asked is None else f"{asked:g} GiB"
        return (
            f"SLURM ended its job {job.job_id} because it was out of memory; it had {what}. Raise "
            "executor.memory_gib"
        )

    def _time_sentence(self, job: _Job) -> str:
        return (
            f"SLURM ended its job {job.job_id} at the time limit of "
            f"{self._executor.slurm.timeout_min} minutes. Raise executor.slurm.timeout_min; a "
            "trainer that keeps a checkpoint goes on from it"
        )

    def _log(self, job: _Job) -> Path:
        """Return what the job itself printed, beside its trial."""
        return self._folder / "slurm" / job.record.submission / f"{job.job_id}_0_log.out"

    def _lost_for_good(self) -> MachineError:
        tasks = [task for task, _ in self._given_up.values()]
        keys = [trial_key(config) for task in tasks for config in task.configs]
        _, reason = list(self._given_up.values())[-1]
        return MachineError(
            f"The jobs of {len(tasks)} packs were lost {self._attempts} times each (their node "
            "failed, or they were preempted, cancelled or could not start). Look at their logs in "
            f"{self._folder / 'slurm'}, and run the same command again; no finished trial is lost. "
            f"The trials are {', '.join(keys)}. Of the last loss: {reason}"
        )

    def cancel(self) -> None:
        """End all jobs, since the trials of the sweep fail."""
        jobs = list(self._jobs.values())
        self._cluster.cancel([job.record for job in jobs])
        for job in jobs:
            forget_job(job.folder)
        if jobs:
            self._note(f"The sweep's jobs that were queued or running were cancelled: {len(jobs)}.")

    def say_what_goes_on(self) -> None:
        """Say which jobs go on without this process, and how to end them."""
        ids = [job.job_id for job in self._jobs.values()]
        if ids:
            say(
                f"{_jobs_text(len(ids))} stay queued or go on running. The same command waits for "
                "them and takes their results. To end them instead, type\n  "
                + " ".join(self._cluster.cancel_command(ids)),
                quiet=False,
            )


def _name_of(folder: Path) -> str:
    """Return a folder's name as the beginning of a job's name."""
    return re.sub(r"[^\w.-]", "-", folder.name)[:40]


def _is_results(ended: JobEnd) -> bool:
    return not isinstance(ended, Exception | Lost)


def _jobs_text(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _tail(path: Path) -> str:
    """Return the end of a log, with its path above it; nothing where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
            text = file.read().decode("utf-8", errors="replace").strip()
    except OSError:
        return ""
    return f"\nThe end of {path}:\n\n{text}\n" if text else ""
