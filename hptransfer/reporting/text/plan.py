"""What a sweep will cost, as text for a terminal, 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from hptransfer.config.choices import arm_name
from hptransfer.config.runtime import UNITS, amount_text
from hptransfer.config.sweep import CONDITIONS
from hptransfer.system.text import count_text, duration, percent_text, rounded, text_table

COLUMNS = (
    *("parametrization", "width", "params", "to run", "packs"),
    *("FLOPs", "GiB", "s/pack", "hours", "from"),
)
LETTERS = 100  # of a line, at most


def plan_text(answer: Mapping[str, Any]) -> str:
    """Say what a sweep will cost: a line per arm and width, then the whole."""
    shapes, unit = answer["shapes"], answer["place"]["unit"]
    lines = [
        _shapes(f"plan of {answer['sweep']}", shapes),
        *_shared(shapes),
        *_totals(answer),
        _evaluation(shapes),
        *_intervals(shapes),
        *_target(answer["target"], unit),
        *_reckoned(answer["reckoned"]),
        *_ratios(answer["search_over_target"], answer["search_over_target_by_size"]),
        *(f"note     {note}" for note in answer["notes"]),
    ]
    return "\n".join(folded(line) for line in lines if line)


def external_plan_text(answer: Mapping[str, Any]) -> str:
    """Say what a sweep of a trainer that is not ours will cost."""
    rows = [
        [
            *(arm_name(shape["parametrization"]), str(shape["width"])),
            f"{shape['trials']['to_run']} of {shape['trials']['wanted']}",
            "-" if shape["seconds"] is None else rounded(shape["seconds"]),
            "-" if shape["hours"] is None else rounded(shape["hours"]),
            shape["source"],
        ]
        for shape in answer["shapes"]
    ]
    columns = ("parametrization", "width", "to run", "s/trial", "hours", "from")
    total, wall = answer["total"], answer["wall_seconds"]
    trials = total["trials"]
    told = "" if total["hours"] is None else f"; {rounded(total['hours'])} hours of trials"
    told += "" if total["money"] is None else f", which cost {rounded(total['money'], 3)}"
    lines = [
        text_table(f"plan of {answer['sweep']}", columns, rows),
        f"total    {trials['to_run']} trials to run, {trials['recorded']} of {trials['wanted']} "
        f"are finished{told}",
    ]
    if wall:
        at_once = answer["workers"]
        lines.append(f"wall     about {duration(round(wall))} with {at_once} trials at a time")
    return "\n".join(folded(line) for line in [*lines, *(f"note     {n}" for n in answer["notes"])])


def _shared(shapes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what the trials of no one parametrization are."""
    if all(shape["parametrization"] != "shared" for shape in shapes):
        return []
    return ["shared   at the base width all parametrizations are one model, which is trained once"]


def _shapes(title: str, shapes: Sequence[Mapping[str, Any]]) -> str:
    """Tabulate the shapes; conditions that vary have columns of their own after the width."""
    varied = [name for name in CONDITIONS if len({shape[name] for shape in shapes}) > 1]
    columns = (*COLUMNS[:2], *varied, *COLUMNS[2:])
    cells = [_cells(shape) for shape in shapes]
    conditions = [[str(shape[name]) for name in varied] for shape in shapes]
    rows = [[*own[:2], *more, *own[2:]] for own, more in zip(cells, conditions, strict=True)]
    return text_table(title, columns, rows)


def _cells(shape: Mapping[str, Any]) -> list[str]:
    trials, packs = shape["trials"], shape["packs"]
    begin = [
        *(arm_name(shape["parametrization"]), str(shape["width"]), count_text(shape["parameters"])),
        f"{trials['to_run']} of {trials['wanted']}",
    ]
    flops = f"{shape['flops']['to_run']:.2g}"
    if packs is None:
        return [*begin, "-", flops, "-", "-", "-", "-"]
    return [
        *begin,
        f"{packs['to_run']} of {packs['size']}",
        flops,
        "-" if packs["bytes"] is None else rounded(packs["bytes"] / 2**30),
        rounded(packs["seconds"]["estimate"]),
        rounded(shape["hours"]["estimate"]),
        packs["source"],
    ]


def _totals(answer: Mapping[str, Any]) -> list[str]:
    total, place = answer["total"], answer["place"]
    trials = total["trials"]
    flops = f"{total['flops']['to_run']:.3g} FLOPs"
    counted = f"{trials['recorded']} of {trials['wanted']} are finished"
    if total["hours"] is None:
        return [f"trials   {trials['to_run']} to run; {counted}", f"work     {flops}"]
    packs = total["packs_to_run"]
    in_packs = f". They train in {packs} packs (a pack is a group of trials that train together)"
    lines = [
        f"trials   {trials['to_run']} to run; {counted}{in_packs if packs else ''}",
        f"work     {flops}, {_interval(total['hours'])} {place['unit']}-hours",
        _wall(answer["wall_seconds"], place),
    ]
    if total["money"] is not None:
        price = f"a price of {place['price_per_hour']:g} an hour for what one pack occupies"
        lines.append(f"money    {_interval(total['money'])} at {price}")
    return lines


