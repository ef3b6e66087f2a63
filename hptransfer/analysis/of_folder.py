"""What recorded rows answer: status, estimates, pictures and report.

Nothing here imports torch, Ray or Hydra (but for overrides), so these commands start fast and run
where no GPU stack is installed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hptransfer.config.choices import Status
from hptransfer.config.external import is_external
from hptransfer.errors import UserError
from hptransfer.results.failed_trials import read_failed
from hptransfer.results.folder import (
    LOG_FILE,
    ResultsFolder,
    read_json,
    trial_folder,
    write_json,
)
from hptransfer.results.ledger_rows import (
    LEDGER_NAME,
    find_ledger,
    read_ledger_rows,
    scan_ledger,
    torn_line_notice,
)
from hptransfer.results.metrics import LOSS, Metric, rename_loss_in_sentences
from hptransfer.results.sweep_file import (
    ImportedFacts,
    SweepFacts,
    best_points,
    facts_of,
    read_facts,
)
from hptransfer.results.table import conditions_of, rows_table

# Number of the analysis. Raise it with every change that changes an answer: estimates that an
# earlier analysis recorded are then made anew.
ANALYSIS_VERSION = 4

MOST_OUTSIDE = 100  # keys of rows outside the wanted set that `status --json` lists


def status(folder: ResultsFolder) -> dict[str, Any]:
    """Count a folder's rows: wanted, recorded by status, and outside the wanted set."""
    facts = read_facts(folder)
    recorded: Counter[str] = Counter()
    outside: list[str] = []
    torn_bytes = 0
    path = find_ledger(folder.path)
    for stretch in scan_ledger(path) if path else ():
        for row in stretch.rows:
            if facts.wants(row):
                recorded[row["status"]] += 1
            else:
                outside.append(row["trial_key"])
        torn_bytes = stretch.torn_bytes
    scattered = wanted_rows(folder, facts) if facts.is_scattered else []
    of_trainer = is_external(facts.tree)
    return {
        "sweep": facts.name,
        "folder": str(folder.path),
        "wanted": facts.wanted_count(),
        "recorded": recorded.total(),
        **{status.value: recorded[status.value] for status in Status},
        "outside": outside[:MOST_OUTSIDE],
        "outside_count": len(outside),
        "failed": [each.sentence(folder.path) for each in read_failed(folder.path).values()],
        "best": best_points(scattered, facts.axes),
        "logs": str(trial_folder(folder.path, "KEY") / LOG_FILE) if of_trainer else None,
        "notice": torn_line_notice(folder.path / LEDGER_NAME, torn_bytes),
    }


def wanted_rows(folder: ResultsFolder, facts: SweepFacts) -> list[dict[str, Any]]:
    """Return the ledger's rows that the sweep wants; others are kept, never fitted."""
    return [r for r in read_ledger_rows(folder.path) if facts.wants(r)]


def table_of(rows: Sequence[dict[str, Any]], folder: Path, metric: Metric = LOSS) -> Any:
    """Return rows as the table that analysis reads; a folder without any is the user's to fill."""
    if not rows:
        require_trials(ResultsFolder(folder))
        raise UserError(f"{folder} holds no finished trial yet. Run `hptransfer sweep` first.")
    return rows_table(rows, metric)


def require_trials(folder: ResultsFolder) -> None:
    """Refuse a folder that holds a table of optima, of which only `fit` can tell something."""
    if folder.sweep_file.is_file() and given_optima(read_facts(folder)):
        raise UserError(
            f"{folder.path} holds a table of optima and no trials, so there is nothing to draw "
            "and no cost to compute. `hptransfer fit` gives the optimum at the target."
        )


def fit_folder(
    folder: ResultsFolder,
    overrides: Sequence[str] = (),
    *,
    config_dir: Path | None = None,
    step: int | None = None,
    metric: Metric = LOSS,
) -> dict[str, Any]:
    """Return the estimates of a folder's rows (see `estimates_of`), and keep the sweep's own.

    They are written to `estimates.json`, or `estimates-METRIC.json`, unless `overrides` or `step`
    ask another question than `sweep.yaml`: that answer is only returned.
    """
    estimates = estimates_of(folder, overrides, config_dir=config_dir, step=step, metric=metric)
    if not overrides and step is None:
        write_json(folder.estimates_by(metric), estimates)
    return estimates


