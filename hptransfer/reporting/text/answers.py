"""Checks, transfers, status and trained targets as text for a terminal, 100 columns wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hptransfer.analysis.answer.text import (
    answer_lines,
    cost_sentence,
    decay_lines,
    left_out_sentence,
    percent,
    span,
    value_span,
)
from hptransfer.config.choices import TRANSFERRING, arm_name
from hptransfer.config.hyperparameters import hp_value, hp_words, value_text
from hptransfer.system.text import (
    cost_text,
    decimal,
    factor_text,
    percent_text,
    rounded,
    text_table,
)


def check_verdict(answer: Mapping[str, Any]) -> str:
    """Return which parametrization passes or fails, as a clause."""
    name = arm_name(answer["parametrization"])
    if answer["verdict"] == "inconclusive":
        return f"the coordinate check cannot tell whether {name} holds (inconclusive)"
    said = {"pass": "passes", "fail": "fails"}[answer["verdict"]]
    return f"{name} {said} the coordinate check"


def check_line(answer: Mapping[str, Any]) -> str:
    """Return a coordinate check's verdict and its steepest slope in one line."""
    worst, axis = answer["worst"], answer.get("axis", "width")
    known = answer["parametrization"] in [scaling.value for scaling in TRANSFERRING]
    control = "" if known else ", for comparison only"
    lowest = worst["lowest"] if axis == "depth" else -answer["limit"]
    return (
        f"check    {check_verdict(answer)}{control}. "
        f"What changes most with the {axis} is {worst['module']} ({worst['quantity']}): a doubling "
        f"multiplies its size by {factor_text(worst['slope'])} (accepted: "
        f"{factor_text(lowest)} to {factor_text(answer['limit'])})"
    )


def check_text(answer: Mapping[str, Any], whole_list: str = "--json lists them") -> str:
    """Return a coordinate check's verdict with a table of the modules that failed.

    `whole_list` says where all names are that are too many for the text.
    """
    rows = [s for s in answer["slopes"] if not s["ok"]] or [answer["worst"]]
    axis = answer.get("axis", "width")
    worst_per_module: dict[str, Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda s: -abs(s["slope"] if s["slope"] is not None else 99.0)):
        worst_per_module.setdefault(row["module"], row)
    cells = [
        [m, r["quantity"], str(r["step"]), factor_text(r["slope"]), _factor_interval(r)]
        for m, r in worst_per_module.items()
    ]
    title = (
        f"the module that changes most with the {axis}"
        if rows[0]["ok"]
        else f"modules that change with the {axis}, which µP forbids"
        if answer["verdict"] == "fail"
        else f"modules that may change with the {axis}"
    )
    lines = [
        check_line(answer),
        f"Trained at {axis}s {', '.join(map(str, answer[f'{axis}s']))} with learning rate "
        f"{rounded(2.0 ** answer['log2_lr'], 3)} and {len(answer['seeds'])} seeds. At the base "
        f"{axis} the loss fell by {percent_text(100 * answer['loss_drop'])} in "
        f"{max(answer['steps'])} steps.",
        *(f"warning: {warning}" for warning in answer["warnings"]),
        *cause_lines(answer),
        text_table(
            title, ["module", "quantity", "step", "factor per doubling", "95 % interval"], cells
        ),
    ]
    if answer["zero"]:
        lines.append(
            f"Exactly zero at every {axis}, so not compared: {_some(answer['zero'], whole_list)}."
        )
    return "\n".join(lines)


def cause_lines(answer: Mapping[str, Any]) -> list[str]:
    """Return a line for each suspected cause, with the setting to type."""
    return [
        f"cause    {cause['sentence']}" + (f" Type {cause['type']}" if cause["type"] else "")
        for cause in answer.get("causes", ())
    ]


def _factor_interval(row: Mapping[str, Any]) -> str:
    """Return the interval of a slope's factor over seeds; a dash where it is not known."""
    error = row.get("error")
    if row["slope"] is None or error is None:
        return "–"
    low, high = row["slope"] - error, row["slope"] + error
    return f"{factor_text(low)} to {factor_text(high)}"


def _some(names: Sequence[str], whole_list: str, shown: int = 4) -> str:
    """Return the first `shown` names, and the number of the others."""
    more = f" and {len(names) - shown} more ({whole_list})" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def transfer_lines(record: Mapping[str, Any]) -> str:
    """Return every HP's answer, then the lines of the target."""
    answers = [line for told in record["answers"].values() for line in answer_lines(told)]
    return "\n".join([*answers, target_lines(record)])


def target_lines(record: Mapping[str, Any]) -> str:
    """Return the target's values, expected cost and loss, and warnings."""
    lines: list[str] = []
    target = record["target"]
    size = "" if target["params"] is None else f" ({target['params']:,} parameters)"
    family = "" if target.get("start") else f"{target['family']} "
    lines.append(
        f"target   {family}width {target['width']}{size}, "
        f"{arm_name(target['parametrization'])}, verdict: {record['verdict']}"
    )
    if target.get("start"):
        lines.append(f"start    {target['start']}")
    for hp, value in record["hps"].items():
        point = f"; log2: {value['value']:.2f}" if hp.startswith("log2_") else ""
        lines.append(
            f"value    {hp_words(hp)} {value_text(hp, hp_value(hp, value['value']), 4)} (90 % "
            f"interval {value_span(hp, value['low'], value['high'])}{point})"
        )
    lines += [_regret_line(record["expected_regret"]), *_loss_lines(record)]
    lines.append(_cost_line(record["cost"]))
    lines += [f"warning: {warning}" for warning in record["warnings"]]
    return "\n".join(lines)


