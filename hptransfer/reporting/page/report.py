"""The report of a sweep as one self-contained HTML page.

The page holds no time stamps and no outside references: the same records give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import yaml

from hptransfer.analysis.answer.text import (
    CENSORED,
    OCTAVE,
    OCTAVE_COLUMNS,
    arm_names,
    octave_notes,
    octave_rows,
    optima_table,
    percent,
    target_differs,
    trial_notes,
    verdict_line,
)
from hptransfer.config.choices import arm_name
from hptransfer.config.hyperparameters import axis_digits, hp_value, value_text
from hptransfer.config.sweep import AXIS_WORDS
from hptransfer.reporting.figures import Picture
from hptransfer.reporting.figures.cost import DENOMINATORS
from hptransfer.reporting.figures.style import hp_label, hp_name
from hptransfer.reporting.figures.surface import METHODS
from hptransfer.reporting.figures.wording import (
    UNKNOWN,
    estimate_text,
    flops_text,
    hp_text,
    interval_text,
    number_text,
    percent_text,
    regret_text,
)
from hptransfer.reporting.page.charts import charts
from hptransfer.reporting.page.page import (
    JsonObject,
    bullet_list,
    cell,
    document,
    element,
    picture,
    section,
    table,
)
from hptransfer.results.metrics import metric_of
from hptransfer.system.text import duration
from hptransfer.system.version import package_version

NO_PERCENT = 0.005  # a cost below it is written as none
HALF_PAGE = 5.0  # inches that are readable in one of two columns

DRAWN_BY_PAGE = ("basins", "optimum")  # pictures in whose place the page draws its own

_CARD = {"transfers": "good", "drifts": "bad"}
_NOTE = (
    "Intervals are 90 % intervals. A value costs what the loss at it is above the loss at the "
    "optimum."
)

_KEY = (
    "Points are means over seeds, with the range over seeds; the thick line is the fitted curve.",
    "The large dot is the optimum with its 90 % interval; a hollow diamond is a censored optimum.",
    "Point at a mark, or press the arrow keys on a picture, to read its values. The buttons switch "
    "curves off and on.",
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
    rows: Sequence[JsonObject] = (),
) -> str:
    """Return the report of a sweep as HTML.

    Args:
        drawn: the pictures that these records give, each with its SVG.
        estimates, check, realised, transfer: as in `pictures`.
        sweep: what `sweep.yaml` holds.
        timing: seconds of each section of a run.
        commands: what makes the page again.
        rows: the ledger's, which tell the seeds of each point.
    """
    figures = {
        shown.name: picture(
            svg, shown.name, shown.label, "wide" if shown.size[0] > HALF_PAGE else ""
        )
        for shown, svg in drawn
        if shown.name != "summary"
    }
    parts = [
        page_header(sweep, estimates["sweep"]),
        answers(estimates),
        curves_section(_grid(figures, DRAWN_BY_PAGE)),
        *details(
            figures,
            estimates=estimates,
            check=check,
            realised=realised,
            transfer=transfer,
            sweep=sweep,
            timing=timing,
            commands=commands,
        ),
    ]
    title = f"{estimates['sweep']}: hptransfer report"
    return document(title, parts, {"charts": charts(estimates, realised, rows)})


def curves_section(pictures: str = "") -> str:
    """Return the places that the page's script fills; `pictures` stand there without scripts."""
    title = element("h3", "How to read the curves")
    key = f'<div class="key">{title}{bullet_list((*_KEY, _NOTE, OCTAVE))}</div>'
    return (
        f'<section id="curves">\n{element("h2", "The curves")}\n'
        '<div class="legend" id="legend"></div>\n'
        f'<div class="pictures"><div id="charts"></div>\n{key}</div>\n'
        f"<noscript>\n{pictures}\n</noscript>\n</section>"
    )


def details(
    figures: Mapping[str, str],
    *,
    estimates: JsonObject,
    check: JsonObject | None,
    realised: JsonObject | None,
    transfer: JsonObject | None,
    sweep: JsonObject,
    timing: Mapping[str, float] | None,
    commands: Sequence[str],
) -> list[str]:
    """Return the sections below the curves; `figures` are pictures as HTML by name."""
    own = realised_table(realised) if realised else ""
    typed = f"<pre>{escape(chr(10).join(commands))}</pre>" if commands else ""
    handed = transfer or {"cost": None, "files": None}
    return [
        *_below_the_curves(estimates, figures, sweep.get("statistic")),
        section("Values for the target", target_values(transfer) if transfer else ""),
        section("Predicted against measured", _beside(own, figures.get("realised"))),
        section(
            "Coordinate check",
            check_sentence(check) if check else "",
            _grid(figures, ("coordinate",)),
        ),
        section("Cost of the search", _beside(cost_table(handed["cost"]), figures.get("cost"))),
        section("Where the time went", timing_table(timing)),
        section("Files for the target", bullet_list(handed["files"] or [])),
        section("Commands", typed),
        section("Imported rows", imported_table(sweep.get("imported"))),
        section("Provenance", provenance_section(sweep)),
    ]


