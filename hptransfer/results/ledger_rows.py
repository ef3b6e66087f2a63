"""Rows of a ledger: one checksummed JSON line per finished trial."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from hptransfer.config.identity import arm_of, canonical, trial_key
from hptransfer.errors import UserError
from hptransfer.results.trial_result import Quality, TrialResult
from hptransfer.system.files import require_inside

FILE_NAME = "ledger.jsonl"
CHUNK = 1 << 20  # bytes read at a time; the parsed rows of a ledger are several times its size
# The tail of every line: `,"check":"<12 hex digits>"}`.
_HEAD = b'{"trial_key":"'
CHECK_BYTES = len(b',"check":"0123456789ab"}')


@dataclass(frozen=True)
class Ledger:
    """What a ledger file holds: its rows, and the bytes of a last line that was cut off."""

    path: Path
    rows: tuple[dict[str, Any], ...] = ()
    torn_bytes: int = 0

    @property
    def keys(self) -> frozenset[str]:
        """The trial keys that have a row."""
        return frozenset(row["trial_key"] for row in self.rows)

    @property
    def notice(self) -> str | None:
        """One sentence about a cut-off last line, or None."""
        if not self.torn_bytes:
            return None
        return (
            f"The last line of {self.path} was cut off ({self.torn_bytes} bytes, an interrupted "
            "write) and is left out; its trial counts as not run."
        )


def row(
    result: TrialResult, hps: Mapping[str, float], provenance: Mapping[str, str]
) -> dict[str, Any]:
    """Build a trial's row. `hps` holds the swept HPs only, as `log2_<hp>`."""
    config = result.config
    return {
        "trial_key": trial_key(config),
        "status": result.status.value,
        "loss": result.loss,
        "width": config.model.width,
        "parametrization": arm_of(config),
        "hps": {name: float(value) for name, value in hps.items()},
        "seed": config.seed,
        "schema": SCHEMA,
        "config": canonical(config),
        "diverged_at_step": result.diverged_at_step,
        "stopped_at_step": result.stopped_at_step,
        "metrics": {
            "loss_at_init": finite(result.loss_at_init),
            "train_loss": finite(result.train_loss),
            "clipped_share": float(f"{result.clipped_share:.6g}"),
            **_quality(result.quality),
        },
        "cost": {
            "flops": float(f"{result.flops:.12g}"),
            "seconds": float(f"{result.seconds:.6g}"),
            "device": result.device,
        },
        "provenance": dict(provenance),
    }


def _quality(quality: Quality | None) -> dict[str, float]:
    """Return what was measured of samples; nothing where nothing was."""
    measured = {} if quality is None else quality._asdict()
    return {name: float(f"{value:.6g}") for name, value in measured.items()}


def finite(value: float | None) -> float | None:
    """Return what strict JSON can hold of a number."""
    return value if value is not None and math.isfinite(value) else None


def encode(row: Mapping[str, Any]) -> bytes:
    """Encode a row as one line with its newline; `check` is last, over all that precedes it."""
    if (row["status"] == "completed") != (row["loss"] is not None):
        raise ValueError(f"A row has a loss exactly if it completed: {row['trial_key']}.")
    body = json.dumps(
        {key: value for key, value in row.items() if key != "check"},
        separators=(",", ":"),
        allow_nan=False,
    ).encode()
    return body[:-1] + b',"check":"' + _checksum(body) + b'"}\n'


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:12].encode()


def locate(folder: Path) -> Path | None:
    """Find a sweep's ledger file, plain or gzipped; None if there is neither.

    Raises:
        UserError: there are both, or a link leads to it out of the folder.
    """
    plain = folder / FILE_NAME
    zipped = folder / f"{FILE_NAME}.gz"
    if plain.exists() and zipped.exists():
        raise UserError(
            f"A sweep has one ledger, but {folder} holds both {plain.name} and {zipped.name}. "
            "Delete the one with fewer rows."
        )
    found = next((path for path in (plain, zipped) if path.exists()), None)
    if found is not None:
        require_inside(folder, found)
    return found


def read(path: str | Path) -> Ledger:
    """Read and verify a ledger, given as its file or its sweep's folder.

    A cut-off last line is left out and told in `notice`.

    Raises:
        UserError: no ledger, a changed or repeated line, or rows of a newer version.
    """
    path = Path(path)
    found = locate(path) if path.is_dir() else path
    if found is None or not found.exists():
        raise UserError(f"There is no ledger at {path}. Name a folder that a sweep has written.")
    rows: list[dict[str, Any]] = []
    torn_bytes = 0
    for stretch in scan(found):
        rows += stretch.rows
        torn_bytes = stretch.torn_bytes
    return Ledger(found, tuple(rows), torn_bytes)


def rows_in(folder: Path) -> tuple[dict[str, Any], ...]:
    """Return the rows of a folder's ledger, none where there is no ledger yet."""
    path = locate(folder)
    return read(path).rows if path else ()


def keys_in(folder: Path) -> set[str]:
    """Return the keys of the rows of a folder's ledger; the rows are read and not held."""
    path = locate(folder)
    stretches = scan(path) if path else ()
    return {row["trial_key"] for stretch in stretches for row in stretch.rows}


