"""The trials that a sweep asks for, and the checks of its target and of the question it asks."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Method, Scaling
from hptransfer.config.external import ExternalTrial
from hptransfer.config.hyperparameters import hyperparameter, with_hyperparameters
from hptransfer.config.identity import trial_key, with_scaling, with_width
from hptransfer.config.records import flat, plain
from hptransfer.config.sweep import (
    CONDITIONS,
    Axis,
    ExternalSweep,
    SweepConfig,
    require_allowable,
    with_condition,
)
from hptransfer.errors import UserError
from hptransfer.execution.pack_sizes import Trials
from hptransfer.sweeping.design.rounds import Rows, arms_and_widths

DECIMALS = 9  # of a point in log2, as a row keeps it


def points(sweep: SweepConfig) -> list[dict[str, float]]:
    """Return the points of a grid or Sobol sweep, each as {`log2_<hp>`: value}."""
    if sweep.design.method is Method.grid:
        return grid(sweep.search)
    assert sweep.design.method is Method.sobol, "adaptive points follow from losses"
    return sobol(sweep.search, count=sweep.design.total, seed=sweep.design.seed)


def grid(search: Sequence[tuple[str, Axis]]) -> list[dict[str, float]]:
    """Return the full grid of the axes, last axis fastest."""
    names = [f"log2_{name}" for name, _ in search]
    points = itertools.product(*(axis.points for _, axis in search))
    return [dict(zip(names, point, strict=True)) for point in points]


def sobol(search: Sequence[tuple[str, Axis]], *, count: int, seed: int) -> list[dict[str, float]]:
    """Return the first `count` points of the seed's scrambled Sobol sequence in the axes' box."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(search), scramble=True, rng=seed)
    unit = sequence.random_base2(math.ceil(math.log2(count)))[:count]
    return [
        {
            f"log2_{name}": round(axis.low + share * (axis.high - axis.low), DECIMALS)
            for (name, axis), share in zip(search, shares, strict=True)
        }
        for shares in unit.tolist()
    ]


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
    seeds = range(points * len(sweep.seeds))
    return [config for place in arms_and_widths(sweep) for config in place.trials(middle, seeds)]


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


def check_target(
    sweep: SweepConfig, target: TrialConfig | ExternalTrial, allow: Collection[str] = ()
) -> None:
    """Refuse a target that the sweep cannot speak for, but for what is allowed."""
    widest = max(sweep.widths)
    if target.model.width < widest:
        raise UserError(
            "The target must be at least as wide as the widest swept model, but its width is "
            f"{target.model.width} and the sweep goes up to {widest}. Set "
            f"{'width' if isinstance(target, ExternalTrial) else 'model.width'}."
        )
    if isinstance(target, ExternalTrial):
        return
    if type(target.model) is not type(sweep.base.model):
        raise UserError(
            f"The target must be of the sweep's family, but it is a {target.model.family} and the "
            f"swept models are {sweep.base.model.family}. Choose model={sweep.base.model.family}."
        )
    if target.model.base_width != sweep.base.model.base_width:
        raise UserError(
            "The target must have the swept models' base width, since every µP factor is "
            f"relative to it, but it has {target.model.base_width} and they have "
            f"{sweep.base.model.base_width}. Set model.base_width={sweep.base.model.base_width}."
        )
    _check_depth(sweep, target, allow)


def _check_depth(sweep: SweepConfig, target: TrialConfig, allow: Collection[str]) -> None:
    require_allowable(allow)
    depths = [getattr(config.model, "depth", None) for config in (sweep.base, target)]
    if "model.depth" in sweep.varied or "depth" in {*allow, *sweep.allow}:
        return
    base_depths = {getattr(config.model, "base_depth", None) for config in (sweep.base, target)}
    complete = target.parametrization.scaling is Scaling.complete
    if complete and len(base_depths) == 1 and None not in base_depths:
        return  # the parametrization speaks for the depth
    if depths[0] != depths[1]:
        raise UserError(
            "The target must be as deep as the swept models, since a sweep over widths says "
            f"nothing about depth, but its depth is {depths[1]} and theirs {depths[0]}. Set "
            f"model.depth={depths[0]}, vary the depth in the sweep (sweep.vary.depth), sweep "
            f"parametrization=complete with model.base_depth={depths[0]}, or set "
            "transfer.allow=[depth] to go on with a warning."
        )


