"""The trials that a sweep asks for, and the checks of its target and of the question it asks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Method, Scaling
from hptransfer.config.conditions import with_condition
from hptransfer.config.hyperparameters import hyperparameter, with_hyperparameters
from hptransfer.config.identity import flat, trial_key, with_scaling, with_width
from hptransfer.config.sweep import SweepConfig, require_allowable
from hptransfer.errors import UserError
from hptransfer.execution.pack_sizes import Trials
from hptransfer.sweeping.design.points import points


def wanted(sweep: SweepConfig) -> dict[str, TrialConfig]:
    """Return the trials of a grid or Sobol sweep by key; arms share theirs at base width."""
    trials = {}
    chosen = points(sweep)
    places = itertools.product(sweep.conditions, sweep.parametrizations, sweep.widths)
    for condition, scaling, width in places:
        proxy = with_condition(with_scaling(with_width(sweep.base, width), scaling), condition)
        placed = [with_hyperparameters(proxy, point) for point in chosen]
        for seed in sweep.seeds:
            for unseeded in placed:
                config = dataclasses.replace(unseeded, seed=seed)
                trials.setdefault(trial_key(config), config)
    return trials


def placeholder_trials(sweep: SweepConfig, points: int) -> list[TrialConfig]:
    """Return trials of the shapes and the number that an adaptive design will ask for.

    Args:
        points: points that the design asks for at every arm and width.
    """
    middle = {f"log2_{name}": (axis.low + axis.high) / 2 for name, axis in sweep.search}
    trials = {}
    for scaling in sweep.parametrizations:
        for width in sweep.widths:
            proxy = with_hyperparameters(
                with_scaling(with_width(sweep.base, width), scaling), middle
            )
            for seed in range(points * len(sweep.seeds)):
                config = dataclasses.replace(proxy, seed=seed)
                trials.setdefault(trial_key(config), config)
    return list(trials.values())


def realised(sweep: SweepConfig, target: TrialConfig, point: Mapping[str, float]) -> Trials:
    """Return the target's own trials: the transferred point and the grid points nearest to it.

    The first axis is swept around the point; other HPs stay where they were transferred.
    """
    (name, axis), *_ = sweep.search
    log2_name = f"log2_{name}"
    by_distance = sorted(axis.points, key=lambda value: abs(value - point[log2_name]))
    values = sorted({*by_distance[: sweep.realise.points], point[log2_name]})
    return tuple(
        dataclasses.replace(with_hyperparameters(target, {**point, log2_name: value}), seed=seed)
        for seed in range(sweep.realise.seeds)
        for value in values
    )


def pending(all_packs: Sequence[Trials], done: Collection[str]) -> list[Trials]:
    """Return the packs of which a row is missing; such a pack reruns whole."""
    return [pack for pack in all_packs if any(trial_key(config) not in done for config in pack)]


def check_target(sweep: SweepConfig, target: TrialConfig, allow: Collection[str] = ()) -> None:
    """Refuse a target that the sweep cannot speak for, but for what is allowed."""
    widest = max(sweep.widths)
    if target.model.width < widest:
        raise UserError(
            f"The target must be at least as wide as the widest proxy, but got width "
            f"{target.model.width} with proxies up to {widest}. Set model.width."
        )
    if type(target.model) is not type(sweep.base.model):
        raise UserError(
            f"The target must be of the sweep's family, but it is a {target.model.family} and the "
            f"proxies are {sweep.base.model.family}."
        )
    if target.model.base_width != sweep.base.model.base_width:
        raise UserError(
            "The target must share the proxies' base width, since every µP factor is relative to "
            f"it, but got {target.model.base_width} and {sweep.base.model.base_width}. Set "
            f"model.base_width={sweep.base.model.base_width}."
        )
    _check_depth(sweep, target, allow)


def _check_depth(sweep: SweepConfig, target: TrialConfig, allow: Collection[str]) -> None:
    require_allowable(allow)
    depths = [getattr(config.model, "depth", None) for config in (sweep.base, target)]
    if "model.depth" in sweep.varied or "depth" in {*allow, *sweep.allow}:
        return
    if depths[0] != depths[1]:
        raise UserError(
            f"The target must be as deep as the proxies, since a width sweep says nothing of "
            f"depth, but got depth {depths[1]} with proxies of {depths[0]}. Set "
            f"model.depth={depths[0]}, vary depth in the sweep (sweep.vary.depth), or set "
            "transfer.allow=[depth] to go on with a warning."
        )


def check_same_question(recorded: SweepConfig, asked: SweepConfig, folder: Path) -> None:
    """Refuse a second question in a folder: base trial, searched HPs and design must agree.

    A design may grow in points, since it keeps the points that it has. Another method, or another
    seed of the choice, would leave the recorded points outside the design.
    """
    before, now = (_base_facts(sweep) for sweep in (recorded, asked))
    changed = [
        f"{key} was {before.get(key)} and is now {now.get(key)}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"{folder} holds another sweep: {'; '.join(changed)}. A changed base trial "
            f"is another question; give it a name of its own with name={asked.name}-2."
        )


def _base_facts(sweep: SweepConfig) -> dict[str, object]:
    """Return what all trials of a sweep share, flat, without what its axes set."""
    base = with_scaling(with_width(sweep.base, sweep.base.model.base_width), Scaling.mup)
    base = dataclasses.replace(base, seed=0)
    for name, _ in sweep.search:
        hp = hyperparameter(name, base.objective)
        default = getattr(type(getattr(base, hp.group))(), hp.field)
        group = dataclasses.replace(getattr(base, hp.group), **{hp.field: default})
        base = dataclasses.replace(base, **{hp.group: group})
    return {**flat(base), **_design_facts(sweep)}


def _design_facts(sweep: SweepConfig) -> dict[str, object]:
    """Return what decides a sweep's points besides the ends of its axes and their number."""
    design = sweep.design
    facts: dict[str, object] = {
        "search": " x ".join(sorted(name for name, _ in sweep.search)),
        "sweep.design.method": design.method.value,
    }
    if design.method is not Method.grid:
        facts["sweep.design.seed"] = design.seed
        facts |= {f"search.{name}": f"{axis.low:g} to {axis.high:g}" for name, axis in sweep.search}
    if sweep.is_adaptive:
        facts["sweep.design.round"] = design.batch
    return facts
