"""The answer to a sweep: every arm's optima, law, cost and verdict, as a strict-JSON record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.deciding import deciding_sentence
from hptransfer.analysis.answer.fitted_arm import FittedArm, Request, fit_arm
from hptransfer.analysis.answer.headline import (
    WiderGrid,
    headline,
    lost_grids,
    reasons,
    wider_grids,
)
from hptransfer.analysis.answer.optimum_record import optimum_entry, resolved_entry
from hptransfer.analysis.answer.verdict import Cost, Judged, Verdict, judge
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.noise import Noise, NoiseSource
from hptransfer.analysis.basins.numbers import SCHEMA, interval, number, numbers, quantile
from hptransfer.analysis.basins.rows import read_rows, split_arms
from hptransfer.analysis.basins.units import in_own_units
from hptransfer.analysis.surfaces.record import surface_entry
from hptransfer.analysis.surfaces.surface import ArmSurfaces
from hptransfer.config.sweep import AXIS_WORDS, CONDITIONS, VerdictConfig

BAND_PLACES = 40  # places along the main axis at which the law's band is written
SHOWN_OCTAVES = 1.0  # on either side of the optimum's interval, within which costs are told


def estimate(
    table: pd.DataFrame,
    *,
    sweep_name: str,
    axes: Iterable[str],
    target_width: int | None,
    rule: VerdictConfig = VerdictConfig(),
    at: Mapping[str, float | None] | None = None,
    target_at: Mapping[str, float | None] | None = None,
    draws: int = 2000,
) -> dict[str, Any]:
    """Return the estimates record of a sweep; the same for the same rows in any order.

    Args:
        axes: the swept HP columns.
        rule: the verdict's.
        at: depth, batch size and steps at which the answer is read, where rows differ in them.
        target_at: the target's; None: the same.
        draws: of the posterior.
    """
    request = Request(target_width, rule, draws, at, target_at)
    fitted = [fit_arm(arm, request) for arm in split_arms(read_rows(table, list(axes)))]
    arms: list[dict[str, Any]] = []
    surfaces: list[dict[str, Any]] = []
    answers = _judged([each for found, _ in fitted for each in found])
    for found, surface in fitted:
        judged = {each.hp: answers.get(id(each)) for each in found}
        if surface is not None:
            surfaces.append(_surface(found, surface))
            judged = _together(found, judged, surfaces[-1]["target"])
        arms += [_in_own_units(_record(each, judged[each.hp]), each.unit) for each in found]
    return {"schema": SCHEMA, "sweep": sweep_name, "arms": arms, "surfaces": surfaces}


def _judged(found: list[FittedArm]) -> dict[int, Judged]:
    """Return the answers by arm; arms of one family and HP share the price of a loss."""
    answers: dict[int, Judged] = {}
    for key in dict.fromkeys((each.arm.family, each.hp) for each in found):
        peers = [e for e in found if (e.arm.family, e.hp) == key and e.basins and e.on_main]
        answers.update({id(e): judged for e, judged in zip(peers, judge(peers), strict=True)})
    return answers


def _together(
    found: list[FittedArm], judged: dict[str, Judged | None], target: Mapping[str, Any] | None
) -> dict[str, Judged | None]:
    """Return the answers of several HPs with their joint value, where a surface gives one."""
    if target is None:
        return judged
    return {
        each.hp: answer and replace(answer, joint=target["hps"][each.hp]["value"] / each.unit)
        for each, answer in ((each, judged[each.hp]) for each in found)
    }


def _surface(found: list[FittedArm], surface: ArmSurfaces) -> dict[str, Any]:
    first = found[0]
    transferred = [each for each in found if each.has_target and each.basins]
    return surface_entry(
        first.arm.family,
        first.arm.parametrization,
        surface,
        theta_target={each.hp: each.destination_draws for each in transferred},
        highest={each.hp: each.highest_for_destination for each in transferred},
        scale=first.scale,
        units=[each.unit for each in found],
    )


def _record(found: FittedArm, judged: Judged | None) -> dict[str, Any]:
    arm = found.arm
    common = {
        "family": arm.family,
        "parametrization": arm.parametrization,
        "hp": found.hp,
        "axis": found.layout.main,
        "at": {name: number(value) for name, value in found.layout.at.items()},
    }
    if judged is None:
        gap = "Every point failed at every setting, so there is no answer. Sweep lower values."
        return {**common, **_nothing(found, gap)}
    wider = wider_grids(judged)
    undecided = judged.verdict is Verdict.inconclusive
    first = "Next: widen the grid, as the warning says." if wider else None
    next_step = (first or deciding_sentence(judged)) if undecided else None
    told = reasons(judged)
    return {
        **common,
        "optima": [
            {**optimum_entry(found.basins[s], found.scale, found.unit), **setting_entry(found, s)}
            for s in found.on_main
        ],
        "drift_octaves_per_doubling": interval(
            found.slopes.get(found.layout.main), noisy=found.noise is not None
        ),
        "law": {"band": law_band(found)},
        "loss_law": _loss_law(judged),
        "conditions": conditions_entry(found),
        "target": _target(judged) if found.has_target else None,
        "cost": {
            "emitted": _cost(judged.emitted_cost),
            "ignoring": _ignoring(judged),
            "curve": _cost_curve(judged),
        },
        "verdict": judged.verdict.value,
        "moves": judged.moves.value,
        "matters": judged.matters.value,
        "headline": headline(judged),
        "extend": [_extend(found, each) for each in (*wider, *lost_grids(found))],
        "reasons": [*told, *([next_step] if next_step else [])],
        "warnings": [*_caveats(found), *found.notes, *(w.sentence(found) for w in wider)],
    }


def _in_own_units(record: dict[str, Any], unit: float) -> dict[str, Any]:
    """Return an arm's record with the HP's own values and differences; optima have them already."""
    if unit == 1.0:
        return record
    ends = ("optimum", "low", "high")
    told = in_own_units(record, unit, "drift_octaves_per_doubling")
    told["law"] = {"band": in_own_units(told["law"]["band"], unit, *ends)}
    told["target"] = in_own_units(told["target"], unit, *ends, "emitted")
    told["extend"] = [in_own_units(each, unit, "from", "to", "octaves") for each in told["extend"]]
    if told["conditions"] is not None:
        conditions = in_own_units(told["conditions"], unit, "octaves_per_doubling", "tokens")
        optima = [in_own_units(each, unit, *ends) for each in conditions["optima"]]
        told["conditions"] = {**conditions, "optima": optima}
    if told["cost"] is not None:
        told["cost"] = {
            **told["cost"],
            "ignoring": in_own_units(told["cost"]["ignoring"], unit, "value", "movement"),
            "curve": in_own_units(told["cost"]["curve"], unit, "value", "emitted"),
        }
    return told


def _extend(found: FittedArm, wider: WiderGrid) -> dict[str, Any]:
    return {
        "width": wider.setting.width,
        "axis": wider.axis,
        "at": number(wider.setting.value(wider.axis)),
        "side": wider.side,
        "from": number(wider.start),
        "to": number(wider.end),
        "share": number(wider.share),
        "octaves": number(wider.octaves),
        "sentence": wider.sentence(found),
    }


def _nothing(found: FittedArm, reason: str) -> dict[str, Any]:
    return {
        "optima": [],
        "drift_octaves_per_doubling": interval(None),
        "law": {"band": None},
        "loss_law": None,
        "conditions": None,
        "target": None,
        "cost": None,
        "verdict": Verdict.inconclusive.value,
        "moves": "unclear",
        "matters": "unclear",
        "headline": reason,
        "extend": [_extend(found, each) for each in lost_grids(found)],
        "reasons": [reason],
        "warnings": layout_caveats(found),
    }


def setting_entry(found: FittedArm, setting: Any) -> dict[str, Any]:
    """Return a setting's width and the conditions that vary."""
    told = {name: number(getattr(setting, name)) for name in CONDITIONS}
    return {"width": setting.width, **{name: v for name, v in told.items() if v is not None}}


