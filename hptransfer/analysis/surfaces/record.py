"""Several HPs' answer as strict JSON: surfaces, flat directions, importance, the joint target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from hptransfer.analysis.basins.basin import FLAT_SHARE, Basin
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.noise import Noise
from hptransfer.analysis.basins.numbers import number, numbers, quantile
from hptransfer.analysis.basins.scale import Scale
from hptransfer.analysis.basins.units import in_own_units
from hptransfer.analysis.surfaces.crests import RIDGE_SHARE, reach, traded
from hptransfer.analysis.surfaces.fit import is_indifferent, is_shapeless
from hptransfer.analysis.surfaces.importance import importance
from hptransfer.analysis.surfaces.joint_regret import as_correlated, joint_regret, joint_value
from hptransfer.analysis.surfaces.surface import ArmSurfaces, Surface, SurfaceFit
from hptransfer.config.hyperparameters import hp_value, hp_words, value_text
from hptransfer.config.sweep import AXIS_WORDS

SAME_POWER = (0.8, 1.25)  # powers that count as one


def surface_entry(
    family: str,
    parametrization: str,
    arm: ArmSurfaces,
    *,
    theta_target: Mapping[str, Floats],
    highest: Mapping[str, float],
    scale: Scale,
    units: Sequence[float],
) -> dict[str, Any]:
    """Return one arm's entry of `surfaces`.

    Args:
        theta_target: draws (draw,) of each HP's optimum at the target, each by its own law; HPs
            without a law are absent, and then the joint target is null.
        highest: of each HP in `theta_target`, the highest value that is still taken there.
        scale: of the losses that the surfaces were fitted to.
        units: of the HPs' axes (`basins/units.py`).
    """
    basins = {hp: arm.basins(hp) for hp in arm.hps}
    level = [float(surface_level(surface)) for surface in arm.surfaces.values()]
    return {
        "family": family,
        "parametrization": parametrization,
        "hps": list(arm.hps),
        "widths": [
            _setting_entry(
                setting,
                surface,
                {hp: basins[hp][setting] for hp in arm.hps},
                scale,
                noise=arm.noise,
                units=np.array(units),
            )
            for setting, surface in arm.surfaces.items()
        ],
        "importance": {**_importance(arm), "ped_anova": None},
        "target": _target(arm, basins, theta_target, highest, scale, level[-1], units)
        if level
        else None,
    }


def surface_level(surface: Surface) -> float:
    """Return y at the optimum of a surface, or at its best point where none was fitted."""
    if surface.fit is None:
        return float(surface.points.means.min())
    return float(surface.fit.window.surface.loss_of_each(surface.fit.lowest)[0])


def surface_notes(arm: ArmSurfaces, units: Sequence[float], axis: str = "width") -> list[str]:
    """Return what a reader of an arm's surfaces must be told, each sentence once, in plain words.

    Args:
        axis: the main one, whose values say where a sentence holds.
    """
    found: dict[str, list[str]] = {}
    for setting, surface in arm.surfaces.items():
        said = [each["sentence"] for each in principal_axes(surface, arm.noise, np.array(units))]
        if surface.fit is None:
            sound = int((~surface.points.failed).sum())
            said.append(
                f"{sound} finished points are too few for a fit of {', '.join(arm.hps)} together, "
                f"which takes about {surface.points.needed} points with three values of each. "
                "Every hyperparameter is therefore read where the others are best. Sweep more "
                "points to see how they interact."
            )
        for sentence in filter(None, said):
            found.setdefault(sentence, []).append(f"{setting.value(axis):g}")
    words = AXIS_WORDS[axis].capitalize()
    return [f"{words} {', '.join(where)}: {said}" for said, where in found.items()]


def _setting_entry(
    setting: Any,
    surface: Surface,
    basins: Mapping[str, Basin],
    scale: Scale,
    *,
    noise: Noise | None,
    units: Floats,
) -> dict[str, Any]:
    """Return one setting's surface.

    loss(x) = loss + d·interactions·d / 2 + Σ skew·d³ / 6 with d = x - optimum, inside `box`, to
    first order in the rise: slices and contours are drawn from these few numbers.
    """
    fit, level = surface.fit, surface_level(surface)
    of_loss = float(scale.loss(level)) if scale.is_log else 1.0
    bends, skew = (None, None) if fit is None else (fit.hessian, fit.skew)
    own = dict(zip(surface.hps, map(float, units), strict=True))
    box = None if fit is None else _box(surface.hps, fit)
    axes = principal_axes(surface, noise, units)
    return {
        "width": setting.width,
        "optimum": {hp: in_own_units(_optimum(b), own[hp]) for hp, b in basins.items()},
        "loss": number(float(scale.loss(level))),
        "n_points": 0 if fit is None else len(fit.window.index),
        "ridge": None if fit is None else number(fit.window.ridge),
        "interactions": bends
        if bends is None
        else [numbers(of_loss * row) for row in bends / np.outer(units, units)],
        "skew": skew if skew is None else numbers(of_loss * skew / units**3),
        "box": box and {hp: in_own_units(ends, own[hp]) for hp, ends in box.items()},
        "correlation": None if fit is None else correlation(fit.theta_draws),
        "principal_axes": [
            {**axis, "direction": {hp: number(x * own[hp]) for hp, x in axis["direction"].items()}}
            for axis in axes
        ],
        "censored": {
            hp: None if basin.censored is None else basin.censored.value
            for hp, basin in basins.items()
        },
    }


def _optimum(basin: Basin) -> dict[str, Any]:
    """Return an HP's optimum; an end that lies beyond the grid is null."""
    low, high = basin.interval
    return {"value": number(basin.optimum), "low": number(low), "high": number(high)}


