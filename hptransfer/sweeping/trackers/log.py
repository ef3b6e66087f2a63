"""`log.jsonl`: one strict-JSON line per event of a sweep; every command appends its own events."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hptransfer.system.files import opening, require_inside

FILE_NAME = "log.jsonl"


class EventLog:
    """The open log of a sweep.

    Raises:
        UserError: the folder cannot be written, or the log is a link out of it.
        MachineError: the disk is full or broken.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FILE_NAME
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
