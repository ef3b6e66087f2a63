"""Sections of the report: optima, verdicts, the target's values, realised regret, check."""

from __future__ import annotations

from typing import Any

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures import wording
from hptransfer.reporting.figures.style import hp_label
from hptransfer.reporting.page.page import JsonObject, bullets, element, table


def arm_optima_table(arm: JsonObject) -> str:
    """Tabulate one arm's optima with interval and censoring."""
    columns = {
        "width#": lambda o: str(o["width"]),
        "optimum#": lambda o: wording.hp_text(o["optimum"]),
        "90 % interval#": lambda o: wording.interval_text(o["low"], o["high"], 2).strip(" ()"),
        "loss#": lambda o: wording.number_text(o["loss"], 4),
        "seeds#": lambda o: wording.number_text(o["n_seeds"], 0),
        "points#": lambda o: wording.number_text(o["n_points"], 0),
        "draws on an edge#": lambda o: _edges(o.get("edge")),
        "censored": lambda o: wording.CENSORED[o["censored"]] if o["censored"] else "no",
    }
    rows = [[tell(optimum) for tell in columns.values()] for optimum in arm["optima"]]
    caption = f"{arm_name(arm['parametrization'])}: optimal {hp_label(arm['hp'])}"
    return table(caption, list(columns), rows)


def _edges(edge: JsonObject | None) -> str:
    if edge is None or None in (edge["low"], edge["high"]):
        return wording.UNKNOWN
    return wording.percent_text(100 * (edge["low"] + edge["high"]))


def transfer_table(arms: list[JsonObject]) -> str:
    """Tabulate verdict, drift and regret, a column per arm."""
    if not arms:
        return ""
    several = len({arm["hp"] for arm in arms}) > 1
    names = (wording.arm_and_hp(a) if several else arm_name(a["parametrization"]) for a in arms)
    heads = ["", *(f"{name}#" for name in names)]
    rows = [
        ["verdict", *(str(arm.get("verdict") or "none") for arm in arms)],
        [
            "drift, octaves per doubling",
            *(wording.estimate_text(arm.get("drift_octaves_per_doubling"), 2) for arm in arms),
        ],
        ["tolerance δ", *(wording.number_text(_part(arm, "delta"), 4) for arm in arms)],
        [
            "regret, widest width held out",
            *(wording.regret_text(_part(arm, "held_out")) for arm in arms),
        ],
        ["regret at the target", *(wording.regret_text(_part(arm, "at_target")) for arm in arms)],
        [
            "as a share of the last doubling's gain",
            *(wording.estimate_text(_part(arm, "share_of_gain"), 3) for arm in arms),
        ],
        ["in % of the loss", *(wording.estimate_text(_part(arm, "percent"), 2) for arm in arms)],
    ]
    return table("", heads, rows)


def _part(arm: JsonObject, name: str) -> Any:
    return (arm.get("regret") or {}).get(name)


def target_values(transfer: JsonObject) -> str:
    """Tabulate the values for the target with their conditions and warnings."""
    target, expected = transfer["target"], transfer.get("expected_regret")
    params = target.get("params")
    sentence = f"{target['family']}, width {target['width']}" + (
        f", {params:,} parameters." if params is not None else "."
    )
    rows = [
        (
            hp_label(name),
            wording.hp_text(hp["value"]),
            wording.interval_text(hp["low"], hp["high"], 2).strip(" ()"),
        )
        for name, hp in transfer["hps"].items()
    ]
    known = expected is not None and expected.get("mean") is not None
    regret = wording.regret_text(expected, "mean") if known else wording.UNKNOWN
    return "\n".join(
        [
            element("p", sentence),
            table("", ("HP", "value#", "90 % interval#"), rows),
            element("p", f"Expected regret: {regret}. {_conditions(expected)}"),
            _gap(transfer.get("train_validation_gap")),
            _notes(transfer.get("warnings")),
        ]
    )


def _gap(gap: JsonObject | None) -> str:
    """Tabulate held-out minus training loss by width, at the point nearest to the value."""
    if gap is None:
        return ""
    rows = [
        (str(w["width"]), wording.number_text(w["mean"], 4), wording.number_text(w["error"], 4))
        for w in gap["widths"]
    ]
    heads = ("width#", "held-out minus training loss#", "standard error#")
    share = gap["share_of_loss"]
    said = (
        "" if share is None else f"At the widest, {wording.percent_text(100 * share)} of the loss."
    )
    caption = "train-validation gap at the transferred value"
    return "\n".join([table(caption, heads, rows), element("p", said, "muted") if said else ""])


def _conditions(expected: JsonObject | None) -> str:
    conditional = (expected or {}).get("conditional_on")
    listed = ", ".join(
        f"{name} {value}" for name, value in (conditional or {}).items() if value is not None
    )
    return f"Conditional on {listed}." if listed else ""


def _notes(warnings: list[str] | None) -> str:
    return f"<ul>{bullets(warnings, 'warning')}</ul>" if warnings else ""


def realised_table(realised: JsonObject) -> str:
    """Tabulate what the target's own sweep says about the transferred value."""
    answer = "missed" if realised["missed"] else "held"
    sentence = f"The target, width {realised['width']}, was swept itself: the prediction {answer}."
    rows = [
        ("predicted regret", wording.regret_text(realised["predicted"], "mean")),
        ("realised regret", wording.regret_text(realised["regret"])),
        ("transferred value", wording.hp_text(realised["transferred"])),
        ("the target's own optimum", wording.hp_text(realised["optimum"]["optimum"])),
        ("loss at the transferred value", wording.number_text(realised["loss_at_transferred"], 4)),
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
            f"The steepest slope is {wording.number_text(worst['slope'], 2)} "
            f"({worst['module']}, {when}); the limit is ±{check['limit']:g}."
        )
    widths = ", ".join(str(width) for width in check["widths"])
    seeds = "1 seed" if len(check["seeds"]) == 1 else f"{len(check['seeds'])} seeds"
    covered = f"Widths {widths}; {seeds}; "
    covered += f"log2 base learning rate {wording.number_text(check['log2_lr'], 1)}; "
    covered += f"the base width's loss fell by {100 * check['loss_drop']:.0f} %."
    zero = f" Zero, so without a slope: {', '.join(check['zero'])}." if check["zero"] else ""
    return "\n".join(
        [
            element("p", " ".join(sentences)),
            element("p", covered + zero, "muted"),
            _notes(check["warnings"]),
        ]
    )