def _wall(wall: Mapping[str, Any], place: Mapping[str, Any]) -> str:
    occupied = f"{place['count']:g} {place['unit']}{'s' if place['count'] != 1 else ''}"
    ends = [wall["low"], wall["high"]]
    between = ""
    if None not in ends and ends[0] != ends[1]:
        between = f" ({duration(ends[0])} to {duration(ends[1])})"
    return (
        f"wall     {duration(wall['estimate'])}{between}, with {wall['workers']} "
        f"{'pack' if wall['workers'] == 1 else 'packs'} at a time on {occupied}"
        f"{'' if wall['workers'] == 1 else ' each'}. The start, the coordinate check and the fit "
        "are not included"
    )


def _evaluation(shapes: list[Mapping[str, Any]]) -> str:
    """Say how large the evaluations are, which no measurement of packs includes."""
    shares = [shape["evaluation_share"] for shape in shapes]
    low, high = (percent_text(100.0 * share) for share in (min(shares), max(shares)))
    much = low if low == high else f"{low.removesuffix(' %')} to {high}"
    return f"         Evaluations are included: they take {much} of the training's FLOPs"


def _intervals(shapes: list[Mapping[str, Any]]) -> list[str]:
    """Say what the intervals of the seconds are made of."""
    found = [shape["packs"]["interval_from"] for shape in shapes if shape["packs"] is not None]
    counts = {entry["basis"]: 0 for entry in found}
    for entry in found:
        own = entry["basis"] == "rows"
        counts[entry["basis"]] = entry["packs"] + (counts["rows"] if own else 0)
    meaning = {
        "rows": "{} packs of these shapes were run before, and the interval holds 90 % of their "
        "times over the predicted ones",
        "rows of other shapes": "for shapes that were not run before, the times of {} packs of "
        "other shapes are used",
        "probe": "the interval is the range of the repeated measurements, each made alone",
        "none": "there is no interval for shapes that were neither measured nor run",
    }
    parts = [meaning[basis].format(count) for basis, count in counts.items()]
    together = "all packs are assumed to be slow or fast together"
    return [f"interval {'; '.join(parts)}; {together}"] * bool(parts)


def _target(target: Mapping[str, Any] | None, unit: str) -> list[str]:
    if target is None:
        return [
            "target   none is named, so its cost cannot be compared. Set sweep.target, for example "
            "sweep.target.model.width=1024"
        ]
    hours = "an unknown number of" if target["hours"] is None else rounded(target["hours"])
    money = "" if target["money"] is None else f", {rounded(target['money'])} in money"
    parameters = count_text(target["parameters"])
    return [
        f"target   one run at width {target['width']}: {parameters} parameters, "
        f"{target['flops']:.3g} FLOPs, {hours} {unit}-hours{money} ({target['hours_from']})"
    ]


def _reckoned(found: Mapping[str, Any] | None) -> list[str]:
    """Say the GPU-hours that FLOPs give at an assumed speed."""
    if found is None:
        return []
    of_target = found["target_gpu_hours"]
    target = "" if of_target is None else f", and {_gpu_hours(of_target)} for one target run"
    return [
        f"reckoned {_gpu_hours(found['gpu_hours_to_run'])} GPU-hours on {found['gpu']}{target}: "
        f"FLOPs at {percent_text(100 * found['utilisation'])} of {found['peak_tflops']:g} TFLOP/s, "
        f"its peak in {found['precision']}. This speed is assumed (plan.utilisation) and not "
        "measured"
    ]


def _gpu_hours(hours: float) -> str:
    return "less than 0.1" if 0 < hours < 0.1 else f"{float(f'{hours:.2g}'):,.12g}"


def _ratios(cost: Mapping[str, float] | None, by_size: Mapping[str, float] | None) -> list[str]:
    """Tabulate what the search costs, by what it is divided."""
    if cost is None or by_size is None:
        return []
    arm, narrowest = cost["arm_over_target_percent"], cost["narrowest_over_target_percent"]
    direct = cost["over_direct_search_percent"]
    rows = [
        (f"{PARAMETERS} of one target run", by_size["arm_percent"], by_size["narrowest_percent"]),
        ("FLOPs of one target run", arm, narrowest),
        ("FLOPs of the same search at the target", direct, direct * narrowest / arm),
    ]
    shown = 1 if narrowest == arm else 2  # of one width both are the same
    cells = [[words, *(f"{rounded(v, 3)} %" for v in values[:shown])] for words, *values in rows]
    columns = ("divided by the", "all widths" if shown == 2 else "cost", "the narrowest alone")
    return [
        text_table(
            "cost of the search, in the target's parametrization", columns[: 1 + shown], cells
        )
    ]