def estimates_of(
    folder: ResultsFolder,
    overrides: Sequence[str] = (),
    *,
    config_dir: Path | None = None,
    step: int | None = None,
    metric: Metric = LOSS,
) -> dict[str, Any]:
    """Return optima, laws and verdicts of the wanted rows in a folder; nothing is written.

    Args:
        overrides: of `sweep.yaml`, e.g. `verdict.max_regret=0.01`.
        config_dir: the folder of config groups that overrides may choose from.
        step: training step at which losses are read, where rows have several.
        metric: what rows are judged by. A field of the estimates that is called loss holds the
            metric then, and `agreement` compares the metric's optima with the loss's.
    """
    facts = read_facts(folder)
    if overrides:
        facts = _overridden(folder, facts, overrides, config_dir)
    return _answered(_question(facts, step, metric), folder, read_ledger_rows(folder.path))


def fresh_estimates(
    folder: ResultsFolder, *, step: int | None = None, metric: Metric = LOSS
) -> dict[str, Any]:
    """Return the sweep's own estimates: the recorded ones where still right, else a new fit.

    They are those at the target of `transfer.json` where a transfer named another than
    `sweep.yaml`. Nothing is written.
    """
    question = _at_transferred_target(_question(read_facts(folder), step, metric), folder)
    recorded = read_json(folder.estimates_by(metric), "arms")
    ledger = read_ledger_rows(folder.path)
    rows = [row for row in ledger if question.facts.wants(row)]
    is_fresh = recorded is not None and (
        recorded.get("inputs_sha256") == _inputs_sha256(question, rows)
        and recorded["trials"].get("left_out") == len(ledger) - len(rows)
    )
    if recorded is not None and is_fresh:
        return recorded
    return _answered(question, folder, ledger)


@dataclass(frozen=True)
class _Question:
    """What estimates depend on beside the rows."""

    facts: SweepFacts
    step: int | None
    at: Mapping[str, Any] | None  # depth, batch size and steps at which width is judged
    target_at: Mapping[str, Any] | None  # the same of the target
    metric: Metric


def _question(facts: SweepFacts, step: int | None, metric: Metric) -> _Question:
    at, target_at = asked_conditions(facts, step)
    return _Question(facts, step, at, target_at, metric)


def _at_transferred_target(question: _Question, folder: ResultsFolder) -> _Question:
    """Return the question with the target that `transfer.json` names, if there is one."""
    target = (read_json(folder.transfer_file, "target") or {}).get("target")
    if target is None:
        return question
    config = target.get("config")
    return replace(
        question,
        facts=replace(question.facts, target_width=target["width"]),
        target_at=conditions_of(config) if config else target.get("conditions", question.target_at),
    )


