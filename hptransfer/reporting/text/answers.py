"""Checks, transfers, status and trained targets as text for a terminal, 100 columns wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hptransfer.analysis.answer.headline import percent
from hptransfer.analysis.answer.text import answer_lines, value_span
from hptransfer.analysis.answer.transferred import cost_shares
from hptransfer.config.choices import arm_name
from hptransfer.config.hyperparameters import axis_digits, hp_value, hp_words
from hptransfer.reporting.figures.wording import regret_text
from hptransfer.system.text import decimal, interval_text, text_table


def check_line(answer: Mapping[str, Any]) -> str:
    """Return a coordinate check's verdict and its steepest slope in one line."""
    worst = answer["worst"]
    role = "" if answer["parametrization"] == "mup" else " (a control: reported only)"
    return (
        f"check    {arm_name(answer['parametrization'])}: {answer['verdict']}{role}; steepest "
        f"{worst['module']} {worst['quantity']}, {decimal(worst['slope'])} octaves per doubling "
        f"(limit {answer['limit']})"
    )


def check_text(answer: Mapping[str, Any]) -> str:
    """Return a coordinate check's verdict with a table of the modules that failed."""
    rows = [s for s in answer["slopes"] if not s["ok"]] or [answer["worst"]]
    worst_per_module: dict[str, Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda s: -abs(s["slope"] if s["slope"] is not None else 99.0)):
        worst_per_module.setdefault(row["module"], row)
    cells = [
        [m, r["quantity"], str(r["step"]), decimal(r["slope"])] for m, r in worst_per_module.items()
    ]
    title = "modules that change with width" if not rows[0]["ok"] else "the steepest module"
    lines = [
        check_line(answer),
        f"widths {answer['widths']}, log2 lr {answer['log2_lr']:g}, {len(answer['seeds'])} seeds; "
        f"the base width's loss fell by {answer['loss_drop']:.0%} in {max(answer['steps'])} steps",
        *answer["warnings"],
        text_table(title, ["module", "quantity", "step", "octaves per doubling"], cells),
    ]
    if answer["zero"]:
        lines.append(f"exactly zero at all widths, so without a slope: {_some(answer['zero'])}")
    return "\n".join(lines)


def _some(names: Sequence[str], shown: int = 4) -> str:
    """Return the first `shown` names, and the number of the others."""
    more = f" and {len(names) - shown} more (--json lists them)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def transfer_lines(record: Mapping[str, Any]) -> str:
    """Return every HP's answer, then the target's values, expected cost and loss, and warnings."""
    lines = [line for told in record["answers"].values() for line in answer_lines(told)]
    target = record["target"]
    size = "" if target["params"] is None else f" ({target['params']:,} parameters)"
    lines.append(
        f"target   {target['family']} width {target['width']}{size}, "
        f"{arm_name(target['parametrization'])}, verdict {record['verdict']}"
    )
    for hp, value in record["hps"].items():
        point = f"; {hp} = {value['value']:.2f}" if hp.startswith("log2_") else ""
        lines.append(
            f"transfer {hp_words(hp)} {hp_value(hp, value['value']):.4g}, 90 % interval "
            f"{value_span(hp, value['low'], value['high'])}{point}"
        )
    lines += [_regret_line(record["expected_regret"]), *_loss_lines(record)]
    lines.append(_cost_line(record["cost"]))
    lines += [f"warning: {warning}" for warning in record["warnings"]]
    return "\n".join(lines)


def _regret_line(regret: Mapping[str, Any]) -> str:
    known = {name: value for name, value in regret["conditional_on"].items() if value is not None}
    where = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items())
    held = f"; for {where}" if where else ""
    if regret["mean"] is None:
        return f"expected not known: {regret['reason']}{held}"
    parts = [f"{regret_text(regret, 'mean')} in loss"]
    for name, what in (("percent", "of it"), ("compute_percent", "more compute")):
        if regret[name] is not None:
            parts.append(f"{percent(regret[name])} {what}")
    return f"expected to cost {', '.join(parts)}{held}"


