"""What to sweep for a budget: the candidate of least predicted regret at the target."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from hptransfer.analysis.basins.numbers import number
from hptransfer.config.choices import Method
from hptransfer.config.runtime import amount_text
from hptransfer.config.sweep import SweepConfig
from hptransfer.errors import UserError
from hptransfer.results.table import rows_table
from hptransfer.sweeping.plan.budget.candidates import (
    Candidate,
    candidates,
    step_counts,
    width_sets,
)
from hptransfer.sweeping.plan.budget.costs import CandidateCosts, costs_by_width
from hptransfer.sweeping.plan.budget.knowledge import (
    PILOT_SEEDS,
    Knowledge,
    known_from,
    pilot_trials,
    run_pilot,
)
from hptransfer.sweeping.plan.budget.record import knowledge_entry, proposal_entry
from hptransfer.sweeping.plan.budget.regret import Predictor, Proposal
from hptransfer.sweeping.plan.budget.units import Budget, Meter, Workload, require_unit
from hptransfer.sweeping.plan.plan import PlanInputs, data_notes, occupancy
from hptransfer.system.text import percent_text
from hptransfer.training.flops import trial_flops

FACTORS = (0.5, 1.0, 2.0)  # times the budget: the amounts that are compared
PILOT_SHARE = 0.05  # the most that a pilot may take of the budget
RUNNERS_UP = 3  # other proposals that are shown

Offer = tuple[Candidate, Workload, float]  # with the workload's cost in the budget's unit


def plan_budget(inputs: PlanInputs, budget: Budget) -> dict[str, Any]:
    """Return what `hptransfer plan --budget --json` prints.

    Raises:
        UserError: no target, a unit that does not fit, a budget that buys no sweep, no basin, or
            nothing tells how long packs take.
        MachineError: a single trial does not fit, where packs are measured.
    """
    sweep, rows = inputs.sweep, list(inputs.rows.values())
    require_plannable(sweep)
    assert sweep.target is not None, "just checked"
    occupied = occupancy(inputs.runtime, inputs.executor)
    require_unit(budget, occupied)
    widths = sorted({width for widths in width_sets(sweep) for width in widths})
    by_width, workers, notes = costs_by_width(inputs, widths)
    recorded = {
        (row["parametrization"], row["width"], row["seed"], row["hps"][sweep.axes[0]])
        for row in rows
    }
    costs = CandidateCosts(
        sweep,
        by_width,
        workers,
        pack_size=inputs.runtime.pack_size,
        sizes=inputs.sizes,
        recorded=recorded,
    )
    meter = Meter(budget.unit, occupied, workers, trial_flops(sweep.target))
    knowledge, pilot = _knowledge(inputs, budget, costs, meter)
    predictor = Predictor(
        knowledge,
        target_width=sweep.target.model.width,
        target_steps=sweep.target.budget.steps,
    )
    offered = priced(candidates(sweep, knowledge), costs, meter)
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
        "designs_affordable": sum(spent <= amounts[FACTORS.index(1.0)] for *_, spent in offered),
        "proposals": [
            {
                "factor": factor,
                "budget": str(budget.times(factor)),
                "proposal": proposal_entry(sweep, ranked[0], meter) if ranked else None,
            }
            for factor, ranked in zip(FACTORS, found, strict=True)
        ],
        "runners_up": [proposal_entry(sweep, p, meter) for p in runners_up(middle)],
        "overrides": overrides(sweep, middle[0].candidate, recorded=bool(rows)),
        "notes": [
            *notes,
            *_notes(sweep, middle[0].candidate, found[-1][0].candidate),
            *data_notes(inputs),
        ],
    }


def require_plannable(sweep: SweepConfig) -> None:
    """Refuse a sweep that has no target, or not one HP on a grid.

    Raises:
        UserError: it has not.
    """
    if sweep.target is None:
        raise UserError(
            "A plan for a budget keeps the cost at a target low, but the sweep names no target. "
            "Set sweep.target, for example sweep.target.model.width=1024."
        )
    if len(sweep.search) != 1 or sweep.design.method is not Method.grid:
        raise UserError(
            "A plan for a budget needs a grid of one hyperparameter, but the sweep searches "
            f"{', '.join((name for name, _ in sweep.search))} by {sweep.design.method.value}. "
            "Leave one entry under search, and set sweep.design.method=grid."
        )


def priced(considered: Iterable[Candidate], costs: CandidateCosts, meter: Meter) -> list[Offer]:
    """Return candidates with their workload and its cost in the meter's unit."""
    works = ((candidate, costs.work(candidate)) for candidate in considered)
    return [(candidate, work, meter.spent(work)) for candidate, work in works]


def best(
    offered: Sequence[Offer], predictor: Predictor, amounts: Sequence[float]
) -> list[list[Proposal]]:
    """Return for each amount the proposals that it pays, of least predicted regret first.

    Of candidates that differ in seeds alone, an amount is spent on the one of most seeds.
    """
    most_seeds: dict[tuple[object, ...], Offer] = {}
    for offer, amount in itertools.product(offered, amounts):
        candidate, _, spent = offer
        key = (amount, candidate.widths, candidate.axis, candidate.steps)
        if spent <= amount and (
            key not in most_seeds or len(candidate.seeds) > len(most_seeds[key][0].seeds)
        ):
            most_seeds[key] = offer
    ranked = sorted(
        (
            Proposal(candidate, work, spent, predictor.predict(candidate))
            for candidate, work, spent in {
                offer[0]: offer for offer in most_seeds.values()
            }.values()
        ),
        key=lambda proposal: (proposal.regret.mean, proposal.spent),
    )
    return [[p for p in ranked if p.spent <= amount] for amount in amounts]