def check_same_question(recorded: SweepConfig, asked: SweepConfig, folder: Path) -> None:
    """Refuse a second question in a folder: base trial, searched HPs and design must agree.

    A design may grow in points, since it keeps the points that it has. Another method, or another
    seed of the choice, would leave the recorded points outside the design.
    """
    before, now = (_base_facts(sweep) for sweep in (recorded, asked))
    changed = [
        f"{key} was {_one_line(before.get(key, 'not set'))} and is now "
        f"{_one_line(now.get(key, 'not set'))}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"{folder} holds another sweep: {'; '.join(changed)}. A changed base config is "
            f"another question, so give this sweep a name of its own with name={asked.name}-2."
        )


MOST_SHOWN = 300  # characters of a value


def _one_line(value: object) -> str:
    """Return a value for a sentence; a command may have lines, and be long."""
    text = " ".join(str(value).split())
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} ..."


def _base_facts(sweep: SweepConfig) -> dict[str, object]:
    """Return what all trials of a sweep share, flat, without what its axes set."""
    if isinstance(sweep, ExternalSweep):
        return {**_external_facts(sweep.base), **_design_facts(sweep)}
    base = with_scaling(with_width(sweep.base, sweep.base.model.base_width), Scaling.mup)
    base = dataclasses.replace(base, seed=0)
    for name, _ in sweep.search:
        hp = hyperparameter(name)
        default = getattr(type(getattr(base, hp.group))(), hp.field)
        group = dataclasses.replace(getattr(base, hp.group), **{hp.field: default})
        base = dataclasses.replace(base, **{hp.group: group})
    return {**flat(plain(base)), **_design_facts(sweep)}


def _external_facts(base: ExternalTrial) -> dict[str, object]:
    """Return what all trials of a trainer that is not ours share, by the keys of its file."""
    told = base.canonical()
    return {
        **{f"train.{name}": value for name, value in told["external"].items()},
        **{f"fixed.{name}": value for name, value in told["fixed"].items()},
        "sweep.base_width": base.model.base_width,
    }


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


def overrides_to_keep(recorded: SweepConfig, asked: SweepConfig) -> list[str]:
    """Return the overrides with which a command also asks for all that its folder records.

    The list is empty where the command asks for all of that already.
    """
    lists = {
        "sweep.widths": (recorded.widths, asked.widths),
        "sweep.seeds": (recorded.seeds, asked.seeds),
        "sweep.parametrizations": tuple(
            tuple(scaling.value for scaling in sweep.parametrizations)
            for sweep in (recorded, asked)
        ),
    }
    if any(condition not in asked.conditions for condition in recorded.conditions):
        lists |= {
            f"sweep.vary.{name}": (getattr(recorded.vary, name), getattr(asked.vary, name))
            for name in CONDITIONS
        }
    overrides = [
        f"{key}=[{','.join(map(str, _union(before, now)))}]"
        for key, (before, now) in lists.items()
        if not set(before) <= set(now)
    ]
    if recorded.design.method is not Method.grid:
        if recorded.design.total > asked.design.total:
            overrides.append(f"sweep.design.points={recorded.design.total}")
        return overrides
    now = dict(asked.search)
    for name, axis in recorded.search:
        overrides += _axis_overrides(f"search.{name}", axis, now[name])
    return overrides


def _union(before: Iterable, now: Iterable) -> list:
    both = dict.fromkeys((*before, *now))
    return list(both) if any(isinstance(value, str) for value in both) else sorted(both)


def _axis_overrides(key: str, before: Axis, now: Axis) -> list[str]:
    if set(before.points) <= set(now.points):
        return []
    if before.listed or now.listed:
        points = ", ".join(repr(point) for point in _union(before.points, now.points))
        return [f"{key}={{points: [{points}]}}"]
    both = {
        "low": min(before.low, now.low),
        "high": max(before.high, now.high),
        "step": min(before.step, now.step),
    }
    return [f"{key}.{end}={value:g}" for end, value in both.items() if value != getattr(now, end)]


def left_out(recorded: SweepConfig, asked: SweepConfig, rows: Rows) -> set[str]:
    """Return the keys of the rows that the recorded sweep asks for and the other one does not."""
    return rows.keys() & (_asked_keys(recorded, rows) - _asked_keys(asked, rows))


def _asked_keys(sweep: SweepConfig, rows: Rows) -> set[str]:
    if not sweep.is_adaptive:
        return set(wanted(sweep))
    from hptransfer.sweeping.design.rounds import asked

    return {trial_key(config) for trials in asked(sweep, rows) for config in trials}