def _regret_line(regret: Mapping[str, Any]) -> str:
    known = {name: value for name, value in regret["conditional_on"].items() if value is not None}
    where = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items())
    held = f". This holds for {where}" if where else ""
    if regret["mean"] is None:
        return f"expected cost not known: {regret['reason']}{held}"
    parts = [f"{cost_text(regret, 'mean')} in loss"]
    if regret["percent"] is not None:
        parts.append(f"which is {percent(regret['percent'])} of it")
    if regret["compute_percent"] is not None:
        parts.append(f"worth {percent(regret['compute_percent'])} more compute")
    return f"expected cost against the target's best value: {', '.join(parts)}{held}"


def _loss_lines(record: Mapping[str, Any]) -> list[str]:
    """Return lines on the predicted loss, the train-validation gap, and the trained target."""
    lines = []
    predicted, gap, realised = (
        record.get(name) for name in ("predicted_loss", "train_validation_gap", "realised")
    )
    if predicted is not None:
        ends = span(predicted["low"], predicted["high"], ".3f")
        lines.append(
            f"loss     predicted {predicted['estimate']:.3f} at the target's best value (90 % "
            f"interval {ends})"
        )
    if gap is not None:
        width = gap["widths"][-1]["width"]
        lines.append(
            f"gap      held-out loss minus training loss {decimal(gap['mean'], '+.4f')} at width "
            f"{width}"
        )
    lines += [f"decay    {line}" for line in decay_lines(record.get("decay_timescale") or {})]
    if realised is not None:
        lines.append(_realised_so_far(record, realised))
    return lines


def _realised_so_far(record: Mapping[str, Any], realised: Mapping[str, Any]) -> str:
    within = {True: ", as predicted", False: ", outside the prediction", None: ""}
    loss = decimal(realised["loss_at_transferred"], ".4f")
    said = f"measured loss {loss} at the transferred value{within[realised['loss_as_predicted']]}"
    regret = record["realised_regret"]
    if regret is None:
        return f"{said}. {realised['reason']}"
    return f"{said}; its cost against the target's best value is {cost_text(regret)} in loss"


def _cost_line(cost: Mapping[str, Any]) -> str:
    if cost["sweep_flops"] is None:
        return "compute  not known, because the rows give no FLOPs"
    swept = f"compute  the whole sweep took {cost['sweep_flops']:.3g} FLOPs"
    if cost["arm_over_target_percent"] is None:
        return f"{swept}; what the target takes is not known"
    return f"{swept}. {cost_sentence(cost)}"


def realised_line(realised: Mapping[str, Any]) -> str:
    """Return what the transferred value costs at the target, beside what was predicted."""
    regret, predicted = realised["regret"], realised["predicted"]
    own = realised["optimum"]
    if own is None:
        return f"measured cost not known: {realised['reason']}"
    hp = realised["hp"]
    best = f"{value_text(hp, hp_value(hp, own['optimum']))}, 90 % interval "
    best += value_span(hp, own["low"], own["high"])
    said = "Nothing was predicted."
    if predicted["mean"] is not None:
        verdict = "missed" if realised["missed"] else "held"
        said = f"The prediction was {cost_text(predicted, 'mean')}: it {verdict}."
    return (
        f"measured The target was swept too. At width {realised['width']} the transferred value "
        f"costs {cost_text(regret)} in loss against the best one ({best}). {said}"
    )


def timing_line(laps: Mapping[str, float]) -> str:
    """Return the seconds of a run and of each of its parts in one line."""
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in laps.items())
    return f"time     {sum(laps.values()):.0f} s: {parts}"


def status_text(state: Mapping[str, Any]) -> str:
    """Return a sweep's counts of trials, failures and best points, as lines."""
    lines = [
        f"{state['sweep']}: {state['recorded']} of {state['wanted']} trials are finished "
        f"({state['completed']} completed, {state['diverged']} diverged, {state['stopped']} "
        f"stopped early) in {state['folder']}"
    ]
    if state["outside_count"]:
        lines.append(left_out_sentence(state["outside_count"]))
    lines += [f"failed   {sentence}" for sentence in state["failed"]]
    lines += [f"best     {best_point(best)}" for best in state["best"]]
    if state["logs"]:
        lines.append(f"logs     {state['logs']} (hptransfer logs {state['folder']} KEY)")
    if state["notice"]:
        lines.append(state["notice"])
    return "\n".join(lines)


def best_point(best: Mapping[str, Any]) -> str:
    """Return the point of an arm and width with the lowest loss, in one line."""
    point = ", ".join(
        f"{hp_words(axis)} {value_text(axis, hp_value(axis, value))}"
        for axis, value in best["hps"].items()
    )
    seeds = "1 seed" if best["n_seeds"] == 1 else f"{best['n_seeds']} seeds"
    return (
        f"{arm_name(best['parametrization'])} width {best['width']}: loss {best['loss']:.4f} at "
        f"{point} ({seeds})"
    )


def trained_line(answer: Mapping[str, Any]) -> str:
    """Return the outcome of training one config, and where its weights are."""
    if answer["status"] == "diverged":
        return (
            "trained  The run diverged: its loss became infinite or NaN. Use a lower learning rate."
        )
    if answer["status"] == "stopped":
        return (
            "trained  The run was stopped, because its loss rose far above its start and stayed "
            "there (budget.stop_after). Use a lower learning rate."
        )
    before = " (this run was finished before)" if answer["recorded_before"] else ""
    return f"trained  held-out loss {answer['loss']:.5f}{before}\nweights  {answer['weights']}"
