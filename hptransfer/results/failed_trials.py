"""`failed.json`: the trials of a ledger whose training raised, kept beside the ledger.

A failed trial has no row, since a row is a result; the next sweep runs it again. Its whole
traceback is in `failed/<trial_key>.log`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hptransfer.errors import UserError
from hptransfer.results.folder import read_json, write_json
from hptransfer.system.files import write_text


@dataclass(frozen=True)
class FailedTrial:
    """A trial whose training raised."""

    trial_key: str
    width: int
    parametrization: str  # the arm
    hps: Mapping[str, float]  # log2_<hp> -> value
    seed: int
    reason: str  # kind and first line of the exception
    frame: str  # last frame of the traceback, as `file:line in function`; empty: not known
    log: str  # path of the whole traceback, below the ledger's folder

    def sentence(self, folder: Path) -> str:
        """Return which trial failed, why, and where its traceback is."""
        values = ", ".join(f"{axis}={value:g}" for axis, value in self.hps.items())
        where, what = (f" ({self.frame})", "Traceback") if self.frame else ("", "Log")
        return (
            f"width {self.width}, {self.parametrization}, {values}, seed {self.seed}: "
            f"{self.reason.rstrip('.')}{where}. {what}: {folder / self.log}"
        )


def failed_file(folder: Path) -> Path:
    """Return the path of the failed trials of the ledger in a folder."""
    return folder / "failed.json"


def read_failed(folder: Path) -> dict[str, FailedTrial]:
    """Return the failed trials of the ledger in a folder, by trial key."""
    path = failed_file(folder)
    found = read_json(path, "failed") or {"failed": []}
    try:
        failed = [FailedTrial(**entry) for entry in found["failed"]]
    except TypeError:
        names = ", ".join(field.name for field in dataclasses.fields(FailedTrial))
        raise UserError(
            f"{path} is not as hptransfer wrote it ({names} of each failed trial). Delete it; "
            "finished trials are not affected, and the next sweep runs the failed ones again."
        ) from None
    return {each.trial_key: each for each in failed}


def add_failed(folder: Path, failed: FailedTrial, traceback_text: str) -> None:
    """Record that a trial failed, with its traceback."""
    write_text(folder / failed.log, traceback_text)
    _write(folder, {**read_failed(folder), failed.trial_key: failed})


def remove_failed(folder: Path, trial_keys: Collection[str]) -> None:
    """Forget the failures of trials that have a row now."""
    known = read_failed(folder)
    gone = [known[key] for key in trial_keys if key in known]
    if gone:
        for each in gone:
            (folder / each.log).unlink(missing_ok=True)
        _write(folder, {key: each for key, each in known.items() if each not in gone})


def _write(folder: Path, failed: Mapping[str, FailedTrial]) -> None:
    if not failed:  # the folder is as if none had failed
        failed_file(folder).unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            (folder / "failed").rmdir()
        return
    entries = [dataclasses.asdict(each) for each in failed.values()]
    write_json(failed_file(folder), {"failed": entries})
