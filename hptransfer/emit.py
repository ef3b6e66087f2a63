"""From estimates to the target run's config: what to train, what it should cost, what to expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hptransfer.compose import Composed, as_run_yaml, with_trial
from hptransfer.config import TrialConfig
from hptransfer.errors import UserError
from hptransfer.identity import arm_of, flat, with_width
from hptransfer.parametrization import parameter_rules
from hptransfer.questions import SweepConfig, with_hyperparameters
from hptransfer.rule_table import parameter_table
from hptransfer.search import grid
from hptransfer.training.flops import trial_flops

CONDITIONS = ("budget", "model", "objective", "data", "optimizer", "init", "precision")


def transferred_arms(estimates: Mapping[str, Any], target: TrialConfig) -> dict[str, Any]:
    """Return the estimates of the target's arm by HP."""
    label = target.parametrization.scaling.value
    arms = {a["hp"]: a for a in estimates["arms"] if a["parametrization"] in (label, "shared")}
    if not arms:
        swept = sorted({arm["parametrization"] for arm in estimates["arms"]})
        raise UserError(
            f"The target's parametrization must be an arm of the sweep, but it is {label} and the "
            f"sweep has {', '.join(swept) or 'no finished trial'}. Set parametrization=."
        )
    for hp, arm in arms.items():
        if arm["target"] is None:
            raise UserError(
                f"A value can be transferred only from a fitted optimum, but the {label} arm has "
                f"none for {hp}: {'; '.join(arm['reasons'])}"
            )
    return arms


def distances(sweep: SweepConfig, target: TrialConfig) -> list[str]:
    """Say on which axes that were not swept the target differs from the proxies, and how far."""
    proxy = _conditions(with_width(sweep.base, target.model.width), sweep)
    wanted = _conditions(target, sweep)
    return [
        f"{key} is {wanted.get(key)} at the target and {proxy.get(key)} at the proxies"
        f"{_ratio(wanted.get(key), proxy.get(key))}"
        for key in sorted({*proxy, *wanted})
        if proxy.get(key) != wanted.get(key)
    ]


def _conditions(config: TrialConfig, sweep: SweepConfig) -> dict[str, Any]:
    same = dict.fromkeys(sweep.axes, -2.0)  # what is swept is no condition: any value, but one
    fields = flat(with_hyperparameters(config, same))
    return {key: value for key, value in fields.items() if key.split(".")[0] in CONDITIONS}


def _ratio(target: Any, proxy: Any) -> str:
    both = isinstance(target, int | float) and isinstance(proxy, int | float)
    return f" ({target / proxy:g} times)" if both and proxy else ""


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


def cost(sweep: SweepConfig, table: pd.DataFrame, target: TrialConfig) -> dict[str, float]:
    """Return FLOPs of sweep and target, and three ratios in percent, each of its denominator."""
    label = target.parametrization.scaling.value
    flops, widths = table["flops"].to_numpy(), table["width"].to_numpy()
    in_arm = table["parametrization"].isin([label, "shared"]).to_numpy()
    arm_flops = float(flops[in_arm].sum())
    narrowest_flops = float(flops[in_arm & (widths == widths[in_arm].min())].sum())
    target_flops = trial_flops(target)
    direct_search = target_flops * len(grid(sweep.search)) * len(sweep.seeds)
    return {
        "sweep_flops": float(flops.sum()),
        "target_flops": target_flops,
        "arm_over_target_percent": round(100 * arm_flops / target_flops, 3),
        "narrowest_over_target_percent": round(100 * narrowest_flops / target_flops, 3),
        "over_direct_search_percent": round(100 * arm_flops / direct_search, 3),
    }


def parameter_table_text(config: TrialConfig) -> str:
    """Return every parameter's rule as JSON, a parameter a line."""
    rows = ",\n".join(json.dumps(row) for row in parameter_table(config))
    return f"[\n{rows}\n]\n"


