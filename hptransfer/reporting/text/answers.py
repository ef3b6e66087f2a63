"""Answers as text for a terminal, 100 columns wide."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from hptransfer.results.metrics import metric_of

LEFT = ("arm", "HP", "module", "role", "parameter")  # columns of text
ARM_NAMES = {"mup": "µP", "standard": "standard", "standard_embed": "standard + embed"}


def arm_name(label: str) -> str:
    """Return an arm's name for people."""
    return ARM_NAMES.get(label, label)


def check_line(answer: Mapping[str, Any]) -> str:
    """Say in a line what a coordinate check found."""
    worst = answer["worst"]
    role = "" if answer["parametrization"] == "mup" else " (a control: reported only)"
    return (
        f"check    {arm_name(answer['parametrization'])}: {answer['verdict']}{role}; steepest "
        f"{worst['module']} {worst['quantity']}, {decimal(worst['slope'])} octaves per doubling "
        f"(limit {answer['limit']})"
    )


def check_text(answer: Mapping[str, Any]) -> str:
    """Say what a coordinate check found, module by module where it failed."""
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
    """List the first names, and how many more there are."""
    more = f" and {len(names) - shown} more (--json lists them)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def optima_table(estimates: Mapping[str, Any]) -> str:
    """Return optimum per width with interval, then drift and verdict, for every arm."""
    cells, lines = [], []
    for arm in estimates["arms"]:
        for optimum in arm["optima"]:
            cells.append(
                [
                    arm_name(arm["parametrization"]),
                    arm["hp"].replace("_", " "),
                    str(optimum["width"]),
                    f"{optimum['optimum']:.2f}",
                    interval(optimum["low"], optimum["high"], ".2f"),
                    _loss(optimum["loss"]),
                    str(optimum["n_seeds"]),
                    optimum["censored"] or "",
                ]
            )
        lines += _arm_lines(arm, hp_named=len({each["hp"] for each in estimates["arms"]}) > 1)
    measured = metric_of(estimates).label
    columns = ["arm", "HP", "width", "optimum", "90 % interval", measured, "seeds", "censored"]
    missing = estimates["trials"]["missing"]
    if missing:
        lines.append(f"{missing} trials of the sweep are missing: the answer may change.")
    return "\n".join([text_table(f"sweep {estimates['sweep']}", columns, cells), *lines])


def _arm_lines(arm: Mapping[str, Any], *, hp_named: bool) -> list[str]:
    drift = arm["drift_octaves_per_doubling"]
    name = arm_name(arm["parametrization"])
    if hp_named:
        name += f", {arm['hp'].replace('_', ' ')}"
    lines = [
        f"{name}: {arm['verdict']}; drift {decimal(drift['estimate'])} octaves per doubling "
        f"{interval(drift['low'], drift['high'], '+.2f')}"
    ]
    lines += [f"  {reason}" for reason in arm["reasons"]]
    lines += [f"  {over['sentence']}" for over in (arm.get("conditions") or {}).get("over", ())]
    lines += [f"  warning: {warning}" for warning in arm["warnings"]]
    return lines


def transfer_lines(record: Mapping[str, Any]) -> str:
    """Say what to train, what it should cost, what the search cost, and what was realised."""
    target = record["target"]
    size = "" if target["params"] is None else f" ({target['params']:,} parameters)"
    lines = [
        f"target   {target['family']} width {target['width']}{size}, "
        f"{arm_name(target['parametrization'])}, verdict {record['verdict']}"
    ]
    for hp, value in record["hps"].items():
        lines.append(
            f"transfer {hp.replace('_', ' ')} = {value['value']:.2f} "
            f"{interval(value['low'], value['high'], '.2f')}, {2 ** value['value']:.4g}"
        )
    lines += [_regret_line(record["expected_regret"]), *_loss_lines(record)]
    lines.append(_cost_line(record["cost"]))
    lines += [f"warning: {warning}" for warning in record["warnings"]]
    return "\n".join(lines)


def _regret_line(regret: Mapping[str, Any]) -> str:
    if regret["mean"] is None:
        return f"regret   not predicted: {regret['reason']}"
    parts = [f"expected {regret['mean']:.5f} {interval(regret['low'], regret['high'], '.5f')}"]
    if regret["percent"] is not None:
        parts.append(f"{regret['percent']:.2g} % of the loss")
    if regret["share_of_gain"] is not None:
        parts.append(f"{100 * regret['share_of_gain']:.2g} % of the last doubling's gain")
    known = {name: value for name, value in regret["conditional_on"].items() if value is not None}
    where = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items())
    return f"regret   {', '.join(parts)}" + (f"; for {where}" if where else "")


def _loss_lines(record: Mapping[str, Any]) -> list[str]:
    """Say what loss was predicted, how far training and held-out losses are apart, and what came
    of the target so far.
    """
    lines = []
    predicted, gap, realised = (
        record.get(name) for name in ("predicted_loss", "train_validation_gap", "realised")
    )
    if predicted is not None:
        ends = interval(predicted["low"], predicted["high"], ".5f")
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
    ends = interval(regret["low"], regret["high"], ".5f")
    return f"{said}; regret {decimal(regret['estimate'], '.5f')} {ends}"


