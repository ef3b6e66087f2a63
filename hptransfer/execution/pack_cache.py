"""The cache of measured pack costs: one JSON file of this user, shared by all processes.

It is a cache: deleting it is always fine, and what cannot be read or written costs a measurement
and a note, never an error.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hptransfer.execution.pack_cost import PackCost, as_json, from_json
from hptransfer.system.version import package_version

SCHEMA = 1


def cache_file() -> Path:
    """Return `$XDG_CACHE_HOME/hptransfer/packs.json`, by default in `~/.cache`."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return root / "hptransfer" / "packs.json"


class PackCache:
    """What was measured before, by everything that shapes a pack's cost.

    Attributes:
        notes: what the user should know of a cache that could not be used.
    """

    def __init__(self, path: Path, entries: Mapping[str, Any], notes: tuple[str, ...] = ()) -> None:
        self.path, self.notes = path, notes
        self._entries = dict(entries)

    @classmethod
    def read(cls) -> PackCache:
        """Read the cache; one that is not ours counts as empty and is noted."""
        path = cache_file()
        try:
            return cls(path, _entries(path))
        except (OSError, ValueError) as error:
            note = (
                f"{path} is not a cache of pack sizes as hptransfer wrote it ({error}): ignored "
                "and measured again."
            )
            return cls(path, {}, (note,))

    def cost(
        self, facts: Mapping[str, object], *, capacity: float, extrapolates: bool
    ) -> PackCost | None:
        """Return what was measured, on a device of today's capacity, or None."""
        entry = self._entries.get(_key(facts))
        if entry is None:
            return None
        try:
            return from_json(entry["cost"], capacity=capacity, extrapolates=extrapolates)
        except (ValueError, TypeError, KeyError) as error:
            self._note(f"An entry of {self.path} is damaged ({error!r}): measured again.")
            return None

    def add(self, facts: Mapping[str, object], cost: PackCost) -> None:
        """Keep what was measured, beside what other processes kept meanwhile."""
        key, entry = _key(facts), {"facts": dict(facts), "cost": as_json(cost)}
        self._entries[key] = entry
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path.with_suffix(".lock")):
                try:
                    kept = _entries(self.path)
                except ValueError:
                    kept = {}
                _replace(self.path, {"schema": SCHEMA, "packs": {**kept, key: entry}})
        except OSError as error:
            self._note(f"{self.path} could not be written ({error.strerror}): measured each time.")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes = (*self.notes, text)


def _key(facts: Mapping[str, object]) -> str:
    text = json.dumps({**facts, "hptransfer": package_version()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _entries(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"no object of schema {SCHEMA}")
    if not isinstance(found.get("packs"), dict):
        raise ValueError("no `packs`")
    return found["packs"]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, value: Any) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".packs", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, allow_nan=False)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