def transfer_record(
    sweep: SweepConfig, table: pd.DataFrame, arms: Mapping[str, Any], target: TrialConfig
) -> dict[str, Any]:
    """Return the object of `hptransfer transfer --json`."""
    apart = distances(sweep, target)
    verdict = _verdict([arm["verdict"] for arm in arms.values()])
    first = next(iter(arms.values()))
    return {
        "target": {
            "family": target.model.family,
            "width": target.model.width,
            "params": sum(_size(rule.shape) for rule in parameter_rules(target)),
            "parametrization": target.parametrization.scaling.value,
        },
        "hps": {
            hp: {
                "value": arm["target"]["emitted"],
                "low": arm["target"]["low"],
                "high": arm["target"]["high"],
            }
            for hp, arm in arms.items()
        },
        "expected_regret": _expected_regret(first, sweep, apart),
        "realised_regret": None,
        "cost": cost(sweep, table, target),
        "verdict": verdict,
        "warnings": _warnings(arms, apart, verdict),
    }


def _verdict(verdicts: Sequence[str]) -> str:
    for worst in ("extend", "drifts", "inconclusive"):
        if worst in verdicts:
            return worst
    return "transfers"


def _size(shape: Sequence[int]) -> int:
    size = 1
    for dim in shape:
        size *= dim
    return size


def _expected_regret(
    arm: Mapping[str, Any], sweep: SweepConfig, apart: Sequence[str]
) -> dict[str, Any]:
    conditions = conditional_on(sweep.base)
    expected = arm["target"]["expected_regret"]
    if apart or expected is None or expected["mean"] is None:
        reason = "; ".join(apart) or _no_prediction(expected)
        empty = dict.fromkeys(("mean", "low", "high", "percent", "share_of_gain"))
        return {**empty, "conditional_on": conditions, "reason": reason}
    gain, loss = arm["gain"]["estimate"], arm["optima"][-1]["loss"]
    mean = expected["mean"]
    return {
        **expected,
        "percent": round(100 * mean / loss, 3) if loss else None,
        "share_of_gain": round(mean / gain, 4) if gain and gain > 0 else None,
        "conditional_on": conditions,
    }


def _no_prediction(expected: Mapping[str, Any] | None) -> str:
    if expected is None:
        return "the sweep gives no noise estimate"
    return "some draws of the target's optimum lie beyond the cliff, where the regret is infinite"


def _warnings(arms: Mapping[str, Any], apart: Sequence[str], verdict: str) -> list[str]:
    warnings = [warning for arm in arms.values() for warning in arm["warnings"]]
    if verdict != "transfers":
        reasons = "; ".join(reason for arm in arms.values() for reason in arm["reasons"])
        warnings.append(f"The verdict is {verdict}: {reasons}")
    if len(arms) > 1:
        warnings.append("The expected regret is the first HP's; the others are not added.")
    warnings += [
        f"The answer holds only where nothing but width changes, and {difference}."
        for difference in apart
    ]
    return list(dict.fromkeys(warnings))


def target_yaml(composed: Composed, name: str, trial: TrialConfig, record: dict[str, Any]) -> str:
    """Return the target's complete config, with where it came from as comments."""
    run = with_trial(composed, trial)
    lines = [
        f"The target run of sweep {name}: train it with `hptransfer train <this file>`.",
        f"verdict: {record['verdict']}",
    ]
    for hp, value in record["hps"].items():
        interval = (
            f" (90 % interval {value['low']:.2f} to {value['high']:.2f})"
            if (value["low"] is not None and value["high"] is not None)
            else ""
        )
        lines.append(f"{hp}: {value['value']:.3f}{interval}")
    regret = record["expected_regret"]
    if regret["mean"] is not None:
        lines.append(
            f"expected regret: {regret['mean']:.5f} ({regret['low']:.5f} to {regret['high']:.5f}) "
            "in units of the loss"
        )
    lines.append(f"conditional on: {json.dumps(regret['conditional_on'])}")
    lines += [f"warning: {warning}" for warning in record["warnings"]]
    lines.append(f"arm: {arm_of(trial)}, width {trial.model.width}, base {trial.model.base_width}")
    return as_run_yaml(run, name=f"{name}-target", comment="\n".join(lines))
