"""The report of a sweep as one self-contained HTML page.

The page holds no time stamps and no outside references: the same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import yaml

from hptransfer.analysis.answer.text import trial_notes
from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures import Picture
from hptransfer.reporting.figures.conditions import NAMES
from hptransfer.reporting.figures.cost import DENOMINATORS
from hptransfer.reporting.figures.style import hp_label, hp_name
from hptransfer.reporting.figures.surface import METHODS
from hptransfer.reporting.figures.wording import (
    CENSORED,
    UNKNOWN,
    arm_and_hp,
    estimate_text,
    flops_text,
    headline,
    hp_text,
    interval_text,
    number_text,
    percent_text,
    regret_text,
)
from hptransfer.reporting.page.page import (
    JsonObject,
    bullet_list,
    bullets,
    cell,
    document,
    element,
    picture,
    section,
    table,
)
from hptransfer.system.text import duration
from hptransfer.system.version import package_version

HALF_PAGE = 5.0  # inches that are readable in one of two columns

_CARD = {"transfers": "good", "drifts": "bad"}
_NOTE = (
    "Intervals are 90 % intervals. Regret is the loss at the transferred value minus the loss at "
    "the width's own optimum."
)

_KEY = (
    "Points are means over seeds, with the range over seeds; the thick line is the local fit.",
    "The window's ends are marked by | on that line.",
    "The large dot is the optimum with its 90 % interval; a hollow diamond is a censored optimum.",
    "Under a width's name: the share of draws whose best point is an end of the grid, above 5 %.",
    "× failed: diverged, or hardly better than at the start; the tint begins at the cliff, past "
    "which every point failed. ▲ lies above the picture.",
    "Over width: the line is the law, the shade its 90 % band, □ the value for the target"
    " and ★ the optimum that the target's own sweep found.",
)


def report_html(
    drawn: Sequence[tuple[Picture, str]],
    *,
    estimates: dict[str, Any],
    check: dict[str, Any] | None,
    realised: dict[str, Any] | None,
    transfer: dict[str, Any] | None,
    sweep: dict[str, Any],
    timing: dict[str, float] | None,
    commands: list[str],
) -> str:
    """Return the report of a sweep as HTML.

    Args:
        drawn: the pictures that these records give, each with its SVG.
        estimates, check, realised, transfer: as in `pictures`.
        sweep: what `sweep.yaml` holds.
        timing: seconds of each section of a run.
        commands: what makes the page again.
    """
    figures = {
        shown.name: picture(
            svg, shown.name, shown.label, "wide" if shown.size[0] > HALF_PAGE else ""
        )
        for shown, svg in drawn
        if shown.name != "summary"
    }
    handed = transfer or {"cost": None, "files": None}
    own = realised_table(realised) if realised else ""
    typed = f"<pre>{escape(chr(10).join(commands))}</pre>" if commands else ""
    parts = [
        _header(estimates, sweep),
        *_answers(estimates, figures),
        section("Values for the target", target_values(transfer) if transfer else ""),
        section("Predicted against realised", _beside(own, figures.get("realised"))),
        section(
            "Coordinate check",
            check_sentence(check) if check else "",
            _grid(figures, ("coordinate",)),
        ),
        section("Cost", _beside(cost_table(handed["cost"]), figures.get("cost"))),
        section("Where the time went", timing_table(timing)),
        section("Files for the target", bullet_list(handed["files"] or [])),
        section("Commands", typed),
        section("Imported rows", imported_table(sweep.get("imported"))),
        section("Provenance", provenance_section(sweep)),
    ]
    return document(f"{estimates['sweep']}: hptransfer report", parts)


def _answers(estimates: JsonObject, figures: Mapping[str, str]) -> list[str]:
    """Return the sections on each arm, from its curves to its"""
    arms, surfaces = estimates["arms"], estimates.get("surfaces") or []
    title = element("h3", "How to read the curves")
    key = f'<div class="key">{title}{bullet_list(_KEY)}</div>'
    return [
        section("The curves", _grid(figures, ("basins", "optimum_width"), key)),
        section("Optimum at each width", *map(arm_optima_table, arms)),
        section(
            "Does it transfer?",
            transfer_table(arms),
            _grid(figures, ("regret", "loss_width")),
            *map(laws_table, arms),
            *map(quality_list, arms),
        ),
        section(
            "Loss and curvature over width",
            *map(loss_table, arms),
            *map(curvature_table, arms),
        ),
        section(
            "Several HPs together",
            _grid(figures, ("surface", "importance")),
            *map(joint_table, surfaces),
            *map(importance_table, surfaces),
        ),
        section("Other conditions", _grid(figures, ("over",)), *map(conditions_table, arms)),
    ]


def _header(estimates: JsonObject, sweep: JsonObject) -> str:
    cards = "\n".join(_card(arm) for arm in estimates["arms"])
    question, statistic = sweep.get("question"), sweep.get("statistic")
    return "\n".join(
        [
            "<header>",
            element("p", "hptransfer report", "eyebrow"),
            element("h1", str(estimates["sweep"])),
            element("p", str(question), "question") if question else "",
            element("p", f"Deciding statistic: {statistic}", "muted") if statistic else "",
            f'<div class="cards">\n{cards}\n</div>',
            *(element("p", note, "note") for note in trial_notes(estimates)),
            element("p", _NOTE, "muted note"),
            "</header>",
        ]
    )


def _card(arm: JsonObject) -> str:
    reasons = list(arm.get("reasons") or [])
    if arm.get("verdict") in ("extend", "inconclusive"):
        reasons = reasons[1:]  # the headline quotes the first
    over = (arm.get("conditions") or {}).get("over") or []
    moving = [each["sentence"] for each in over if each["still_moves"]]
    warnings = [f"Warning: {warning}" for warning in [*moving, *(arm.get("warnings") or [])]]
    items = bullets(reasons) + bullets(warnings, "warning")
    css = _CARD.get(arm.get("verdict") or "", "")
    notes = f"<ul>{items}</ul>" if items else ""
    sentence = element("p", headline(arm))
    return f'<div class="card {css}">{sentence}{notes}</div>'


def _grid(figures: Mapping[str, str], kinds: tuple[str, ...], last: str = "") -> str:
    chosen = [figure for name, figure in figures.items() if name.startswith(kinds)]
    if not chosen:
        return ""
    return '<div class="pictures">\n' + "\n".join([*chosen, last]) + "\n</div>"


def _beside(text: str, figure: str | None) -> str:
    if not text or figure is None:
        return text
    return f'<div class="beside">\n<div>{text}</div>\n{figure}\n</div>'


def arm_optima_table(arm: JsonObject) -> str:
    """Tabulate one arm's optima with interval and censoring."""
    columns = {
        "width#": lambda o: str(o["width"]),
        "optimum#": lambda o: hp_text(o["optimum"]),
        "90 % interval#": _interval,
        "loss#": lambda o: number_text(o["loss"], 4),
        "seeds#": lambda o: number_text(o["n_seeds"], 0),
        "points#": lambda o: number_text(o["n_points"], 0),
        "draws on an edge#": lambda o: _edges(o.get("edge")),
        "censored": lambda o: CENSORED[o["censored"]] if o["censored"] else "no",
    }
    rows = [[tell(optimum) for tell in columns.values()] for optimum in arm["optima"]]
    caption = f"{arm_name(arm['parametrization'])}: optimal {hp_label(arm['hp'])}"
    return table(caption, list(columns), rows)