def law_band(found: FittedArm) -> dict[str, Any] | None:
    """Return the law's 90 % band along the main axis, from the first setting to the destination."""
    first = found.layout.log2([found.on_main[0]])[0]
    last = found.destination
    if last[0] <= first[0]:
        last = found.layout.log2([found.on_main[-1]])[0]
    if last[0] <= first[0]:
        return None
    share = np.linspace(0.0, 1.0, BAND_PLACES)[:, None]
    places = np.tile(first, (BAND_PLACES, 1))
    places[:, 0] = (first[0] + share * (last[0] - first[0]))[:, 0]
    low, middle, high = found.law.quantiles(places, (0.05, 0.5, 0.95))
    noisy = found.noise is not None
    return {
        "at": numbers(np.exp2(places[:, 0])),
        "optimum": numbers(middle),
        "low": numbers(low) if noisy else [None] * BAND_PLACES,
        "high": numbers(high) if noisy else [None] * BAND_PLACES,
    }


def _loss_law(judged: Judged) -> dict[str, Any]:
    """Return the loss at the optimum along the main axis, and the law that prices it."""
    arm = judged.arm
    law, price = arm.loss_law, arm.price_law
    there = arm.destination[0]
    known = law is not None and len(arm.on_main) > 2
    return {
        "prices": judged.price_law is not None,
        "is_own": judged.price_law is price,
        "from": None if law is None else number(float(np.exp2(law.first))),
        "fall_per_doubling": None if price is None else interval(price.fall(price.last)),
        "compute_doublings": number(arm.compute_doublings),
        "at_target": interval(arm.loss_there) if known and arm.has_target else None,
        "band": _loss_band(arm) if known and law is not None and there > law.first else None,
    }


