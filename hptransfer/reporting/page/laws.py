"""The report's tables of laws over width: optimum, loss, curvature, and how good a transfer is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hptransfer.reporting.figures import wording
from hptransfer.reporting.page.page import element, table

Record = Mapping[str, Any]

_FORMULAS = {
    "constant": "constant: {y} = a",
    "linear": "linear: {y} = a + b·log2(n)",
    "inverse": "inverse: {y} = a + b·(n0/n)",
    "power": "power: {y} = a + b·(n0/n)^c",
}
_SIDES = {"low": "below", "high": "above"}


def laws_table(arm: Record) -> str:
    """Tabulate one arm's candidate laws of the optimum, or say that there is none."""
    name = wording.subject(arm)
    law = arm.get("law") or {"name": "none", "candidates": []}
    if law["name"] == "none" or not law["candidates"]:
        return element("p", f"{name}: no law; a law needs three usable widths.")
    return _candidates(f"{name}: laws of the optimum", law, "θ")


def _candidates(caption: str, law: Record, quantity: str) -> str:
    rows = [
        (
            _FORMULAS[c["name"]].format(y=quantity),
            wording.number(c["weight"], 2),
            ", ".join(f"{k} = {_figure(v)}" for k, v in c["coefficients"].items()),
            wording.number(c["chi2"], 1),
        )
        for c in law["candidates"]
    ]
    return table(caption, ("law", "weight#", "coefficients", "χ²#"), rows)


def _figure(value: float | None) -> str:
    """Write a coefficient with two decimals, or two digits where it is small."""
    if value is None or value == 0 or abs(value) >= 0.1:
        return wording.number(value, 2)
    return f"{value:.2g}".replace("-", "−")


def loss_table(arm: Record) -> str:
    """Say whether wider is better, with the laws of the loss at the optimum."""
    law = arm.get("loss_law")
    if not law:
        return ""
    name = wording.subject(arm)
    answer = {True: "wider is better", False: "wider is not better", None: "not decided"}
    said = f"{name}: {answer[law['wider_is_better']]}. {law.get('reason') or ''}".rstrip()
    parts = [element("p", said)]
    if law["candidates"]:
        since = f", widths from {law['from_width']}" if law.get("from_width") else ""
        parts.append(_candidates(f"{name}: laws of the loss at the optimum{since}", law, "loss"))
    if law.get("at_target"):
        expected = wording.span(law["at_target"], 4)
        parts.append(element("p", f"Loss expected at the target's optimum: {expected}."))
    return "\n".join(parts)


def curvature_table(arm: Record) -> str:
    """Tabulate how fast the basin's rise, one octave off, changes with width."""
    told = arm.get("curvature_law")
    if not told:
        return ""
    rows = [
        (
            f"one octave {_SIDES[side]} the optimum",
            told[side]["name"],
            wording.span(told[side]["log2_per_doubling"], 2),
        )
        for side in _SIDES
        if told.get(side)
    ]
    heads = ("rise of the loss", "law", "octaves per doubling of the width#")
    return table(f"{wording.subject(arm)}: laws of the curvature", heads, rows)


def quality_list(arm: Record) -> str:
    """Say whether transfer is useful, and whether wider models forgive less."""
    quality = arm.get("quality")
    if not quality:
        return ""
    useful, robust = quality.get("useful_transfer") or {}, quality.get("robustness") or {}
    rows = [
        ("useful transfer", _answer(useful.get("answer")), useful.get("sentence") or ""),
        (
            "robustness exponent",
            wording.span(robust.get("exponent"), 2),
            robust.get("sentence") or "",
        ),
    ]
    caption = f"{wording.subject(arm)}: quality of the transfer"
    return table(caption, ("", "answer", "why"), rows)


def _answer(answer: bool | None) -> str:
    return {True: "yes", False: "no", None: wording.UNKNOWN}[answer]
