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


class _Below:
    """An attribute of a folder: the path of a file or folder in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: _Folder, owner: type) -> Path:
        return folder.path / self.name


@dataclass(frozen=True, init=False)
class _Folder:
    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", Path(path))


class RunFolder(_Folder):
    """The paths of `target/runs/<trial_key>/`, the folder of one training run of the target."""

    config_file = _Below("config.yaml")  # complete: the run can be trained again from it
    record_file = _Below("run.json")  # the run's state: its config's key, status, steps, losses
    log_file = _Below("log.jsonl")  # losses and speed by step, a JSON object on each line
    checkpoints = _Below("checkpoints")  # that an interrupted run continues from, a folder each
    weights_file = _Below("weights.safetensors")  # that the deciding loss is of: raw or averaged

    def samples_file(self, step: int) -> Path:
        """The picture of samples that was drawn after `step` steps."""
        return self.path / "samples" / f"{step}.png"


class ResultsFolder(_Folder):
    """The paths of `results/<sweep>/`, which users' scripts rely on."""

    sweep_file = _Below("sweep.yaml")  # the complete config of the sweep as it was run
    design_file = _Below("design.json")  # the points asked so far by a design without a grid
    check_file = _Below("check.json")  # the coordinate checks of the sweep's arms
    estimates_file = _Below("estimates.json")  # what `fit` wrote
    transfer_file = _Below("transfer.json")  # the transferred values that `transfer` wrote
    target_file = _Below("target.yaml")  # the config of the target
    groups_file = _Below("target_groups.json")  # its parameters' factors, for other code bases
    exports = _Below("exports")  # the target's values in the formats of other trainers
    target = _Below("target")  # the target's own rows, which test the prediction, never fitted
    realised_file = _Below("target/realised.json")  # the transferred value's regret by those rows
    timing_file = _Below("timing.json")  # the seconds that each part of `hptransfer run` took
    log_file = _Below("log.jsonl")  # what happened in the sweep and when, a JSON event a line
    figures = _Below("figures")  # the pictures
    report_file = _Below("report.html")  # the page that `report` wrote

    def estimates_by(self, metric: Metric) -> Path:
        """The estimates that `fit` wrote when it judged rows by a metric."""
        name = f"estimates-{metric.name}.json"
        return self.estimates_file if metric is LOSS else self.path / name

    def figures_by(self, metric: Metric) -> Path:
        """The folder of the pictures of the estimates by a metric."""
        return self.figures if metric is LOSS else self.figures / metric.name

    def run(self, trial_key: str) -> RunFolder:
        """The folder of the training run that gave one of the target's rows."""
        return RunFolder(self.target / "runs" / trial_key)

    def weights_file(self, trial_key: str) -> Path:
        """The trained weights of one of the target's rows."""
        return self.run(trial_key).weights_file

    def replayed_weights(self, trial_key: str) -> Path:
        """The weights of a recorded trial that was trained again; its config lies beside them."""
        return self.path / "trials" / f"{trial_key}.safetensors"


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
            f"--results is the folder in which a NAME is looked up, but {path} is a path that "
            f"lies outside {root}. Leave --results out, or give the name of a folder in it."
        )
    folder = ResultsFolder(path)
    if not folder.sweep_file.is_file():
        raise UserError(
            f"A results folder must hold a sweep.yaml, but {path} does not. Run `hptransfer sweep` "
            "first, or name the folder it printed."
        )
    require_links_inside(path)
    return folder


def trial_folder(folder: str | Path, key: str) -> Path:
    """Return the folder of a trial that a trainer of the user's own runs, below its ledger's."""
    return Path(folder) / "trials" / key


LOG_FILE = "log.txt"  # what the processes of such a trial printed, in its folder


def trial_log(folder: ResultsFolder, prefix: str) -> Path:
    """Return the log of the trial whose key begins with `prefix`.

    Raises:
        UserError: no trial with a log has such a key, or several have.
    """
    logs = sorted(
        path
        for home in (folder.path, folder.target)
        for path in (home / "trials").glob(f"*/{LOG_FILE}")
        if path.parent.name.startswith(prefix)
    )
    if len(logs) == 1:
        require_links_inside(logs[0].parent)
        return logs[0]
    keys = ", ".join(path.parent.name for path in logs[:3])
    found = f"{len(logs)} do ({keys}{', ...' if len(logs) > 3 else ''})" if logs else "none does"
    raise UserError(
        f"The key must be the beginning of the key of one trial that has a log in {folder.path}, "
        f"but of {prefix!r} {found}. `hptransfer status {folder.path} --export rows.csv` lists "
        "the keys; only trials of your own trainer have logs."
    )


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
            f"{path} is not as hptransfer wrote it (a JSON object with {key!r}). Delete it and "
            "run `hptransfer run`, or the command that makes it, again; finished trials are not "
            "affected."
        ) from None
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as strict JSON, whole or not at all; NaN or infinity in it is a ValueError."""
    write_text(Path(path), json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
