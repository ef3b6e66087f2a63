"""Trackers and log of a sweep behind one interface; none of them can end the sweep.

A tracker that cannot start is refused before anything runs. One that fails later is left out from
there on, which is said once on stderr and in the log; the ledger has all rows.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Protocol, Self

from hptransfer.config import ExecutorConfig
from hptransfer.errors import MachineError, UserError
from hptransfer.results.failed_trials import FailedTrial
from hptransfer.results.folder import ResultsFolder
from hptransfer.sweeping.trackers.run_names import TRIAL_RUNS, Row, TrainingCurve
from hptransfer.system.files import opening, require_inside
from hptransfer.system.text import say
from hptransfer.system.version import package_version

# Seconds that a service gets for the rows not yet sent, by the sweep's end. They are few after an
# interruption, since a scheduler that interrupts a sweep soon kills it.
END_SECONDS = {"done": 60.0, "interrupted": 10.0, "failed": 10.0}


class Watcher(Protocol):
    """A tracker: it gets a sweep's trials as they are recorded, all in one thread."""

    def row(self, row: Row, curve: TrainingCurve) -> None:
        """Show a recorded trial with its training curve."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


def watchers(folder: Path, sweep_name: str, executor: ExecutorConfig) -> Watch:
    """Start the watchers of a sweep, for use in a `with` block.

    Raises:
        UserError: a tracker's package or login is missing, or the folder cannot be written.
    """
    return Watch(folder, {name: _started(name, folder, sweep_name) for name in executor.trackers})


def _started(name: str, folder: Path, sweep_name: str) -> Watcher:
    try:
        if name == "tensorboard":
            from hptransfer.sweeping.trackers.tensorboard import TensorBoard

            return TensorBoard(folder)
        from hptransfer.sweeping.trackers.services import SERVICES

        return SERVICES[name](folder, sweep_name)
    except ImportError as error:
        raise UserError(
            f"`executor.trackers` names {name}, but its package cannot be imported: {error}. "
            f"Install it with pip install 'hptransfer[{name}]', or remove it from "
            "executor.trackers."
        ) from error
    except (UserError, MachineError):
        raise
    except Exception as error:  # each service has its own
        raise UserError(
            f"`executor.trackers` names {name}, but it cannot start: {_text(error)}. Correct its "
            "login or address, or remove it from executor.trackers."
        ) from error


class Watch:
    """Passes a sweep's events on to the log and the trackers.

    How its `with` block ends decides the outcome: done, interrupted or failed.
    """

    def __init__(self, folder: Path, trackers: Mapping[str, Watcher]) -> None:
        self._counts: Counter[str] = Counter(rows=0, completed=0, diverged=0, stopped=0)
        self._running: set[int] = set()
        self._began = time.monotonic()
        self._log: EventLog | None = EventLog(folder)
        self._trackers = trackers
        self._deliveries = {name: Delivery(name, partial(self._failed, name)) for name in trackers}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        outcome = {"outcome": "done"}
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            outcome = {"outcome": "interrupted"}
        elif kind is not None:
            outcome = {"outcome": "failed", "error": f"{kind.__name__}: {error}"}
        hours = round((time.monotonic() - self._began) / 3600, 4)
        self._event("finished", **outcome, counts=dict(self._counts), hours=hours)
        until = time.monotonic() + END_SECONDS[outcome["outcome"]]
        for name, delivery in self._deliveries.items():
            delivery.put(self._trackers[name].close)
            if not delivery.end(max(until - time.monotonic(), 0.0)):
                self._complain(
                    f"{name} took too long and does not show the last trials; the results folder "
                    "has them all."
                )
        if self._log is not None:
            self._log.close()
            self._log = None

    def started(self, facts: Mapping[str, Any]) -> None:
        """Log a run's start with facts such as trials, packs and workers; no command, no secret."""
        self._event("started", host=socket.gethostname(), version=package_version(), **facts)

    def pack_started(self, index: int, trials: int) -> None:
        """Log that a pack was handed to a worker; the second time, its first worker was lost."""
        if index in self._running:
            self._event("pack_lost", pack=index)
        self._running.add(index)
        self._event("pack_started", pack=index, trials=trials)

    def pack_finished(self, index: int) -> None:
        """Log that a pack's rows are recorded."""
        self._running.discard(index)
        self._event("pack_finished", pack=index)

    def pack_raised(self, index: int, reason: str, sizes: Sequence[int]) -> None:
        """Log that a pack raised, and the sizes of the packs that run in its place."""
        self._running.discard(index)
        self._event("pack_raised", pack=index, reason=reason, split_into=list(sizes))

    def trial_failed(self, index: int, failed: FailedTrial) -> None:
        """Log a pack of one trial whose training raised."""
        self._running.discard(index)
        self._event("trial_failed", pack=index, **asdict(failed))

    def note(self, text: str) -> None:
        """Log a sentence that the user was told."""
        self._event("note", text=text)

    def row(self, row: Row, curve: TrainingCurve) -> None:
        """Pass on a trial whose row is in the ledger, with its training curve."""
        shown = ("trial_key", "status", "loss", "width", "parametrization", "hps", "seed")
        self._event("row", **{name: row[name] for name in shown})
        self._counts.update(["rows", row["status"]])
        if self._counts["rows"] == TRIAL_RUNS + 1 and self._trackers:
            self.note(
                f"trackers show only the first {TRIAL_RUNS} trials as runs of their own; the "
                "results folder has them all"
            )
        for name, delivery in self._deliveries.items():
            if name == "tensorboard" or self._counts["rows"] <= TRIAL_RUNS:
                delivery.put(partial(self._trackers[name].row, row, curve))

    def _failed(self, name: str, error: Exception) -> None:
        self._complain(
            f"{name} is not used from here on: {_text(error)}. The results folder has all rows."
        )

    def _complain(self, text: str) -> None:
        say(f"hptransfer: {text}", quiet=False)
        self._event("watcher_failed", text=text)

    def _event(self, name: str, **fields: Any) -> None:
        if self._log is None:
            return
        try:
            self._log.event(name, fields)
        except (OSError, ValueError) as error:
            self._log = None
            say(f"hptransfer: the log is not written from here on: {_text(error)}.", quiet=False)


