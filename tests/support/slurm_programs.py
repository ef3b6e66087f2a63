"""SLURM's programs for tests: sbatch, srun, squeue, sacct and scancel, which run jobs here.

`install(folder)` writes the programs. Each calls this file, which keeps the jobs in a folder: a
file for the state of every job, and the calls of all programs. Only the standard library is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("sbatch", "srun", "squeue", "sacct", "scancel")
FOLDER = "HPT_TEST_SLURM"
LIVE = ("PENDING", "RUNNING")


class Slurm:
    """The jobs of a test, below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self) -> Path:
        """Write the programs; return their folder."""
        programs = self.folder / "bin"
        programs.mkdir(parents=True)
        for name in PROGRAMS:
            words = shlex.join([sys.executable, "-IS", __file__, name])
            path = programs / name
            path.write_text(f'#!/bin/sh\n{FOLDER}={self.folder} exec {words} "$@"\n')
            path.chmod(0o755)
        return programs

    def state(self, job_id: str) -> str:
        """Return a job's state."""
        return (self.folder / f"{job_id}.state").read_text()

    def set_state(self, job_id: str, state: str) -> None:
        """Set a job's state."""
        path = self.folder / f"{job_id}.new"
        path.write_text(state)
        path.replace(self.folder / f"{job_id}.state")

    def jobs(self) -> list[str]:
        """Return the ids of all jobs, in the order of their submission."""
        ids = [path.stem for path in self.folder.glob("*.state")]
        return sorted(ids, key=lambda each: [int(part) for part in each.split("_")])

    def name(self, job_id: str) -> str:
        """Return a job's name."""
        return (self.folder / f"{job_id.split('_')[0]}.name").read_text()

    def calls(self, program: str) -> list[str]:
        """Return the words of each call of a program."""
        log = self.folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.partition(" ")[2] for line in lines if line.split(" ")[0] == program]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the states of jobs from changing in other processes."""
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def end(self, job_id: str, state: str, number: int = signal.SIGKILL) -> None:
        """End a job as SLURM does, and leave it in a state."""
        with self.locked():
            running = self.state(job_id) == "RUNNING"
            self.set_state(job_id, state)
        if running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int((self.folder / f"{job_id}.pid").read_text()), number)

    def end_all(self) -> None:
        """End all jobs at the end of a test."""
        for job_id in self.jobs():
            if self.state(job_id) in LIVE:
                self.end(job_id, "CANCELLED")

    def wait_for(self, *states: str, count: int, seconds: float = 60.0) -> list[str]:
        """Wait until so many jobs are in one of the states; return their ids."""
        until = time.monotonic() + seconds
        while True:
            found = [job_id for job_id in self.jobs() if self.state(job_id) in states]
            if len(found) >= count:
                return found
            assert time.monotonic() < until, {each: self.state(each) for each in self.jobs()}
            time.sleep(0.05)

    def sbatch(self, words: list[str]) -> int:
        """Submit a script."""
        if (self.folder / "refuse").exists():
            print("sbatch: error: invalid partition specified: nowhere", file=sys.stderr)
            return 1
        script = Path(words[-1])
        options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script.read_text(), re.M))
        options = {key: shlex.split(value)[0] for key, value in options.items()}
        main = str(len(list(self.folder.glob("*.name"))) + 1)
        (self.folder / f"{main}.name").write_text(options["job-name"])
        match = re.fullmatch(r"0-(\d+)%(\d+)", options.get("array", ""))
        ids = [f"{main}_{n}" for n in range(int(match[1]) + 1)] if match else [main]
        for job_id in ids:
            self.set_state(job_id, "PENDING")
        print(f"Submitted batch job {main}", flush=True)
        if os.fork() == 0:
            os.setsid()
            for stream in (0, 1, 2):
                os.dup2(os.open(os.devnull, os.O_RDWR), stream)
            self._run(ids, script, int(match[2]) if match else 1)
            os._exit(0)
        return 0

    def _run(self, ids: list[str], script: Path, at_once: int) -> None:
        """Run the jobs of an array, so many at a time; this process is the cluster."""
        waiting, running = list(ids), {}
        while waiting or running:
            while waiting and len(running) < at_once:
                job_id = waiting.pop(0)
                with self.locked():
                    if self.state(job_id) == "PENDING":
                        running[job_id] = self._start(job_id, script)
            for job_id, process in list(running.items()):
                if process.poll() is not None:
                    del running[job_id]
                    with self.locked():
                        if self.state(job_id) == "RUNNING":
                            self.set_state(job_id, "FAILED" if process.returncode else "COMPLETED")
            time.sleep(0.05)

    def _start(self, job_id: str, script: Path) -> subprocess.Popen[bytes]:
        main, _, index = job_id.partition("_")
        variables = {"SLURM_JOB_ID": str(1000 + int(main)) if index else main}
        if index:
            variables |= {"SLURM_ARRAY_JOB_ID": main, "SLURM_ARRAY_TASK_ID": index}
        process = subprocess.Popen(
            ["bash", str(script)],
            env={**os.environ, **variables},
            start_new_session=True,
            close_fds=True,
        )
        (self.folder / f"{job_id}.pid").write_text(str(process.pid))
        self.set_state(job_id, "RUNNING")
        return process

    def srun(self, words: list[str]) -> int:
        """Run a job's step."""
        output = words[words.index("--output") + 1]
        command = words[next(n for n, word in enumerate(words) if "python" in word) :]
        array = os.environ.get("SLURM_ARRAY_JOB_ID", "")
        index = os.environ.get("SLURM_ARRAY_TASK_ID", "")
        for mark, value in {"%A": array, "%a": index, "%t": "0"}.items():
            output = output.replace(mark, value)
        output = output.replace("%j", os.environ["SLURM_JOB_ID"])
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
        os.execvp(command[0], command)

    def sacct(self, words: list[str]) -> int:
        """Tell of jobs, as the accounting does: pending ones of an array in one line."""
        if (self.folder / "no_accounting").exists():
            print("Slurm accounting storage is disabled", file=sys.stderr)
            return 1
        if "--name" in words:
            name = words[words.index("--name") + 1]
            print(*(each for each in self.jobs() if self.name(each) == name), sep="\n")
            return 0
        asked = {words[n + 1] for n, word in enumerate(words) if word == "-j"}
        print("JobID|State|NodeList")
        pending: dict[str, list[str]] = {}
        for job_id in self.jobs():
            main, _, index = job_id.partition("_")
            if main in asked and self.state(job_id) == "PENDING" and index:
                pending.setdefault(main, []).append(index)
            elif main in asked:
                print(f"{job_id}|{self.state(job_id)}|node1")
                print(f"{job_id}.batch|{self.state(job_id)}|node1")
        for main, indices in pending.items():
            print(f"{main}_[{','.join(indices)}%1]|PENDING|None assigned")
        return 0

    def squeue(self, words: list[str]) -> int:
        """Tell of the jobs in the queue."""
        queued = [each for each in self.jobs() if self.state(each) in LIVE]
        if "-n" in words:
            name = words[words.index("-n") + 1]
            mains = [each.split("_")[0] for each in queued if self.name(each) == name]
            print(*dict.fromkeys(mains), sep="\n")
        else:
            print(*(f"{each}|{self.state(each)}" for each in queued), sep="\n")
        return 0

    def scancel(self, words: list[str]) -> int:
        """Cancel jobs; ids may be arrays and parts of arrays."""
        only = words[1] if words[0] == "--name" else None
        for word in words[2:] if only else words:
            main, _, part = word.partition("_")
            wanted = set()
            for piece in filter(None, part.strip("[]").split(",")):
                low, _, high = piece.partition("-")
                wanted |= {f"{main}_{n}" for n in range(int(low), int(high or low) + 1)}
            for job_id in self.jobs():
                chosen = job_id in wanted if part else job_id.split("_")[0] == main
                chosen = chosen and only in (None, self.name(job_id))
                if chosen and self.state(job_id) in LIVE:
                    self.end(job_id, "CANCELLED by 1000", signal.SIGTERM)
        return 0


def main() -> int:
    """Be the program that the first word names."""
    program, *words = sys.argv[1:]
    slurm = Slurm(Path(os.environ[FOLDER]))
    with (slurm.folder / "calls").open("a") as file:
        file.write(f"{program} {' '.join(words)}\n")
    return getattr(slurm, program)(words)


if __name__ == "__main__":
    sys.exit(main())
