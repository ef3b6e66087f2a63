"""The JSON of a planned budget."""

from __future__ import annotations

from typing import Any

import numpy as np

from hptransfer.analysis.basins.numbers import number
from hptransfer.config.sweep import SweepConfig
from hptransfer.execution.pack_sizes import makespan
from hptransfer.sweeping.plan.budget.knowledge import STEPS_SD, Knowledge
from hptransfer.sweeping.plan.budget.regret import Proposal
from hptransfer.sweeping.plan.budget.units import Meter
from hptransfer.sweeping.plan.plan import HOUR


def knowledge_entry(known: Knowledge) -> dict[str, Any]:
    """Return the entry of what the prediction takes for known, with its source."""
    scale, level = known.scale, known.level
    low, high = scale.loss_rise(level, known.shape.rise(np.array([-1.0, 1.0]))[0])
    return {
        "source": known.source,
        "trials": known.trials,
        "steps": known.steps,
        "loss": number(float(scale.loss(level))),
        "loss_sd": number(float(scale.loss_rise(level, known.noise))),
        "rise": {"low": number(float(low)), "high": number(float(high))},
        "cliff": number(known.cliff),
        "optimum": {
            "width": known.width,
            "estimate": number(known.optimum),
            "sd": number(known.optimum_sd),
        },
        "drift_octaves_per_doubling": {
            "estimate": number(known.drift),
            "sd": number(known.drift_sd),
        },
        "octaves_per_doubling_of_steps": {"estimate": 0.0, "sd": STEPS_SD},
    }


def proposal_entry(sweep: SweepConfig, proposal: Proposal, meter: Meter) -> dict[str, Any]:
    """Return the entry of a candidate with its cost and the regret it is expected to leave."""
    candidate, work, regret = proposal.candidate, proposal.work, proposal.regret
    axis = candidate.axis
    return {
        "widths": list(candidate.widths),
        "grid": {
            "hp": sweep.search[0][0],
            **{"low": axis.low, "high": axis.high, "step": axis.step},
            "points": len(axis.points),
        },
        "seeds": list(candidate.seeds),
        "steps": candidate.steps,
        "cost": {
            "amount": number(proposal.spent),
            "unit": meter.unit,
            "trials_to_run": work.trials,
            "flops": work.flops,
            "device_hours": number(sum(work.seconds) / HOUR * meter.occupied.count),
            "wall_seconds": number(makespan(work.seconds, meter.workers)),
        },
        "predicted_regret": {
            "mean": number(regret.mean),
            "low": number(regret.low),
            "high": number(regret.high),
            "percent": number(regret.percent),
        },
    }