def runners_up(ranked: Sequence[Proposal]) -> list[Proposal]:
    """Return the best proposals of other widths, grid steps or lengths than those before them."""
    kinds = {_kind(ranked[0].candidate)}
    found: list[Proposal] = []
    for proposal in ranked:
        if _kind(proposal.candidate) not in kinds and len(found) < RUNNERS_UP:
            kinds.add(_kind(proposal.candidate))
            found.append(proposal)
    return found


def _kind(candidate: Candidate) -> tuple[object, ...]:
    return candidate.widths, candidate.axis.step, candidate.steps


def overrides(sweep: SweepConfig, candidate: Candidate, *, recorded: bool) -> list[str]:
    """Return the overrides that make the sweep the candidate.

    Trials of another length are another sweep, whose rows need a folder of their own; the target
    keeps its length.
    """
    assert sweep.target is not None, "a budget is planned for a target"
    (name, _), axis = sweep.search[0], candidate.axis
    words = [
        f"sweep.widths={_list(candidate.widths)}",
        *(f"search.{name}.{end}={getattr(axis, end):g}" for end in ("low", "high", "step")),
        f"sweep.seeds={_list(candidate.seeds)}",
    ]
    if candidate.steps != sweep.base.budget.steps:
        words += [
            f"budget.steps={candidate.steps}",
            f"sweep.target.budget.steps={sweep.target.budget.steps}",
            *([f"name={sweep.name}-{candidate.steps}-steps"] if recorded else []),
        ]
    return words


def _list(values: Iterable[int]) -> str:
    return f"[{','.join(map(str, values))}]"


def _knowledge(
    inputs: PlanInputs, budget: Budget, costs: CandidateCosts, meter: Meter
) -> tuple[Knowledge, dict[str, Any]]:
    """Return what is known, and the entry of the pilot that told it; empty where the rows suffice.

    The pilot is the longest one within its share of the budget.
    """
    sweep, rows = inputs.sweep, list(inputs.rows.values())
    assert sweep.target is not None, "a budget is planned for a target"
    (axis,), steps = sweep.axes, sweep.base.budget.steps
    scaling = sweep.target.parametrization.scaling
    known = known_from(rows_table(rows), axis, scaling, steps=steps, source="rows")
    if known is not None:
        return known, {}
    most, offers = PILOT_SHARE * budget.amount, []
    for count, seeds in itertools.product(step_counts(sweep), PILOT_SEEDS):
        trials = pilot_trials(sweep, steps=count, seeds=seeds)
        work, packs = costs.pilot(trials)
        offers.append((meter.spent(work), count, packs))
    spent, count, packs = next((offer for offer in offers if offer[0] <= most), offers[0])
    if spent > most:
        raise UserError(_too_small_for_a_pilot(budget, min(offer[0] for offer in offers)))
    trials = sum(map(len, packs))
    described = (
        f"{trials} trials of {count} steps at width {sweep.widths[0]}, about "
        f"{amount_text(spent, budget.unit)} of {budget}"
    )
    if not inputs.measure:
        raise UserError(
            "A plan for a budget must know how the loss depends on the hyperparameter, but the "
            f"finished trials in results/{sweep.name} do not show it. Add --measure to train a "
            f"small pilot ({described}), or sweep the narrowest width first."
        )
    inputs.say(f"pilot    trains {described}; its results are not kept")
    entry = {
        "width": sweep.widths[0],
        "trials": trials,
        "steps": count,
        "spent": number(spent),
    }
    found = run_pilot(packs, sweep, inputs.runtime, inputs.executor, say=inputs.say)
    return found, entry


def _too_small_for_a_pilot(budget: Budget, least: float) -> str:
    most, enough = PILOT_SHARE * budget.amount, 1.01 * least / PILOT_SHARE
    return (
        f"The pilot may take {percent_text(100 * PILOT_SHARE)} of the budget, which is "
        f"{amount_text(most, budget.unit)}, but the smallest pilot takes "
        f"{amount_text(least, budget.unit)}. Give --budget={amount_text(enough, budget.unit)} or "
        "more, or sweep the narrowest width first: then no pilot is needed."
    )


def _too_small(budget: Budget, offered: Sequence[Offer]) -> str:
    least, _, spent = min(offered, key=lambda offer: offer[2])
    return (
        f"--budget={budget} is too small for any sweep. The smallest sensible one has "
        f"{len(least.widths)} widths up to {least.widths[-1]}, {len(least.axis.points)} values, "
        f"{len(least.seeds)} seeds and {least.steps} steps, and takes "
        f"{amount_text(spent, budget.unit)}. Give at least that much."
    )


def _notes(sweep: SweepConfig, chosen: Candidate, of_twice: Candidate) -> list[str]:
    """Return the sentences that a reader of the proposal needs."""
    notes = []
    assert sweep.target is not None, "a budget is planned for a target"
    if len(sweep.parametrizations) > 1:
        arm = sweep.target.parametrization.scaling.value
        notes.append(
            "the budget pays for all parametrizations of the sweep, but only the trials of "
            f"{arm}, the target's, lower its cost. sweep.parametrizations=[{arm}] would buy more."
        )
    if chosen.steps != sweep.target.budget.steps:
        notes.append(
            f"the swept models would train {chosen.steps} steps and the target "
            f"{sweep.target.budget.steps}, so `transfer` will warn that its interval holds for "
            "the shorter training only."
        )
    if of_twice == chosen:
        notes.append(
            "twice the budget gives the same plan: no larger plan that is considered is better."
        )
    return notes
