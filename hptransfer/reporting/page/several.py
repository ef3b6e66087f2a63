"""The report's tables where more than one HP, or more than the width, was varied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hptransfer.config.choices import arm_name
from hptransfer.reporting.figures import wording
from hptransfer.reporting.figures.conditions import NAMES
from hptransfer.reporting.figures.importance import METHODS
from hptransfer.reporting.figures.style import hp_label, hp_name
from hptransfer.reporting.page.page import bullets, element, table

Record = Mapping[str, Any]


def joint_table(surface: Record) -> str:
    """Tabulate one arm's joint optima over width, the joint value for the target, what is flat."""
    name = arm_name(surface["parametrization"])
    hps = surface["hps"]
    rows = [
        (
            str(entry["width"]),
            *(_value(entry["optimum"][hp], (entry.get("censored") or {}).get(hp)) for hp in hps),
            wording.number(entry["loss"], 4),
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
    regret = wording.regret(target["expected_regret"], "mean") if target is not None else ""
    return "\n".join(
        [
            table(f"{name}: joint optimum", heads, rows),
            element("p", f"Expected regret of the joint value: {regret}.") if regret else "",
            f"<p>Flat directions:</p><ul>{bullets(flat)}</ul>" if flat else "",
        ]
    )


def _value(optimum: Record, censored: str | None) -> str:
    value = wording.number(optimum["value"], 2)
    if censored:
        return f"{value} ({wording.CENSORED[censored]})"
    return value + wording.interval(optimum["low"], optimum["high"], 2)


def importance_table(surface: Record) -> str:
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
    return wording.UNKNOWN if share is None else wording.percent(100 * share)


_TERMS = {
    "a": "constant",
    "log2_width": "per doubling of the width",
    **{f"log2_{axis}": f"per doubling of the {name}" for axis, name in NAMES.items()},
}


def conditions_table(arm: Record) -> str:
    """Tabulate the joint law over width and varied conditions; say whether each still moves it."""
    told = arm.get("conditions")
    if not told:
        return ""
    name = wording.subject(arm)
    said = bullets(f"{name}: {over['sentence']}" for over in told["over"])
    parts = [f"<ul>{said}</ul>"] if said else []
    if told.get("joint"):
        rows = [(_TERMS[c["name"]], wording.span(c, 2)) for c in told["joint"]["coefficients"]]
        parts.append(table(f"{name}: joint law, octaves", ("", "coefficient#"), rows))
        parts.append(element("p", _fit(told["joint"]), "muted"))
    parts += [_drifts(name, over) for over in told["over"]]
    if told.get("shift_to_target"):
        shift = wording.span(told["shift_to_target"], 2)
        parts.append(element("p", f"From the sweep's conditions to the target's: {shift} octaves."))
    return "\n".join(parts)


def _fit(joint: Record) -> str:
    chi2 = wording.number(joint["chi2"], 1)
    return f"Fitted to {joint['settings']} settings; χ² {chi2} on {joint['degrees']} degrees."


def _drifts(name: str, over: Record) -> str:
    rows = [
        (
            f"{entry['value']:g}",
            wording.span(entry["drift"], 2),
            wording.hp_value(entry["optimum_at_widest"]),
        )
        for entry in over["values"]
    ]
    heads = (
        f"{NAMES[over['axis']]}#",
        "drift per doubling of the width#",
        "optimum at the widest#",
    )
    return table(f"{name} over {NAMES[over['axis']]}", heads, rows)
