"""Trackers, log and `on_finish` of a sweep behind one interface; none of them can end the sweep.

A tracker that cannot start is refused before anything runs. One that fails later is left out from
there on, which is said once on stderr and in the log; the ledger has all rows.
"""

from __future__ import annotations

import importlib
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from hptransfer.config import ExecutorConfig
from hptransfer.errors import MachineError, UserError
from hptransfer.results.failed_trials import FailedTrial
from hptransfer.sweeping.trackers.delivery import Delivery
from hptransfer.sweeping.trackers.finish import Finish, finish
from hptransfer.sweeping.trackers.log import EventLog
from hptransfer.sweeping.trackers.run_names import TRIAL_RUNS, Row, TrainingCurve
from hptransfer.system.console import say
from hptransfer.system.version import package_version

# Module and class of each tracker; the module is imported only where it is asked for.
TRACKERS = {
    "tensorboard": ("tensorboard", "TensorBoard"),
    "wandb": ("wandb_runs", "WandbRuns"),
    "mlflow": ("mlflow_runs", "MlflowRuns"),
    "trackio": ("trackio_runs", "TrackioRuns"),
}
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
        UserError: a tracker's package or login is missing, `on_finish` is no command or URL, or the
            folder cannot be written.
    """
    target = executor.finish_target()
    at_end = finish(target) if target else None
    trackers = {name: _started(name, folder, sweep_name) for name in executor.trackers}
    return Watch(folder, sweep_name, trackers, at_end)


def _started(name: str, folder: Path, sweep_name: str) -> Watcher:
    module_name, class_name = TRACKERS[name]
    try:
        module = importlib.import_module(f"hptransfer.sweeping.trackers.{module_name}")
    except ImportError as error:
        raise UserError(
            f"`executor.trackers` names {name}, whose package cannot be imported: {error}. Install "
            f"it with pip install 'hptransfer[{name}]', or leave it out."
        ) from error
    try:
        return getattr(module, class_name)(folder, sweep_name)
    except (UserError, MachineError):
        raise
    except Exception as error:  # each service has its own
        raise UserError(
            f"`executor.trackers` names {name}, which cannot start: {_text(error)}. Mend its login "
            "or address, or leave it out."
        ) from error


class Watch:
    """Passes a sweep's events on to the log and the trackers.

    How its `with` block ends decides the outcome: done, interrupted or failed.
    """

    def __init__(
        self,
        folder: Path,
        sweep_name: str,
        trackers: Mapping[str, Watcher],
        at_end: Finish | None = None,
    ) -> None:
        self._folder, self._sweep_name, self._at_end = folder, sweep_name, at_end
        self._counts: Counter[str] = Counter(rows=0, completed=0, diverged=0, stopped=0)
        self._running: set[int] = set()
        self._began = time.monotonic()
        self._ended = False
        self._log: EventLog | None = EventLog(folder)
        self._trackers = trackers
        self._deliveries = {name: Delivery(name, partial(self._failed, name)) for name in trackers}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self.finished({"outcome": "done"})
        elif issubclass(kind, KeyboardInterrupt):
            self.finished({"outcome": "interrupted"})
        else:
            self.finished({"outcome": "failed", "error": f"{kind.__name__}: {error}"})

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
            self.note(f"trackers show {TRIAL_RUNS} trials as runs; the ledger has them all")
        for name, delivery in self._deliveries.items():
            if name == "tensorboard" or self._counts["rows"] <= TRIAL_RUNS:
                delivery.put(partial(self._trackers[name].row, row, curve))

    def finished(self, outcome: Mapping[str, Any]) -> None:
        """Pass on the end: `outcome` is done, interrupted or failed. Later events are dropped."""
        if self._ended:
            return
        self._ended = True
        told = {
            "outcome": outcome["outcome"],
            "counts": dict(self._counts),
            "hours": round((time.monotonic() - self._began) / 3600, 4),
        }
        self._event("finished", **{**told, **outcome})
        until = time.monotonic() + END_SECONDS[told["outcome"]]
        for name, delivery in self._deliveries.items():
            delivery.put(self._trackers[name].close)
            if not delivery.end(max(until - time.monotonic(), 0.0)):
                self._complain(f"{name} took too long and lacks the last trials.")
        if self._at_end is not None:
            self._tell_end(self._at_end, told)
        if self._log is not None:
            self._log.close()
            self._log = None

    def _tell_end(self, at_end: Finish, told: Mapping[str, Any]) -> None:
        said = {"sweep": self._sweep_name, "folder": str(self._folder.absolute()), **told}

        def failed(error: Exception) -> None:
            self._complain(f"executor.on_finish ({at_end.name}) failed: {_text(error)}.")

        delivery = Delivery("on_finish", failed)
        delivery.put(partial(at_end.tell, said))
        if not delivery.end(at_end.seconds + 1):  # its own limit comes first
            self._complain(f"executor.on_finish ({at_end.name}) did not answer in time.")

    def _failed(self, name: str, error: Exception) -> None:
        self._complain(f"{name} is left out from here on: {_text(error)}. The ledger has all rows.")

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
            say(f"hptransfer: the log is left out from here on: {_text(error)}.", quiet=False)


def _text(error: Exception) -> str:
    """Return the first line of an error, with its kind."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}".rstrip(": .")
