"""The target run of a trainer that is not ours: its command or call with the values filled in."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hptransfer.analysis.of_folder import asked_conditions
from hptransfer.analysis.target_rows import with_realised
from hptransfer.config.compose.compose import compose_file, sweep_config
from hptransfer.config.external import ExternalTrial
from hptransfer.config.identity import trial_key, with_scaling
from hptransfer.config.sweep import CONDITIONS, ExternalSweep
from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.sweep_file import SweepFacts, facts_of
from hptransfer.sweeping.design.trials import check_target
from hptransfer.system.files import write_text
from hptransfer.system.text import rounded
from hptransfer.training.external.run import told_trial
from hptransfer.training.external.trial import VARIABLE
from hptransfer.transfer.emit import provenance_lines
from hptransfer.transfer.imported import (
    answer_of,
    choice_of_arm,
    default_arm,
    record_of,
    table_for,
)


def transfer_external(
    folder: ResultsFolder, facts: SweepFacts, overrides: Sequence[str], *, step: int | None
) -> dict[str, Any]:
    """Write the values for the target and how it is started; return the transfer record.

    Args:
        overrides: of the target, such as `width=8192` or a value of `fixed`; also
            `parametrization=`, where the sweep has several.
    """
    words = [_of_target(word) for word in overrides]
    named = next((w.partition("=")[2] for w in words if w.startswith(ARM_KEY)), None)
    asked = [word for word in words if not word.startswith(ARM_KEY)]
    composed = compose_file(folder.sweep_file, asked)
    sweep = sweep_config(composed)
    assert isinstance(sweep, ExternalSweep)
    if sweep.target is None:
        raise UserError(
            f"A transfer needs the target's width, but {folder.sweep_file} names none. Give it, "
            "for example width=8192."
        )
    target = sweep.target
    check_target(sweep, target)
    facts = facts_of(composed.tree, name=facts.name, design=facts.design)
    table = table_for(folder, facts, target.model.width)
    label = named or default_arm(table)
    arms = {arm.value: arm for arm in sweep.parametrizations}
    if label not in arms:
        raise UserError(
            f"`parametrization` must be one of the sweep ({', '.join(arms)}), but got {label}."
        )
    _, target_at = asked_conditions(facts)
    answer = answer_of(facts, table, label, target_at, step)
    apart = differences(sweep, target)
    record = record_of(table, answer, apart, target_flops=None)
    record["warnings"] += [] if named else choice_of_arm(table, label)
    trial = with_scaling(target, arms[label]).with_hps(_rounded(answer.point))
    record["target"] = {
        "family": trial.model.family,
        "width": trial.model.width,
        "params": None,
        "parametrization": label,
        "config": trial.canonical(),
        "conditions": target_at,
        "start": start_text(trial, folder),
    }
    write_text(folder.target_file, _values_yaml(facts.name, trial, record))
    starter = folder.path / ("target.sh" if trial.trainer.command else "target.py")
    write_text(starter, _starter_text(facts.name, trial, record, folder))
    written = [folder.target_file, starter, folder.transfer_file]
    if trial.trainer.command:
        told = told_trial(trial, _home(folder), ("localhost",))
        write_text(_trial_file(folder), json.dumps(told, indent=1) + "\n")
        written.append(_trial_file(folder))
    record["files"] = [str(path) for path in written]
    return with_realised(folder, record)


def _rounded(point: Mapping[str, float]) -> dict[str, float]:
    """Return a point whose hyperparameters have four digits: no sweep tells more of them."""
    return {axis: math.log2(float(f"{2.0**value:.4g}")) for axis, value in point.items()}


ARM_KEY = "sweep.target.parametrization="


def _of_target(word: str) -> str:
    key = word.partition("=")[0]
    if key.split(".")[0] in ("sweep", "search", "name", "verdict", "executor", "train"):
        if key.startswith("sweep.target."):
            return word
        raise UserError(
            f"`hptransfer transfer` takes changes of the target run, but got {word!r}. Give it to "
            "`hptransfer sweep` or `hptransfer fit`."
        )
    return f"sweep.target.{word.removeprefix('fixed.').removeprefix('model.')}"


def differences(sweep: ExternalSweep, target: ExternalTrial) -> list[str]:
    """Say in which fixed values that were not varied the target differs from the proxies."""
    of_proxy, of_target = dict(sweep.base.fixed), dict(target.fixed)
    varied = {name for name in CONDITIONS if getattr(sweep.vary, name)}
    return [
        f"{name} is {wanted} at the target and {of_proxy[name]} at the proxies"
        f"{_ratio(wanted, of_proxy[name])}"
        for name, wanted in of_target.items()
        if wanted != of_proxy[name] and name not in varied
    ]


def _ratio(target: Any, proxy: Any) -> str:
    both = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (target, proxy))
    return f" ({rounded(target / proxy, 3)} times)" if both and proxy else ""


def _home(folder: ResultsFolder) -> Path:
    """Return the folder of the target's trial."""
    return folder.path / "target" / "run"


