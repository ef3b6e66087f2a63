"""A ledger's rows, one checksummed JSON line per finished trial: built, encoded, read, verified.

A ledger is the file `ledger.jsonl` of a results folder. Rows are only ever appended (by
`ledger_writer`), so that they outlive every kill; each reader checks every line.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hptransfer.config import TrialConfig
from hptransfer.config.identity import arm_of, canonical, trial_key
from hptransfer.errors import UserError
from hptransfer.results.curves import curve_file
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.trial_result import TrialResult
from hptransfer.system.files import require_inside

LEDGER_NAME = "ledger.jsonl"
LEDGER_SCHEMA = 2  # of the rows that are written; rows of older schemas are read too
CHUNK_BYTES = 1 << 20  # parsed at a time; parsed rows take several times that
_HEAD = b'{"trial_key":"'  # how every line begins
_CHECK_BYTES = len(b',"check":"0123456789ab"}')  # how every line ends: 12 hex digits of a sha256
ROW_FIELDS = frozenset(  # of every row, whatever its schema
    {
        *("trial_key", "status", "loss", "width", "parametrization", "hps", "seed", "schema"),
        *("config", "diverged_at_step", "metrics", "cost", "provenance"),
    }
)


@dataclass(frozen=True)
class Ledger:
    """The rows of a ledger file, and the length of a last line that an interruption cut off."""

    path: Path
    rows: tuple[dict[str, Any], ...] = ()
    torn_bytes: int = 0  # of the cut-off line

    @property
    def notice(self) -> str | None:
        """A sentence about a cut-off last line, or None where there is none."""
        return torn_line_notice(self.path, self.torn_bytes)


def torn_line_notice(path: Path, torn_bytes: int) -> str | None:
    """Return a sentence about the cut-off last line of a ledger, or None where there is none."""
    if not torn_bytes:
        return None
    return (
        f"The last line of {path} was cut off ({torn_bytes} bytes, an interrupted write) and is "
        "ignored; its trial counts as not finished."
    )


def ledger_row(
    result: TrialResult, hps: Mapping[str, float], provenance: Mapping[str, str]
) -> dict[str, Any]:
    """Build the row of a trial that ended.

    Args:
        hps: log2 of each hyperparameter that the sweep searches, by its name `log2_<hp>`.
        provenance: the commit, versions and time that produced the result.
    """
    config = result.config
    quality = {} if result.quality is None else result.quality._asdict()
    mode = {"mode": result.mode} if result.mode else {}
    return {
        "trial_key": trial_key(config),  # the trial: 12 hex digits of its config's sha256
        "status": result.status.value,  # completed, diverged or stopped
        "loss": result.loss,  # held-out loss that decides; null unless completed
        "width": config.model.width,  # channels of a token
        "parametrization": arm_of(config),  # `shared` at base width, where all are the same
        "hps": {name: float(value) for name, value in hps.items()},  # those searched
        "seed": config.seed,  # of initialisation, data order, noise and timesteps
        "schema": LEDGER_SCHEMA,  # version of the row's form
        "config": canonical(config),  # what differs from the defaults of a trial
        "diverged_at_step": result.diverged_at_step,  # the step; null: it did not diverge
        "stopped_at_step": result.stopped_at_step,  # the step; null: it was not given up
        "metrics": {  # numbers beside the loss
            "loss_at_init": finite_or_none(result.loss_at_init),  # the loss before the first step
            "train_loss": finite_or_none(result.train_loss),  # mean over the last training steps
            "clipped_share": _digits(result.clipped_share, 6),  # share of clipped steps
            **_known(
                {
                    "small_root_share": result.small_root_share,  # share that epsilon holds back
                }
            ),
            **{name: _digits(value, 6) for name, value in quality.items() if value is not None},
            # Those named by rule, see `hptransfer.results.metrics`; of another trainer as it told.
            **(_known(result.metrics) if isinstance(config, TrialConfig) else result.metrics),
        },
        "cost": {  # what the trial took
            "flops": _digits(result.flops, 12),  # of the whole trial, forward and backward
            "seconds": _digits(result.seconds, 6),  # its share of its pack's time
            "device": result.device,  # cpu, or the GPU's name
        },
        "provenance": {**provenance, **mode},  # commit, versions, time and the device's mode
    }


def _digits(value: float, digits: int) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def _known(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return the metrics that are known: rows of other trainers, and older ones, lack the rest."""
    return {n: _digits(value, 6) for n, value in metrics.items() if math.isfinite(value)}


def finite_or_none(value: float | None) -> float | None:
    """Return a number as strict JSON holds it: None where it is missing, infinite or NaN."""
    return value if value is not None and math.isfinite(value) else None


def encode_row(row: Mapping[str, Any]) -> bytes:
    """Encode a row as a line with its newline; the last field, `check`, covers all before it."""
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


