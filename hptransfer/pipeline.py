"""The steps of the main job, each on a results folder: check, sweep, fit, transfer, realise, draw.

Every step can be run again: what is recorded is not done twice, what is derived is made anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hptransfer import results
from hptransfer.compose import Composed, compose_file, sweep_config
from hptransfer.config import TrialConfig
from hptransfer.errors import UserError
from hptransfer.identity import trial_key
from hptransfer.jobs import Job, recorded_rows, run_trials
from hptransfer.ledger import LedgerWriter, write_curve
from hptransfer.ledger_rows import locate, read, row
from hptransfer.outcome import TrialResult
from hptransfer.questions import SweepConfig, with_hyperparameters
from hptransfer.results import ResultsFolder
from hptransfer.sweep import hps, packs, realised
from hptransfer.vocabulary import Scaling, Status


def status(folder: ResultsFolder) -> dict[str, Any]:
    """Count a folder's rows: wanted, recorded by status, and outside the wanted set."""
    facts = results.read_facts(folder)
    path = locate(folder.path)
    ledger = read(path) if path else None
    rows = ledger.rows if ledger else ()
    mine = [r for r in rows if facts.wants(r)]
    return {
        "sweep": facts.name,
        "folder": str(folder.path),
        "wanted": facts.wanted_count(),
        "recorded": len(mine),
        **{s.value: sum(r["status"] == s.value for r in mine) for s in Status},
        "outside": [r["trial_key"] for r in rows if not facts.wants(r)],
        "notice": ledger.notice if ledger else None,
    }


def wanted_table(folder: ResultsFolder) -> Any:
    """Return the ledger's rows that the sweep wants, as a table; others are kept, never fitted."""
    facts = results.read_facts(folder)
    return _table([r for r in recorded_rows(folder.path) if facts.wants(r)], folder.path)


def _table(rows: Sequence[dict[str, Any]], folder: Path) -> Any:
    from hptransfer.ledger_rows import table

    if not rows:
        raise UserError(f"{folder} holds no finished trial yet. Run `hptransfer sweep` first.")
    return table(rows)


