"""A sweep's results folder: which files it holds, read and written without torch, Ray or Hydra."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError
from hptransfer.results.metrics import LOSS, Metric
from hptransfer.system.files import require_links_inside, write_text


@dataclass(frozen=True)
class RunFolder:
    """Paths of `target/runs/<trial_key>/`: all that one training run leaves."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The run's complete config, which trains again as it is."""
        return self.path / "config.yaml"

    @property
    def record_file(self) -> Path:
        """What the run is and how far it came."""
        return self.path / "run.json"

    @property
    def log_file(self) -> Path:
        """Losses and speed by step, a JSON object a line."""
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Where an interrupted run goes on, a folder each."""
        return self.path / "checkpoints"

    @property
    def weights_file(self) -> Path:
        """The deciding weights at the end."""
        return self.path / "weights.safetensors"

    def samples_file(self, step: int) -> Path:
        """The grid of samples after so many steps."""
        return self.path / "samples" / f"{step}.png"


@dataclass(frozen=True)
class ResultsFolder:
    """Paths of `results/<sweep>/`, which users script against."""

    path: Path

    @property
    def sweep_file(self) -> Path:
        """The sweep as run: a complete config."""
        return self.path / "sweep.yaml"

    @property
    def design_file(self) -> Path:
        """The points asked so far, where they are no grid."""
        return self.path / "design.json"

    @property
    def check_file(self) -> Path:
        """The coordinate checks of the sweep's arms."""
        return self.path / "check.json"

    @property
    def estimates_file(self) -> Path:
        """What `fit` found."""
        return self.path / "estimates.json"

    def estimates_by(self, metric: Metric) -> Path:
        """What `fit` found when it judged rows by a metric."""
        return (
            self.estimates_file if metric is LOSS else self.path / f"estimates-{metric.name}.json"
        )

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
    def exports(self) -> Path:
        """The target's values for other trainers."""
        return self.path / "exports"

    @property
    def target(self) -> Path:
        """The target's own rows; never fitted, since they would contaminate the prediction."""
        return self.path / "target"

    def run(self, trial_key: str) -> RunFolder:
        """What the training of one of the target's rows left."""
        return RunFolder(self.target / "runs" / trial_key)

    def weights_file(self, trial_key: str) -> Path:
        """The trained weights of one of the target's rows."""
        return self.run(trial_key).weights_file

    def replayed_weights(self, trial_key: str) -> Path:
        """The weights of a recorded trial that was trained again; its config lies beside them."""
        return self.path / "trials" / f"{trial_key}.safetensors"

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

    def figures_by(self, metric: Metric) -> Path:
        """The pictures of what a metric gave."""
        return self.figures if metric is LOSS else self.figures / metric.name

    @property
    def report_file(self) -> Path:
        """The report."""
        return self.path / "report.html"


def find_folder(path: Path, root: Path | None = None) -> ResultsFolder:
    """Return a results folder that holds a sweep, or say that it does not.

    It is named by its path, or by its sweep's name in `root`.
    """
    if root is not None and not path.exists() and (root / path).exists():
        path = root / path
    folder = ResultsFolder(path)
    if not folder.sweep_file.is_file():
        raise UserError(
            f"A results folder must hold a sweep.yaml, but {path} does not. Run `hptransfer sweep` "
            "first, or name the folder it printed."
        )
    require_links_inside(path)
    return folder


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
