"""The steps of the main job, each on a results folder: check, sweep, fit, transfer, realise, draw.

Every step can be run again: what is recorded is not done twice, what is derived is made anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hptransfer import results
from hptransfer.answers import asked_conditions, estimated, table_of, wanted_rows
from hptransfer.compose import Composed, checked_name, compose_file, sweep_config
from hptransfer.config import TrialConfig
from hptransfer.disk import write_text
from hptransfer.errors import UserError
from hptransfer.identity import canonical, trial_key
from hptransfer.imported_target import transfer_imported
from hptransfer.interruption import end_if_asked
from hptransfer.jobs import Job
from hptransfer.ledger import LedgerWriter, write_curve
from hptransfer.ledger_rows import row, rows_in
from hptransfer.ledger_table import conditions
from hptransfer.questions import SweepConfig, hps, hyperparameter, with_hyperparameters
from hptransfer.realising import realised_answer, with_realised
from hptransfer.results import ImportedFacts, ResultsFolder
from hptransfer.running import run_trials
from hptransfer.sweep import check_target, realised
from hptransfer.vocabulary import Status
from hptransfer.yaml_files import read_mapping

if TYPE_CHECKING:
    from hptransfer.samplers import SamplerConfig


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
    from hptransfer import emit
    from hptransfer.analysis.transferred import transferred
    from hptransfer.exports import write_exports

    facts = results.read_facts(folder)
    if isinstance(facts, ImportedFacts):
        return transfer_imported(folder, facts, overrides, config_dir, step=step)
    recorded = compose_file(folder.sweep_file, [], as_run=True)
    asked = sweep_config(recorded)
    target, composed = _target(folder, recorded, asked, list(overrides), config_dir)
    check_target(asked, target, composed.tree["transfer"]["allow"])
    table = table_of(wanted_rows(folder, facts), folder.path)
    at, _ = asked_conditions(facts, step)
    facts = dataclasses.replace(facts, target_width=target.model.width)
    estimates = estimated(facts, table, at=at, target_at=conditions(canonical(target)))
    answer = transferred(estimates, target.parametrization.scaling.value)
    trial = with_hyperparameters(target, answer.point)
    record = emit.transfer_record(asked, table, answer, trial)
    write_text(folder.target_file, emit.target_yaml(composed, asked.name, trial, record))
    write_text(folder.groups_file, emit.parameter_table_text(trial))
    exported = write_exports(folder.exports, trial)
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
                f"A transfer needs a target, but {folder.sweep_file} names none. Say which, e.g. "
                "model.width=1152."
            )
        return asked.target, recorded
    overrides = [override.removeprefix("sweep.target.") for override in overrides]
    for override in overrides:
        key = override.split("=")[0]
        if key.split(".")[0] in ("sweep", "search", "name", "verdict"):
            raise UserError(
                f"`hptransfer transfer` takes overrides of the target run, but got {override!r}. "
                "Give it to `hptransfer sweep` or `hptransfer fit`."
            )
        if key in [_field_of(name, asked) for name, _ in asked.search]:
            raise UserError(
                f"`{key}` is what the sweep transfers, so it cannot be set here, but got "
                f"{override!r}. Override it in `hptransfer train`."
            )
    tree = read_mapping(folder.sweep_file)
    laid_over = [
        f"{group}.{key}={value}"
        for group, part in tree["sweep"]["target"].items()
        if isinstance(part, dict) and not any(o.startswith(f"{group}=") for o in overrides)
        for key, value in part.items()
    ]
    composed = compose_file(
        folder.sweep_file, [*laid_over, *overrides], config_dir=config_dir, as_run=True
    )
    return composed.trial, composed


def _field_of(name: str, asked: SweepConfig) -> str:
    hp = hyperparameter(name, asked.base.objective)
    return f"{hp.group}.{hp.field}"


def realise(job: Job, record: dict[str, Any]) -> dict[str, Any] | None:
    """Train the target at the transferred value and around it; say what the value really cost."""
    point = {hp: value["value"] for hp, value in record["hps"].items()}
    target = compose_file(job.folder.target_file, [], as_run=True).trial
    run_trials(job, job.folder.target, realised(job.sweep, target, point))
    with_realised(job.folder, record)
    return realised_answer(job.folder, record)


def train(
    path: Path, overrides: Sequence[str], *, config_dir: Path | None, root: Path
) -> dict[str, Any]:
    """Train one config; keep its weights, and its row in the target's ledger of its results folder.

    Where both are there nothing is trained; where only the row is, the trial runs again for its
    weights and the row stays.
    """
    from hptransfer.trial import train_trial
    from hptransfer.weights import save_weights

    composed, folder, axes = trained_at(path, overrides, config_dir=config_dir, root=root)
    key = trial_key(composed.trial)
    weights_file = folder.weights_file(key)
    with LedgerWriter(folder.target) as writer:
        known = next((r for r in rows_in(folder.target) if r["trial_key"] == key), None)
        if known and (weights_file.is_file() or known["status"] != Status.completed.value):
            return _answer(known, weights_file, recorded_before=True)
        result, weights = train_trial(
            composed.trial, composed.runtime, lambda report: end_if_asked()
        )
        if result.status is Status.completed:
            save_weights(weights_file, composed.trial, weights)
        fresh = row(result, hps(composed.trial, axes), results.provenance())
        if known is None:
            write_curve(folder.target, key, result.curve)
            writer.append([fresh])
    return _answer(fresh, weights_file, recorded_before=known is not None)


def trained_at(
    path: Path, overrides: Sequence[str], *, config_dir: Path | None, root: Path
) -> tuple[Composed, ResultsFolder, tuple[str, ...]]:
    """Return a trainable config, its results folder and the searched axes its rows name.

    The folder is the file's own, or `root`/<name> for a file that lies elsewhere.
    """
    if "imported" in read_mapping(path):
        raise UserError(
            f"{path} holds values for another program's model, which hptransfer cannot train. Use "
            "them there, or transfer to one of our models with model=."
        )
    composed = compose_file(path, list(overrides), config_dir=config_dir, as_run=True)
    if composed.tree.get("search"):
        raise UserError(
            f"{path} asks a question (it has `search` axes), so it is swept and not trained. Run "
            f"`hptransfer sweep {path}`, or train the target.yaml that `transfer` writes."
        )
    own = ResultsFolder(path.parent)
    if own.sweep_file.is_file():
        return composed, own, results.read_facts(own).axes
    return composed, ResultsFolder(root / checked_name(composed.name)), ("log2_lr",)


def _answer(row: dict[str, Any], weights_file: Path, *, recorded_before: bool) -> dict[str, Any]:
    return {
        "trial_key": row["trial_key"],
        "status": row["status"],
        "loss": row["loss"],
        "diverged_at_step": row["diverged_at_step"],
        "seconds": round(row["cost"]["seconds"], 2),
        "recorded_before": recorded_before,
        "weights": str(weights_file) if weights_file.is_file() else None,
    }


def draw(
    path: Path,
    overrides: Sequence[str],
    *,
    config_dir: Path | None,
    root: Path,
    weights: Path | None,
    sampler: SamplerConfig,
    columns: int,
    seed: int,
) -> Path:
    """Draw samples of a trained config; return the picture, or the array where data is latent.

    The file is named after the weights and how they were sampled.
    """
    from hptransfer.figures.samples import draw_samples, samples_data
    from hptransfer.generate import generate

    if columns < 1:
        raise UserError(f"--columns must be positive, but got {columns}.")
    composed, folder, _ = trained_at(path, overrides, config_dir=config_dir, root=root)
    key = trial_key(composed.trial)
    kept = folder.weights_file(key) if weights is None else weights
    if weights is None and not kept.is_file():
        raise UserError(
            f"Samples need trained weights, but there are none at {kept}. Run `hptransfer train "
            f"{path}` first, with the same overrides, or name a file with --weights."
        )
    drawn = generate(composed.trial, kept, sampler, composed.runtime, columns=columns, seed=seed)
    how = f"steps{sampler.steps}-guidance{sampler.guidance:g}-seed{seed}"
    picture = folder.target / "samples" / f"{kept.stem}-{how}.png"
    if composed.trial.data.layout.channels in (1, 3):
        draw_samples(picture, samples_data(drawn))
        return picture
    picture.parent.mkdir(parents=True, exist_ok=True)
    np.save(picture.with_suffix(".npy"), drawn)  # latents: an autoencoder makes images of them
    return picture.with_suffix(".npy")
