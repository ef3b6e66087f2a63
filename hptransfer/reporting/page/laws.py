"""Sections of the report: laws over width, several HPs together, and other conditions."""

from __future__ import annotations

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures import wording
from hptransfer.reporting.figures.conditions import NAMES
from hptransfer.reporting.figures.style import hp_label, hp_name
from hptransfer.reporting.figures.surface import METHODS
from hptransfer.reporting.page.page import JsonObject, bullets, element, table

_FORMULAS = {
    "constant": "constant: {y} = a",
    "linear": "linear: {y} = a + b·log2(n)",
    "inverse": "inverse: {y} = a + b·(n0/n)",
    "power": "power: {y} = a + b·(n0/n)^c",
}
_SIDES = {"low": "below", "high": "above"}


def laws_table(arm: JsonObject) -> str:
    """Tabulate one arm's candidate laws of the optimum, or say that there is none."""
    name = wording.arm_and_hp(arm)
    law = arm.get("law") or {"name": "none", "candidates": []}
    if law["name"] == "none" or not law["candidates"]:
        return element("p", f"{name}: no law; a law needs three usable widths.")
    return _candidates(f"{name}: laws of the optimum", law, "θ")


def _candidates(caption: str, law: JsonObject, quantity: str) -> str:
    rows = [
        (
            _FORMULAS[c["name"]].format(y=quantity),
            wording.number_text(c["weight"], 2),
            ", ".join(f"{k} = {_figure(v)}" for k, v in c["coefficients"].items()),
            wording.number_text(c["chi2"], 1),
        )
        for c in law["candidates"]
    ]
    return table(caption, ("law", "weight#", "coefficients", "χ²#"), rows)


def _figure(value: float | None) -> str:
    """Write a coefficient with two decimals, or two digits where it is small."""
    if value is None or value == 0 or abs(value) >= 0.1:
        return wording.number_text(value, 2)
    return f"{value:.2g}".replace("-", "−")


def loss_table(arm: JsonObject) -> str:
    """Return whether wider is better, and the laws of the loss at the optimum, as HTML."""
    law = arm.get("loss_law")
    if not law:
        return ""
    name = wording.arm_and_hp(arm)
    answer = {True: "wider is better", False: "wider is not better", None: "not decided"}
    said = f"{name}: {answer[law['wider_is_better']]}. {law.get('reason') or ''}".rstrip()
    parts = [element("p", said)]
    if law["candidates"]:
        since = f", widths from {law['from_width']}" if law.get("from_width") else ""
        parts.append(_candidates(f"{name}: laws of the loss at the optimum{since}", law, "loss"))
    if law.get("at_target"):
        expected = wording.estimate_text(law["at_target"], 4)
        parts.append(element("p", f"Loss expected at the target's optimum: {expected}."))
    return "\n".join(parts)


def curvature_table(arm: JsonObject) -> str:
    """Tabulate how fast the basin's rise, one octave off, changes with width."""
    told = arm.get("curvature_law")
    if not told:
        return ""
    rows = [
        (
            f"one octave {_SIDES[side]} the optimum",
            told[side]["name"],
            wording.estimate_text(told[side]["log2_per_doubling"], 2),
        )
        for side in _SIDES
        if told.get(side)
    ]
    heads = ("rise of the loss", "law", "octaves per doubling of the width#")
    return table(f"{wording.arm_and_hp(arm)}: laws of the curvature", heads, rows)


def quality_list(arm: JsonObject) -> str:
    """Tabulate whether transfer is useful, and whether wider models forgive a wrong value less."""
    quality = arm.get("quality")
    if not quality:
        return ""
    useful, robust = quality.get("useful_transfer") or {}, quality.get("robustness") or {}
    rows = [
        ("useful transfer", _answer(useful.get("answer")), useful.get("sentence") or ""),
        (
            "robustness exponent",
            wording.estimate_text(robust.get("exponent"), 2),
            robust.get("sentence") or "",
        ),
    ]
    caption = f"{wording.arm_and_hp(arm)}: quality of the transfer"
    return table(caption, ("", "answer", "why"), rows)


def _answer(answer: bool | None) -> str:
    return {True: "yes", False: "no", None: wording.UNKNOWN}[answer]


def joint_table(surface: JsonObject) -> str:
    """Tabulate one arm's joint optima over width, the joint value for the target, what is flat."""
    name = arm_name(surface["parametrization"])
    hps = surface["hps"]
    rows = [
        (
            str(entry["width"]),
            *(_value(entry["optimum"][hp], (entry.get("censored") or {}).get(hp)) for hp in hps),
            wording.number_text(entry["loss"], 4),
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
    regret = wording.regret_text(target["expected_regret"], "mean") if target is not None else ""
    return "\n".join(
        [
            table(f"{name}: joint optimum", heads, rows),
            element("p", f"Expected regret of the joint value: {regret}.") if regret else "",
            f"<p>Flat directions:</p><ul>{bullets(flat)}</ul>" if flat else "",
        ]
    )


def _value(optimum: JsonObject, censored: str | None) -> str:
    value = wording.number_text(optimum["value"], 2)
    if censored:
        return f"{value} ({wording.CENSORED[censored]})"
    return value + wording.interval_text(optimum["low"], optimum["high"], 2)


def importance_table(surface: JsonObject) -> str:
    """Tabulate the share of each HP, by the surface and by PED-ANOVA."""
    told = surface.get("importance") or {}
    methods = [method for method in METHODS if told.get(method)]
    if not methods:
        return ""
    rows = [
        (hp_name(hp), *(_share(told[method].get(hp)) for method in methods))
        for hp in surface["hps"]
    ]
    heads = ("HP", *(f"{METHODS[method]}#" for method in methods))
    return table(f"{arm_name(surface['parametrization'])}: importance", heads, rows)


def _share(share: float | None) -> str:
    return wording.UNKNOWN if share is None else wording.percent_text(100 * share)


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
    name = wording.arm_and_hp(arm)
    said = bullets(f"{name}: {over['sentence']}" for over in told["over"])
    parts = [f"<ul>{said}</ul>"] if said else []
    if told.get("joint"):
        rows = [
            (_TERMS[c["name"]], wording.estimate_text(c, 2)) for c in told["joint"]["coefficients"]
        ]
        parts.append(table(f"{name}: joint law, octaves", ("", "coefficient#"), rows))
        parts.append(element("p", _fit(told["joint"]), "muted"))
    parts += [_drifts(name, over) for over in told["over"]]
    if told.get("shift_to_target"):
        shift = wording.estimate_text(told["shift_to_target"], 2)
        parts.append(element("p", f"From the sweep's conditions to the target's: {shift} octaves."))
    return "\n".join(parts)


def _fit(joint: JsonObject) -> str:
    chi2 = wording.number_text(joint["chi2"], 1)
    return f"Fitted to {joint['settings']} settings; χ² {chi2} on {joint['degrees']} degrees."


def _drifts(name: str, over: JsonObject) -> str:
    rows = [
        (
            f"{entry['value']:g}",
            wording.estimate_text(entry["drift"], 2),
            wording.hp_text(entry["optimum_at_widest"]),
        )
        for entry in over["values"]
    ]
    heads = (
        f"{NAMES[over['axis']]}#",
        "drift per doubling of the width#",
        "optimum at the widest#",
    )
    return table(f"{name} over {NAMES[over['axis']]}", heads, rows)
