"""The steps of the main job after the sweep, each on a results folder: transfer and realise.

Every step can be run again: what is recorded is not done twice, what is derived is made anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hptransfer.analysis.of_folder import asked_conditions, estimated, table_of, wanted_rows
from hptransfer.analysis.target_rows import realised_answer, with_realised
from hptransfer.config import TrialConfig
from hptransfer.config.compose.compose import Composed, compose_file, sweep_config
from hptransfer.config.external import is_external
from hptransfer.config.hyperparameters import hyperparameter, with_hyperparameters
from hptransfer.config.identity import canonical
from hptransfer.config.sweep import ExternalSweep, SweepConfig
from hptransfer.errors import UserError
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.sweep_file import ImportedFacts, read_facts
from hptransfer.results.table import conditions_of
from hptransfer.sweeping.design.trials import check_target, realised
from hptransfer.sweeping.run.driver import run_trials
from hptransfer.sweeping.run.job import Job
from hptransfer.system.files import write_text
from hptransfer.system.safe_yaml import read_mapping
from hptransfer.transfer.external import transfer_external
from hptransfer.transfer.imported import transfer_imported


def transfer(
    folder: ResultsFolder,
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
    *,
    step: int | None = None,
) -> dict[str, Any]:
    """Emit the target run's config, its parameter table and exports; return the transfer record.

    What the target's own rows say is in the record, where there are any.
    """
    from hptransfer.analysis.answer.transferred import transferred
    from hptransfer.transfer import emit
    from hptransfer.transfer.exports import write_exports

    facts = read_facts(folder)
    if isinstance(facts, ImportedFacts):
        return transfer_imported(folder, facts, overrides, config_dir, step=step)
    if is_external(facts.tree):
        return transfer_external(folder, facts, overrides, step=step)
    recorded = compose_file(folder.sweep_file, [])
    asked = sweep_config(recorded)
    target, composed = _target(folder, recorded, asked, list(overrides), config_dir)
    check_target(asked, target, composed.allow)
    table = table_of(wanted_rows(folder, facts), folder.path)
    at, _ = asked_conditions(facts, step)
    facts = dataclasses.replace(facts, target_width=target.model.width)
    estimates = estimated(facts, table, at=at, target_at=conditions_of(canonical(target)))
    answer = transferred(estimates, target.parametrization.scaling.value)
    trial = with_hyperparameters(target, answer.point)
    record = emit.transfer_record(asked, table, answer, trial)
    write_text(folder.target_file, emit.target_yaml(composed, asked.name, trial, record))
    write_text(folder.groups_file, emit.parameter_table_text(trial))
    exported = write_exports(folder.exports, trial, searched=list(answer.point))
    record["files"] = [str(path) for path in (folder.target_file, folder.groups_file, *exported)]
    return with_realised(folder, record)


def _target(
    folder: ResultsFolder,
    recorded: Composed,
    asked: SweepConfig,
    overrides: list[str],
    config_dir: Path | None,
) -> tuple[TrialConfig, Composed]:
    """Return the target before its HPs are set: overrides win over the sweep file's target."""
    if not overrides:
        if asked.target is None:
            raise UserError(
                f"A transfer needs a target, but {folder.sweep_file} names none. Name it, for "
                "example model.width=1152."
            )
        return asked.target, recorded
    overrides = [override.removeprefix("sweep.target.") for override in overrides]
    for override in overrides:
        key = override.split("=")[0]
        if key.split(".")[0] in ("sweep", "search", "name", "verdict"):
            raise UserError(
                f"`hptransfer transfer` takes changes of the target run, but got {override!r}. "
                "Give it to `hptransfer sweep` or `hptransfer fit`."
            )
        searched = [hyperparameter(name) for name, _ in asked.search]
        if key in [f"{hp.group}.{hp.field}" for hp in searched]:
            raise UserError(
                f"The sweep decides `{key}`, so it cannot be set here, but got {override!r}. Set "
                "it in `hptransfer train`."
            )
    tree = read_mapping(folder.sweep_file)
    laid_over = [
        f"{group}.{key}={value}"
        for group, part in tree["sweep"]["target"].items()
        if isinstance(part, dict) and not any(o.startswith(f"{group}=") for o in overrides)
        for key, value in part.items()
    ]
    composed = compose_file(folder.sweep_file, [*laid_over, *overrides], config_dir=config_dir)
    return composed.trial, composed


def realise(job: Job, record: dict[str, Any]) -> dict[str, Any] | None:
    """Train the target at the transferred value and around it; say what the value really cost.

    The target of a trainer that is not ours is only trained where `sweep.realise` asks for it.
    """
    point = {hp: value["value"] for hp, value in record["hps"].items()}
    if isinstance(job.sweep, ExternalSweep):
        if job.sweep.realise is None or job.sweep.target is None:
            return None
        target: Any = dataclasses.replace(
            job.sweep.target, parametrization=record["target"]["parametrization"]
        )
    else:
        target = compose_file(job.folder.target_file, []).trial
    run_trials(job, job.folder.target, realised(job.sweep, target, point))
    with_realised(job.folder, record)
    return realised_answer(job.folder, record)
