"""What runs inside a job: one pack, whose outcome is left as JSON for whoever runs the sweep."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hptransfer.errors import Interrupted, MachineError, UserError
from hptransfer.execution.slurm.files import JobEnd, Lost, read_job, write_outcome
from hptransfer.execution.work import PackError, PackTask
from hptransfer.system.signals import raised_as_interrupted

# SLURM sends SIGUSR2 some time before the limit, as submitit asks it to, and SIGTERM before it
# kills a job. SIGINT would come from the terminal in which the sweep runs, which is not meant.
JOB_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


@dataclass(frozen=True)
class PackJob:
    """Runs a pack in a job; submitit calls it there."""

    task: PackTask
    folder: str  # of the pack, on every node
    submission: str
    limit_s: float  # of the job's time

    def __call__(self) -> None:
        """Run the pack and write its outcome.

        A job that the sweep has given up, but that SLURM starts all the same, does nothing.
        """
        folder = Path(self.folder)
        if not self._is_wanted(folder):
            print("The sweep does not wait for this job any more, so it ends.", file=sys.stderr)
            return
        began = time.monotonic()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with raised_as_interrupted(signals=JOB_SIGNALS):
                ended = self._run()
        except Interrupted as error:
            number = signal.Signals(error.signal_number)
            late = number == signal.SIGUSR2 and time.monotonic() - began > self.limit_s / 2
            ended = Lost(f"{number.name} ended the job", at_time_limit=late)
        if self._is_wanted(folder):
            write_outcome(folder, self.submission, ended)

    def _is_wanted(self, folder: Path) -> bool:
        record = read_job(folder)
        return record is not None and record.submission == self.submission

    def _run(self) -> JobEnd:
        outcome = self.task.run()
        if isinstance(outcome.error, PackError | UserError | MachineError):
            return outcome.error
        return outcome.results