def _below_the_curves(
    estimates: JsonObject, figures: Mapping[str, str], statistic: object
) -> list[str]:
    """Return the sections on each arm, from its optima to its conditions."""
    arms, surfaces = estimates["arms"], estimates.get("surfaces") or []
    names, joint = arm_names(arms), arm_names(surfaces)
    measured = metric_of(estimates).label
    axis = AXIS_WORDS[arms[0]["axis"]] if arms else "width"
    return [
        section(
            f"The optimum at each {axis}, and why the verdict",
            element("p", f"Deciding statistic: {statistic}", "muted") if statistic else "",
            *(optima_of(name, arm, measured) for name, arm in zip(names, arms, strict=True)),
        ),
        section(
            "What a value costs",
            value_costs(arms),
            _grid(figures, ("cost_of_value", "loss")),
            *map(expected_loss, names, arms),
        ),
        section(
            "Several HPs together",
            _grid(figures, ("surface", "importance")),
            *map(joint_table, joint, surfaces),
            *map(importance_table, joint, surfaces),
        ),
        section(
            "Other conditions",
            _grid(figures, ("over",)),
            *map(conditions_table, names, arms),
        ),
    ]


def optima_of(name: str, arm: JsonObject, measured: str) -> str:
    """Return an arm's optima as a table, after the reasons of its verdict."""
    optima = words_table(*optima_table(arm, measured)) if arm["optima"] else ""
    return "\n".join([element("h3", name), bullet_list(arm["reasons"]), optima])


def page_header(sweep: JsonObject, name: str) -> str:
    """Return the sweep's name and question."""
    question = sweep.get("question")
    return "\n".join(
        [
            "<header>",
            element("p", "hptransfer report", "eyebrow"),
            element("h1", name),
            element("p", str(question), "question") if question else "",
            "</header>",
        ]
    )


def answers(estimates: JsonObject) -> str:
    """Return every arm's answer: value to use, cost and verdict, and what they leave out."""
    arms = estimates["arms"]
    cards = "\n".join(
        _card(name, arm, so_far=estimates["trials"]["missing"] > 0)
        for name, arm in zip(arm_names(arms), arms, strict=True)
    )
    return "\n".join(
        [
            f'<div class="cards">\n{cards}\n</div>',
            *(element("p", note, "note") for note in trial_notes(estimates)),
        ]
    )


def _card(name: str, arm: JsonObject, *, so_far: bool) -> str:
    """Return an arm's answer: verdict, headline, and warnings."""
    told = arm["headline"].replace(" %", "\u00a0%")  # a line may not end before the sign
    first, *others = told.splitlines() or [""]
    value, cost = value_and_cost(first)
    verdict = f"{'so far: ' if so_far else ''}{arm['verdict']}"
    return "\n".join(
        [
            f'<div class="card {_CARD.get(arm["verdict"], "")}">',
            f"<h3>{escape(name)} {element('span', verdict, 'chip')}</h3>",
            element("p", value, "value"),
            element("p", cost, "cost") if cost else "",
            *(element("p", line) for line in (*others, verdict_line(arm))),
            bullet_list((f"Warning: {warning}" for warning in arm["warnings"]), "warning"),
            "</div>",
        ]
    )


def value_and_cost(headline: str) -> tuple[str, str]:
    """Split a headline after the value to use: the first sentence, or what stands before a colon.

    Colons are in the headlines that earlier versions recorded.
    """
    parts = re.split(r"(?<=[.:])\s", headline, maxsplit=1)
    return parts[0], "".join(parts[1:])


def _grid(figures: Mapping[str, str], kinds: tuple[str, ...]) -> str:
    chosen = [figure for name, figure in figures.items() if name.startswith(kinds)]
    if not chosen:
        return ""
    return '<div class="pictures">\n' + "\n".join(chosen) + "\n</div>"


def _beside(text: str, figure: str | None) -> str:
    if not text or figure is None:
        return text
    return f'<div class="beside">\n<div>{text}</div>\n{figure}\n</div>'


def words_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that `hptransfer fit` prints too, as HTML."""
    left = ("note", "octaves per doubling of")
    return table("", [head if head in left else f"{head}#" for head in heads], rows)


def value_costs(arms: list[JsonObject]) -> str:
    """Tabulate what the value to use and the last proxy's kept value cost, of every arm."""
    rows = []
    for name, arm in zip(arm_names(arms), arms, strict=True):
        cost = arm["cost"]
        if cost is None or cost["curve"] is None:
            continue
        kept = cost["ignoring"]
        place = f"{AXIS_WORDS[arm['axis']]} {kept['kept_from']:g}"
        for what, value, of in (
            ("use", cost["curve"]["emitted"], cost["emitted"]),
            (f"keep {place}'s", kept["value"], kept),
        ):
            told = (_percents(of[unit]) for unit in ("percent", "compute_percent"))
            rows.append((name, what, value_text(arm["hp"], hp_value(arm["hp"], value)), *told))
    heads = ("parametrization", "", "value#", "cost in % of the loss#", "in % more compute#")
    return table("", heads, rows) if rows else ""


