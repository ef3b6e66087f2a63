"""One trial of a trainer that is not ours: its attempts, their processes, and its result."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.config import RuntimeConfig
from hptransfer.config.choices import Status
from hptransfer.config.external import ExternalTrial
from hptransfer.config.identity import trial_key
from hptransfer.errors import TrialFailure, UserError, abbreviate
from hptransfer.results.folder import LOG_FILE, trial_folder
from hptransfer.results.trial_result import TrialResult
from hptransfer.system.files import opening, write_whole
from hptransfer.system.signals import end_if_asked
from hptransfer.training.external import supervise
from hptransfer.training.external.call import PICKLED
from hptransfer.training.external.output import Output
from hptransfer.training.external.supervise import FAILURE_FILE, RESULT_FILE
from hptransfer.training.external.trial import (
    REPORTS_FILE,
    TRIAL_FILE,
    VARIABLE,
    Reports,
    ReportsReader,
    as_number,
    json_line,
    numbers_of,
    read_reports,
)

WATCH_SECONDS = 0.2  # between two looks at a running trial
# Seconds beside `train.grace_s` that an earlier attempt at a trial may take to end.
LOCK_SECONDS = 60.0
MOST_CURVE_POINTS = 300  # of a trial's recorded curve
# Signals by which a machine ends a process: an attempt that one of these ends is lost, not failed.
LOSING = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class ExternalRun:
    """Runs trials of a trainer that is not ours, as `hptransfer.execution.run_packs` asks for it.

    Where the process that runs a trial is killed, the trial's own processes end too.
    """

    folder: str  # absolute path of the folder with the ledger, on every node
    working_folder: str  # in which the trials' processes start
    retries: int = 0  # further attempts at a trial whose process a signal ended
    pickled: bytes | None = None  # the function, where no other process could import it
    hosts: tuple[str, ...] = ()  # addresses of the trial's nodes; empty: this machine

    def __call__(self, configs: Sequence[Any], runtime: RuntimeConfig) -> list[TrialResult]:
        """Run the trials one after another.

        Raises:
            TrialFailure: a trial answered no loss.
        """
        return [self.run(config) for config in configs]

    def on_hosts(self, hosts: Sequence[str]) -> ExternalRun:
        """Return what runs a trial on the nodes with these addresses; the first is its own."""
        return dataclasses.replace(self, hosts=tuple(hosts))

    def run(self, config: ExternalTrial) -> TrialResult:
        """Run one trial and return its result; see `__call__`."""
        folder = trial_folder(self.folder, trial_key(config))
        with opening(folder, "start the sweep where it can be written"):
            folder.mkdir(parents=True, exist_ok=True)
            told = told_trial(config, folder, self.hosts or (socket.gethostname(),))
            write_whole(folder / TRIAL_FILE, json.dumps(told, indent=1).encode())
        for attempt in range(self.retries + 1):
            ended = self._attempt(config, folder, attempt)
            if not ended.is_lost:
                break
        return _result(config, folder, ended)

    def _attempt(self, config: ExternalTrial, folder: Path, attempt: int) -> Ended:
        words = _words(config, folder)
        started, since = time.time(), time.monotonic()
        with (
            opening(folder, "start the sweep where it can be written"),
            Output(folder, config.trainer.result) as output,
            self._function_file() as environment,
        ):
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(started))
            output.head(
                f"hptransfer: attempt {attempt + 1} at trial {trial_key(config)} began at {stamp} "
                f"UTC on {socket.gethostname()}: {abbreviate(' '.join(words), 300)}"
            )
            code, ended_by_us, never_ran = _run_to_its_end(
                config,
                folder,
                words,
                {**environment, VARIABLE: str(folder / TRIAL_FILE)},
                self.working_folder,
                output,
            )
            output.foot(f"hptransfer: {ended_by_us or never_ran or _end_text(code)}")
            output.raise_error()
        return Ended(code, ended_by_us, never_ran, output, time.monotonic() - since)

    @contextmanager
    def _function_file(self) -> Iterator[dict[str, str]]:
        """Yield the variable that names the file of a pickled function, while the file is there."""
        if self.pickled is None:
            yield {}
            return
        with tempfile.NamedTemporaryFile(prefix="hpt", suffix=".function") as file:
            file.write(self.pickled)
            file.flush()
            yield {PICKLED: file.name}


@dataclass(frozen=True)
class Ended:
    """An attempt that has ended."""

    code: int  # exit code; a signal's number with a minus where one ended it
    ended_by_us: str  # why hptransfer ended it; empty: it ended by itself
    never_ran: str  # why its command was not started; empty: it was
    output: Output
    seconds: float

    @property
    def is_lost(self) -> bool:
        """Whether the machine ended the attempt, so that it is tried again."""
        return not self.ended_by_us and self.code in {
            *(-number for number in LOSING),
            *(128 + number for number in LOSING),  # as a shell says it of its own child
        }


def told_trial(config: ExternalTrial, folder: Path, hosts: Sequence[str]) -> dict[str, Any]:
    """Return the content of trial.json."""
    told = config.told()
    return {
        **{k: told[k] for k in ("width", "base_width", "depth", "seed", "parametrization")},
        "hps": config.values,
        "fixed": dict(config.fixed),
        "trial_key": trial_key(config),
        "folder": str(folder),
        "hosts": list(hosts),
        "function": config.trainer.function,
        "stop_hopeless": config.trainer.stop_hopeless,
    }


def _words(config: ExternalTrial, folder: Path) -> list[str]:
    if config.trainer.function:
        return [sys.executable, "-m", "hptransfer.training.external.call"]
    told = json.loads((folder / TRIAL_FILE).read_text(encoding="utf-8"))
    given = {"folder": folder, "trial_key": told["trial_key"], "hosts": ",".join(told["hosts"])}
    return config.trainer.command_words({**config.told(), **given})


def _run_to_its_end(
    config: ExternalTrial,
    folder: Path,
    words: Sequence[str],
    environment: dict[str, str],
    working_folder: str,
    output: Output,
) -> tuple[int, str, str]:
    """Run a command; return its exit code, why hptransfer ended it, and why it never ran."""
    grace = config.trainer.grace_s
    status, for_status = os.pipe()
    os.set_blocking(status, False)  # whatever still holds the other end is not waited for
    program = [sys.executable, "-IS", supervise.__file__, str(grace), str(LOCK_SECONDS + grace)]
    try:
        process = subprocess.Popen(
            [*program, str(for_status), str(folder), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=working_folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            pass_fds=[for_status],
        )
    except (OSError, ValueError) as error:
        os.close(status)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return supervise.NOT_STARTED, "", _not_started(words, f"{reason}, in {working_folder}")
    finally:
        os.close(for_status)
    assert process.stdin is not None and process.stdout is not None
    reader = threading.Thread(target=output.read_all, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        why = _watch(config, folder, process)
    finally:
        process.stdin.close()  # ends the command, where it has not ended
        process.wait()
        reader.join(timeout=grace + READER_SECONDS)
        output.close()
    with os.fdopen(status, "rb") as file:
        never_ran = (file.read() or b"").decode()
    if never_ran == supervise.LOCKED:
        never_ran = "another process still trains this trial; end it"
    elif never_ran:
        never_ran = _not_started(words, never_ran)
    return process.returncode, why, never_ran


READER_SECONDS = 5.0  # beside `train.grace_s`: for the rest of the output of a command that ended


def _not_started(words: Sequence[str], reason: str) -> str:
    host = socket.gethostname()
    return f"the command {abbreviate(words[0])} could not be started on {host}: {reason}"


def _watch(config: ExternalTrial, folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait for a process; return why it must be ended, or nothing once it has ended."""
    trainer, began, size = config.trainer, time.monotonic(), -1
    path = folder / REPORTS_FILE
    reader = ReportsReader(path)
    while True:
        try:
            process.wait(timeout=WATCH_SECONDS)
            return ""
        except subprocess.TimeoutExpired:
            end_if_asked()
        if trainer.timeout_s is not None and time.monotonic() - began > trainer.timeout_s:
            return TIMED_OUT
        now = path.stat().st_size if path.is_file() else -1
        if now != size:
            size, reports = now, reader.read()
            if reports.diverged_at is not None:
                return "the trial was ended, since it reported a loss that is not finite"
            if trainer.stop_hopeless and reports.hopeless_at is not None:
                return "the trial was given up, since its losses rose and stayed high"


