"""The report's findings: optima, transfer, laws, the target's values, and the checks of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hptransfer.figures import wording
from hptransfer.figures.page import bullets, element, table
from hptransfer.figures.style import arm_name, hp_label

Record = Mapping[str, Any]

_LAWS = {
    "constant": "constant: θ = a",
    "linear": "linear: θ = a + b·log2(n)",
    "inverse": "inverse: θ = a + b·(n0/n)",
}


def optima_table(arm: Record) -> str:
    """Tabulate one arm's optima with interval and censoring."""
    rows = [
        (
            str(o["width"]),
            wording.hp_value(o["optimum"]),
            wording.interval(o["low"], o["high"], 2).strip(" ()"),
            wording.number(o["loss"], 4),
            wording.number(o["n_seeds"], 0),
            wording.number(o["n_points"], 0),
            wording.CENSORED[o["censored"]] if o["censored"] else "no",
        )
        for o in arm["optima"]
    ]
    heads = (
        "width#",
        "optimum#",
        "90 % interval#",
        "loss#",
        "seeds#",
        "points#",
        "censored",
    )
    caption = f"{arm_name(arm['parametrization'])}: optimal {hp_label(arm['hp'])}"
    return table(caption, heads, rows)


def transfer_table(arms: list[Record]) -> str:
    """Tabulate verdict, drift and regret, a column per arm."""
    if not arms:
        return ""
    heads = ["", *(f"{arm_name(arm['parametrization'])}#" for arm in arms)]
    rows = [
        ["verdict", *(str(arm.get("verdict") or "none") for arm in arms)],
        [
            "drift, octaves per doubling",
            *(wording.span(arm.get("drift_octaves_per_doubling"), 2) for arm in arms),
        ],
        ["tolerance δ", *(wording.number(_part(arm, "delta"), 4) for arm in arms)],
        [
            "regret, widest width held out",
            *(wording.regret(_part(arm, "held_out")) for arm in arms),
        ],
        ["regret at the target", *(wording.regret(_part(arm, "at_target")) for arm in arms)],
        [
            "as a share of the last doubling's gain",
            *(wording.span(_part(arm, "share_of_gain"), 3) for arm in arms),
        ],
        ["in % of the loss", *(wording.span(_part(arm, "percent"), 2) for arm in arms)],
    ]
    return table("", heads, rows)


def _part(arm: Record, name: str) -> Any:
    return (arm.get("regret") or {}).get(name)


def laws_table(arm: Record) -> str:
    """Tabulate one arm's candidate laws, or say that there is none."""
    law = arm.get("law") or {"name": "none", "candidates": []}
    name = arm_name(arm["parametrization"])
    if law["name"] == "none" or not law["candidates"]:
        return element("p", f"{name}: no law; a law needs three usable widths.")
    rows = [
        (
            _LAWS[c["name"]],
            wording.number(c["weight"], 2),
            ", ".join(f"{k} = {wording.number(v, 2)}" for k, v in c["coefficients"].items()),
            wording.number(c["chi2"], 1),
        )
        for c in law["candidates"]
    ]
    return table(f"{name}: laws of the optimum", ("law", "weight#", "coefficients", "χ²#"), rows)


def target_values(transfer: Record) -> str:
    """Tabulate the values for the target with their conditions and warnings."""
    target, expected = transfer["target"], transfer.get("expected_regret")
    params = target.get("params")
    sentence = f"{target['family']}, width {target['width']}" + (
        f", {params:,} parameters." if params is not None else "."
    )
    rows = [
        (
            hp_label(name),
            wording.hp_value(hp["value"]),
            wording.interval(hp["low"], hp["high"], 2).strip(" ()"),
        )
        for name, hp in transfer["hps"].items()
    ]
    known = expected is not None and expected.get("mean") is not None
    regret = wording.regret(expected, "mean") if known else wording.UNKNOWN
    return "\n".join(
        [
            element("p", sentence),
            table("", ("HP", "value#", "90 % interval#"), rows),
            element("p", f"Expected regret: {regret}. {_conditions(expected)}"),
            _notes(transfer.get("warnings")),
        ]
    )


def _conditions(expected: Record | None) -> str:
    conditional = (expected or {}).get("conditional_on")
    if not conditional:
        return ""
    listed = ", ".join(
        f"{name} {value}" for name, value in conditional.items() if value is not None
    )
    return f"Conditional on {listed}."


def _notes(warnings: list[str] | None) -> str:
    return f"<ul>{bullets(warnings, 'warning')}</ul>" if warnings else ""


def realised_table(realised: Record) -> str:
    """Tabulate what the target's own sweep says about the transferred value."""
    answer = "missed" if realised["missed"] else "held"
    sentence = f"The target, width {realised['width']}, was swept itself: the prediction {answer}."
    rows = [
        ("predicted regret", wording.regret(realised["predicted"], "mean")),
        ("realised regret", wording.regret(realised["regret"])),
        ("transferred value", wording.hp_value(realised["transferred"])),
        ("the target's own optimum", wording.hp_value(realised["optimum"]["optimum"])),
        ("loss at the transferred value", wording.number(realised["loss_at_transferred"], 4)),
    ]
    return element("p", sentence) + "\n" + table("", ("", "#"), rows)


def check_sentence(check: Record) -> str:
    """Say whether the coordinate check passed, where it is worst, and what it covered."""
    worst = check["worst"]
    verdict = {"pass": "passes", "fail": "fails"}[check["verdict"]]
    name = arm_name(check["parametrization"])
    sentences = [f"{check['family']} under {name} {verdict} the coordinate check."]
    if worst is not None:
        when = "at init" if worst["quantity"] == "init" else f"after step {worst['step']}"
        sentences.append(
            f"The steepest slope is {wording.number(worst['slope'], 2)} "
            f"({worst['module']}, {when}); the limit is ±{check['limit']:g}."
        )
    widths = ", ".join(str(width) for width in check["widths"])
    seeds = "1 seed" if len(check["seeds"]) == 1 else f"{len(check['seeds'])} seeds"
    covered = f"Widths {widths}; {seeds}; "
    covered += f"log2 base learning rate {wording.number(check['log2_lr'], 1)}; "
    covered += f"the base width's loss fell by {100 * check['loss_drop']:.0f} %."
    zero = f" Zero, so without a slope: {', '.join(check['zero'])}." if check["zero"] else ""
    return "\n".join(
        [
            element("p", " ".join(sentences)),
            element("p", covered + zero, "muted"),
            _notes(check["warnings"]),
        ]
    )
