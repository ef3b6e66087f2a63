"""A sweep's results folder: which files it holds, read and written without torch, Ray or Hydra."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

import hptransfer
from hptransfer.disk import write_text
from hptransfer.errors import UserError
from hptransfer.packing import Chosen
from hptransfer.questions import Axis


@dataclass(frozen=True)
class ResultsFolder:
    """Paths of `results/<sweep>/`, which users script against."""

    path: Path

    @property
    def sweep_file(self) -> Path:
        """The sweep as run: a complete config."""
        return self.path / "sweep.yaml"

    @property
    def check_file(self) -> Path:
        """The coordinate checks of the sweep's arms."""
        return self.path / "check.json"

    @property
    def estimates_file(self) -> Path:
        """What `fit` found."""
        return self.path / "estimates.json"

    @property
    def transfer_file(self) -> Path:
        """What `transfer` emitted, as JSON."""
        return self.path / "transfer.json"

    @property
    def target_file(self) -> Path:
        """The target run's config."""
        return self.path / "target.yaml"

    @property
    def groups_file(self) -> Path:
        """The target's parameters with their factors, for other code bases."""
        return self.path / "target_groups.json"

    @property
    def target(self) -> Path:
        """The target's own rows; never fitted, since they would contaminate the prediction."""
        return self.path / "target"

    def weights_file(self, trial_key: str) -> Path:
        """The trained weights of one of the target's rows."""
        return self.target / "weights" / f"{trial_key}.safetensors"

    @property
    def realised_file(self) -> Path:
        """What the target's own rows say about the transferred value."""
        return self.target / "realised.json"

    @property
    def timing_file(self) -> Path:
        """Where the time of `run` went, in seconds."""
        return self.path / "timing.json"

    @property
    def figures(self) -> Path:
        """The pictures."""
        return self.path / "figures"

    @property
    def report_file(self) -> Path:
        """The report."""
        return self.path / "report.html"


@dataclass(frozen=True)
class SweepFacts:
    """What analysis and report need of a sweep file, read as plain YAML."""

    name: str
    points: Mapping[str, tuple[float, ...]]  # log2_<hp> -> its grid
    target_width: int | None
    max_regret: float | None
    tree: Mapping[str, Any]

    @property
    def axes(self) -> tuple[str, ...]:
        """The searched HPs as the ledger names them: `log2_<hp>`."""
        return tuple(self.points)

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Say whether a ledger row belongs to the sweep's wanted set."""
        section = self.tree["sweep"]
        return (
            row["width"] in section["widths"]
            and row["seed"] in section["seeds"]
            and row["parametrization"] in (*section["parametrizations"], "shared")
            and all(
                any(abs(row["hps"].get(axis, math.nan) - point) < 1e-6 for point in points)
                for axis, points in self.points.items()
            )
        )

    def wanted_count(self) -> int:
        """Return how many trials the sweep wants; arms share theirs at base width."""
        section, base = self.tree["sweep"], self.tree["model"]["base_width"]
        arms = len(section["parametrizations"])
        models = sum(1 if width == base else arms for width in section["widths"])
        grid = math.prod(len(points) for points in self.points.values())
        return models * len(section["seeds"]) * grid


def existing(path: Path) -> ResultsFolder:
    """Return a results folder that holds a sweep, or say that it does not."""
    folder = ResultsFolder(path)
    if not folder.sweep_file.is_file():
        raise UserError(
            f"A results folder must hold a sweep.yaml, but {path} does not. Run `hptransfer sweep` "
            "first, or name the folder it printed."
        )
    return folder


def read_facts(folder: ResultsFolder) -> SweepFacts:
    """Read what a sweep asked."""
    try:
        tree = yaml.safe_load(folder.sweep_file.read_text(encoding="utf-8"))
        return facts_of(tree, name=tree["name"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder.sweep_file} must be a sweep as `hptransfer sweep` wrote it, but it is not "
            f"({error!r}). Restore it, or run the sweep again under another name."
        ) from None


def facts_of(tree: Mapping[str, Any], *, name: str) -> SweepFacts:
    """Return what a composed sweep asked."""
    axes = {f"log2_{n}": Axis(**axis).points for n, axis in tree["search"].items() if axis}
    target = tree["sweep"]["target"].get("model") or {}
    return SweepFacts(name, axes, target.get("width"), tree["verdict"]["max_regret"], tree)


def read_json(path: Path, key: str) -> dict[str, Any] | None:
    """Read a JSON object that holds `key`, or None where there is no file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        value[key]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, IndexError):
        raise UserError(
            f"{path} is not as hptransfer wrote it (a JSON object with {key!r}). Delete it and run "
            "`hptransfer run` or the command that makes it again; the ledger is untouched."
        ) from None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON: no NaN anywhere."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def packs_file(folder: Path) -> Path:
    """The pack sizes that were chosen for a ledger's trials, in the ledger's folder."""
    return folder / "packs.json"


def read_packs(folder: Path) -> dict[str, Chosen]:
    """Read the pack sizes that were chosen before, by `shape_key`."""
    path = packs_file(folder)
    found = read_json(path, "packs") or {"packs": {}}
    try:
        return {key: Chosen(**entry) for key, entry in found["packs"].items()}
    except (TypeError, ValueError, AttributeError):
        raise UserError(
            f"{path} is not as hptransfer wrote it (width, size, seconds and warmup of each "
            "shape). Restore it, or delete it to measure again; the ledger is untouched."
        ) from None


def write_packs(folder: Path, packs: Mapping[str, Chosen]) -> None:
    """Keep the pack sizes, so that a continued sweep has the same packs."""
    ordered = sorted(packs.items(), key=lambda item: (item[1].width, item[0]))
    write_json(packs_file(folder), {"packs": {key: asdict(chosen) for key, chosen in ordered}})


def provenance() -> dict[str, str]:
    """Return what a row remembers of the code that made it."""
    return {
        "commit": _commit(),
        "hptransfer": hptransfer.__version__,
        "torch": version("torch"),
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _commit() -> str:
    """Return the short commit of a source checkout, with + if it is dirty; empty elsewhere."""
    package = Path(__file__).resolve().parent
    if not (package.parent / ".git").exists():
        return ""
    described = subprocess.run(
        ["git", "-C", str(package), "describe", "--always", "--dirty=+", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip()