def _interval(record: JsonObject) -> str:
    return interval_text(record["low"], record["high"], 2).strip(" ()")


def _edges(edge: JsonObject | None) -> str:
    if edge is None or None in (edge["low"], edge["high"]):
        return UNKNOWN
    return percent_text(100 * (edge["low"] + edge["high"]))


def transfer_table(arms: list[JsonObject]) -> str:
    """Tabulate verdict, drift and regret, a column per arm."""
    if not arms:
        return ""
    several = len({arm["hp"] for arm in arms}) > 1
    names = (arm_and_hp(a) if several else arm_name(a["parametrization"]) for a in arms)
    heads = ["", *(f"{name}#" for name in names)]
    lines: dict[str, Callable[[JsonObject, JsonObject], str]] = {
        "verdict": lambda arm, _: str(arm.get("verdict") or "none"),
        "drift, octaves per doubling": lambda arm, _: estimate_text(
            arm.get("drift_octaves_per_doubling"), 2
        ),
        "tolerance δ": lambda _, regret: number_text(regret.get("delta"), 4),
        "regret, widest width held out": lambda _, regret: regret_text(regret.get("held_out")),
        "regret at the target": lambda _, regret: regret_text(regret.get("at_target")),
        "as a share of the last doubling's gain": lambda _, regret: estimate_text(
            regret.get("share_of_gain"), 3
        ),
        "in % of the loss": lambda _, regret: estimate_text(regret.get("percent"), 2),
    }
    regrets = [arm.get("regret") or {} for arm in arms]
    rows = [[name, *map(tell, arms, regrets)] for name, tell in lines.items()]
    return table("", heads, rows)


