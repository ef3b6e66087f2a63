"""What to sweep for a budget: the design of least predicted regret at the target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hptransfer.config import ExecutorConfig, RuntimeConfig
from hptransfer.config.budget_units import written
from hptransfer.config.choices import Method
from hptransfer.config.sweep import SweepConfig
from hptransfer.errors import UserError
from hptransfer.execution.pack_sizes import PackSize
from hptransfer.results.table import rows_table
from hptransfer.sweeping.plan.budget.costs import Costs, probe
from hptransfer.sweeping.plan.budget.design import Design, designs, step_counts, width_sets
from hptransfer.sweeping.plan.budget.knowledge import (
    PILOT_SEEDS,
    Knowledge,
    known_from,
    pilot_trials,
    run_pilot,
)
from hptransfer.sweeping.plan.budget.record import knowledge_entry, proposal_entry
from hptransfer.sweeping.plan.budget.regret import Predictor, Proposal
from hptransfer.sweeping.plan.budget.units import Budget, Meter, Work, require_unit
from hptransfer.sweeping.plan.costs import place, short
from hptransfer.training.flops import trial_flops

FACTORS = (0.5, 1.0, 2.0)  # of the budget, which are compared
PILOT_SHARE = 0.05  # of the budget
RUNNERS_UP = 3

Row = Mapping[str, Any]


def plan_budget(
    sweep: SweepConfig,
    budget: Budget,
    runtime: RuntimeConfig,
    executor: ExecutorConfig,
    *,
    rows: Sequence[Row],
    sizes: Mapping[str, PackSize],
    workers: int | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return what `hptransfer plan --budget --json` prints.

    Args:
        rows: the sweep's recorded rows.
        sizes: the pack sizes that the sweep's folder records, by `shape_key`.
        workers: packs that run at a time; None: as many as there are places.
        say: is told before anything is trained.

    Raises:
        UserError: no target, a unit that does not fit, a budget that buys no sweep, no basin.
        MachineError: a single trial does not fit.
    """
    require_plannable(sweep)
    assert sweep.target is not None, "just checked"
    occupied = place(runtime, executor)
    require_unit(budget, occupied)
    widths = sorted({width for widths in width_sets(sweep) for width in widths})
    probed, places, notes = probe(sweep, widths, runtime, executor)
    recorded = {
        (row["parametrization"], row["width"], row["seed"], row["hps"][sweep.axes[0]])
        for row in rows
    }
    costs = Costs(
        sweep,
        probed,
        workers or places,
        pack_size=runtime.pack_size,
        sizes=sizes,
        recorded=recorded,
    )
    meter = Meter(budget.unit, occupied, costs.workers, trial_flops(sweep.target))
    knowledge, pilot = _knowledge(
        sweep,
        budget,
        costs,
        meter,
        rows,
        run=lambda packs: run_pilot(packs, sweep, runtime, executor),
        say=say,
    )
    predictor = Predictor(
        knowledge,
        target_width=sweep.target.model.width,
        target_steps=sweep.target.budget.steps,
    )
    offered = priced(designs(sweep, knowledge), costs, meter)
    amounts = [max(budget.amount * factor - pilot.get("spent", 0.0), 0.0) for factor in FACTORS]
    found = best(offered, predictor, amounts)
    middle = found[FACTORS.index(1.0)]
    if not middle:
        raise UserError(_too_small(budget, offered))
    return {
        "schema": 1,
        "sweep": sweep.name,
        "budget": {"amount": budget.amount, "unit": budget.unit, "means": str(budget)},
        "knowledge": knowledge_entry(knowledge),
        "pilot": pilot or None,
        "target": {"width": sweep.target.model.width, "steps": sweep.target.budget.steps},
        "designs_affordable": len(middle),
        "proposals": [
            {
                "factor": factor,
                "budget": str(budget.times(factor)),
                "proposal": proposal_entry(sweep, ranked[0], meter, knowledge) if ranked else None,
            }
            for factor, ranked in zip(FACTORS, found, strict=True)
        ],
        "runners_up": [proposal_entry(sweep, p, meter, knowledge) for p in runners_up(middle)],
        "overrides": overrides(sweep, middle[0].design, recorded=bool(rows)),
        "notes": [*notes, *_notes(sweep, middle[0].design, found[-1][0].design)],
    }


def require_plannable(sweep: SweepConfig) -> None:
    """Refuse a sweep that has no target, or not one HP on a grid.

    Raises:
        UserError: it has not.
    """
    if sweep.target is None:
        raise UserError(
            "A budget is spent for the regret at a target, but the sweep names none. Set "
            "sweep.target, e.g. sweep.target.model.width=1024."
        )
    if len(sweep.search) != 1 or sweep.design.method is not Method.grid:
        raise UserError(
            "A budget is planned for a grid of one HP, but the sweep searches "
            f"{', '.join(name for name, _ in sweep.search)} by {sweep.design.method.value}. Give "
            "it one axis under search and sweep.design.method=grid."
        )


def priced(
    considered: Iterable[Design], costs: Costs, meter: Meter
) -> list[tuple[Design, Work, float]]:
    """Return designs with their work and what it costs, in the meter's unit."""
    works = ((design, costs.work(design)) for design in considered)
    return [(design, work, meter.spent(work)) for design, work in works]