PARAMETERS = "parameters x samples"


def _interval(value: Mapping[str, float | None]) -> str:
    estimate, low, high = value["estimate"], value["low"], value["high"]
    if estimate is None:
        return "unknown"
    if low is None or high is None:
        return rounded(estimate)
    if low == high:
        return rounded(estimate)
    return f"{rounded(estimate)} ({rounded(low)} to {rounded(high)})"


def folded(line: str) -> str:
    """Fold a line of words; the lines of a table stay as they are."""
    if "\n" in line:
        return line
    return textwrap.fill(line, LETTERS, subsequent_indent=" " * 9)


BUDGET_COLUMNS = ("budget", "widths", "log2 grid", "seeds", "steps", "cost", "in loss", "95 %")


def budget_text(answer: Mapping[str, Any]) -> str:
    """Say what a budget is best spent on, what half and twice of it give, and what is assumed."""
    chosen = next(p["proposal"] for p in answer["proposals"] if p["factor"] == 1.0)
    rows = [_budget_cells(p["budget"], p["proposal"]) for p in answer["proposals"]]
    others = [_budget_cells("or", entry) for entry in answer["runners_up"]]
    target, budget = answer["target"], answer["budget"]
    lines = [
        text_table(f"{answer['sweep']} for {budget['means']}", BUDGET_COLUMNS, [*rows, *others]),
        f"in loss  how much the loss at width {target['width']} after {target['steps']} "
        "steps will lie above that of the best value there: the mean of simulated sweeps, and "
        f"what 95 % of them stay below{_percent_text(chosen['predicted_regret']['percent'])}. "
        "Lines that begin with `or` are other designs for the same budget",
        _budget_cost(chosen["cost"], budget["unit"]),
        *_budget_knowledge(answer["knowledge"], answer["pilot"], unit=budget["unit"]),
        f"chosen   from {answer['designs_affordable']} designs that the budget can pay",
        *(f"note     {note}" for note in answer["notes"]),
    ]
    return "\n".join(folded(line) for line in lines)


def _percent_text(percent: float | None) -> str:
    """Return the mean regret in percent; nothing where losses are not all positive."""
    return "" if percent is None else f"; the mean is {percent_text(percent)} of the loss"


def _budget_cells(budget: str, entry: Mapping[str, Any] | None) -> list[str]:
    if entry is None:
        return [budget, "too small", *["-"] * (len(BUDGET_COLUMNS) - 2)]
    grid, cost, regret = entry["grid"], entry["cost"], entry["predicted_regret"]
    return [
        budget,
        ",".join(map(str, entry["widths"])),
        f"{grid['low']:g}..{grid['high']:g}/{grid['step']:g}",
        str(len(entry["seeds"])),
        str(entry["steps"]),
        amount_text(cost["amount"], cost["unit"]),
        f"{regret['mean']:.2g}",
        f"{regret['high']:.2g}",
    ]


def _budget_cost(cost: Mapping[str, Any], unit: str) -> str:
    return (
        f"cost     {amount_text(cost['amount'], unit)} ({UNITS[unit]}): {cost['trials_to_run']} "
        f"trials to run, {cost['flops']:.3g} FLOPs, wall time {duration(cost['wall_seconds'])}. "
        "The start, the coordinate check and the fit are not included"
    )


def _budget_knowledge(
    known: Mapping[str, Any], pilot: Mapping[str, Any] | None, *, unit: str
) -> list[str]:
    """Say what the prediction rests on, and how uncertain that is."""
    rise, optimum = known["rise"], known["optimum"]
    drift = known["drift_octaves_per_doubling"]
    longer = known["octaves_per_doubling_of_steps"]
    own = f"{known['trials']} finished trials"
    if pilot is not None:
        own = (
            f"a pilot of {pilot['trials']} trials of {pilot['steps']} steps at width "
            f"{pilot['width']}, {amount_text(pilot['spent'], unit)} of the budget"
        )
    cliff = "No value was seen to diverge"
    if known["cliff"] is not None:
        cliff = f"Values {2.0 ** known['cliff']:.2g} times the best one or more diverge"
    return [
        f"known    from {own}: a trial's loss has a standard deviation of {known['loss_sd']:.2g}. "
        f"Half the best value costs {rise['low']:.2g} in loss, twice the best value "
        f"{rise['high']:.2g}. {cliff}. The optimum at width {optimum['width']} is "
        f"{optimum['estimate']:.2f} in log2 (standard deviation {optimum['sd']:.2g})",
        f"assumed  the optimum moves by {drift['estimate']:.2g} octaves (factors of two) per "
        f"doubling of the width (standard deviation {drift['sd']:.2g}) and by "
        f"{longer['estimate']:g} per doubling of the steps (standard deviation {longer['sd']:g}); "
        "the curve of the loss and its noise are the same at every width and length",
    ]
