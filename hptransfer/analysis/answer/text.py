"""The estimates of a sweep as text: what `hptransfer fit` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hptransfer.config.choices import arm_name
from hptransfer.results.metrics import metric_of
from hptransfer.system.text import decimal, interval_text, text_table


def estimates_text(estimates: Mapping[str, Any]) -> str:
    """Return the optima, drifts and verdicts of a sweep's arms, 100 columns wide.

    Estimates by another metric than the loss also say how far their optima are from the loss's.
    """
    agreement = [agreement_text(estimates)] if "agreement" in estimates else []
    return "\n".join([optima_table(estimates), *agreement])


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
                    interval_text(optimum["low"], optimum["high"], ".2f"),
                    _loss(optimum["loss"]),
                    str(optimum["n_seeds"]),
                    optimum["censored"] or "",
                ]
            )
        lines += arm_lines(arm, hp_named=len({each["hp"] for each in estimates["arms"]}) > 1)
    measured = metric_of(estimates).label
    columns = ["arm", "HP", "width", "optimum", "90 % interval", measured, "seeds", "censored"]
    lines += trial_notes(estimates)
    return "\n".join([text_table(f"sweep {estimates['sweep']}", columns, cells), *lines])


def trial_notes(estimates: Mapping[str, Any]) -> list[str]:
    """Return a sentence on missing trials and one on recorded trials that were left out."""
    missing, left_out = (estimates["trials"][name] for name in ("missing", "left_out"))
    notes = []
    if missing:
        notes.append(f"{missing} trials of the sweep are missing: the answer may change.")
    if left_out:
        notes.append(f"{left_out} recorded rows are left out: the sweep does not ask for them.")
    return notes


def arm_lines(arm: Mapping[str, Any], *, hp_named: bool) -> list[str]:
    """Return an arm's verdict with its drift, and below it reasons, conditions and warnings."""
    drift = arm["drift_octaves_per_doubling"]
    name = arm_name(arm["parametrization"])
    if hp_named:
        name += f", {arm['hp'].replace('_', ' ')}"
    lines = [
        f"{name}: {arm['verdict']}; drift {decimal(drift['estimate'])} octaves per doubling "
        f"{interval_text(drift['low'], drift['high'], '+.2f')}"
    ]
    lines += [f"  {reason}" for reason in arm["reasons"]]
    lines += [f"  {over['sentence']}" for over in (arm.get("conditions") or {}).get("over", ())]
    lines += [f"  warning: {warning}" for warning in arm["warnings"]]
    return lines


def _loss(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"


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
    return f"{decimal(told['estimate'], form)} {interval_text(told['low'], told['high'], form)}"
