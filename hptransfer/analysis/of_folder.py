"""What recorded rows answer: status, estimates, pictures and report.

Nothing here imports torch, Ray or Hydra (but for overrides), so these commands start fast and run
where no GPU stack is installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hptransfer.config.choices import Status
from hptransfer.errors import UserError
from hptransfer.results.asked_points import best_points
from hptransfer.results.folder import ResultsFolder, read_json, write_json
from hptransfer.results.ledger_index import tally
from hptransfer.results.ledger_rows import rows_in
from hptransfer.results.metrics import LOSS, Metric, said_of
from hptransfer.results.sweep_file import ImportedFacts, SweepFacts, facts_of, read_facts
from hptransfer.results.table import conditions, table


def status(folder: ResultsFolder) -> dict[str, Any]:
    """Count a folder's rows: wanted, recorded by status, and outside the wanted set."""
    facts = read_facts(folder)
    counted, notice = tally(folder, facts)
    scattered = wanted_rows(folder, facts) if facts.is_scattered else []
    return {
        "sweep": facts.name,
        "folder": str(folder.path),
        "wanted": facts.wanted_count(),
        "recorded": sum(counted.recorded.values()),
        **{s.value: counted.recorded.get(s.value, 0) for s in Status},
        "outside": list(counted.outside),
        "outside_count": counted.outside_count,
        "best": best_points(scattered, facts.axes),
        "notice": notice,
    }


def wanted_rows(folder: ResultsFolder, facts: SweepFacts) -> list[dict[str, Any]]:
    """Return the ledger's rows that the sweep wants; others are kept, never fitted."""
    return [r for r in rows_in(folder.path) if facts.wants(r)]


def table_of(rows: Sequence[dict[str, Any]], folder: Path, metric: Metric = LOSS) -> Any:
    """Return rows as the table that analysis reads; a folder without any is the user's to fill."""
    if not rows:
        raise UserError(f"{folder} holds no finished trial yet. Run `hptransfer sweep` first.")
    return table(rows, metric)


def fit(
    folder: ResultsFolder,
    overrides: Sequence[str] = (),
    *,
    step: int | None = None,
    metric: Metric = LOSS,
) -> dict[str, Any]:
    """Estimate optima, laws and verdicts of a folder and write estimates.json.

    Args:
        overrides: of the question.
        step: of training, at which losses are read, where rows have several.
        metric: what rows are judged by; a field of the estimates that is called loss holds it.
            `agreement` then holds it against the loss.
    """
    facts = read_facts(folder)
    if overrides:
        facts = _overridden(folder, facts, overrides)
    rows = wanted_rows(folder, facts)
    table = table_of(rows, folder.path, metric)
    at, target_at = asked_conditions(facts, step)
    estimates = estimated(facts, table, at=at, target_at=target_at)
    if estimates["surfaces"]:
        from hptransfer.analysis.surfaces.ped_anova import add_ped_anova

        add_ped_anova(estimates, table, facts.axes)
    estimates["trials"] = {"fitted": len(rows), "missing": facts.wanted_count() - len(rows)}
    estimates["step"] = step
    estimates["metric"] = metric.name
    if metric is not LOSS:
        from hptransfer.analysis.answer.agreement import agreement

        by_loss = table_of(rows, folder.path)
        estimates = said_of(metric, estimates)
        estimates["agreement"] = agreement(
            by_loss, table, axes=facts.axes, rule=facts.verdict, at=at
        )
    write_json(folder.estimates_by(metric), estimates)
    return estimates


def estimated(
    facts: SweepFacts,
    table: Any,
    *,
    at: Mapping[str, Any] | None,
    target_at: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the estimates of a table of rows as a sweep asks for them."""
    from hptransfer.analysis.answer.estimates import estimate

    return estimate(
        table,
        sweep_name=facts.name,
        axes=facts.axes,
        target_width=facts.target_width,
        rule=facts.verdict,
        at=at,
        target_at=target_at,
    )


def _overridden(folder: ResultsFolder, facts: SweepFacts, overrides: Sequence[str]) -> SweepFacts:
    if isinstance(facts, ImportedFacts):
        from hptransfer.results.importers.sweep_file import overridden

        tree = overridden(facts.tree, overrides)
    else:
        from hptransfer.config.compose.compose import compose_file

        tree = compose_file(folder.sweep_file, list(overrides), as_run=True).tree
    return facts_of(tree, name=facts.name, design=facts.design)


def asked_conditions(
    facts: SweepFacts, step: int | None = None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return depth, batch size and steps at which width is judged, and those of the target.

    Of rows that another program made nothing is asked: None, the most that all widths have.
    """
    target = facts.tree["sweep"].get("target") or {}
    laid_over = {
        name: {**facts.tree.get(name, {}), **(target.get(name) or {})}
        for name in ("model", "budget")
    }
    at_step = {} if step is None else {"steps": step}
    if isinstance(facts, ImportedFacts):
        return at_step or None, conditions({**laid_over, "foreign": {}})
    return {**conditions(facts.tree), **at_step}, conditions(laid_over)


def fresh_estimates(
    folder: ResultsFolder, *, step: int | None = None, metric: Metric = LOSS
) -> dict[str, Any]:
    """Return the estimates of the rows that are there now: the recorded ones, or a new fit."""
    estimates = read_json(folder.estimates_by(metric), "arms")
    fitted = len(wanted_rows(folder, read_facts(folder)))
    if (
        estimates is None
        or estimates["trials"]["fitted"] != fitted
        or (step is not None and estimates.get("step") != step)
    ):
        return fit(folder, step=step, metric=metric)
    return estimates
