"""The target's optimizer groups as a Python file that needs torch alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hptransfer.config import TrialConfig
from hptransfer.transfer.exports.factors import Parameter, patterns, schedule

SNIPPET = Path(__file__).with_name("snippet.py")
START, END = "# table\n", "# end of table\n"


def torch_groups_text(
    config: TrialConfig, parameters: Sequence[Parameter], *, readout: str, says: Sequence[str] = ()
) -> str:
    """Return the snippet with its table filled in; `says` are comments above the table."""
    head, _, rest = SNIPPET.read_text(encoding="utf-8").partition(START)
    tail = rest.partition(END)[2]
    optimizer = config.optimizer
    lines = [
        *(f"# {line}" for line in says),
        f"# {config.model.family} of width {config.model.width}, base {config.model.base_width}, "
        f"{config.parametrization.scaling.value}",
        f"READOUT = {readout!r}",
        f"OPTIMIZER = {{'betas': {(optimizer.beta1, optimizer.beta2)}, "
        f"'clip_norm': {optimizer.clip_norm}}}",
        f"SCHEDULE = {schedule(config)!r}",
        "# name: the fields of Rule",
        "PARAMETERS = {",
        *(f"    {p.name!r}: {_entry(p)!r}," for p in patterns(parameters)),
        "}",
    ]
    return head + "\n".join(lines) + "\n" + tail


def _entry(parameter: Parameter) -> tuple[object, ...]:
    p = parameter
    fields = (p.shape, p.lr, p.weight_decay, p.eps, p.forward, p.distribution, p.init_std)
    return (*fields, p.draw_multiplier) if p.distribution == "model" else fields