def _box(hps: tuple[str, ...], fit: SurfaceFit) -> dict[str, list[float | None]]:
    low, high = fit.window.centre - fit.window.half, fit.window.centre + fit.window.half
    return {hp: numbers(np.array(ends)) for hp, *ends in zip(hps, low, high, strict=True)}


def correlation(theta_draws: Floats) -> list[list[float | None]]:
    """Return the correlations of the joint optimum's draws, 0 with an HP that never moves."""
    moves = theta_draws.std(axis=0)
    scaled = (theta_draws - theta_draws.mean(axis=0)) / np.where(moves > 0, moves, 1.0)
    found = scaled.T @ scaled / len(scaled)
    np.fill_diagonal(found, 1.0)
    return [numbers(np.round(row, 4)) for row in found]


def principal_axes(surface: Surface, noise: Noise | None, units: Floats) -> list[dict[str, Any]]:
    """Return the directions of the surface at its optimum with their curvatures, flattest first.

    Along each direction of unit length (octaves) the HPs move together. `reach` is how far the
    optimum's 90 % interval spans along it, over the room that the fitted box leaves: a direction
    with a reach above FLAT_SHARE is not resolved. `sentence` says which HP does not matter, or of
    which product alone the loss depends on; null where neither is so.
    """
    fit = surface.fit
    if fit is None:
        return []
    bends, axes = np.linalg.eigh(fit.hessian)
    entries: list[dict[str, Any]] = []
    for bend, axis in zip(bends, axes.T, strict=True):
        direction = axis * np.sign(axis[np.argmax(np.abs(axis))])
        shares = numbers(np.round(direction, 4) + 0.0)  # no negative zero
        entries.append(
            {
                "direction": dict(zip(surface.hps, shares, strict=True)),
                "curvature": number(float(bend)),
                "reach": number(reach(fit.window, fit.free, direction)),
                "sentence": None,
            }
        )
    if noise is not None and is_shapeless(surface.points, fit.window, noise):
        entries[0]["sentence"] = _indifferent(surface, fit, range(len(surface.hps)), units)
    elif noise is not None:
        for entry, axis in zip(entries[:-1], axes.T, strict=False):
            is_crest = entry["curvature"] < RIDGE_SHARE * float(bends[-1])
            if is_crest or entry["reach"] > FLAT_SHARE:
                entry["sentence"] = _sentence(surface, fit, axis, noise, units, is_crest=is_crest)
    return entries


def _sentence(
    surface: Surface,
    fit: SurfaceFit,
    axis: Floats,
    noise: Noise,
    units: Floats,
    *,
    is_crest: bool,
) -> str | None:
    """Return what a flat direction says: one HP alone may take any value, or several trade."""
    named = traded(axis, fit.hessian_draws)
    if len(named) < 2:
        largest = int(np.argmax(np.abs(axis)))
        if not is_indifferent(surface.points, fit.window, noise, [largest]):
            return None
        return _indifferent(surface, fit, [largest], units)
    if not is_crest:
        return None
    product = _product([surface.hps[at] for at in named], axis[named])
    told = f"What matters is {product}: as long as it stays the same, the loss changes little."
    chosen = fit.crests.shape[1] > 0
    return told + (
        " The transferred values belong together; they are the middle of all equally good pairs."
        if chosen
        else ""
    )