def _cost_line(cost: Mapping[str, Any]) -> str:
    if cost["sweep_flops"] is None:
        return "cost     not known: the rows give no FLOPs"
    swept = f"cost     {cost['sweep_flops']:.3g} FLOPs swept"
    if cost["arm_over_target_percent"] is None:
        return f"{swept}; the target's are not known"
    return (
        f"{swept}; the arm is {cost['arm_over_target_percent']:g} % of one target run, its "
        f"narrowest proxy {cost['narrowest_over_target_percent']:g} %, and "
        f"{cost['over_direct_search_percent']:g} % of the same search at the target"
    )


def realised_line(realised: Mapping[str, Any]) -> str:
    """Say what the transferred value really cost at the target."""
    regret, predicted = realised["regret"], realised["predicted"]
    own = realised["optimum"]
    if own is None:
        return f"realised regret not known: {realised['reason']}"
    verdict = "missed the prediction" if realised["missed"] else "within the prediction"
    said = f"predicted {decimal(predicted['mean'], '.5f')}: {verdict}"
    if predicted["mean"] is None:
        said = "nothing was predicted"
    return (
        f"realised regret {decimal(regret['estimate'], '.5f')} "
        f"{interval(regret['low'], regret['high'], '.5f')} at width {realised['width']} "
        f"(own optimum {own['optimum']:.2f} {interval(own['low'], own['high'], '.2f')}), {said}"
    )


def timing_line(laps: Mapping[str, float]) -> str:
    """Say where the time went."""
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in laps.items())
    return f"time     {sum(laps.values()):.0f} s: {parts}"


def status_text(state: Mapping[str, Any]) -> str:
    """Say how far a sweep is."""
    lines = [
        f"{state['sweep']}: {state['recorded']} of {state['wanted']} trials recorded "
        f"({state['completed']} completed, {state['diverged']} diverged, {state['stopped']} "
        f"stopped) in {state['folder']}"
    ]
    if state["outside_count"]:
        count = state["outside_count"]
        lines.append(f"{count} rows lie outside the wanted set: kept, not fitted")
    lines += [f"best     {best_point(best)}" for best in state["best"]]
    if state["notice"]:
        lines.append(state["notice"])
    return "\n".join(lines)


def best_point(best: Mapping[str, Any]) -> str:
    """Say where an arm's loss is least at a width."""
    point = ", ".join(f"{axis} {value:.2f}" for axis, value in best["hps"].items())
    return (
        f"{arm_name(best['parametrization'])} width {best['width']}: loss {best['loss']:.5f} at "
        f"{point} ({best['n_seeds']} seeds)"
    )


def trained_line(answer: Mapping[str, Any]) -> str:
    """Say how a trained config ended."""
    if answer["status"] == "diverged":
        return "trained  diverged: the loss turned non-finite"
    if answer["status"] == "stopped":
        return "trained  stopped: the loss rose far above its start and stayed (budget.stop_after)"
    before = " (recorded before)" if answer["recorded_before"] else ""
    return f"trained  validation loss {answer['loss']:.5f}{before}\nweights  {answer['weights']}"


def interval(low: float | None, high: float | None, form: str) -> str:
    """Return an interval as [low, high]; an end the data does not support is a dash."""
    return f"[{decimal(low, form)}, {decimal(high, form)}]"


def _loss(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"


def decimal(value: float | None, form: str = "+.2f") -> str:
    """Write a number; a missing one is a dash, and none is -0."""
    if value is None:
        return "-"
    text = format(value, form)
    return text.replace("-", "", 1) if float(text) == 0 else text


def text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="left" if column in LEFT else "right")
    for row in rows:
        table.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=100).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def agreement_text(estimates: Mapping[str, Any]) -> str:
    """Say how far the optima by a metric are from those by the loss."""
    told, by = estimates["agreement"], metric_of(estimates).label
    several = len({arm["hp"] for arm in told}) > 1
    cells = [
        [
            _name(arm, several=several),
            str(at["width"]),
            _optimum(at["by_loss"]),
            _optimum(at["by_metric"]),
            _spanned(at["difference"], "+.2f"),
            _spanned(at["loss_regret"], ".4f"),
        ]
        for arm in told
        for at in arm["widths"]
    ]
    columns = ["arm", "width", "by loss", f"by {by}", "difference", "costs in loss"]
    lines = [text_table(f"optimum by {by} beside that by loss", columns, cells)]
    for arm in told:
        mean = arm["mean_difference"]
        widths = f"{mean['widths']} width{'' if mean['widths'] == 1 else 's'}"
        lines.append(
            f"{_name(arm, several=several)}: mean difference {_spanned(mean, '+.2f')} octaves "
            f"over {widths}; tolerance δ of the loss {decimal(arm['loss_tolerance'], '.5f')}"
        )
    return "\n".join(lines)


def _name(arm: Mapping[str, Any], *, several: bool) -> str:
    name = arm_name(arm["parametrization"])
    return f"{name}, {arm['hp'].replace('_', ' ')}" if several else name


def _optimum(told: Mapping[str, Any]) -> str:
    return f"{told['optimum']:.2f}" + (f" ({told['censored']})" if told["censored"] else "")


def _spanned(told: Mapping[str, Any], form: str) -> str:
    if told["estimate"] is None and told["low"] is not None:
        return f"{format(told['low'], form)} or more"
    return f"{decimal(told['estimate'], form)} {interval(told['low'], told['high'], form)}"