def target_values(transfer: JsonObject) -> str:
    """Tabulate the values for the target with their conditions and warnings."""
    target, expected = transfer["target"], transfer.get("expected_regret")
    params = target.get("params")
    sentence = f"{target['family']}, width {target['width']}" + (
        f", {params:,} parameters." if params is not None else "."
    )
    rows = [
        (hp_label(name), hp_text(hp["value"]), _interval(hp))
        for name, hp in transfer["hps"].items()
    ]
    known = expected is not None and expected.get("mean") is not None
    regret = regret_text(expected, "mean") if known else UNKNOWN
    return "\n".join(
        [
            element("p", sentence),
            table("", ("HP", "value#", "90 % interval#"), rows),
            element("p", f"Expected regret: {regret}. {_conditions(expected)}"),
            _gap(transfer.get("train_validation_gap")),
            bullet_list(transfer.get("warnings") or [], "warning"),
        ]
    )


def _gap(gap: JsonObject | None) -> str:
    """Tabulate held-out minus training loss by width, at the point nearest to the value."""
    if gap is None:
        return ""
    rows = [
        (str(w["width"]), number_text(w["mean"], 4), number_text(w["error"], 4))
        for w in gap["widths"]
    ]
    heads = ("width#", "held-out minus training loss#", "standard error#")
    parts = [table("train-validation gap at the transferred value", heads, rows)]
    if gap["share_of_loss"] is not None:
        share = percent_text(100 * gap["share_of_loss"])
        parts.append(element("p", f"At the widest, {share} of the loss.", "muted"))
    return "\n".join(parts)


def _conditions(expected: JsonObject | None) -> str:
    known = ((expected or {}).get("conditional_on") or {}).items()
    listed = ", ".join(f"{name} {value}" for name, value in known if value is not None)
    return f"Conditional on {listed}." if listed else ""


def realised_table(realised: JsonObject) -> str:
    """Tabulate what the target's own sweep says about the transferred value."""
    answer = "missed" if realised["missed"] else "held"
    sentence = f"The target, width {realised['width']}, was swept itself: the prediction {answer}."
    rows = [
        ("predicted regret", regret_text(realised["predicted"], "mean")),
        ("realised regret", regret_text(realised["regret"])),
        ("transferred value", hp_text(realised["transferred"])),
        ("the target's own optimum", hp_text(realised["optimum"]["optimum"])),
        ("loss at the transferred value", number_text(realised["loss_at_transferred"], 4)),
    ]
    return element("p", sentence) + "\n" + table("", ("", "#"), rows)


def check_sentence(check: JsonObject) -> str:
    """Return the coordinate check's verdict, its steepest slope and what it covered, as HTML."""
    worst = check["worst"]
    verdict = {"pass": "passes", "fail": "fails"}[check["verdict"]]
    name = arm_name(check["parametrization"])
    sentences = [f"{check['family']} under {name} {verdict} the coordinate check."]
    if worst is not None:
        when = "at init" if worst["quantity"] == "init" else f"after step {worst['step']}"
        sentences.append(
            f"The steepest slope is {number_text(worst['slope'], 2)} "
            f"({worst['module']}, {when}); the limit is ±{check['limit']:g}."
        )
    widths = ", ".join(str(width) for width in check["widths"])
    seeds = "1 seed" if len(check["seeds"]) == 1 else f"{len(check['seeds'])} seeds"
    covered = (
        f"Widths {widths}; {seeds}; log2 base learning rate {number_text(check['log2_lr'], 1)}; "
        f"the base width's loss fell by {100 * check['loss_drop']:.0f} %."
    )
    if check["zero"]:
        covered += f" Zero, so without a slope: {', '.join(check['zero'])}."
    told = (element("p", " ".join(sentences)), element("p", covered, "muted"))
    return "\n".join([*told, bullet_list(check["warnings"], "warning")])


_FORMULAS = {
    "constant": "constant: {y} = a",
    "linear": "linear: {y} = a + b·log2(n)",
    "inverse": "inverse: {y} = a + b·(n0/n)",
    "power": "power: {y} = a + b·(n0/n)^c",
}


def laws_table(arm: JsonObject) -> str:
    """Tabulate one arm's candidate laws of the optimum, or say that there is none."""
    name = arm_and_hp(arm)
    law = arm.get("law") or {"name": "none", "candidates": []}
    if law["name"] == "none" or not law["candidates"]:
        return element("p", f"{name}: no law; a law needs three usable widths.")
    return _candidates(f"{name}: laws of the optimum", law, "θ")