def _loss_lines(record: Mapping[str, Any]) -> list[str]:
    """Return lines on the predicted loss, the train-validation gap, and the trained target."""
    lines = []
    predicted, gap, realised = (
        record.get(name) for name in ("predicted_loss", "train_validation_gap", "realised")
    )
    if predicted is not None:
        ends = interval_text(predicted["low"], predicted["high"], ".5f")
        lines.append(f"loss     predicted {predicted['estimate']:.5f} {ends} at its optimum")
    if gap is not None:
        width = gap["widths"][-1]["width"]
        lines.append(
            f"gap      held-out minus training loss {decimal(gap['mean'], '+.5f')} at width {width}"
        )
    if realised is not None:
        lines.append(_realised_so_far(record, realised))
    return lines


def _realised_so_far(record: Mapping[str, Any], realised: Mapping[str, Any]) -> str:
    within = {True: ", as predicted", False: ", outside the prediction", None: ""}
    loss = decimal(realised["loss_at_transferred"], ".5f")
    said = f"realised loss {loss} at the transferred value{within[realised['loss_as_predicted']]}"
    regret = record["realised_regret"]
    if regret is None:
        return f"{said}. {realised['reason']}"
    return f"{said}; it costs {regret_text(regret)} in loss"


def _cost_line(cost: Mapping[str, Any]) -> str:
    if cost["sweep_flops"] is None:
        return "cost     not known: the rows give no FLOPs"
    swept = f"cost     {cost['sweep_flops']:.3g} FLOPs swept"
    if cost["arm_over_target_percent"] is None:
        return f"{swept}; the target's are not known"
    arm, narrowest, direct = cost_shares(cost)
    return (
        f"{swept}; the arm is {arm} of one target run, its narrowest proxy {narrowest}, and "
        f"{direct} of the same search at the target"
    )


def realised_line(realised: Mapping[str, Any]) -> str:
    """Return what the transferred value costs at the target, beside what was predicted."""
    regret, predicted = realised["regret"], realised["predicted"]
    own = realised["optimum"]
    if own is None:
        return f"realised cost not known: {realised['reason']}"
    form = f".{axis_digits(realised['hp'])}f"
    verdict = "missed the prediction" if realised["missed"] else "within the prediction"
    known = predicted["mean"] is not None
    said = (
        f"predicted {regret_text(predicted, 'mean')}: {verdict}"
        if known
        else "nothing was predicted"
    )
    return (
        f"realised the value costs {regret_text(regret)} in loss at width {realised['width']} "
        f"(own optimum {own['optimum']:{form}} {interval_text(own['low'], own['high'], form)}), "
        f"{said}"
    )


def timing_line(laps: Mapping[str, float]) -> str:
    """Return the seconds of a run and of each of its parts in one line."""
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in laps.items())
    return f"time     {sum(laps.values()):.0f} s: {parts}"


def status_text(state: Mapping[str, Any]) -> str:
    """Return a sweep's counts of trials, failures and best points, as lines."""
    lines = [
        f"{state['sweep']}: {state['recorded']} of {state['wanted']} trials recorded "
        f"({state['completed']} completed, {state['diverged']} diverged, {state['stopped']} "
        f"stopped) in {state['folder']}"
    ]
    if state["outside_count"]:
        count = state["outside_count"]
        lines.append(f"{count} recorded rows are left out: the sweep does not ask for them")
    lines += [f"failed   {sentence}" for sentence in state["failed"]]
    lines += [f"best     {best_point(best)}" for best in state["best"]]
    if state["notice"]:
        lines.append(state["notice"])
    return "\n".join(lines)


def best_point(best: Mapping[str, Any]) -> str:
    """Return the point of an arm and width with the lowest loss, in one line."""
    point = ", ".join(f"{axis} {value:.2f}" for axis, value in best["hps"].items())
    return (
        f"{arm_name(best['parametrization'])} width {best['width']}: loss {best['loss']:.5f} at "
        f"{point} ({best['n_seeds']} seeds)"
    )


def trained_line(answer: Mapping[str, Any]) -> str:
    """Return the outcome of training one config, and where its weights are."""
    if answer["status"] == "diverged":
        return "trained  diverged: the loss turned non-finite"
    if answer["status"] == "stopped":
        return "trained  stopped: the loss rose far above its start and stayed (budget.stop_after)"
    before = " (recorded before)" if answer["recorded_before"] else ""
    return f"trained  validation loss {answer['loss']:.5f}{before}\nweights  {answer['weights']}"
