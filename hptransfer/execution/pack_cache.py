"""The cache of measured pack costs: one JSON file of this user, shared by all processes.

The file may be deleted at any time. One that cannot be read or written costs a new measurement and
a note, never an error.
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

from hptransfer.execution.pack_cost import MeasuredPack, PackCost
from hptransfer.system.version import package_version

CACHE_SCHEMA = 1


def cache_file() -> Path:
    """Return `$XDG_CACHE_HOME/hptransfer/packs.json`, by default in `~/.cache`."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return root / "hptransfer" / "packs.json"


class PackCache:
    """The costs that were measured before, by everything that decides a pack's cost.

    Attributes:
        notes: sentences for the user, of a cache that could not be used.
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
            return recorded_cost(entry["cost"], capacity=capacity, extrapolates=extrapolates)
        except (ValueError, TypeError, KeyError) as error:
            self._note(f"An entry of {self.path} is damaged ({error!r}): measured again.")
            return None

    def device_of(self, facts: Mapping[str, object]) -> str | None:
        """Return the device that was measured last with these facts, which name none; or None."""
        for key, entry in reversed(self._entries.items()):
            device = entry.get("facts", {}).get("device") if isinstance(entry, dict) else None
            if isinstance(device, str) and key == _key({**facts, "device": device}):
                return device
        return None

    def add(self, facts: Mapping[str, object], cost: PackCost) -> None:
        """Keep what was measured, beside what other processes kept meanwhile."""
        key, entry = _key(facts), {"facts": dict(facts), "cost": cost_record(cost)}
        self._entries[key] = entry
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path.with_suffix(".lock")):
                try:
                    kept = _entries(self.path)
                except ValueError:
                    kept = {}
                _replace(self.path, {"schema": CACHE_SCHEMA, "packs": {**kept, key: entry}})
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
    if not isinstance(found, dict) or found.get("schema") != CACHE_SCHEMA:
        raise ValueError(f"no object of schema {CACHE_SCHEMA}")
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


def cost_record(cost: PackCost) -> dict[str, Any]:
    """Return a cost as JSON values: what was measured, without what depends on the moment."""
    points = [list(point) for point in cost.points]
    return {
        "points": points,
        "warmup": cost.warmup,
        "too_large": cost.too_large,
        "spread": cost.spread,
    }


def recorded_cost(found: Mapping[str, Any], *, capacity: float, extrapolates: bool) -> PackCost:
    """Return the cost that `cost_record` wrote, on a device of today's capacity.

    Raises:
        ValueError, TypeError, KeyError: it was not written by `cost_record`.
    """
    too_large, spread = found["too_large"], found.get("spread")  # older entries have no spread
    return PackCost(
        tuple(MeasuredPack(int(size), float(s), float(b)) for size, s, b in found["points"]),
        float(found["warmup"]),
        capacity,
        extrapolates,
        None if too_large is None else int(too_large),
        None if spread is None else float(spread),
        cached=True,
    )
