"""The sweep.yaml of an imported folder: derived from the folder's rows, and its overrides.

An imported folder has no trial that could be composed or trained again, so Hydra is not used.
"""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
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
OPTIMA_STATISTIC = (
    "Drift of the optimum in octaves per width doubling with its 90 % interval, by the optima of a "
    "table with their errors; what a value costs is not known."
)


def derive_sweep_file(
    folder: ResultsFolder,
    files: Mapping[str, Mapping[str, str]],
    *,
    repeats_are_seeds: bool = False,
) -> None:
    """Derive an imported folder's sweep.yaml from its rows; its name, question and target stay.

    Args:
        files: files that rows were imported from now, each with the sources of our columns.
        repeats_are_seeds: whether several losses of one trial were counted as seeds.
    """
    rows, widths, seeds, arms = 0, set[int](), set[int](), set[str]()
    points: defaultdict[str, set[float]] = defaultdict(set)  # axis -> its values; -inf: off
    for row in iterate_ledger_rows(folder.path):
        rows += 1
        widths.add(row["width"])
        seeds.add(row["seed"])
        arms.add(row["parametrization"])
        for name, value in row["hps"].items():
            points[name].add(-math.inf if value is None else value)
    kept = read_mapping(folder.sweep_file) if folder.sweep_file.is_file() else {}
    recorded = kept.get("imported")
    sources = dict((recorded.get("files") if isinstance(recorded, dict) else None) or {})
    for name, columns in files.items():
        sources[_plain(name)] = {ours: _plain(theirs) for ours, theirs in columns.items()}
    was_so = isinstance(recorded, dict) and recorded.get("repeats") == "seeds"
    repeats = {"repeats": "seeds"} if repeats_are_seeds or was_so else {}
    tree = {
        "name": kept.get("name", _plain(folder.path.absolute().name)),
        "question": kept.get("question", QUESTION),
        "statistic": kept.get("statistic", STATISTIC),
        "imported": {"rows": rows, "files": dict(sorted(sources.items())), **repeats},
        "sweep": {
            "widths": _listed(widths),
            "parametrizations": sorted(arms - {"shared"}),
            "seeds": _listed(seeds),
            "target": (kept.get("sweep") or {}).get("target") or {},
        },
        "search": {
            name.removeprefix("log2_"): _axis_entry(name, values)
            for name, values in sorted(points.items())
        },
        "verdict": kept.get("verdict") or {},
    }
    write_text(folder.sweep_file, sweep_file_text(tree))


def read_given_optima(folder: ResultsFolder) -> list[dict[str, Any]]:
    """Return the optima of a folder that holds a table of them, not trials; else none."""
    tree = read_mapping(folder.sweep_file) if folder.sweep_file.is_file() else {}
    imported = tree.get("imported")
    return list((imported.get("optima") if isinstance(imported, dict) else None) or [])


def derive_optima_file(
    folder: ResultsFolder,
    files: Mapping[str, Mapping[str, str]],
    added: Sequence[Mapping[str, Any]],
) -> None:
    """Derive the sweep.yaml of a folder of optima; its name, question and target stay.

    Args:
        files: files that optima were imported from now, each with the sources of our columns.
        added: optima that the folder has not yet.
    """
    kept = read_mapping(folder.sweep_file) if folder.sweep_file.is_file() else {}
    sources = dict((kept.get("imported") or {}).get("files") or {})
    for name, columns in files.items():
        sources[_plain(name)] = {ours: _plain(theirs) for ours, theirs in columns.items()}
    optima = sorted([*read_given_optima(folder), *map(dict, added)], key=str)
    axis = optima[0]["axis"]
    tree = {
        "name": kept.get("name", _plain(folder.path.absolute().name)),
        "question": kept.get("question", QUESTION),
        "statistic": kept.get("statistic", OPTIMA_STATISTIC),
        "imported": {"rows": 0, "files": dict(sorted(sources.items())), "optima": optima},
        "sweep": {
            "widths": _listed({each["width"] for each in optima}),
            "parametrizations": sorted({each["parametrization"] for each in optima} - {"shared"}),
            "seeds": [],
            "target": (kept.get("sweep") or {}).get("target") or {},
        },
        "search": {
            axis.removeprefix("log2_"): _axis_entry(axis, {each["optimum"] for each in optima})
        },
        "verdict": kept.get("verdict") or {},
    }
    write_text(folder.sweep_file, sweep_file_text(tree))


def _axis_entry(name: str, values: set[float]) -> dict[str, Any]:
    """Return the points of an axis; null is a hyperparameter that is off."""
    listed = [value if math.isfinite(value) else None for value in _listed(values)]
    return {"points": listed} if name.startswith("log2_") else {"points": listed, "linear": True}


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