def _trial_file(folder: ResultsFolder) -> Path:
    """Return the file that tells a command of its trial, as `trial.json` does in a sweep."""
    return folder.path / "target.json"


def start_text(trial: ExternalTrial, folder: ResultsFolder) -> str:
    """Return how the target is started: the command as one line, or the call of the function."""
    home = _home(folder)
    if trial.trainer.command:
        told = {"folder": home, "trial_key": trial_key(trial), "hosts": "localhost"}
        line = shlex.join(trial.trainer.command_words({**trial.told(), **told}))
        if "width" in trial.trainer.placeholders:
            return line
        return f"{VARIABLE}={shlex.quote(str(_trial_file(folder)))} {line}"
    told = trial.told()
    fields = {
        **{k: told[k] for k in ("width", "base_width", "depth", "seed", "parametrization")},
        "hps": {name: float(f"{value:.9g}") for name, value in trial.values.items()},
        "fixed": dict(trial.fixed),
    }
    listed = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    name = trial.trainer.function.partition(":")[2]
    return f"{name}(Trial({listed}, folder=Path({str(home)!r}), trial_key={trial_key(trial)!r}))"


def _starter_text(
    name: str, trial: ExternalTrial, record: Mapping[str, Any], folder: ResultsFolder
) -> str:
    """Return the text of `target.sh` or `target.py`."""
    lines = [f"The target run of the sweep {name}.", *provenance_lines(record)]
    comment = "".join(f"# {line}\n" for line in lines)
    start, home = record["target"]["start"], str(_home(folder))
    if trial.trainer.command:
        told = f"export {VARIABLE}={shlex.quote(str(_trial_file(folder)))}\n"
        made = f"mkdir -p {shlex.quote(home)}\n"
        return f"#!/usr/bin/env bash\n{comment}set -euo pipefail\n{told}{made}{start}\n"
    module, _, function = trial.trainer.function.partition(":")
    if module == "__main__" or "<" in function:  # of a notebook or a script
        call = "".join(f"# {line}\n" for line in ("Where the function is defined, call:", start))
        return f"{comment}{call}"
    return (
        f"{comment}import sys\nfrom pathlib import Path\n\n"
        'sys.path.insert(0, "")  # start this file in the folder in which the sweep was started\n\n'
        f"from {module} import {function.split('.')[0]}\n\n"
        "from hptransfer import Trial\n\n"
        f"Path({home!r}).mkdir(parents=True, exist_ok=True)\nprint({start})\n"
    )


def _values_yaml(name: str, trial: ExternalTrial, record: Mapping[str, Any]) -> str:
    """Return the target's values with where they came from."""
    lines = [
        f"The target run of the sweep {name}, for your own trainer.",
        *provenance_lines(record),
    ]
    tree = {
        "sweep": name,
        "start": record["target"]["start"],
        "target": {"width": trial.model.width, "parametrization": trial.parametrization},
        "values": trial.values,
        "log2": {name: round(value, 4) for name, value in trial.hps},
        "fixed": dict(trial.fixed),
    }
    body = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)
    return "".join(f"# {line}\n" for line in lines) + body