def _loss_band(arm: FittedArm) -> dict[str, Any]:
    assert arm.loss_law is not None
    places = np.linspace(arm.loss_law.first, arm.destination[0], BAND_PLACES)
    drawn = np.stack([arm.loss_law.loss(place) for place in places], axis=1)
    return {
        "at": numbers(np.exp2(places)),
        "loss": numbers(np.median(drawn, axis=0)),
        "low": numbers(np.quantile(drawn, 0.05, axis=0)),
        "high": numbers(np.quantile(drawn, 0.95, axis=0)),
    }


def conditions_entry(found: FittedArm) -> dict[str, Any] | None:
    """Return how the optimum follows every axis that varies; None where only one does."""
    if len(found.layout.axes) < 2:
        return None
    noisy = found.noise is not None
    optima = [
        {**setting_entry(found, setting), **resolved_entry(basin)}
        for setting, basin in found.basins.items()
    ]
    return {
        "axes": list(found.layout.axes),
        "octaves_per_doubling": {
            axis: interval(slope, noisy=noisy) for axis, slope in found.slopes.items()
        },
        "tokens": _tokens(found),
        "optima": optima,
    }


def _tokens(found: FittedArm) -> dict[str, Any] | None:
    """Return the octaves per doubling of tokens, which are batch size times steps.

    `both`: where batch size and steps grow alike; `batch_size`: of the batch size at equal tokens.
    """
    batch, steps = (found.slopes.get(axis) for axis in ("batch_size", "steps"))
    if batch is None or steps is None:
        return None
    noisy = found.noise is not None
    return {
        "both": interval((batch + steps) / 2.0, noisy=noisy),
        "batch_size": interval(batch - steps, noisy=noisy),
    }


def target_entry(found: FittedArm) -> dict[str, Any]:
    """Return where the target stands on the axes, and the optimum that the law puts there."""
    optimum = interval(found.destination_draws, noisy=found.noise is not None)
    place = dict(zip(found.layout.axes, np.exp2(found.destination), strict=True))
    width = place.pop("width", float(found.on_main[-1].width))
    return {
        "width": round(width),
        **{axis: number(float(value)) for axis, value in place.items()},
        "optimum": optimum["estimate"],
        "low": optimum["low"],
        "high": optimum["high"],
    }


def _target(judged: Judged) -> dict[str, Any]:
    """Return the optimum at the target, the value to emit, and what that should cost."""
    noisy = judged.arm.noise is not None
    return {
        **target_entry(judged.arm),
        "emitted": number(judged.emitted),
        "expected_regret": _mean(judged.emitted_cost.loss if noisy else None),
    }


def _cost(cost: Cost) -> dict[str, Any]:
    compute = None
    if cost.compute_percent is not None:
        compute = {**_mean(cost.compute_percent), "mean": number(cost.typical_compute_percent)}
    return {
        "loss": _mean(cost.loss),
        "percent": None if cost.percent is None else _mean(cost.percent),
        "compute_percent": compute,
    }


def _ignoring(judged: Judged) -> dict[str, Any]:
    limit = judged.limit
    return {
        **_cost(judged.ignoring_cost),
        "value": number(judged.kept),
        "kept_from": number(judged.arm.origin.value(judged.arm.layout.main)),
        "movement": interval(judged.arm.movement),
        "limit": None if limit is None else {"of": limit[0], "most": number(limit[1])},
    }


def _cost_curve(judged: Judged) -> dict[str, Any] | None:
    """Return what values around the emitted one cost at the destination; past the cliff null."""
    arm = judged.arm
    if arm.noise is None:
        return None
    ends = [quantile(arm.destination_draws, share) for share in (0.05, 0.95)]
    ends = [*ends, judged.emitted, judged.kept]
    values = np.linspace(min(ends) - SHOWN_OCTAVES, max(ends) + SHOWN_OCTAVES, BAND_PLACES)
    costs = [judged.cost_of(float(value)) for value in values]
    told = [_mean(cost.loss if cost.percent is None else cost.percent) for cost in costs]
    return {
        "at": number(float(np.exp2(arm.destination[0]))),
        "emitted": number(judged.emitted),
        "of": "percent" if arm.scale.is_log else "loss",
        "value": numbers(values),
        **{name: [each[name] for each in told] for name in ("mean", "low", "high")},
    }