def find_ledger(folder: str | Path) -> Path | None:
    """Return the path of a folder's ledger, or None where the folder has none yet.

    Raises:
        UserError: the ledger is gzipped, or a link leads to it out of the folder.
    """
    folder = Path(folder)
    path = folder / LEDGER_NAME
    zipped = folder / f"{LEDGER_NAME}.gz"
    if path.exists() and zipped.exists():
        raise UserError(
            f"A sweep must have one ledger, but {folder} holds both {path.name} and "
            f"{zipped.name}. Remove the one with fewer rows from the folder."
        )
    if zipped.exists():
        raise _gzipped_error(zipped)
    if not path.exists():
        return None
    require_inside(folder, path)
    return path


def _gzipped_error(path: Path) -> UserError:
    return UserError(
        f"A ledger must be plain text, but {path} is gzipped. Unpack it: gunzip {path}"
    )


def read_ledger(path: str | Path) -> Ledger:
    """Read and check a whole ledger, named by its file or its folder.

    A last line that an interruption cut off is left out; the ledger's `notice` says so.

    Raises:
        UserError: there is no ledger, or it is gzipped; a line was changed or stands there twice;
            a row of a newer version.
    """
    path = Path(path)
    found = find_ledger(path) if path.is_dir() else path
    if found is None or not found.exists():
        raise UserError(f"There is no ledger at {path}. Name a folder that a sweep has written.")
    if found.suffix == ".gz":
        raise _gzipped_error(found)
    rows: list[dict[str, Any]] = []
    torn_bytes = 0
    for stretch in scan_ledger(found):
        rows += stretch.rows
        torn_bytes = stretch.torn_bytes
    return Ledger(found, tuple(rows), torn_bytes)


def read_ledger_rows(folder: str | Path) -> tuple[dict[str, Any], ...]:
    """Read the rows of a folder's ledger; none where it has no ledger yet."""
    path = find_ledger(folder)
    return read_ledger(path).rows if path else ()


def iterate_ledger_rows(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a folder's ledger, without holding all of them in memory."""
    path = find_ledger(folder)
    for stretch in scan_ledger(path) if path else ():
        yield from stretch.rows


@dataclass(frozen=True)
class RowStretch:
    """Some consecutive rows of a ledger."""

    rows: list[dict[str, Any]]
    torn_bytes: int  # of a cut-off line after these rows


def scan_ledger(path: Path) -> Iterator[RowStretch]:
    """Read and check a ledger file, about `CHUNK_BYTES` bytes at a time.

    Raises:
        UserError: as `read_ledger`.
    """
    line_of_trial: dict[str, int] = {}
    before = 0  # lines that were read
    try:
        file = path.open("rb")
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f"{path} may not be read: {error.strerror}.") from error
    with file:
        while lines := file.readlines(CHUNK_BYTES):
            torn = b""
            if not lines[-1].endswith(b"\n") and not _is_whole(lines[-1]):
                torn = lines.pop()
                if torn[: len(_HEAD)] != _HEAD[: len(torn)]:
                    raise UserError(
                        f"The end of {path} is no row that was cut off: {torn[:20]!r}… Restore the "
                        "file from a copy, or remove what was added."
                    )
            bodies = [line.removesuffix(b"\n") for line in lines]
            yield RowStretch(_checked_rows(bodies, path, before, line_of_trial), len(torn))
            before += len(lines)


def _checked_rows(
    lines: Sequence[bytes], path: Path, before: int, line_of_trial: dict[str, int]
) -> list[dict[str, Any]]:
    """Parse whole lines, of which the first has number `before + 1`; note where each trial is."""
    for number, line in enumerate(lines, start=before + 1):
        if not _is_whole(line):
            raise _damaged_error(line, path, number)
    rows = _parse_rows(lines, path, before + 1)
    for number, row in enumerate(rows, start=before + 1):
        earlier = line_of_trial.setdefault(row["trial_key"], number)
        if earlier != number:
            raise UserError(
                f"A trial must have one row, but trial {row['trial_key']} stands in {path} on "
                f"lines {earlier} and {number}. Delete one of them."
            )
    return rows


def _is_whole(line: bytes) -> bool:
    """Say whether a line, without its newline, ends with the checksum of what precedes it."""
    body = line[:-_CHECK_BYTES] + b"}"
    return line[-_CHECK_BYTES:] == b',"check":"' + _checksum(body) + b'"}'


def _damaged_error(line: bytes, path: Path, number: int) -> UserError:
    with suppress(ValueError, TypeError, KeyError, IndexError):
        schema = json.loads(line)["schema"]
        if schema > LEDGER_SCHEMA:
            return _newer_schema_error(schema, path, number)
    return UserError(
        f"Line {number} of {path} is not as it was written: its checksum does not match. "
        "Restore the file from a copy, or delete the line and run its sweep again."
    )


