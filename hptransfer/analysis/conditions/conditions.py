"""How the optimum follows depth, batch size and training time, beside the width.

Every width under every condition is a setting with a basin of its own. The joint law over all of
them carries the answer from the condition where width was judged to the target's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hptransfer.analysis.basins.basin import Basin, fit_basin, pool_noise
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import interval, number
from hptransfer.analysis.basins.rows import TrialArrays, width_grids
from hptransfer.analysis.conditions.joint_law import JointLaw, fit_joint
from hptransfer.analysis.conditions.one_condition import PLACE, over_entry
from hptransfer.analysis.conditions.reference import WORDS, rows_at_condition
from hptransfer.analysis.conditions.settings import Setting, setting_estimates
from hptransfer.config.sweep import CONDITIONS
from hptransfer.system.random_streams import stream

# Beyond what was swept the slope itself is uncertain, by this share of it for every octave: on
# digits it fell from one doubling of the steps to the next by about as much.
EXTRAPOLATION = 0.5


@dataclass(frozen=True)
class Shift:
    """The optimum's move from the condition where width was judged to the target's."""

    draws: Floats | None = None  # octaves, (draw,); None: the same condition, or see `reason`
    reason: str | None = None  # why a shift that is needed is not known
    warnings: tuple[str, ...] = ()


def conditions_block(
    rows: TrialArrays,
    reference: Mapping[str, float | None],
    target: Mapping[str, float | None] | None,
    *,
    hp: str,
    names: Sequence[object],
    draws: int,
) -> tuple[dict[str, Any] | None, Shift]:
    """Return how an arm's optimum follows what varies besides width; None where nothing does.

    Args:
        rows: one arm's, under all conditions.
        reference: the condition at which width is judged.
        target: the target's; None: the same.
        hp: the column of the searched HP.
        names: of the arm's random streams.
        draws: of noise.
    """
    varied = [name for name in CONDITIONS if _varies(rows, name, reference)]
    if not varied:
        return None, Shift()
    settings, noisy = _settings(rows, reference, varied, hp=hp, names=names, draws=draws)
    law = _joint(settings, varied)
    shift = _shift(law, settings, varied, reference, target, rng=stream(*names, "shift"))
    block = {
        "varied": varied,
        "optima": [_optimum(setting) for setting in settings],
        "joint": None if law is None else _joint_entry(law, noisy=noisy),
        "over": [over_entry(settings, axis, reference, noisy=noisy) for axis in varied],
        "shift_to_target": None if shift.draws is None else interval(shift.draws, noisy=noisy),
    }
    return block, shift


def _varies(rows: TrialArrays, name: str, reference: Mapping[str, float | None]) -> bool:
    values = rows.conditions[name]
    return reference[name] is not None and bool(
        (values[~np.isnan(values)] != reference[name]).any()
    )


def _settings(
    rows: TrialArrays,
    reference: Mapping[str, float | None],
    varied: Sequence[str],
    *,
    hp: str,
    names: Sequence[object],
    draws: int,
) -> tuple[list[Setting], bool]:
    """Fit the basin of every width under every condition; say whether there is a noise estimate."""
    places = np.stack([rows.conditions[name] for name in varied], axis=1)
    known = places[~np.isnan(places).any(axis=1)]
    grids = [
        (width, {**reference, **condition}, grid)
        for values in np.unique(known, axis=0).tolist()
        for condition in [dict(zip(varied, values, strict=True))]
        for width, grid in width_grids(
            rows_at_condition(rows, {**reference, **condition}), hp
        ).items()
        if grid is not None
    ]
    noise = pool_noise((g for *_, g in grids), rng=stream(*names, "conditions"), draws=draws)

    def fitted(width: int, condition: Mapping[str, float | None], grid: Any) -> Basin:
        where = [condition[name] for name in CONDITIONS]
        return fit_basin(grid, noise, rng=stream(*names, width, *where), draws=draws)

    return [Setting(w, c, fitted(w, c, grid)) for w, c, grid in grids], noise is not None


def _joint(settings: Sequence[Setting], varied: Sequence[str]) -> JointLaw | None:
    """Fit the law over the usable settings, with the terms that differ between them."""
    usable = [setting for setting in settings if setting.basin.usable]
    if not usable:
        return None
    terms = {"a": np.ones(len(usable))}
    for name in ("width", *varied):
        octaves = np.log2([setting.value(name) for setting in usable])
        if np.ptp(octaves) > 0:
            terms[f"log2_{name}"] = octaves
    return fit_joint(terms, setting_estimates(usable))


def _joint_entry(law: JointLaw, *, noisy: bool) -> dict[str, Any]:
    return {
        "coefficients": [
            {"name": name, **interval(law.draws[name], estimate=value, noisy=noisy)}
            for name, value in law.coefficients.items()
        ],
        "chi2": number(law.chi2) if noisy else None,
        "degrees": law.degrees,
        "settings": law.settings,
    }


def _optimum(setting: Setting) -> dict[str, Any]:
    basin = setting.basin
    return {
        "width": setting.width,
        **{name: number(setting.condition[name]) for name in CONDITIONS},
        "optimum": number(basin.optimum),
        "low": number(basin.low),
        "high": number(basin.high),
        "censored": None if basin.censored is None else basin.censored.value,
    }


def _shift(
    law: JointLaw | None,
    settings: Sequence[Setting],
    varied: Sequence[str],
    reference: Mapping[str, float | None],
    target: Mapping[str, float | None] | None,
    *,
    rng: np.random.Generator,
) -> Shift:
    """Carry the answer along every varied axis on which the target differs."""
    octaves = {}
    for name in varied:
        wanted, resting = (target or {}).get(name), reference[name]
        if wanted is not None and resting is not None and wanted != resting:
            octaves[name] = float(np.log2(wanted / resting))
    if not octaves:
        return Shift()
    if law is None or not {f"log2_{name}" for name in octaves} <= law.draws.keys():
        axes = " and ".join(WORDS[name] for name in octaves)
        reason = f"the sweep's optima are too few to say how they follow the {axes}"
        return Shift(reason=reason, warnings=(f"The target's {axes} differs, but {reason}.",))
    moved, warnings = np.zeros(len(law.draws["a"])), []
    for name, distance in octaves.items():
        slope = law.draws[f"log2_{name}"]
        swept = np.log2([s.value(name) for s in settings if s.basin.usable])
        place = distance + np.log2(reference[name] or 1.0)
        beyond = float(max(place - swept.max(), swept.min() - place, 0.0))
        moved = moved + slope * distance
        if beyond > 0:
            errors = EXTRAPOLATION * beyond * np.abs(slope)
            moved = moved + errors * rng.standard_normal(len(slope))
            ends = f"{2 ** swept.min():g} to {2 ** swept.max():g}"
            warnings.append(
                f"At {PLACE[name].format(2**place)} the target lies {beyond:.2g} octaves beyond "
                f"the swept {ends}: the optimum there is extrapolated."
            )
    return Shift(moved, warnings=tuple(warnings))


def unfitted_shift(
    rows: TrialArrays,
    reference: Mapping[str, float | None],
    target: Mapping[str, float | None] | None,
) -> Shift:
    """Return the shift of several HPs' optima, for which no joint law is fitted.

    It is zero where the target has the conditions of the rows; elsewhere it is unknown, with a
    reason.
    """
    differing = [
        WORDS[name]
        for name in CONDITIONS
        if _varies(rows, name, reference)
        and (target or {}).get(name) not in (None, reference[name])
    ]
    if not differing:
        return Shift()
    axes = " and ".join(differing)
    reason = f"how the optima follow the {axes} is fitted for one HP only"
    return Shift(reason=reason, warnings=(f"The target's {axes} differs, but {reason}.",))
