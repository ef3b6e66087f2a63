"""The JSON of a planned budget."""

from __future__ import annotations

from typing import Any

import numpy as np

from hptransfer.config.sweep import SweepConfig
from hptransfer.execution.pack_sizes import makespan
from hptransfer.sweeping.plan.budget.design import Design
from hptransfer.sweeping.plan.budget.knowledge import STEPS_SD, Knowledge
from hptransfer.sweeping.plan.budget.regret import Proposal, Regret
from hptransfer.sweeping.plan.budget.units import HOUR, Meter
from hptransfer.sweeping.plan.costs import short


def knowledge_entry(known: Knowledge) -> dict[str, Any]:
    """Return what the prediction takes for known, with its source."""
    low, high = known.shape.rise(np.array([-1.0, 1.0]))[0]
    return {
        "source": known.source,
        "trials": known.trials,
        "steps": known.steps,
        "loss": short(known.level),
        "loss_sd": short(known.noise),
        "rise": {"low": short(float(low)), "high": short(float(high))},
        "cliff": short(known.cliff) if np.isfinite(known.cliff) else None,
        "optimum": {
            "width": known.width,
            "estimate": short(known.optimum),
            "sd": short(known.optimum_sd),
        },
        "drift_octaves_per_doubling": {
            "estimate": short(known.drift),
            "sd": short(known.drift_sd),
        },
        "octaves_per_doubling_of_steps": {"estimate": 0.0, "sd": STEPS_SD},
    }


def proposal_entry(
    sweep: SweepConfig, proposal: Proposal, meter: Meter, known: Knowledge
) -> dict[str, Any]:
    """Return a design, what it costs and what it is expected to give."""
    design, work = proposal.design, proposal.work
    return {
        **design_entry(sweep, design),
        "cost": {
            "amount": short(proposal.spent),
            "unit": meter.unit,
            "trials_to_run": work.trials,
            "flops": work.flops,
            "device_hours": short(sum(work.seconds) / HOUR * meter.place.count),
            "wall_seconds": short(makespan(work.seconds, meter.workers)),
        },
        "predicted_regret": regret_entry(proposal.regret, known),
    }


def design_entry(sweep: SweepConfig, design: Design) -> dict[str, Any]:
    """Return a design."""
    axis = design.axis
    return {
        "widths": list(design.widths),
        "grid": {
            "hp": sweep.search[0][0],
            **{"low": axis.low, "high": axis.high, "step": axis.step},
            "points": len(axis.points),
        },
        "seeds": list(design.seeds),
        "steps": design.steps,
    }


def regret_entry(regret: Regret, known: Knowledge) -> dict[str, float]:
    """Return a regret, and its mean in percent of the loss at the optimum."""
    return {
        "mean": short(regret.mean),
        "low": short(regret.low),
        "high": short(regret.high),
        "percent": short(100.0 * regret.mean / known.level),
    }
