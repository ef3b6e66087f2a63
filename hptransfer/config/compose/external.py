"""The file of a sweep whose trials are trained by a function or a command of the user's own.

Such a file has no model, data or objective of ours. Its sections are `train`, `sweep`, `search`,
`fixed`, `executor` and `verdict`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hptransfer.config import ExecutorConfig
from hptransfer.config.checks import require_count, require_finite, require_positive
from hptransfer.config.external import (
    ARM,
    ExternalArm,
    ExternalModel,
    ExternalTrainer,
    ExternalTrial,
    Scalar,
)
from hptransfer.config.records import read_value, require_mapping
from hptransfer.config.sweep import DesignConfig, ExternalSweep, RealiseConfig, VaryConfig
from hptransfer.errors import UserError, abbreviate, require
from hptransfer.system.text import nearest

SECTIONS = ("train", "sweep", "search", "fixed", "executor", "verdict", "resources")


@dataclass(frozen=True)
class ExternalSweepSection:
    """The section `sweep` of a sweep of your own trainer."""

    widths: tuple[int, ...] = ()  # widths of the proxies, increasing
    base_width: int | None = None  # the width at which your parametrization changes nothing
    parametrizations: tuple[str, ...] = (ARM,)  # words of your trainer, if it knows several
    seeds: tuple[int, ...] = (0,)  # every point is trained once with each of them
    target: Mapping[str, Any] = field(default_factory=dict)  # width, and fixed values that differ
    realise: RealiseConfig | None = None  # train the target too, to see what the value cost
    design: DesignConfig = field(default_factory=DesignConfig)
    vary: VaryConfig = field(default_factory=VaryConfig)


@dataclass(frozen=True)
class TrialResources:
    """What a trial of a width asks for where it differs from the section `executor`."""

    cpus: float | None = None  # CPUs of a trial, on each node
    gpus: float | None = None  # GPUs of a trial, on each node
    memory_gib: float | None = None  # GiB of memory of a trial, on each node
    nodes: int | None = None  # nodes of a trial


def require_external_keys(content: Mapping[str, Any], where: str) -> None:
    """Refuse sections that a sweep of the user's own trainer does not have."""
    known = ("name", "question", "statistic", *SECTIONS)
    for key in content:
        if key not in known:
            raise UserError(
                f"{where}: a sweep of your own trainer has no section {abbreviate(key)}, since "
                "hptransfer does not know its model or its data. Values for the trainer belong "
                f"into `fixed`. {nearest(str(key), known)}"
            )


def read_fixed(section: Any) -> dict[str, Scalar]:
    """Return the values that no trial of the sweep changes."""
    require_mapping("fixed", section)
    return dict(section)


def read_resources(section: Any) -> dict[int, TrialResources]:
    """Return the resources of the widths that ask for others than the executor's."""
    require_mapping("resources", section)
    found = {}
    for width, entry in section.items():
        require(
            re.fullmatch(r"[1-9]\d*", str(width)) is not None,
            f"`resources` gives resources by width, but got {abbreviate(width)}. Write, for "
            "example, resources: {1024: {gpus: 4}}.",
        )
        asked = read_value(TrialResources, entry, f"resources.{width}")
        _require_amounts(asked, f"resources.{width}")
        found[int(width)] = asked
    return found


def _require_amounts(asked: TrialResources, where: str) -> None:
    for name in ("cpus", "memory_gib"):
        amount = getattr(asked, name)
        if amount is not None:
            require_positive(f"{where}.{name}", amount)
    require_finite(f"{where}.gpus", asked.gpus, least=0)
    require(
        asked.gpus is None or asked.gpus <= 1 or asked.gpus == int(asked.gpus),
        f"`{where}.gpus` must be at most 1 or a whole number, but got {asked.gpus}.",
    )
    require_count(f"{where}.nodes", asked.nodes, most=2**16)


def require_resources_count(
    executor: ExecutorConfig, resources: Mapping[int, TrialResources]
) -> None:
    """Refuse what trials ask for where the executor gives every trial the whole machine."""
    if executor.name != "local":
        return
    what = "executor.nodes" if executor.nodes != 1 else "resources"
    require(
        executor.nodes == 1 and not resources,
        f"`{what}` has no effect with executor=local, which runs one trial after another on this "
        "machine. Leave it out, or choose executor=ray.",
    )


def external_trial(
    trainer: ExternalTrainer, section: ExternalSweepSection, fixed: Mapping[str, Scalar]
) -> ExternalTrial:
    """Return the trial that all trials of a sweep are made from."""
    width = section.widths[0] if section.widths else section.base_width or 1
    model = ExternalModel(width, section.base_width)
    return ExternalTrial(trainer, model, fixed=tuple(fixed.items()))


def external_sweep(
    section: ExternalSweepSection, base: ExternalTrial, **fields: Any
) -> ExternalSweep:
    """Return the sweep of a section; `fields` are those that every sweep has."""
    return ExternalSweep(
        base=base,
        widths=section.widths,
        parametrizations=tuple(ExternalArm(label) for label in section.parametrizations),
        seeds=section.seeds,
        target=_target(base, section.target) if section.target else None,
        realise=section.realise,
        design=section.design,
        vary=section.vary,
        gate=False,
        **fields,
    )


def _target(base: ExternalTrial, changes: Mapping[str, Any]) -> ExternalTrial:
    """Return the target: the base trial with another width and, perhaps, other fixed values."""
    known = ("width", "parametrization", *dict(base.fixed))
    for name in changes:
        if name not in known:
            raise UserError(
                f"`sweep.target` may give the width and other values of `fixed`, but names "
                f"{abbreviate(name)}. {nearest(str(name), known)}"
            )
    require(
        "width" in changes,
        "`sweep.target` must give the target's width, but it gives only "
        f"{', '.join(map(str, changes))}. Set sweep.target.width.",
    )
    target = base.with_width(read_value(int, changes["width"], "sweep.target.width"))
    values = {k: v for k, v in changes.items() if k not in ("width", "parametrization")}
    return target.with_fixed(values)
