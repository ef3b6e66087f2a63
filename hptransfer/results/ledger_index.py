"""What `status` counts of a ledger, and a cache of it so that long ledgers are not read again.

The cache is never the truth: it holds for a sweep and for a ledger that has, at its end, the very
line that it was made with; else it is made anew. `status --verify` and every writer read all lines.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from hptransfer.errors import MachineError, UserError
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import CHECK_BYTES, FILE_NAME, SCHEMA, Ledger, locate, scan
from hptransfer.results.sweep_file import SweepFacts
from hptransfer.system.files import require_inside, write_text

INDEX_NAME = ".ledger.index"
SMALLEST = 1 << 20  # bytes of a ledger that is worth an index; a shorter one is read in 40 ms
LISTED = 100  # keys of rows outside the wanted set that are named


@dataclass(frozen=True)
class Tally:
    """What a ledger's first rows come to."""

    bytes: int = 0  # of the ledger, up to the end of a line
    rows: int = 0
    recorded: Mapping[str, int] = field(default_factory=dict)  # wanted rows by status
    outside: tuple[str, ...] = ()  # the first keys of rows outside the wanted set
    outside_count: int = 0

    def plus(self, rows: Sequence[Mapping[str, Any]], facts: SweepFacts, end: int) -> Self:
        """Return the tally with further rows, which end at byte `end`."""
        recorded, outside = Counter(self.recorded), list[str]()
        for row in rows:
            if facts.wants(row):
                recorded[row["status"]] += 1
            else:
                outside.append(row["trial_key"])
        return dataclasses.replace(
            self,
            bytes=end,
            rows=self.rows + len(rows),
            recorded=dict(recorded),
            outside=(*self.outside, *outside)[:LISTED],
            outside_count=self.outside_count + len(outside),
        )


def tally(folder: ResultsFolder, facts: SweepFacts) -> tuple[Tally, str | None]:
    """Count a folder's rows; return with it what reading them had to leave out, if anything.

    Only the rows after those that the index covers are read, and the index is brought up to date
    where the folder may be written. A gzipped ledger is not growing and has no index.
    """
    path = locate(folder.path)
    if path is None:
        return Tally(), None
    indexed = path.name == FILE_NAME and path.stat().st_size >= SMALLEST
    asked = _asked(folder) if indexed else ""
    covered = (_load(folder.path, path, asked) if indexed else None) or Tally()
    counted, torn_bytes = covered, 0
    for stretch in scan(path, covered.bytes, covered.rows):
        counted = counted.plus(stretch.rows, facts, stretch.end)
        torn_bytes = stretch.torn_bytes
    if indexed and counted != covered:
        _save(folder.path, path, asked, counted)
    return counted, Ledger(path, torn_bytes=torn_bytes).notice


def _asked(folder: ResultsFolder) -> str:
    """Return the digest of the files that decide which rows are wanted."""
    digest = hashlib.sha256()
    for path in (folder.sweep_file, folder.design_file):
        content = path.read_bytes() if path.is_file() else b""
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _load(folder: Path, ledger: Path, asked: str) -> Tally | None:
    """Return the recorded tally if it holds for this sweep and ledger, or None."""
    path = folder / INDEX_NAME
    require_inside(folder, path)
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        text, _, seal = path.read_text(encoding="utf-8").rpartition("\n")
        kept = json.loads(text)
        found = Tally(**{**kept["tally"], "outside": tuple(kept["tally"]["outside"])})
        valid = (seal, kept["asked"], kept["end"], kept["schema"]) == (
            *(_seal(text), asked, _line_end(ledger, found.bytes)),
            SCHEMA,
        )
        return found if valid else None
    return None


def _save(folder: Path, ledger: Path, asked: str, counted: Tally) -> None:
    end = _line_end(ledger, counted.bytes)
    kept = {
        "schema": SCHEMA,
        "asked": asked,
        "end": end,
        "tally": dataclasses.asdict(counted),
    }
    text = json.dumps(kept, indent=1)
    # A last line without its newline would be read again; and the folder may be read-only.
    if end.endswith("\n"):
        with suppress(UserError, MachineError):
            write_text(folder / INDEX_NAME, f"{text}\n{_seal(text)}")


def _seal(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _line_end(ledger: Path, offset: int) -> str:
    """Return the checksum and newline that end a ledger's line at a byte."""
    with ledger.open("rb") as file:
        file.seek(max(offset - CHECK_BYTES - 1, 0))
        return file.read(CHECK_BYTES + 1).decode(errors="replace")
