"""`packs.json`: the pack sizes that a folder's trials are cut into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from hptransfer.errors import UserError
from hptransfer.execution.pack_sizes import PackSize
from hptransfer.results.folder import read_json, write_json


def packs_file(folder: Path) -> Path:
    """The pack sizes that were chosen for a ledger's trials, in the ledger's folder."""
    return folder / "packs.json"


def read_packs(folder: Path) -> dict[str, PackSize]:
    """Read the pack sizes that were chosen before, by `shape_key`."""
    path = packs_file(folder)
    found = read_json(path, "packs") or {"packs": {}}
    try:
        return {key: PackSize(**entry) for key, entry in found["packs"].items()}
    except (TypeError, ValueError, AttributeError):
        raise UserError(
            f"{path} is not as hptransfer wrote it (width, size, seconds and warmup of each "
            "shape). Restore it, or delete it to measure again; the ledger is untouched."
        ) from None


def write_packs(folder: Path, packs: Mapping[str, PackSize]) -> None:
    """Keep the pack sizes, so that a continued sweep has the same packs."""
    ordered = sorted(packs.items(), key=lambda item: (item[1].width, item[0]))
    write_json(packs_file(folder), {"packs": {key: asdict(chosen) for key, chosen in ordered}})
