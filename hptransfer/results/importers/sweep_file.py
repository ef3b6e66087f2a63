"""The sweep.yaml of an imported folder: derived from the folder's rows, and its overrides.

An imported folder has no trial that could be composed or trained again, so Hydra is not used.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any

import yaml

from hptransfer.config.sweep import VerdictConfig
from hptransfer.errors import UserError, abbreviate
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.ledger_rows import iterate_ledger_rows
from hptransfer.system.files import write_text
from hptransfer.system.safe_yaml import read_mapping

MOST_LISTED = 2000  # values of an axis that sweep.yaml lists; of more values it lists the ends
LONGEST_NAME = 200  # characters of a file's or column's name in sweep.yaml
_TARGET = {
    f"sweep.target.{key}": ("sweep", "target", *key.split("."))
    for key in ("model.width", "model.depth", "budget.steps", "budget.batch_size")
}
_VERDICT = {f"verdict.{f.name}": ("verdict", f.name) for f in fields(VerdictConfig)}
OVERRIDABLE: Mapping[str, tuple[str, ...]] = {**_TARGET, **_VERDICT}
QUESTION = (
    "Does the optimum of these rows, which another program made, stay where it is over width?"
)
STATISTIC = (
    "Drift of the optimum in octaves per width doubling with its 90 % interval, and the regret of "
    "the transferred value at the target; decided by the verdict rule."
)


@dataclass
class RowSurvey:
    """The values that the rows of a folder have on each axis, and the files they came from."""

    rows: int = 0
    widths: set[int] = field(default_factory=set)
    seeds: set[int] = field(default_factory=set)
    arms: set[str] = field(default_factory=set)
    points: dict[str, set[float]] = field(default_factory=dict)  # log2_<hp> -> its values
    files: dict[str, Mapping[str, str]] = field(default_factory=dict)  # file -> column sources

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the values of a row."""
        self.rows += 1
        self.widths.add(row["width"])
        self.seeds.add(row["seed"])
        self.arms.add(row["parametrization"])
        for name, value in row["hps"].items():
            self.points.setdefault(name, set()).add(value)

    def add_file(self, name: str, columns: Mapping[str, str]) -> None:
        """Add a file and the sources of our columns in it."""
        self.files[_plain(name)] = {ours: _plain(theirs) for ours, theirs in columns.items()}

    def add_recorded_files(self, folder: ResultsFolder) -> None:
        """Add the files that a folder's sweep.yaml names."""
        if folder.sweep_file.is_file():
            recorded = read_mapping(folder.sweep_file).get("imported")
            if isinstance(recorded, dict):
                self.files = {**(recorded.get("files") or {}), **self.files}


def derive_sweep_file(folder: ResultsFolder) -> None:
    """Derive an imported folder's sweep.yaml again from its rows."""
    survey = RowSurvey()
    for row in iterate_ledger_rows(folder.path):
        survey.add(row)
    survey.add_recorded_files(folder)
    write_sweep_file(folder, survey)


def write_sweep_file(folder: ResultsFolder, survey: RowSurvey) -> None:
    """Write sweep.yaml with the rows' values; its name, question, target and verdict stay."""
    kept: Mapping[str, Any] = {}
    if folder.sweep_file.is_file():
        kept = read_mapping(folder.sweep_file)
    tree = {
        "name": kept.get("name", _plain(folder.path.absolute().name)),
        "question": kept.get("question", QUESTION),
        "statistic": kept.get("statistic", STATISTIC),
        "imported": {
            "rows": survey.rows,
            "files": {name: dict(columns) for name, columns in sorted(survey.files.items())},
        },
        "sweep": {
            "widths": _listed(survey.widths),
            "parametrizations": sorted(survey.arms - {"shared"}),
            "seeds": _listed(survey.seeds),
            "target": (kept.get("sweep") or {}).get("target") or {},
        },
        "search": {
            name.removeprefix("log2_"): {"points": _listed(values)}
            for name, values in sorted(survey.points.items())
        },
        "verdict": kept.get("verdict") or {},
    }
    write_text(folder.sweep_file, sweep_file_text(tree))


def _plain(text: str) -> str:
    """Return a text without what a config would look up, unprintable characters, and its end."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable.replace("${", "$(").replace("???", "??")[:LONGEST_NAME]


def sweep_file_text(tree: Mapping[str, Any]) -> str:
    """Return an imported folder's sweep.yaml as text."""
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=96)


def _listed(values: set[Any]) -> list[Any]:
    ordered = sorted(values)
    return ordered if len(ordered) <= MOST_LISTED else [ordered[0], ordered[-1]]


def overridden(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return an imported folder's tree with overrides of its target and verdict.

    Raises:
        UserError: another key, or a value that is no number.
    """
    changed = deepcopy(dict(tree))
    for override in overrides:
        key, equals, text = override.partition("=")
        path = OVERRIDABLE.get(key.strip().lstrip("+"))
        if path is None or not equals:
            near = difflib.get_close_matches(key, OVERRIDABLE, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else ""
            raise UserError(
                f"Of imported rows the target and the verdict's rule can be set "
                f"({', '.join(OVERRIDABLE)}), but got {abbreviate(override)}. {hint}".rstrip()
            )
        level = changed
        for name in path[:-1]:
            level[name] = dict(level.get(name) or {})
            level = level[name]
        level[path[-1]] = _value(key, text.strip())
    return changed


def _value(key: str, text: str) -> int | float | None:
    if text == "null" and (key.startswith("verdict.") or key != "sweep.target.model.width"):
        return None
    whole = key.startswith("sweep.")
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = None
    if value is None or (whole and value < 1):
        kind = "a positive whole number" if whole else "a number"
        raise UserError(f"`{key}` must be {kind}, but got {abbreviate(text)}.")
    return value
