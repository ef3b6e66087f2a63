"""Answers as text for a terminal, 100 columns wide."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LEFT = ("arm", "HP", "module", "role", "parameter")  # columns of text
# Columns of `rules`, and the names of the factors that they show.
FACTORS = {"lr": "lr", "decay": "weight_decay", "eps": "eps", "forward": "forward"}
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
        f"{worst['module']} {worst['quantity']}, {_number(worst['slope'])} octaves per doubling "
        f"(limit {answer['limit']})"
    )


def check_text(answer: Mapping[str, Any]) -> str:
    """Say what a coordinate check found, module by module where it failed."""
    rows = [s for s in answer["slopes"] if not s["ok"]] or [answer["worst"]]
    worst_per_module: dict[str, Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda s: -abs(s["slope"] if s["slope"] is not None else 99.0)):
        worst_per_module.setdefault(row["module"], row)
    cells = [
        [m, r["quantity"], str(r["step"]), _number(r["slope"])] for m, r in worst_per_module.items()
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


def rules_text(table: Mapping[str, Any], parameters: Sequence[Mapping[str, Any]]) -> str:
    """Say how a model goes with width: a line per role, and one per parameter where listed."""
    depth = f", depth ratio {table['depth_mult']:g}" if table["depth_mult"] != 1 else ""
    fault = f" broken by {table['broken']}" if table["broken"] != "none" else ""
    title = (
        f"{table['family']} width {table['width']}, base {table['base_width']}: "
        f"m = {table['width_mult']:g}{depth}; {arm_name(table['parametrization'])}{fault}; "
        f"{table['parameters']:,} parameters"
    )
    columns = ["role", "tensors", "params", "init std", "init", *FACTORS, "vanilla"]
    cells = [_role_cells(role, entry) for role, entry in table["roles"].items()]
    lines = [text_table(title, columns, cells), *_differences(table)]
    if parameters:
        columns = ["parameter", "shape", "role", "init std", *FACTORS]
        lines.append(
            text_table("every parameter", columns, [_parameter_cells(p) for p in parameters])
        )
    return "\n".join(lines)


def _role_cells(role: str, entry: Mapping[str, Any]) -> list[str]:
    exponent = entry["exponents"]["init_std"]
    return [
        role,
        str(entry["tensors"]),
        _count(entry["parameters"]),
        _range(entry["init_std"], "{:.2g}".format),
        "-" if exponent is None else _range(exponent, _power),
        *(_range(entry[f"{name}_factor"]) for name in FACTORS.values()),
        " ".join(_power(exponent) for exponent in entry["vanilla_exponents"].values()),
    ]


def _parameter_cells(row: Mapping[str, Any]) -> list[str]:
    shape = "x".join(map(str, row["shape"]))
    factors = [f"{row[f'{name}_factor']:.4g}" for name in FACTORS.values()]
    return [row["parameter"], shape, row["role"], f"{row['init_std']:.4g}", *factors]


def _differences(table: Mapping[str, Any]) -> list[str]:
    """Say whether a model's rules are the vanilla Transformer's, else what differs."""
    lines = [
        f"vanilla: {', '.join(['init', *FACTORS])} of a Transformer (arXiv 2203.03466, Table 8)"
    ]
    if table["depth_mult"] != 1:
        lines.append("Width is compared; the values hold the factors of depth too.")
    if table["coincide"]:
        return [*lines, "The rules coincide with the vanilla Transformer's in every role."]
    return lines + [
        f"{role} differs in its {name.replace('_', ' ')}: "
        f"{_range(entry['exponents'][name], _power)} against "
        f"{_power(entry['vanilla_exponents'][name])}"
        for role, entry in table["roles"].items()
        for name in entry["differs"]
    ]


def _power(exponent: float) -> str:
    """Return a power of m; what was measured within 0.03 of a half is that half."""
    half = round(2 * exponent) / 2
    short = {0.0: "1", 1.0: "m", -1.0: "1/m", -0.5: "m^-½"}
    near = half in short and abs(exponent - half) < 0.03
    return short[half] if near else f"m^{exponent:.2f}"


def _count(number: int) -> str:
    """Return a number of parameters in thousands, millions or billions."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def _range(spread: Mapping[str, float], form: Callable[[float], str] = "{:.3g}".format) -> str:
    """Return the one value of a role, or the lowest and highest."""
    ends = [form(spread[end]) for end in ("low", "high")]
    return ends[0] if ends[0] == ends[1] else "–".join(ends)


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
        lines += _arm_lines(arm)
    columns = ["arm", "HP", "width", "optimum", "90 % interval", "loss", "seeds", "censored"]
    missing = estimates["trials"]["missing"]
    if missing:
        lines.append(f"{missing} trials of the sweep are missing: the answer may change.")
    return "\n".join([text_table(f"sweep {estimates['sweep']}", columns, cells), *lines])


def _arm_lines(arm: Mapping[str, Any]) -> list[str]:
    drift = arm["drift_octaves_per_doubling"]
    name = arm_name(arm["parametrization"])
    lines = [
        f"{name}: {arm['verdict']}; drift {_number(drift['estimate'])} octaves per doubling "
        f"{interval(drift['low'], drift['high'], '+.2f')}"
    ]
    lines += [f"  {reason}" for reason in arm["reasons"]]
    lines += [f"  warning: {warning}" for warning in arm["warnings"]]
    return lines


def transfer_lines(record: Mapping[str, Any]) -> str:
    """Say what to train, what it should cost, and what the search cost."""
    target, cost, regret = record["target"], record["cost"], record["expected_regret"]
    lines = [
        f"target   {target['family']} width {target['width']} ({target['params']:,} parameters), "
        f"{arm_name(target['parametrization'])}, verdict {record['verdict']}"
    ]
    for hp, value in record["hps"].items():
        lines.append(
            f"transfer {hp.replace('_', ' ')} = {value['value']:.2f} "
            f"{interval(value['low'], value['high'], '.2f')}, {2 ** value['value']:.4g}"
        )
    if regret["mean"] is None:
        lines.append(f"regret   not predicted: {regret['reason']}")
    else:
        lines.append(
            f"regret   expected {regret['mean']:.5f} "
            f"{interval(regret['low'], regret['high'], '.5f')}"
        )
    lines.append(
        f"cost     {cost['sweep_flops']:.3g} FLOPs swept; the arm is "
        f"{cost['arm_over_target_percent']:g} % of one target run, its narrowest proxy "
        f"{cost['narrowest_over_target_percent']:g} %, and {cost['over_direct_search_percent']:g} "
        "% of the same search at the target"
    )
    lines += [f"warning: {warning}" for warning in record["warnings"]]
    return "\n".join(lines)


def realised_line(realised: Mapping[str, Any]) -> str:
    """Say what the transferred value really cost at the target."""
    regret, predicted = realised["regret"], realised["predicted"]
    own = realised["optimum"]
    verdict = "missed the prediction" if realised["missed"] else "within the prediction"
    if predicted["mean"] is None:
        verdict = "nothing was predicted"
    return (
        f"realised regret {_number(regret['estimate'], '.5f')} "
        f"{interval(regret['low'], regret['high'], '.5f')} at width {realised['width']} "
        f"(own optimum {own['optimum']:.2f} {interval(own['low'], own['high'], '.2f')}), predicted "
        f"{_number(predicted['mean'], '.5f')}: {verdict}"
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
    return f"[{_number(low, form)}, {_number(high, form)}]"


def _loss(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"


def _number(value: float | None, form: str = "+.2f") -> str:
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