def _mean(draws: Floats | None) -> dict[str, Any]:
    """Return mean and 90 % interval; an end past the cliff is null."""
    if draws is None:
        return {"mean": None, "low": None, "high": None}
    finite = draws[np.isfinite(draws)]
    return {
        "mean": number(float(finite.mean())) if len(finite) else None,
        "low": number(quantile(draws, 0.05)),
        "high": number(quantile(draws, 0.95)),
    }


def layout_caveats(found: FittedArm) -> list[str]:
    """Return what a reader must be told of axes that cannot be told apart or are not known."""
    layout, told = found.layout, []
    main = AXIS_WORDS[layout.main]
    for axis in layout.confounded:
        told.append(
            f"The {AXIS_WORDS[axis]} changes together with the {main}, so their effects on the "
            "optimum cannot be told apart. Vary one of them alone to see its effect."
        )
    if layout.left_out:
        told.append(
            f"{layout.left_out} rows are not used, because they do not give a value that varies "
            "between the other rows. Complete these rows to use them."
        )
    return told


def _caveats(found: FittedArm) -> list[str]:
    """Return what a reader of an arm's answer must be told, in plain words."""
    told = layout_caveats(found)
    for setting in found.lost:
        told.append(
            f"{_where(found, setting)}: every point failed, so it is not used. Sweep lower values "
            "there."
        )
    for setting in found.on_main:
        told += _grid_caveats(_where(found, setting), found.basins[setting])
    return told + _extrapolated(found) + _noise_caveats(found.noise)


def _extrapolated(found: FittedArm) -> list[str]:
    """Say where the target lies beyond the swept values of an axis other than the main one."""
    if not found.basins or not found.has_target:
        return []
    swept = found.layout.log2(list(found.basins))
    told = []
    for at, axis in list(enumerate(found.layout.axes))[1:]:
        low, high, there = swept[:, at].min(), swept[:, at].max(), found.destination[at]
        beyond = max(there - high, low - there)
        if beyond > 0:
            told.append(
                f"At {AXIS_WORDS[axis]} {2.0**there:g} the target lies {beyond:.2g} "
                f"doubling{('' if beyond == 1 else 's')} beyond what was swept ({2.0**low:g} to "
                f"{2.0**high:g}), so its optimum is an extrapolation. Sweep values nearer to it "
                "to be surer."
            )
    return told


def _where(found: FittedArm, setting: Any) -> str:
    named = [f"{AXIS_WORDS[axis]} {setting.value(axis):g}" for axis in found.layout.axes]
    return ", ".join(named).capitalize()


def _grid_caveats(where: str, basin: Any) -> list[str]:
    grid, told = basin.grid, []
    if grid.isolated_failures:
        told.append(
            f"{where}: {grid.isolated_failures} failed although higher values trained; this is "
            "not taken as the limit where training diverges. Look at these runs."
        )
    if grid.copied_seeds:
        told.append(
            f"{where}: {grid.copied_seeds} seeds have exactly the losses of another seed and "
            "count once with it. Check that the seeds really differ."
        )
    return told


def _noise_caveats(noise: Noise | None) -> list[str]:
    if noise is None:
        return [
            "There is no estimate of the noise of a run, and so there are no intervals. It takes "
            "two seeds and three finished points near a minimum, or standard deviations of the "
            "losses, or at least four neighbouring points."
        ]
    if noise.source is NoiseSource.residuals:
        return [
            "Each point has one run, so its noise is read from how far neighbouring points lie "
            "from a smooth curve. A second seed would measure it."
        ]
    if noise.source is NoiseSource.given:
        return [
            "The noise is the standard deviation that the rows give; it must include what all "
            "runs of a seed share."
        ]
    return []


LATE_RATE = 0.04  # octaves per doubling: how near to -1 a drift is that of a rate after µP's factor


def warn_of_late_rates(estimates: dict[str, Any]) -> None:
    """Warn where an imported µP arm's optimum falls as 1/width, as µP's own factor does."""
    for arm in estimates["arms"]:
        drift = arm["drift_octaves_per_doubling"]["estimate"]
        is_rate = arm["hp"] == "log2_lr" or arm["hp"].endswith("_lr")
        is_mup = "mup" in arm["parametrization"].lower() and arm["axis"] == "width"
        if is_rate and is_mup and drift is not None and abs(drift + 1.0) <= LATE_RATE:
            arm["warnings"].append(
                f"Each doubling of the width multiplies the best rate by {2.0**drift:.2f}, which "
                "looks like rates after µP's factor (it falls as 1/width). If they are, import "
                "the rates before that factor. If the rates are the layers' own, apply no factor "
                "to them again."
            )