def _candidates(caption: str, law: JsonObject, quantity: str) -> str:
    rows = [
        (
            _FORMULAS[c["name"]].format(y=quantity),
            number_text(c["weight"], 2),
            ", ".join(f"{k} = {_figure(v)}" for k, v in c["coefficients"].items()),
            number_text(c["chi2"], 1),
        )
        for c in law["candidates"]
    ]
    return table(caption, ("law", "weight#", "coefficients", "χ²#"), rows)


def _figure(value: float | None) -> str:
    """Write a coefficient with two decimals, or two digits where it is small."""
    if value is None or value == 0 or abs(value) >= 0.1:
        return number_text(value, 2)
    return f"{value:.2g}".replace("-", "−")


def loss_table(arm: JsonObject) -> str:
    """Return whether wider is better, and the laws of the loss at the optimum, as HTML."""
    law = arm.get("loss_law")
    if not law:
        return ""
    name = arm_and_hp(arm)
    answer = {True: "wider is better", False: "wider is not better", None: "not decided"}
    said = f"{name}: {answer[law['wider_is_better']]}. {law.get('reason') or ''}".rstrip()
    parts = [element("p", said)]
    if law["candidates"]:
        since = f", widths from {law['from_width']}" if law.get("from_width") else ""
        parts.append(_candidates(f"{name}: laws of the loss at the optimum{since}", law, "loss"))
    if law.get("at_target"):
        expected = estimate_text(law["at_target"], 4)
        parts.append(element("p", f"Loss expected at the target's optimum: {expected}."))
    return "\n".join(parts)


def curvature_table(arm: JsonObject) -> str:
    """Tabulate how fast the basin's rise, one octave off, changes with width."""
    told = arm.get("curvature_law")
    if not told:
        return ""
    rows = [
        (
            f"one octave {where} the optimum",
            told[side]["name"],
            estimate_text(told[side]["log2_per_doubling"], 2),
        )
        for side, where in (("low", "below"), ("high", "above"))
        if told.get(side)
    ]
    heads = ("rise of the loss", "law", "octaves per doubling of the width#")
    return table(f"{arm_and_hp(arm)}: laws of the curvature", heads, rows)


def quality_list(arm: JsonObject) -> str:
    """Tabulate whether transfer is useful, and whether wider models forgive a wrong value less."""
    quality = arm.get("quality")
    if not quality:
        return ""
    useful, robust = quality.get("useful_transfer") or {}, quality.get("robustness") or {}
    answer = {True: "yes", False: "no", None: UNKNOWN}[useful.get("answer")]
    exponent = estimate_text(robust.get("exponent"), 2)
    rows = [
        ("useful transfer", answer, useful.get("sentence") or ""),
        ("robustness exponent", exponent, robust.get("sentence") or ""),
    ]
    caption = f"{arm_and_hp(arm)}: quality of the transfer"
    return table(caption, ("", "answer", "why"), rows)


def joint_table(surface: JsonObject) -> str:
    """Tabulate one arm's joint optima over width, the joint value for the target, what is flat."""
    name = arm_name(surface["parametrization"])
    hps = surface["hps"]
    rows = [
        (
            str(entry["width"]),
            *(_value(entry["optimum"][hp], (entry.get("censored") or {}).get(hp)) for hp in hps),
            number_text(entry["loss"], 4),
            str(entry["n_points"]),
        )
        for entry in surface["widths"]
    ]
    target = surface.get("target")
    if target is not None:
        rows.append(("target", *(_value(target["hps"][hp], None) for hp in hps), "", ""))
    heads = ("width#", *(f"{hp_label(hp)}#" for hp in hps), "loss#", "points#")
    flat = [
        f"Width {entry['width']}: {direction['sentence']}"
        for entry in surface["widths"]
        for direction in entry.get("flat_directions") or []
    ]
    regret = regret_text(target["expected_regret"], "mean") if target is not None else ""
    return "\n".join(
        [
            table(f"{name}: joint optimum", heads, rows),
            element("p", f"Expected regret of the joint value: {regret}.") if regret else "",
            f"<p>Flat directions:</p>{bullet_list(flat)}" if flat else "",
        ]
    )


def _value(optimum: JsonObject, censored: str | None) -> str:
    value = number_text(optimum["value"], 2)
    if censored:
        return f"{value} ({CENSORED[censored]})"
    return value + interval_text(optimum["low"], optimum["high"], 2)