TIMED_OUT = "the trial was ended, since it took longer than train.timeout_s"


def _end_text(code: int) -> str:
    if code < 0:
        return f"the trial's process was ended by {_signal_name(-code)}"
    return f"the trial's process ended with exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals
        return f"signal {number}"


def _result(config: ExternalTrial, folder: Path, ended: Ended) -> TrialResult:
    """Return the result of a trial's last attempt.

    Raises:
        TrialFailure: it answered no loss.
    """
    reports = read_reports(folder / REPORTS_FILE)
    if config.trainer.stop_hopeless and reports.hopeless_at is not None:
        return _trial_result(config, ended, reports, Status.stopped)
    if reports.diverged_at is not None:
        return _trial_result(config, ended, reports, Status.diverged)
    if ended.ended_by_us or ended.never_ran or ended.code:
        raise _failure(config, folder, ended)
    loss, metrics = _answer(config, folder, ended, reports)
    status = Status.completed if math.isfinite(loss) else Status.diverged
    return _trial_result(config, ended, reports, status, loss, {**reports.metrics, **metrics})


def _trial_result(
    config: ExternalTrial,
    ended: Ended,
    reports: Reports,
    status: Status,
    loss: float | None = None,
    metrics: dict[str, float] | None = None,
) -> TrialResult:
    numbers = dict(reports.metrics if metrics is None else metrics)
    start = dict(reports.losses).get(0, math.nan)
    return TrialResult(
        config=config,
        status=status,
        loss=loss if status is Status.completed else None,
        loss_at_init=start,
        train_loss=numbers.pop("train_loss", None),
        diverged_at_step=reports.diverged_at if status is Status.diverged else None,
        clipped_share=math.nan,
        flops=numbers.pop("flops", math.nan),
        seconds=ended.seconds,
        device=(os.environ.get("CUDA_VISIBLE_DEVICES") and "cuda") or "cpu",
        curve=_thinned(reports.losses),
        held_out=_thinned(reports.losses),
        stopped_at_step=reports.hopeless_at if status is Status.stopped else None,
        metrics={name: value for name, value in numbers.items() if math.isfinite(value)},
    )