@dataclass(frozen=True)
class Stretch:
    """Consecutive rows of a ledger file, verified and of this schema."""

    rows: list[dict[str, Any]]
    end: int  # bytes of the file up to the end of the last row
    torn_bytes: int  # of a cut-off line after that


def scan(path: Path, start: int = 0, lines_before: int = 0) -> Iterator[Stretch]:
    """Read and verify a ledger file a few megabytes at a time, from a line's first byte on.

    Raises:
        UserError: as `read`; repeated trials are found among the rows that are scanned.
    """
    first_seen: dict[str, int] = {}
    end, number = start, lines_before
    with _opened(path) as file:
        file.seek(start)
        while lines := file.readlines(CHUNK):
            torn = b""
            if not lines[-1].endswith(b"\n") and not _is_whole(lines[-1]):
                torn = _cut_off(lines.pop(), path)
            end += sum(map(len, lines))
            bodies = [line.removesuffix(b"\n") for line in lines]
            yield Stretch(_rows(bodies, path, number, first_seen), end, len(torn))
            number += len(lines)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}). Restore it from a copy.") from error
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f"{path} may not be read: {error.strerror}.") from error


def _cut_off(line: bytes, path: Path) -> bytes:
    if line[: len(_HEAD)] != _HEAD[: len(line)]:
        raise UserError(
            f"The end of {path} is no row that was cut off: {line[:20]!r}… Restore the file from "
            "a copy, or remove what was added."
        )
    return line


def _rows(
    lines: Sequence[bytes], path: Path, before: int, first_seen: dict[str, int]
) -> list[dict[str, Any]]:
    for number, line in enumerate(lines, start=before + 1):
        if not _is_whole(line):
            raise _damaged(line, path, number)
    rows = parse_lines(lines, path, before + 1)
    for number, row in enumerate(rows, start=before + 1):
        earlier = first_seen.setdefault(row["trial_key"], number)
        if earlier != number:
            raise UserError(
                f"A trial has one row, but trial {row['trial_key']} stands in {path} on lines "
                f"{earlier} and {number}. Delete one of them."
            )
    return rows


def _is_whole(line: bytes) -> bool:
    body = line[:-CHECK_BYTES] + b"}"
    return line[-CHECK_BYTES:] == b',"check":"' + _checksum(body) + b'"}'


def _damaged(line: bytes, path: Path, number: int) -> UserError:
    with suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("schema"), int) and row["schema"] > SCHEMA:
            return newer(row["schema"], path, number)
    return UserError(
        f"Line {number} of {path} is not as it was written: its checksum does not match. "
        "Restore the file from a copy, or delete the line and run its sweep again."
    )


SCHEMA = 2


# What every row holds, whatever its schema.
FIELDS = frozenset(
    {
        *("trial_key", "status", "loss", "width", "parametrization", "hps", "seed", "schema"),
        *("config", "diverged_at_step", "metrics", "cost", "provenance"),
    }
)


def migrate(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of an older schema as this one has it."""
    while row["schema"] < SCHEMA:
        row = _MIGRATIONS[row["schema"]](row)
    return row


def _with_stopped_at_step(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make a row of schema 1 one of schema 2: no trial was stopped then."""
    migrated = {}
    for name, value in row.items():
        migrated[name] = value
        if name == "diverged_at_step":
            migrated["stopped_at_step"] = None
    return {**migrated, "schema": 2}


# How a row of each older schema becomes one of the next.
_MIGRATIONS: Mapping[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    1: _with_stopped_at_step,
}


def strict(text: str | bytes) -> Any:
    """Parse JSON as the standard has it: NaN and Infinity are a ValueError."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no strict JSON")


def parse_lines(lines: Sequence[bytes], path: Path, start: int) -> list[dict[str, Any]]:
    """Parse lines into rows of this schema; the first has number `start`.

    Raises:
        UserError: a line that is no row, or a newer hptransfer's.
    """
    try:
        # One call for all lines: three times as fast as one call a line.
        rows = strict(b"[" + b",".join(lines) + b"]")
    except ValueError:
        rows = [_parse_line(line) for line in lines]
    for number, row in enumerate(rows, start=start):
        _require_row(row, path, number)
    return [migrate(row) for row in rows]


def _parse_line(line: bytes) -> Any:
    with suppress(ValueError):
        return strict(line)
    return None


def _require_row(row: Any, path: Path, number: int) -> None:
    schema = row.get("schema") if isinstance(row, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise newer(schema, path, number)
    if schema not in (SCHEMA, *_MIGRATIONS) or not row.keys() >= FIELDS:
        raise UserError(f"Line {number} of {path} is no row of a ledger. Remove the line.")


def newer(schema: int, path: Path, number: int) -> UserError:
    """Return the refusal of a line that a newer hptransfer wrote."""
    return UserError(
        f"Line {number} of {path} has schema {schema}, but this hptransfer reads schemas up to "
        f"{SCHEMA}. Upgrade hptransfer."
    )