def importance_table(surface: JsonObject) -> str:
    """Tabulate the share of each HP, by the surface and by PED-ANOVA."""
    told = surface.get("importance") or {}
    methods = [method for method in METHODS if told.get(method)]
    if not methods:
        return ""
    shares = {hp: [told[method].get(hp) for method in methods] for hp in surface["hps"]}
    rows = [
        (hp_name(hp), *(percent_text(None if share is None else 100 * share) for share in of_hp))
        for hp, of_hp in shares.items()
    ]
    heads = ("HP", *(f"{METHODS[method]}#" for method in methods))
    return table(f"{arm_name(surface['parametrization'])}: importance", heads, rows)


_TERMS = {
    "a": "constant",
    "log2_width": "per doubling of the width",
    **{f"log2_{axis}": f"per doubling of the {name}" for axis, name in NAMES.items()},
}


def conditions_table(arm: JsonObject) -> str:
    """Tabulate the joint law over width and varied conditions; say whether each still moves it."""
    told = arm.get("conditions")
    if not told:
        return ""
    name = arm_and_hp(arm)
    parts = [bullet_list(f"{name}: {over['sentence']}" for over in told["over"])]
    if told.get("joint"):
        rows = [(_TERMS[c["name"]], estimate_text(c, 2)) for c in told["joint"]["coefficients"]]
        parts.append(table(f"{name}: joint law, octaves", ("", "coefficient#"), rows))
        chi2, degrees = number_text(told["joint"]["chi2"], 1), told["joint"]["degrees"]
        fit = f"Fitted to {told['joint']['settings']} settings; χ² {chi2} on {degrees} degrees."
        parts.append(element("p", fit, "muted"))
    parts += [_drifts(name, over) for over in told["over"]]
    if told.get("shift_to_target"):
        shift = estimate_text(told["shift_to_target"], 2)
        parts.append(element("p", f"From the sweep's conditions to the target's: {shift} octaves."))
    return "\n".join(part for part in parts if part)


def _drifts(name: str, over: JsonObject) -> str:
    rows = [
        (
            f"{entry['value']:g}",
            estimate_text(entry["drift"], 2),
            hp_text(entry["optimum_at_widest"]),
        )
        for entry in over["values"]
    ]
    axis = NAMES[over["axis"]]
    heads = (f"{axis}#", "drift per doubling of the width#", "optimum at the widest#")
    return table(f"{name} over {axis}", heads, rows)


def cost_table(cost: JsonObject | None) -> str:
    """Tabulate FLOPs and the three ratios, each with its denominator."""
    if cost is None:
        return ""
    totals = [
        ("the whole sweep", flops_text(cost["sweep_flops"])),
        ("one target run", flops_text(cost["target_flops"])),
    ]
    ratios = [(what, percent_text(cost[key]), of) for key, what, of in DENOMINATORS]
    return "\n".join(
        [
            table("", ("", "FLOPs#"), totals),
            table("", ("what", "share#", "of what"), ratios),
            element("p", "FLOPs are counted operator by operator, backward included.", "muted"),
        ]
    )


def timing_table(timing: Mapping[str, float] | None) -> str:
    """Tabulate seconds per section, the longest first, with a bar for each."""
    if not timing:
        return ""
    total = sum(timing.values())
    longest = max(timing.values()) or 1.0
    rows = "".join(
        f"<tr>{element('td', name)}{cell(duration(seconds), 'n')}"
        f'<td class="wide"><span class="bar" style="width:{100 * seconds / longest:.1f}%">'
        "</span></td></tr>\n"
        for name, seconds in sorted(timing.items(), key=lambda item: -item[1])
    )
    whole = element("p", f"{duration(total)} in all.")
    return f'{whole}\n<div class="scroll"><table class="full"><tbody>\n{rows}</tbody></table></div>'


def imported_table(imported: JsonObject | None) -> str:
    """Tabulate the files that imported rows came from, and what each column was read as."""
    if not imported:
        return ""
    rows = [
        (name, ", ".join(f"{ours} from {theirs}" for ours, theirs in columns.items()))
        for name, columns in (imported.get("files") or {}).items()
    ]
    said = f"{imported['rows']:,} rows of another program's sweep."
    return element("p", said) + "\n" + table("", ("file", "columns"), rows)


def provenance_section(sweep: JsonObject) -> str:
    """Show the version and the sweep as it was run."""
    text = yaml.safe_dump(dict(sweep), sort_keys=False, allow_unicode=True, width=88)
    title = "<summary>The sweep as it was run</summary>"
    return (
        f"{element('p', f'hptransfer {package_version()}.')}\n<details>{title}\n"
        f"<pre>{escape(text)}</pre></details>"
    )