def _percents(cost: JsonObject | None) -> str:
    if cost is None or cost["mean"] is None:
        return UNKNOWN
    low, high = cost["low"], cost["high"]
    if low is None:
        return percent(cost["mean"])
    least = "0" if low < NO_PERCENT else percent(low).removesuffix(" %")
    return (
        f"{percent(cost['mean'])} ({least} to {'a failed run' if high is None else percent(high)})"
    )


def expected_loss(name: str, arm: JsonObject) -> str:
    """Say what loss is expected at the target's optimum, if the loss has a law."""
    told = (arm["loss_law"] or {}).get("at_target")
    if told is None or target_differs(arm):
        return ""
    return element(
        "p", f"{name}: a loss of {estimate_text(told, 4)} is expected at the target's optimum."
    )


def target_values(transfer: JsonObject) -> str:
    """Tabulate the values for the target with their conditions and warnings."""
    target, expected = transfer["target"], transfer.get("expected_regret")
    params, start = target.get("params"), target.get("start")
    of_ours = f"{target['family']}, width {target['width']}"
    sentence = (f"Width {target['width']}" if start else of_ours) + (
        f", {params:,} parameters." if params is not None else "."
    )
    rows = [
        (
            hp_label(name),
            hp_text(name, hp["value"]),
            interval_text(hp["low"], hp["high"], axis_digits(name)).strip(" ()"),
        )
        for name, hp in transfer["hps"].items()
    ]
    known = expected is not None and expected.get("mean") is not None
    regret = regret_text(expected, "mean") if known else UNKNOWN
    return "\n".join(
        [
            element("p", sentence),
            element("pre", start) if start else "",
            table("", ("HP", "value#", "90 % interval#"), rows),
            element("p", f"Expected cost in loss: {regret}. {_conditions(expected)}"),
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
    said = (f"{name.replace('_', ' ')} {value}" for name, value in known if value is not None)
    listed = ", ".join(said)
    return f"It holds for {listed}." if listed else ""


def realised_table(realised: JsonObject) -> str:
    """Tabulate what the target's own sweep says about the transferred value."""
    hp = realised["hp"]
    is_missed = realised["missed"] or realised.get("loss_as_predicted") is False
    answer = "missed" if is_missed else "held"
    sentence = f"The target, width {realised['width']}, was swept itself: the prediction {answer}."
    rows = [
        ("predicted cost in loss", regret_text(realised["predicted"], "mean")),
        ("measured cost in loss", regret_text(realised["regret"])),
        ("transferred value", hp_text(hp, realised["transferred"])),
        ("the target's own optimum", hp_text(hp, realised["optimum"]["optimum"])),
        ("loss at the transferred value", number_text(realised["loss_at_transferred"], 4)),
    ]
    return element("p", sentence) + "\n" + table("", ("", "#"), rows)


def check_sentence(check: JsonObject) -> str:
    """Return the coordinate check's verdict, its steepest slope and what it covered, as HTML."""
    worst = check["worst"]
    name = f"{check['family']} under {arm_name(check['parametrization'])}"
    verdict = {
        "pass": f"{name} passes the coordinate check.",
        "fail": f"{name} fails the coordinate check.",
        "inconclusive": f"The coordinate check cannot tell whether {name} is right.",
    }
    sentences = [verdict[check["verdict"]]]
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
    causes = [cause["sentence"] for cause in check.get("causes", ())]
    return "\n".join([*told, bullet_list([*check["warnings"], *causes], "warning")])


def joint_table(name: str, surface: JsonObject) -> str:
    """Tabulate one arm's joint optima over width, the joint value for the target, what is flat."""
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
        for direction in entry["principal_axes"]
        if direction["sentence"] is not None
    ]
    regret = regret_text(target["expected_regret"], "mean") if target is not None else ""
    return "\n".join(
        [
            table(f"{name}: joint optimum", heads, rows),
            element("p", f"The joint value is expected to cost {regret} in loss.")
            if regret
            else "",
            "<p>Where the loss hardly changes:</p>" if flat else "",
            bullet_list(flat),
        ]
    )


def _value(optimum: JsonObject, censored: str | None) -> str:
    value = number_text(optimum["value"], 2)
    if censored:
        return f"{value} ({CENSORED[censored]})"
    return value + interval_text(optimum["low"], optimum["high"], 2)


def importance_table(name: str, surface: JsonObject) -> str:
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
    return table(f"{name}: importance", heads, rows)


def conditions_table(name: str, arm: JsonObject) -> str:
    """Tabulate how the optimum follows everything that varies, beside published exponents."""
    rows = octave_rows(arm)
    if not rows:
        return ""
    notes = [element("p", note, "muted") for note in octave_notes(arm)]
    return "\n".join([element("h3", name), words_table(OCTAVE_COLUMNS, rows), *notes])


def cost_table(cost: JsonObject | None) -> str:
    """Tabulate FLOPs and the three ratios, each with its denominator."""
    if cost is None or cost["sweep_flops"] is None:  # a trainer of the user's own tells none
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