def _inputs_sha256(question: _Question, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a hash of all that estimates are made from: rows, question and analysis."""
    facts, metric = question.facts, question.metric
    inputs = {
        "analysis": ANALYSIS_VERSION,
        "sweep": facts.name,
        "axes": facts.axes,
        "verdict": dataclasses.asdict(facts.verdict),
        "target": [facts.target_width, question.target_at],
        "at": [question.step, question.at],
        "metric": metric.name,
        "wanted": facts.wanted_count(),
        "rows": sorted(
            [row["trial_key"], row["status"], row["loss"], row["metrics"].get(metric.name)]
            for row in rows
        ),
    }
    if optima := given_optima(facts):
        inputs["optima"] = optima
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _answered(
    question: _Question, folder: ResultsFolder, ledger: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the estimates of a ledger's wanted rows, as they are written to `estimates.json`."""
    facts, metric = question.facts, question.metric
    if given_optima(facts):
        return _optima_answered(question)
    rows = [row for row in ledger if facts.wants(row)]
    table = table_of(rows, folder.path, metric)
    estimates = estimated(facts, table, at=question.at, target_at=question.target_at)
    if estimates["surfaces"]:
        from hptransfer.analysis.surfaces.ped_anova import add_ped_anova

        add_ped_anova(estimates, table, facts.axes)
    estimates["trials"] = {
        "fitted": len(rows),
        "missing": facts.wanted_count() - len(rows),
        "left_out": len(ledger) - len(rows),
    }
    estimates["step"] = question.step
    estimates["metric"] = metric.name
    estimates["inputs_sha256"] = _inputs_sha256(question, rows)
    if metric is LOSS:
        from hptransfer.analysis.answer.averages import compared_averages

        if averages := compared_averages(rows, facts.axes, question.at):
            estimates["averages"] = averages
    else:
        from hptransfer.analysis.answer.agreement import agreement

        by_loss = table_of(rows, folder.path)
        estimates = rename_loss_in_sentences(metric, estimates)
        estimates["agreement"] = agreement(
            by_loss, table, axes=facts.axes, rule=facts.verdict, at=question.at
        )
    return estimates


def given_optima(facts: SweepFacts) -> list[dict[str, Any]]:
    """Return the optima of a folder into which a table of them was imported; else none."""
    return list((facts.tree.get("imported") or {}).get("optima") or [])


def _optima_answered(question: _Question) -> dict[str, Any]:
    """Return the estimates of a table of optima, which has no trials and no metric."""
    from hptransfer.analysis.answer.estimates import warn_of_late_rates
    from hptransfer.analysis.answer.given_optima import estimate_optima

    facts = question.facts
    if question.metric is not LOSS:
        raise UserError(
            "This folder holds a table of optima and no trials, so only --metric=loss can be used."
        )
    estimates = estimate_optima(
        given_optima(facts),
        sweep_name=facts.name,
        target_width=facts.target_width,
        rule=facts.verdict,
        at=question.at,
        target_at=question.target_at,
    )
    warn_of_late_rates(estimates)
    return {
        **estimates,
        "trials": dict.fromkeys(("fitted", "missing", "left_out"), 0),
        "step": question.step,
        "metric": question.metric.name,
        "inputs_sha256": _inputs_sha256(question, []),
    }


def estimated(
    facts: SweepFacts,
    table: Any,
    *,
    at: Mapping[str, Any] | None,
    target_at: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the estimates of a table of rows as a sweep asks for them."""
    from hptransfer.analysis.answer.estimates import estimate, warn_of_late_rates

    estimates = estimate(
        table,
        sweep_name=facts.name,
        axes=facts.axes,
        target_width=facts.target_width,
        rule=facts.verdict,
        at=at,
        target_at=target_at,
    )
    if isinstance(facts, ImportedFacts):
        warn_of_late_rates(estimates)
    return estimates


def _overridden(
    folder: ResultsFolder, facts: SweepFacts, overrides: Sequence[str], config_dir: Path | None
) -> SweepFacts:
    if isinstance(facts, ImportedFacts):
        from hptransfer.results.importers.sweep_file import overridden

        tree = overridden(facts.tree, overrides)
    else:
        from hptransfer.config.compose.compose import compose_file

        tree = compose_file(folder.sweep_file, overrides, config_dir=config_dir).tree
    return facts_of(tree, name=facts.name, design=facts.design)


def asked_conditions(
    facts: SweepFacts, step: int | None = None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return depth, batch size and steps at which width is judged, and those of the target.

    Of rows that another program made nothing is asked: None, the most that all widths have.
    """
    target = facts.tree["sweep"].get("target") or {}
    if is_external(facts.tree):
        own = conditions_of(facts.tree)
        of_target = conditions_of({**facts.tree, "fixed": {**facts.tree["fixed"], **target}})
        return {**own, **({} if step is None else {"steps": step})}, of_target
    laid_over = {
        name: {**facts.tree.get(name, {}), **(target.get(name) or {})}
        for name in ("model", "budget")
    }
    at_step = {} if step is None else {"steps": step}
    if isinstance(facts, ImportedFacts):
        return at_step or None, conditions_of({**laid_over, "foreign": {}})
    return {**conditions_of(facts.tree), **at_step}, conditions_of(laid_over)