def _thinned(curve: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    every = math.ceil(len(curve) / MOST_CURVE_POINTS) or 1
    return tuple(curve[::-1][::every][::-1])  # the last point stays


def _answer(
    config: ExternalTrial, folder: Path, ended: Ended, reports: Reports
) -> tuple[float, dict[str, float]]:
    """Return the loss and further numbers that a trial answers.

    The first of these decides: `result.json` in its folder, a JSON line of its output, what
    `train.result` finds in the output, the loss that it reported last.
    """
    output = ended.output

    def refuse(reason: str) -> TrialFailure:
        return _failed_with(config, folder, ended, reason)

    told: dict[str, Any] | None = None
    path = folder / RESULT_FILE
    if path.is_file():
        told = json_line(path.read_text(encoding="utf-8", errors="replace").replace("\n", " "))
        if told is None or "loss" not in told:
            raise refuse(f'{path} must hold a JSON object such as {{"loss": 0.5}}')
    elif output.answers:
        told = output.answers[-1]
        if len(output.answers) > 1:
            first, second = (abbreviate(answer["loss"], 40) for answer in output.answers)
            raise refuse(
                "a trial must answer one loss, but its output has several JSON lines with "
                f"different ones ({first} and {second}); print one, and give the others "
                'a step, such as {"step": 100, "loss": 0.5}, for the curve'
            )
    if told is not None:
        try:
            return as_number("loss", told["loss"]), numbers_of(
                {k: v for k, v in told.items() if k not in ("loss", "step")}
            )
        except UserError:
            raise refuse(
                f"the loss must be a number, but the trial answered {abbreviate(told['loss'])}"
            ) from None
    if config.trainer.result is not None:
        if output.found is None:
            raise refuse(
                f"train.result={config.trainer.result} was found nowhere in the trial's output"
            )
        try:
            return float(output.found), {}
        except ValueError:
            raise refuse(
                f"the loss must be a number, but train.result found {abbreviate(output.found)}"
            ) from None
    if reports.losses:
        return reports.losses[-1][1], {}
    raise refuse(
        "the trial's function returned nothing and reported no loss; return the loss"
        if config.trainer.function
        else "the trial ended with exit code 0 but answered no loss; print a JSON line such as "
        '{"loss": 0.5}, call hptransfer.report(step, loss=...), or set train.result'
    )


def _failure(config: ExternalTrial, folder: Path, ended: Ended) -> TrialFailure:
    """Return the failure of an attempt that ended with an error."""
    path = folder / FAILURE_FILE
    if ended.never_ran:
        return _failed_with(config, folder, ended, ended.never_ran)
    if path.is_file() and not ended.ended_by_us:
        told = json.loads(path.read_text(encoding="utf-8"))
        return _failed_with(config, folder, ended, told["reason"], told["frame"])
    last = ended.output.lines[-1].strip() if ended.output.lines else "it printed nothing"
    if ended.ended_by_us == TIMED_OUT:
        reason = f"it took longer than train.timeout_s={config.trainer.timeout_s:g}"
    elif ended.is_lost:
        number = -ended.code if ended.code < 0 else ended.code - 128
        reason = (
            f"every attempt was ended by {_signal_name(number)}, as a machine does that is "
            "out of memory"
        )
    elif ended.code < 0:
        reason = f"{_signal_name(-ended.code)} ended it; last line: {abbreviate(last, 200)}"
    else:
        reason = f"it ended with exit code {ended.code}; last line: {abbreviate(last, 200)}"
    return _failed_with(config, folder, ended, reason, is_lost=ended.is_lost)


def _failed_with(
    config: ExternalTrial,
    folder: Path,
    ended: Ended,
    reason: str,
    frame: str = "",
    *,
    is_lost: bool = False,
) -> TrialFailure:
    log = folder / LOG_FILE
    tail = "\n".join(ended.output.lines)
    text = f"{reason}\nThe whole log is {log}. Its last lines:\n\n{tail}\n"
    return TrialFailure(reason, frame, text, is_lost)


def require_trainer(config: ExternalTrial, working_folder: str, *, here: bool) -> None:
    """Refuse a function that cannot be imported, or a command that is not there.

    Args:
        here: whether trials run on this machine, so that a command must be there.

    Raises:
        UserError: in a sentence.
    """
    trainer = config.trainer
    if trainer.function:
        script = "import sys; from hptransfer.training.external.call import load; load(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", script, trainer.function],
            cwd=working_folder,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
            raise UserError(last.removeprefix("hptransfer.errors.UserError: "))
    elif here:
        (first,) = trainer.words[:1]
        if "{" not in first and shutil.which(first) is None:
            raise UserError(
                f"The command of `train.command` must be there, but {abbreviate(first)} is no "
                "program that can be started. Give its path, or make the file executable."
            )
