"""From estimates to the target run's config: what to train, what it should cost, what to expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import pandas as pd

from hptransfer.analysis.answer.run_health import (
    clipping_warnings,
    gap_warnings,
    runs_near_value,
    train_validation_gap,
)
from hptransfer.analysis.answer.text import cost_sentence, decay_lines
from hptransfer.analysis.answer.transferred import EMPTY_REGRET, Transferred
from hptransfer.config import TrialConfig
from hptransfer.config.choices import Scaling
from hptransfer.config.compose.compose import Composed, resolved_yaml, with_trial
from hptransfer.config.hyperparameters import axis_digits, with_hyperparameters
from hptransfer.config.identity import arm_of, canonical, with_width
from hptransfer.config.records import flat, plain
from hptransfer.config.sweep import SweepConfig
from hptransfer.models.parametrization.rule_table import decay_timescales, parameter_table
from hptransfer.models.parametrization.rules import parameter_count
from hptransfer.sweeping.plan.plan import search_cost, swept_points
from hptransfer.system.text import cost_text, rounded

COMPARED = ("budget", "model", "objective", "data", "optimizer", "init", "precision")
# The keys whose values `complete` scales with, each with that of its base value.
BASE_VALUES = {
    "model.depth": "model.base_depth",
    "budget.batch_size": "parametrization.base_batch_size",
    "budget.steps": "parametrization.base_steps",
}


def distances(sweep: SweepConfig, target: TrialConfig) -> list[str]:
    """Say on which axes that were not swept the target differs from the proxies, and how far.

    What `complete` scales with is left out: `bridged` says it.
    """
    scaled = scaled_keys(sweep, target)
    return [said for key, said in _differences(sweep, target).items() if key not in scaled]


def bridged(sweep: SweepConfig, target: TrialConfig) -> list[str]:
    """Say what the target differs in that `complete` speaks for, and what is then assumed."""
    scaled = scaled_keys(sweep, target)
    said = [text for key, text in _differences(sweep, target).items() if key in scaled]
    if not said:
        return []
    return [
        f"{', '.join(said)}: the rules of `complete` (arXiv 2512.22382) carry the value over, "
        "which assumes that they hold for this model and data. To test it, vary these in the sweep "
        "(sweep.vary)."
    ]


def scaled_keys(sweep: SweepConfig, target: TrialConfig) -> set[str]:
    """Return the keys that the target's factors follow: under `complete`, with a base value."""
    if target.parametrization.scaling is not Scaling.complete:
        return set()
    fields = flat(plain(target))
    base = flat(plain(sweep.base))
    return {
        key
        for key, of_base in BASE_VALUES.items()
        if fields.get(of_base) is not None and fields.get(of_base) == base.get(of_base)
    }


def _differences(sweep: SweepConfig, target: TrialConfig) -> dict[str, str]:
    proxy = _conditions(with_width(sweep.base, target.model.width), sweep)
    wanted = _conditions(target, sweep)
    return {
        key: f"{key} is {wanted.get(key)} at the target and {proxy.get(key)} at the proxies"
        f"{_ratio(wanted.get(key), proxy.get(key))}"
        for key in sorted({*proxy, *wanted})
        if proxy.get(key) != wanted.get(key) and key not in sweep.varied
    }


def advice(sweep: SweepConfig, target: TrialConfig, difference: str) -> str:
    """Return what to do about one of the `distances`."""
    of_base = BASE_VALUES.get(difference.partition(" ")[0])
    if target.parametrization.scaling is Scaling.complete and of_base is not None:
        proxy = flat(plain(sweep.base))[difference.partition(" ")[0]]
        return f"Set {of_base}={proxy} in the sweep, so that `complete` scales with it."
    return "Make them equal, or sweep what differs."


def _conditions(config: TrialConfig, sweep: SweepConfig) -> dict[str, Any]:
    same = dict.fromkeys(sweep.axes, -2.0)  # what is swept is no condition: any value, but one
    fields = flat(plain(with_hyperparameters(config, same)))
    return {key: value for key, value in fields.items() if key.split(".")[0] in COMPARED}


def _ratio(target: Any, proxy: Any) -> str:
    both = isinstance(target, int | float) and isinstance(proxy, int | float)
    return f" ({rounded(target / proxy, 3)} times)" if both and proxy else ""


def conditional_on(config: TrialConfig) -> dict[str, Any]:
    """Return what an answer of this sweep holds for."""
    budget = config.budget
    return {
        "steps": budget.steps,
        "batch_size": budget.batch_size,
        "schedule": budget.schedule.value,
        "weights": budget.weights.value,
        "ema_decay": round(budget.ema_decay, 6) if budget.weights.value == "ema" else None,
        "depth": getattr(config.model, "depth", None),
    }


