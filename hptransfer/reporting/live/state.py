"""How far a sweep is while it runs: its ledger, its log, its lock and its failed trials.

Everything is only read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.analysis.of_folder import status
from hptransfer.results.failed_trials import FailedTrial, failed_file, read_failed
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import LEDGER_NAME, iterate_ledger_rows
from hptransfer.results.sweep_file import SweepFacts, read_facts
from hptransfer.system.folder_lock import LOCK_NAME, lock_holder

# (question, rows, packs at a time) -> the time left in words; None where nothing tells it.
TimeLeft = Callable[[SweepFacts, Iterable[Mapping[str, Any]], int], str | None]
Signature = tuple[tuple[int, int] | None, ...]  # size and time of change of each file


def signature_of(paths: Iterable[Path]) -> Signature:
    """Return what changes when one of some files does."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def state_signature(folder: ResultsFolder) -> tuple[Signature, bool]:
    """Return what changes when the files that tell how far a sweep is do, or its process ends."""
    inner = [folder.path / name for name in (LEDGER_NAME, LOCK_NAME)]
    asked = [folder.sweep_file, folder.design_file]
    files = [*inner, folder.log_file, *asked, failed_file(folder.path)]
    return signature_of(files), lock_holder(folder.path) is not None


@dataclass
class RunLog:
    """What the log says of the last command that ran, read on from where the last reading ended."""

    path: Path
    running: dict[int, int] = field(default_factory=dict)  # packs -> their trials
    packs_at_a_time: int = 1
    outcome: str | None = None  # done, interrupted or failed; None: no end is logged
    error: str | None = None
    _read: int = 0  # bytes

    def read_on(self) -> None:
        """Read the lines that were added, without a last one that is being written."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._read:
                    self._read = 0
                file.seek(self._read)
                lines = file.read().rpartition(b"\n")[0]
        except OSError:
            return
        self._read += len(lines) + 1 if lines else 0
        for line in lines.splitlines():
            try:
                self._note(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a kill

    def _note(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "started":
                self.running, self.packs_at_a_time = {}, 1
                self.outcome = self.error = None
            case "pack_started":
                self.running[event["pack"]] = event["trials"]
                self.packs_at_a_time = max(self.packs_at_a_time, len(self.running))
            case "pack_finished" | "pack_raised" | "trial_failed":
                self.running.pop(event["pack"], None)
            case "finished":
                self.running = {}
                self.outcome, self.error = event["outcome"], event.get("error")


@dataclass(frozen=True)
class SweepState:
    """How far a sweep is."""

    counts: Mapping[str, Any]  # as `hptransfer status --json` has them
    failed: tuple[FailedTrial, ...]
    is_running: bool
    running: int  # trials
    left: str | None  # the time left in words
    error: str | None  # that ended the last command
    has_log: bool

    @property
    def missing(self) -> int:
        """The trials without a row."""
        return max(self.counts["wanted"] - self.counts["recorded"], 0)

    @property
    def word(self) -> str:
        """The state in one word or two."""
        return state_word(
            recorded=self.counts["recorded"],
            missing=self.missing,
            is_running=self.is_running,
            has_failed=bool(self.failed or self.error),
        )


def state_word(*, recorded: int, missing: int, is_running: bool, has_failed: bool) -> str:
    """Return a sweep's state: running, done, failed, stopped or not started."""
    if is_running:
        return "running"
    if recorded and not missing:
        return "done"
    if has_failed:
        return "failed"
    return "stopped" if recorded else "not started"


def sweep_state(folder: ResultsFolder, log: RunLog, time_left: TimeLeft) -> SweepState:
    """Read how far a sweep is.

    Raises:
        UserError: a file of the folder is not as hptransfer wrote it.
    """
    log.read_on()
    counts, failed = status(folder), read_failed(folder.path)
    is_running = lock_holder(folder.path) is not None
    left = None
    if is_running and counts["recorded"] < counts["wanted"]:
        rows = iterate_ledger_rows(folder.path)
        left = time_left(read_facts(folder), rows, log.packs_at_a_time)
    return SweepState(
        counts=counts,
        failed=tuple(failed.values()),
        is_running=is_running,
        running=sum(log.running.values()) if is_running else 0,
        left=left,
        error=None if is_running else log.error,
        has_log=log.path.is_file(),
    )
