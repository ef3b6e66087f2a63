"""What to sweep for a budget, as text for a terminal, 100 columns wide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hptransfer.reporting.figures.wording import duration
from hptransfer.reporting.text.answers import text_table
from hptransfer.reporting.text.plan import folded
from hptransfer.sweeping.plan.budget.units import UNITS, written

COLUMNS = ("budget", "widths", "log2 grid", "seeds", "steps", "cost", "regret", "95 %")


def budget_text(answer: Mapping[str, Any]) -> str:
    """Say what a budget is best spent on, what half and twice of it give, and what is assumed."""
    chosen = next(p["proposal"] for p in answer["proposals"] if p["factor"] == 1.0)
    rows = [_cells(p["budget"], p["proposal"]) for p in answer["proposals"]]
    others = [_cells("or", entry) for entry in answer["runners_up"]]
    target, budget = answer["target"], answer["budget"]
    lines = [
        text_table(f"{answer['sweep']} for {budget['means']}", COLUMNS, [*rows, *others]),
        f"regret   expected loss at width {target['width']} and {target['steps']} steps above that "
        "of its own best value, and what 95 % of the simulated sweeps stay below; the mean is "
        f"{chosen['predicted_regret']['percent']:.2g} % of the loss. `or`: other designs "
        "for the same budget",
        _cost(chosen["cost"], budget["unit"]),
        *_knowledge(answer["knowledge"], answer["pilot"], unit=budget["unit"]),
        f"chosen   from {answer['designs_affordable']} designs that the budget pays",
        *(f"note     {note}" for note in answer["notes"]),
    ]
    return "\n".join(folded(line) for line in lines)


def _cells(budget: str, entry: Mapping[str, Any] | None) -> list[str]:
    if entry is None:
        return [budget, "too small", *["-"] * (len(COLUMNS) - 2)]
    grid, cost, regret = entry["grid"], entry["cost"], entry["predicted_regret"]
    return [
        budget,
        ",".join(map(str, entry["widths"])),
        f"{grid['low']:g}..{grid['high']:g}/{grid['step']:g}",
        str(len(entry["seeds"])),
        str(entry["steps"]),
        written(cost["amount"], cost["unit"]),
        f"{regret['mean']:.2g}",
        f"{regret['high']:.2g}",
    ]


def _cost(cost: Mapping[str, Any], unit: str) -> str:
    return (
        f"cost     {written(cost['amount'], unit)} ({UNITS[unit]}): {cost['trials_to_run']} "
        f"trials to run, {cost['flops']:.3g} FLOPs, wall {duration(cost['wall_seconds'])}; start, "
        "gate and fit are left out"
    )


def _knowledge(
    known: Mapping[str, Any], pilot: Mapping[str, Any] | None, *, unit: str
) -> list[str]:
    """Say what the prediction rests on, and how unsure that is."""
    rise, optimum = known["rise"], known["optimum"]
    drift = known["drift_octaves_per_doubling"]
    longer = known["octaves_per_doubling_of_steps"]
    own = f"{known['trials']} recorded rows"
    if pilot is not None:
        own = (
            f"a pilot of {pilot['trials']} trials of {pilot['steps']} steps at width "
            f"{pilot['width']}, {written(pilot['spent'], unit)} of the budget"
        )
    cliff = "none seen" if known["cliff"] is None else f"{known['cliff']:.2g} octaves above"
    return [
        f"known    from {own}: noise {known['loss_sd']:.2g} (sd of a trial's loss), one octave too "
        f"low costs {rise['low']:.2g} and too high {rise['high']:.2g}, cliff {cliff}, optimum "
        f"{optimum['estimate']:.2f} (sd {optimum['sd']:.2g}) at width {optimum['width']}",
        f"assumed  drift {drift['estimate']:.2g} octaves per width doubling (sd "
        f"{drift['sd']:.2g}); {longer['estimate']:g} per doubling of the steps (sd "
        f"{longer['sd']:g}); "
        "basin and noise the same at every width and length",
    ]