def parameter_table_text(config: TrialConfig) -> str:
    """Return every parameter's rule as JSON, a parameter a line."""
    rows = ",\n".join(json.dumps(row) for row in parameter_table(config))
    return f"[\n{rows}\n]\n"


def transfer_record(
    sweep: SweepConfig, table: pd.DataFrame, answer: Transferred, target: TrialConfig
) -> dict[str, Any]:
    """Return the object of `hptransfer transfer --json`; `target` has the transferred HPs."""
    apart = distances(sweep, target)
    near = runs_near_value(answer.of_condition(table), answer.point)
    gap = train_validation_gap(near)
    return {
        "target": target_entry(target),
        "hps": answer.hps,
        "expected_regret": _expected_regret(answer, sweep, apart),
        "predicted_loss": None if apart or bridged(sweep, target) else answer.predicted_loss,
        "realised_regret": None,
        "train_validation_gap": gap,
        **decay_entry(target),
        "cost": search_cost(sweep, table, target, points=swept_points(sweep, table, target)),
        "verdict": answer.verdict,
        "answers": answer.answers,
        "warnings": [
            *answer.warnings,
            *bridged(sweep, target),
            *(
                "The answer holds only where nothing changes but what was swept, yet "
                f"{difference}. {advice(sweep, target, difference)}"
                for difference in apart
            ),
            *gap_warnings(gap),
            *clipping_warnings(near, searched="log2_clip_norm" in answer.hps),
        ],
    }


def decay_entry(target: TrialConfig) -> dict[str, Any]:
    """Return τ by role, the weight decay as a time scale in runs; nothing where nothing decays."""
    timescales = decay_timescales(target)
    return {"decay_timescale": timescales} if any(timescales.values()) else {}


def target_entry(target: TrialConfig) -> dict[str, Any]:
    """Return what identifies a target of ours; `config` is its canonical form."""
    return {
        "family": target.model.family,
        "width": target.model.width,
        "params": parameter_count(target),
        "parametrization": target.parametrization.scaling.value,
        "config": canonical(target),
    }


def _expected_regret(
    answer: Transferred, sweep: SweepConfig, apart: Sequence[str]
) -> dict[str, Any]:
    conditions = {**conditional_on(sweep.base), **answer.holds_for}
    if apart:
        return {**EMPTY_REGRET, "conditional_on": conditions, "reason": "; ".join(apart)}
    return {**answer.expected_regret, "conditional_on": conditions}


def target_yaml(composed: Composed, name: str, trial: TrialConfig, record: dict[str, Any]) -> str:
    """Return the target's complete config, with where it came from as comments."""
    run = with_trial(composed, trial)
    lines = [
        f"The target run of the sweep {name}. Train it with `hptransfer train <this file>`.",
        *provenance_lines(record),
        f"parametrization: {arm_of(trial)}, width {trial.model.width}, base width "
        f"{trial.model.base_width}",
    ]
    return resolved_yaml(run, name=f"{name}-target", comment="\n".join(lines))


def provenance_lines(record: Mapping[str, Any]) -> list[str]:
    """Return what a target's file says of its values: how sure they are, and what they cost."""
    regret, cost, gap = (
        record[name] for name in ("expected_regret", "cost", "train_validation_gap")
    )
    answers = ([*a["headline"].splitlines(), *a["reasons"]] for a in record["answers"].values())
    lines = [*chain.from_iterable(answers), f"verdict: {record['verdict']}"]
    for hp, value in record["hps"].items():
        ends, digits = (value["low"], value["high"]), axis_digits(hp)
        low_to_high = " to ".join(f"{end:.{digits}f}" for end in ends if end is not None)
        interval = "" if None in ends else f" (90 % interval {low_to_high})"
        lines.append(f"{hp}: {value['value']:.{digits + 1}f}{interval}")
    if regret["mean"] is None:
        lines.append(f"expected cost in loss: not predicted, because {regret['reason']}")
    else:
        lines.append(f"expected cost in loss: {cost_text(regret, 'mean')}, 90 % interval")
    known = {k: v for k, v in regret["conditional_on"].items() if v is not None}
    lines.append(f"this holds for: {json.dumps(known)}")
    loss = record["predicted_loss"]
    if loss is not None:
        ends = "" if loss["low"] is None else f" ({loss['low']:.5f} to {loss['high']:.5f})"
        lines.append(f"predicted loss at the optimum: {loss['estimate']:.5f}{ends}")
    if cost["over_direct_search_percent"] is not None:
        lines.append(f"compute: {cost_sentence(cost)}.")
    lines += decay_lines(record.get("decay_timescale") or {})
    if gap is not None:
        width = gap["widths"][-1]["width"]
        lines.append(f"held-out minus training loss at width {width}: {gap['mean']:.5f}")
    return [*lines, *(f"warning: {warning}" for warning in record["warnings"])]