def fit(folder: ResultsFolder, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Estimate optima, laws and verdicts of a folder and write estimates.json."""
    from hptransfer.analysis.estimates import estimate

    facts = results.read_facts(folder)
    if overrides:
        from hptransfer.compose import compose_file

        composed = compose_file(folder.sweep_file, list(overrides), as_run=True)
        facts = results.facts_of(composed.tree, name=facts.name)
    estimates = estimate(
        wanted_table(folder),
        sweep_name=facts.name,
        axes=facts.axes,
        target_width=facts.target_width,
        max_regret=facts.max_regret,
    )
    results.write_json(folder.estimates_file, estimates)
    return estimates


def transfer(
    folder: ResultsFolder, overrides: Sequence[str] = (), config_dir: Path | None = None
) -> dict[str, Any]:
    """Emit the target run's config and its parameter table; return the transfer record."""
    from hptransfer import emit
    from hptransfer.analysis.estimates import estimate

    recorded = compose_file(folder.sweep_file, [], as_run=True)
    asked = sweep_config(recorded)
    target, composed = _target(folder, recorded, asked, list(overrides), config_dir)
    emit.check_target(asked, target)
    table = wanted_table(folder)
    estimates = estimate(
        table,
        sweep_name=asked.name,
        axes=asked.axes,
        target_width=target.model.width,
        max_regret=asked.verdict.max_regret,
    )
    arms = emit.transferred_arms(estimates, target)
    trial = with_hyperparameters(target, {hp: a["target"]["emitted"] for hp, a in arms.items()})
    record = emit.transfer_record(asked, table, arms, target)
    results.write_text(folder.target_file, emit.target_yaml(composed, asked.name, trial, record))
    results.write_text(folder.groups_file, emit.parameter_table_text(trial))
    record["files"] = [str(folder.target_file), str(folder.groups_file)]
    results.write_json(folder.transfer_file, record)
    return record


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
    tree = yaml.safe_load(folder.sweep_file.read_text(encoding="utf-8"))
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


def realise(job: Job, transferred: dict[str, Any]) -> dict[str, Any]:
    """Train the target at the transferred value and around it; say what the value really cost."""
    from hptransfer.analysis.estimates import realised as realised_regret

    point = {hp: value["value"] for hp, value in transferred["hps"].items()}
    target = compose_file(job.folder.target_file, [], as_run=True).trial
    trials = realised(job.sweep, target, point)
    run_trials(job, job.folder.target, packs(trials, job.composed.runtime.pack_size))
    keys = {trial_key(config) for config in trials}
    rows = [r for r in recorded_rows(job.folder.target) if r["trial_key"] in keys]
    answer = realised_regret(
        _table(rows, job.folder.target),
        transferred=point[job.sweep.axes[0]],
        predicted=transferred["expected_regret"],
        hp=job.sweep.axes[0],
        width=target.model.width,
    )
    results.write_json(job.folder.realised_file, answer)
    results.write_json(
        job.folder.transfer_file, {**transferred, "realised_regret": answer["regret"]}
    )
    return answer


def train(path: Path, overrides: Sequence[str], config_dir: Path | None) -> TrialResult | dict:
    """Train one config; its row goes into target/ledger.jsonl beside the file.

    Returns the result, or the recorded row where this trial was trained before.
    """
    from hptransfer.trial import run_pack

    composed = compose_file(path, list(overrides), config_dir=config_dir, as_run=True)
    folder = path.parent / "target"
    facts = results.ResultsFolder(path.parent)
    axes = results.read_facts(facts).axes if facts.sweep_file.is_file() else ("log2_lr",)
    with LedgerWriter(folder) as writer:
        key = trial_key(composed.trial)
        if key in writer.ledger.keys:
            return next(r for r in writer.ledger.rows if r["trial_key"] == key)
        (result,) = run_pack([composed.trial], composed.runtime)
        write_curve(folder, key, result.curve)
        writer.append([row(result, hps(composed.trial, axes), results.provenance())])
    return result


def plot(folder: ResultsFolder) -> list[Path]:
    """Draw every picture of a folder from its estimates."""
    from hptransfer.figures import write_figures

    return write_figures(
        folder.figures,
        estimates=results.read_json(folder.estimates_file) or fit(folder),
        check=mup_check(folder),
        realised=results.read_json(folder.realised_file),
    )


def mup_check(folder: ResultsFolder) -> dict[str, Any] | None:
    """Return the µP arm's coordinate check, if there is one."""
    checks = results.read_json(folder.check_file) or []
    return next((c for c in checks if c["parametrization"] == Scaling.mup.value), None)


def report(folder: ResultsFolder, commands: Sequence[str]) -> Path:
    """Write the report, with the pictures in it."""
    from hptransfer.figures.report import write_report

    plot(folder)
    estimates = results.read_json(folder.estimates_file)
    assert estimates is not None, "plot has just read them"
    write_report(
        folder.report_file,
        estimates=estimates,
        check=mup_check(folder),
        realised=results.read_json(folder.realised_file),
        transfer=results.read_json(folder.transfer_file),
        sweep=dict(results.read_facts(folder).tree),
        figures=folder.figures,
        timing=results.read_json(folder.timing_file),
        commands=list(commands),
    )
    return folder.report_file


def record_timing(folder: ResultsFolder, seconds: dict[str, float], *, worked: bool) -> None:
    """Keep where the time of a `run` went; a run that only read what was there changes nothing."""
    if worked or not folder.timing_file.is_file():
        results.write_json(folder.timing_file, {k: round(v, 1) for k, v in seconds.items()})


def as_json(result: TrialResult | dict[str, Any]) -> dict[str, Any]:
    """Return a trained trial for printing."""
    if isinstance(result, dict):
        return {"status": result["status"], "loss": result["loss"], "recorded_before": True}
    plain = dataclasses.asdict(dataclasses.replace(result, config=TrialConfig()))
    return {
        "trial_key": trial_key(result.config),
        "status": result.status.value,
        "loss": result.loss,
        "diverged_at_step": plain["diverged_at_step"],
        "seconds": round(result.seconds, 2),
        "recorded_before": False,
    }
