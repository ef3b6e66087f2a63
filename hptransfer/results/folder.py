"""The paths of all files in a sweep's results folder, and its JSON files read and written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError
from hptransfer.results.metrics import LOSS, Metric
from hptransfer.system.files import require_links_inside, write_text

DEFAULT_ROOT = Path("results")  # the folder of results folders


@dataclass(frozen=True, init=False)
class RunFolder:
    """The paths of `target/runs/<trial_key>/`, the folder of one training run of the target."""

    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", Path(path))

    @property
    def config_file(self) -> Path:
        """The run's complete config, from which it can be trained again."""
        return self.path / "config.yaml"

    @property
    def record_file(self) -> Path:
        """The state of the run: its config's key, status, steps done and losses."""
        return self.path / "run.json"

    @property
    def log_file(self) -> Path:
        """Losses and speed by step, a JSON object on each line."""
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints that an interrupted run continues from, a folder each."""
        return self.path / "checkpoints"

    @property
    def weights_file(self) -> Path:
        """The weights after the last step that the deciding loss is of: raw or their average."""
        return self.path / "weights.safetensors"

    def samples_file(self, step: int) -> Path:
        """The picture of samples that was drawn after `step` steps."""
        return self.path / "samples" / f"{step}.png"


@dataclass(frozen=True, init=False)
class ResultsFolder:
    """The paths of `results/<sweep>/`, which users' scripts rely on."""

    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", Path(path))

    @property
    def sweep_file(self) -> Path:
        """The complete config of the sweep as it was run."""
        return self.path / "sweep.yaml"

    @property
    def design_file(self) -> Path:
        """The points that were asked so far by a design without a grid."""
        return self.path / "design.json"

    @property
    def check_file(self) -> Path:
        """The coordinate checks of the sweep's arms."""
        return self.path / "check.json"

    @property
    def estimates_file(self) -> Path:
        """The estimates that `fit` wrote."""
        return self.path / "estimates.json"

    def estimates_by(self, metric: Metric) -> Path:
        """The estimates that `fit` wrote when it judged rows by a metric."""
        return (
            self.estimates_file if metric is LOSS else self.path / f"estimates-{metric.name}.json"
        )

    @property
    def transfer_file(self) -> Path:
        """The transferred values that `transfer` wrote."""
        return self.path / "transfer.json"

    @property
    def target_file(self) -> Path:
        """The config of the target."""
        return self.path / "target.yaml"

    @property
    def groups_file(self) -> Path:
        """The target's parameters with their factors, for other code bases."""
        return self.path / "target_groups.json"

    @property
    def exports(self) -> Path:
        """The folder with the target's values in the formats of other trainers."""
        return self.path / "exports"

    @property
    def target(self) -> Path:
        """The folder of the target's own rows, which test the prediction and are never fitted."""
        return self.path / "target"

    def run(self, trial_key: str) -> RunFolder:
        """The folder of the training run that gave one of the target's rows."""
        return RunFolder(self.target / "runs" / trial_key)

    def weights_file(self, trial_key: str) -> Path:
        """The trained weights of one of the target's rows."""
        return self.run(trial_key).weights_file

    def replayed_weights(self, trial_key: str) -> Path:
        """The weights of a recorded trial that was trained again; its config lies beside them."""
        return self.path / "trials" / f"{trial_key}.safetensors"

    @property
    def realised_file(self) -> Path:
        """The regret that the target's own rows show for the transferred value."""
        return self.target / "realised.json"

    @property
    def timing_file(self) -> Path:
        """The seconds that each part of `hptransfer run` took."""
        return self.path / "timing.json"

    @property
    def figures(self) -> Path:
        """The folder of the pictures."""
        return self.path / "figures"

    def figures_by(self, metric: Metric) -> Path:
        """The folder of the pictures of the estimates by a metric."""
        return self.figures if metric is LOSS else self.figures / metric.name

    @property
    def report_file(self) -> Path:
        """The HTML page that `report` wrote."""
        return self.path / "report.html"


def find_folder(path: str | Path, root: str | Path = DEFAULT_ROOT) -> ResultsFolder:
    """Return the results folder of a sweep, named by its path or by the sweep's name in `root`.

    Raises:
        UserError: there is no such folder or it holds no sweep.yaml, a link leads out of it, or it
            is a path outside a `root` that was named.
    """
    path, root = Path(path), Path(root)
    is_named = root != DEFAULT_ROOT  # and so comes before a path that happens to be there
    if (root / path).exists() and (is_named or not path.exists()):
        path = root / path
    if is_named and path.exists() and not path.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"--results is the folder in which a name is looked up, but {path} is a path that lies "
            f"outside {root}. Leave --results out, or give the name of a folder in it."
        )
    folder = ResultsFolder(path)
    if not folder.sweep_file.is_file():
        raise UserError(
            f"A results folder must hold a sweep.yaml, but {path} does not. Run `hptransfer sweep` "
            "first, or name the folder it printed."
        )
    require_links_inside(path)
    return folder


def read_json(path: str | Path, key: str) -> dict[str, Any] | None:
    """Read a JSON object that must hold `key`; None where there is no file.

    Raises:
        UserError: the file is not JSON, or does not hold the key.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        value[key]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, IndexError):
        raise UserError(
            f"{path} is not as hptransfer wrote it (a JSON object with {key!r}). Delete it and run "
            "`hptransfer run` or the command that makes it again; the ledger is untouched."
        ) from None
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as strict JSON, whole or not at all; NaN or infinity in it is a ValueError."""
    write_text(Path(path), json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