def best(
    offered: Sequence[tuple[Design, Work, float]], predictor: Predictor, amounts: Sequence[float]
) -> list[list[Proposal]]:
    """Return for each amount the designs it pays, of least predicted regret first."""
    ranked = sorted(
        (
            Proposal(design, work, spent, predictor.predict(design))
            for design, work, spent in offered
            if spent <= max(amounts)
        ),
        key=lambda proposal: (proposal.regret.mean, proposal.spent),
    )
    return [[p for p in ranked if p.spent <= amount] for amount in amounts]


def runners_up(ranked: Sequence[Proposal]) -> list[Proposal]:
    """Return the best designs of other widths, grid steps or lengths than those before them."""
    kinds = {_kind(ranked[0].design)}
    found: list[Proposal] = []
    for proposal in ranked:
        if _kind(proposal.design) not in kinds and len(found) < RUNNERS_UP:
            kinds.add(_kind(proposal.design))
            found.append(proposal)
    return found


def _kind(design: Design) -> tuple[object, ...]:
    return design.widths, design.axis.step, design.steps


def overrides(sweep: SweepConfig, design: Design, *, recorded: bool) -> list[str]:
    """Return the overrides that make the sweep the design.

    Trials of another length are another sweep, whose rows need a folder of their own; the target
    keeps its length.
    """
    assert sweep.target is not None, "a budget is planned for a target"
    (name, _), axis = sweep.search[0], design.axis
    words = [
        f"sweep.widths={_list(design.widths)}",
        *(f"search.{name}.{end}={getattr(axis, end):g}" for end in ("low", "high", "step")),
        f"sweep.seeds={_list(design.seeds)}",
    ]
    if design.steps != sweep.base.budget.steps:
        words += [
            f"budget.steps={design.steps}",
            f"sweep.target.budget.steps={sweep.target.budget.steps}",
            *([f"name={sweep.name}-{design.steps}-steps"] if recorded else []),
        ]
    return words


def _list(values: Iterable[int]) -> str:
    return f"[{','.join(map(str, values))}]"


def _knowledge(
    sweep: SweepConfig,
    budget: Budget,
    costs: Costs,
    meter: Meter,
    rows: Sequence[Row],
    *,
    run: Callable[[Sequence[Sequence[Any]]], Knowledge],
    say: Callable[[str], None],
) -> tuple[Knowledge, dict[str, Any]]:
    """Return what is known and the pilot that told it, empty where the rows suffice.

    The longest pilot within its share of the budget is run.
    """
    assert sweep.target is not None, "a budget is planned for a target"
    (axis,), steps = sweep.axes, sweep.base.budget.steps
    scaling = sweep.target.parametrization.scaling
    known = known_from(rows_table(rows), axis, scaling, steps=steps, source="rows")
    if known is not None:
        return known, {}
    most = PILOT_SHARE * budget.amount
    least = float("inf")
    for count in step_counts(sweep):
        for seeds in PILOT_SEEDS:
            trials = pilot_trials(sweep, steps=count, seeds=seeds)
            work, packs = costs.pilot(trials)
            spent = meter.spent(work)
            least = min(least, spent)
            if spent > most:
                continue
            about = written(spent, budget.unit)
            say(
                f"pilot    trains {len(trials)} trials of {count} steps at width "
                f"{sweep.widths[0]}, about {about} of {budget}; none of it is recorded"
            )
            entry = {
                "width": sweep.widths[0],
                "trials": len(trials),
                "steps": count,
                "spent": short(spent),
            }
            return run(packs), entry
    enough = written(1.01 * least / PILOT_SHARE, budget.unit)
    raise UserError(
        f"A pilot may take {PILOT_SHARE:.0%} of the budget, which is {written(most, budget.unit)}, "
        f"but the least one takes {written(least, budget.unit)}. Give --budget={enough} or more, "
        "or sweep the narrowest width first: its rows stand in for a pilot."
    )


def _too_small(budget: Budget, offered: Sequence[tuple[Design, Work, float]]) -> str:
    design, _, spent = min(offered, key=lambda offer: offer[2])
    return (
        f"--budget={budget} buys no sweep: the least that makes sense is {len(design.widths)} "
        f"widths up to {design.widths[-1]}, {len(design.axis.points)} points, "
        f"{len(design.seeds)} seeds and {design.steps} steps, which take "
        f"{written(spent, budget.unit)}."
    )


def _notes(sweep: SweepConfig, design: Design, of_twice: Design) -> list[str]:
    """Say what a reader would ask."""
    notes = []
    assert sweep.target is not None, "a budget is planned for a target"
    if len(sweep.parametrizations) > 1:
        arm = sweep.target.parametrization.scaling.value
        notes.append(
            f"every arm of the sweep is paid for; only {arm}, the target's, lowers its regret. "
            f"sweep.parametrizations=[{arm}] would buy more."
        )
    if design.steps != sweep.target.budget.steps:
        notes.append(
            f"the proxies would train {design.steps} steps and the target "
            f"{sweep.target.budget.steps}, so `transfer` will warn that its interval is "
            "conditional on the shorter training."
        )
    if of_twice == design:
        notes.append("twice the budget gives the same design: none that is considered is better.")
    return notes