def _indifferent(
    surface: Surface, fit: SurfaceFit, which: Sequence[int], units: Floats
) -> str | None:
    """Say that some HPs hardly matter; None where the fitted box is a small part of the grid."""
    sound = surface.points.positions[~surface.points.failed]
    spans = 2.0 * fit.window.half >= FLAT_SHARE * np.ptp(sound, axis=0)
    if not all(spans[at] for at in which):
        return None
    told = []
    for at in which:
        ends = (
            fit.window.centre[at] - fit.window.half[at],
            fit.window.centre[at] + fit.window.half[at],
        )
        low, high = sorted(hp_value(surface.hps[at], units[at] * end) for end in ends)
        told.append(
            (
                hp_words(surface.hps[at]),
                " to ".join(value_text(surface.hps[at], end) for end in (low, high)),
            )
        )
    if len(told) == 1:
        ((words, span),) = told
        return f"{words} hardly matters: any value from {span} gives the same loss, up to noise."
    together = ", ".join(f"{words} ({span})" for words, span in told)
    return f"none of {together} matters: all values give the same loss, up to noise."


def _product(hps: Sequence[str], direction: Floats) -> str:
    """Return what stays the same along a direction: of two HPs a product or ratio of powers.

    Along (a, b) the sum b·log2 x - a·log2 y is constant.
    """
    words = [hp_words(hp) for hp in hps]
    if len(words) > 2 or not all(hp.startswith("log2_") for hp in hps):
        return f"the combination of {', '.join(words[:-1])} and {words[-1]}"
    a, b = direction
    power = abs(a / b)
    low, high = SAME_POWER
    exponent = "" if low <= power <= high else f"^{float(f'{power:.2g}'):g}"
    return f"{words[0]} {'×' if a * b < 0 else '/'} {words[1]}{exponent}"


def _importance(arm: ArmSurfaces) -> dict[str, Any]:
    """Return the widest fitted width's shares."""
    fitted = [surface.fit for surface in arm.surfaces.values() if surface.fit is not None]
    found = importance(fitted[-1].window.surface) if fitted else None
    if found is None:
        return {"surface": None, "total": None, "interactions": None}
    pairs = [f"{a}*{b}" for a, b in combinations(arm.hps, 2)]
    return {
        "surface": _shares(dict(zip(arm.hps, found.alone, strict=True))),
        "total": _shares(dict(zip(arm.hps, found.total, strict=True))),
        "interactions": _shares(dict(zip(pairs, found.pairs, strict=True))),
    }


def _shares(shares: Mapping[str, float]) -> dict[str, float | None]:
    return {hp: number(round(float(share), 4)) for hp, share in shares.items()}


def _target(
    arm: ArmSurfaces,
    basins: Mapping[str, Mapping[Any, Basin]],
    theta_target: Mapping[str, Floats],
    highest: Mapping[str, float],
    scale: Scale,
    level: float,
    units: Sequence[float],
) -> dict[str, Any] | None:
    """Return the joint value for the target; the surface there has the widths' mean curvatures."""
    fits = [surface.fit for surface in arm.surfaces.values() if surface.fit is not None]
    if not fits or set(theta_target) != set(arm.hps):
        return None
    bent = [fit.hessian_draws for fit in fits]
    theta = np.stack([theta_target[hp] for hp in arm.hps], axis=1)
    theta = as_correlated(theta, fits[-1].theta_draws)
    hessian = np.mean(bent, axis=0)
    cliffs = np.array([_nearest_cliff(basins[hp].values()) for hp in arm.hps])
    x = np.minimum(joint_value(theta, hessian, cliffs), [highest[hp] for hp in arm.hps])
    regret = joint_regret(x, theta, hessian, cliffs)
    regret = np.where(np.isfinite(regret), scale.loss_rise(level, regret), np.inf)
    finite = regret[np.isfinite(regret)]
    ends = [(quantile(draws, 0.05), quantile(draws, 0.95)) for draws in theta.T]
    return {
        "hps": {
            hp: in_own_units(
                {"value": number(value), "low": number(low), "high": number(high)}, unit
            )
            for hp, value, (low, high), unit in zip(arm.hps, x, ends, units, strict=True)
        },
        "expected_regret": {
            "mean": number(float(finite.mean())) if len(finite) else None,
            "low": number(quantile(regret, 0.05)),
            "high": number(quantile(regret, 0.95)),
        },
    }


def _nearest_cliff(basins: Iterable[Basin]) -> float:
    distances = [basin.cliff_distance for basin in basins]
    return min((distance for distance in distances if distance is not None), default=np.inf)