class EventLog:
    """`log.jsonl`: one strict-JSON line per event of a sweep; every command appends its own events.

    Raises:
        UserError: the folder cannot be written, or the log is a link out of it.
        MachineError: the disk is full or broken.
    """

    def __init__(self, folder: Path) -> None:
        path = ResultsFolder(folder).log_file
        with opening(folder):
            folder.mkdir(parents=True, exist_ok=True)
            require_inside(folder, path)
            torn = _is_torn(path)
            # Unbuffered: a line is one write, whole or refused, from whichever thread.
            self._file = path.open("ab", buffering=0)
            if torn:  # a command was killed while it wrote: its line ends here
                self._file.write(b"\n")

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Append one line: the time (UTC), the event's name and its fields."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, "event": name, **fields}, allow_nan=False)
        self._file.write(line.encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is_torn(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


class Delivery:
    """Calls functions in a thread of its own, so that a slow service never holds up a pack.

    Args:
        on_failure: called in that thread with the first exception; no later function is called.
    """

    def __init__(self, name: str, on_failure: Callable[[Exception], None]) -> None:
        self._on_failure = on_failure
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        # A daemon thread, since a service that hangs must not keep the command from ending.
        self._thread = threading.Thread(target=self._deliver, name=name, daemon=True)
        self._thread.start()

    def put(self, call: Callable[[], Any]) -> None:
        """Have a function called after the earlier ones, unless one of them raised."""
        if self._thread.is_alive():
            self._calls.put(call)

    def end(self, seconds: float) -> bool:
        """Wait at most so many seconds; return whether all functions were called."""
        self._calls.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _deliver(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # whatever a service raises must not end a sweep
                self._on_failure(error)
                return


def _text(error: Exception) -> str:
    """Return the first line of an error, with its kind."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}".rstrip(": .")