def _migrate(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of schema 1 as one of schema 2; under schema 1 no trial was stopped early."""
    if row["schema"] == LEDGER_SCHEMA:
        return row
    migrated = {}
    for name, value in row.items():
        migrated[name] = value
        if name == "diverged_at_step":
            migrated["stopped_at_step"] = None
    return {**migrated, "schema": LEDGER_SCHEMA}


def parse_strict_json(text: str | bytes) -> Any:
    """Parse JSON as the standard has it: NaN and Infinity are a ValueError."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no strict JSON")


def _parse_rows(lines: Sequence[bytes], path: Path, start: int) -> list[dict[str, Any]]:
    """Parse lines, of which the first has number `start`, into rows of the present schema.

    Raises:
        UserError: a line is no row, or was written by a newer hptransfer.
    """
    try:
        # One call of the parser for all lines takes a third of the time of a call for each.
        rows = parse_strict_json(b"[" + b",".join(lines) + b"]")
    except ValueError:
        rows = [_parse_line(line) for line in lines]
    for number, row in enumerate(rows, start=start):
        _require_row(row, path, number)
    return [_migrate(row) for row in rows]


def _parse_line(line: bytes) -> Any:
    with suppress(ValueError):
        return parse_strict_json(line)
    return None


def _require_row(row: Any, path: Path, number: int) -> None:
    schema = row.get("schema") if isinstance(row, dict) else None
    if isinstance(schema, int) and schema > LEDGER_SCHEMA:
        raise _newer_schema_error(schema, path, number)
    if schema not in (1, LEDGER_SCHEMA) or not row.keys() >= ROW_FIELDS:
        raise UserError(f"Line {number} of {path} is no row of a ledger. Remove the line.")


def _newer_schema_error(schema: int, path: Path, number: int) -> UserError:
    """Return the refusal of a line that a newer hptransfer wrote."""
    return UserError(
        f"Line {number} of {path} has schema {schema}, but this hptransfer reads schemas up to "
        f"{LEDGER_SCHEMA}. Upgrade hptransfer."
    )


def verify_folder(folder: ResultsFolder) -> list[dict[str, Any]]:
    """Read every line and curve of a sweep and of its target for `status --verify`.

    Each ledger is described; nothing is changed.

    Raises:
        UserError: a line or curve is not as it was written; the sentence names file and line.
    """
    require_inside(folder.path, folder.target)
    ledgers = [(each, find_ledger(each)) for each in (folder.path, folder.target)]
    return [_verified(each, path) for each, path in ledgers if path is not None]


def _verified(folder: Path, path: Path) -> dict[str, Any]:
    rows = 0
    for stretch in scan_ledger(path):
        for number, row in enumerate(stretch.rows, start=rows + 1):
            require_key(row, path, number)
        rows += len(stretch.rows)
        if stretch.torn_bytes:
            raise UserError(
                f"Line {rows + 1} of {path} is cut off ({stretch.torn_bytes} bytes): a write was "
                "interrupted, or a sweep is writing now. Running the sweep again removes the "
                "line and runs its trial."
            )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "file": str(path),
        "rows": rows,
        "bytes": path.stat().st_size,
        "sha256": digest,
        "curves": _verified_curves(folder),
    }


def require_key(row: Mapping[str, Any], path: Path, number: int) -> None:
    """Refuse a row whose key is not the digest of its config."""
    config = json.dumps(row["config"], sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(config.encode()).hexdigest()[:12]
    if key != row["trial_key"]:
        raise UserError(
            f"Line {number} of {path} has the key {row['trial_key']}, but its config's is {key}. "
            "Restore the file from a copy."
        )


def _verified_curves(folder: Path) -> int:
    require_inside(folder, folder / "curves")
    paths = sorted((folder / "curves").glob("[!.]*.json"))
    for path in paths:
        _require_curve(curve_file(folder, path.stem))
    return len(paths)


def _require_curve(path: Path) -> None:
    try:
        value = parse_strict_json(path.read_text(encoding="utf-8"))
        problem = None
        if value["trial_key"] != path.stem:
            problem = f"it is the curve of {value['trial_key']}"
        elif not all(_is_point(p) for p in (*value["curve"], *value.get("held_out", ()))):
            problem = "its points are no pairs of step and loss"
    except (ValueError, KeyError, TypeError, OSError) as error:
        problem = str(error) or type(error).__name__
    if problem:
        raise UserError(
            f"{path} is not a curve as hptransfer wrote it ({problem}). Restore or delete it; the "
            "ledger is untouched."
        )


def _is_point(point: Any) -> bool:
    step, loss = point
    return isinstance(step, int) and (loss is None or isinstance(loss, int | float))
