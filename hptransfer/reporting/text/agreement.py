"""How optima by another metric agree with those by the loss, as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hptransfer.reporting.text.answers import arm_name, decimal, interval, text_table
from hptransfer.results.table import metric_of


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
    return f"{decimal(told['estimate'], form)} {interval(told['low'], told['high'], form)}"
