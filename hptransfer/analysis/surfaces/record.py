"""Several HPs' answer as strict JSON: surfaces, flat directions, importance, the joint target."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from hptransfer.analysis.basins.basin import FLAT_SPAN, INTERVAL
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import number, numbers, quantile
from hptransfer.analysis.surfaces.importance import importance
from hptransfer.analysis.surfaces.joint_regret import joint_regret, joint_value
from hptransfer.analysis.surfaces.surface import ArmSurfaces, Surface, SurfaceFit

NAMED = 0.2  # a component of a direction below it is not worth a word


def surface_entry(
    family: str,
    parametrization: str,
    arm: ArmSurfaces,
    *,
    theta_target: Mapping[str, Floats],
    ped_anova: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return one arm's entry of `surfaces`.

    Args:
        theta_target: draws (draw,) of each HP's optimum at the target, aligned over HPs; HPs
            without a law are absent, and then the joint target is null.
        ped_anova: Optuna's shares, where they were computed.
    """
    return {
        "family": family,
        "parametrization": parametrization,
        "hps": list(arm.hps),
        "widths": [_width_entry(width, surface) for width, surface in arm.surfaces.items()],
        "importance": {
            **_importance(arm),
            "ped_anova": None if ped_anova is None else _shares(ped_anova),
        },
        "target": _target(arm, theta_target),
    }


def surface_notes(arm: ArmSurfaces) -> list[str]:
    """Return what a reader of an arm's surfaces must be told, in plain words."""
    notes: list[str] = []
    for width, surface in arm.surfaces.items():
        if surface.fit is None:
            sound = int((~surface.points.failed).sum())
            notes.append(
                f"Width {width}: {sound} sound points do not determine a surface of "
                f"{', '.join(arm.hps)}, which takes {surface.points.needed} or so and three values "
                "of each; every HP is read at the best point of the others."
            )
        notes += [f"Width {width}: {flat['sentence']}" for flat in flat_directions(surface)]
    return notes


def _width_entry(width: int, surface: Surface) -> dict[str, Any]:
    """Return one width's surface.

    loss(x) = loss + d·interactions·d / 2 + Σ skew·d³ / 6 with d = x - optimum, inside `box`: the
    slices and contours are drawn from these few numbers.
    """
    fit = surface.fit
    return {
        "width": width,
        "optimum": _optimum(surface),
        "loss": number(surface.basins[0].loss),
        "n_points": 0 if fit is None else len(fit.window.index),
        "ridge": None if fit is None else number(fit.window.ridge),
        "interactions": None if fit is None else [numbers(row) for row in fit.hessian],
        "skew": None if fit is None else numbers(fit.skew),
        "box": None if fit is None else _box(surface.hps, fit),
        "correlation": None if fit is None else correlation(fit.theta_draws),
        "flat_directions": flat_directions(surface),
        "censored": _censored(surface),
    }


def _censored(surface: Surface) -> dict[str, str | None]:
    reasons = {hp: surface.basin(hp).censored for hp in surface.hps}
    return {hp: None if why is None else why.value for hp, why in reasons.items()}


def _optimum(surface: Surface) -> dict[str, Any]:
    """Return every HP's optimum; a censored one has no interval unless the cliff brackets it."""
    entry: dict[str, Any] = {}
    for hp in surface.hps:
        basin = surface.basin(hp)
        entry[hp] = {
            "value": number(basin.optimum),
            "low": number(basin.low),
            "high": number(basin.high),
        }
    return entry


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


def flat_directions(surface: Surface) -> list[dict[str, Any]]:
    """Return the directions along which the optimum is not resolved, the flattest first."""
    fit = surface.fit
    if fit is None:
        return []
    bends, axes = np.linalg.eigh(fit.hessian)
    optima = fit.window.positions(fit.minima)
    entries: list[dict[str, Any]] = []
    for bend, axis in zip(bends, axes.T, strict=True):
        direction = axis * np.sign(axis[np.argmax(np.abs(axis))])
        room = 2.0 * float(np.min(fit.window.half / np.maximum(np.abs(direction), 1e-12)))
        low, high = np.quantile(optima @ direction, INTERVAL)
        if high - low > FLAT_SPAN * room:
            entries.append(
                {
                    "direction": dict(
                        zip(surface.hps, numbers(np.round(direction, 4)), strict=True)
                    ),
                    "curvature": number(float(bend)),
                    "sentence": _sentence(surface.hps, direction, room),
                }
            )
    return entries


def _sentence(hps: tuple[str, ...], direction: Floats, room: float) -> str:
    parts = [(hp, share) for hp, share in zip(hps, direction, strict=True) if abs(share) >= NAMED]
    if len(parts) == 1:
        return (
            f"{parts[0][0]} hardly matters: over {room:.1f} octaves the loss changes by no more "
            "than noise."
        )
    names, shares = [hp for hp, _ in parts], ":".join(f"{share:.1f}" for _, share in parts)
    return (
        f"{', '.join(names[:-1])} and {names[-1]} can be traded along {shares}: moved together so "
        f"over {room:.1f} octaves, the loss changes by no more than noise."
    )


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


def _target(arm: ArmSurfaces, theta_target: Mapping[str, Floats]) -> dict[str, Any] | None:
    """Return the joint value for the target; curvatures are constant in log width."""
    bent = [s.fit.hessian_draws for s in arm.surfaces.values() if s.fit is not None]
    if not bent or set(theta_target) != set(arm.hps):
        return None
    theta = np.stack([theta_target[hp] for hp in arm.hps], axis=1)
    hessian = np.mean(bent, axis=0)
    cliffs = np.array([_nearest_cliff(arm, hp) for hp in arm.hps])
    x = joint_value(theta, hessian, cliffs)
    regret = joint_regret(x, theta, hessian, cliffs)
    finite = regret[np.isfinite(regret)]
    ends = [(quantile(draws, 0.05), quantile(draws, 0.95)) for draws in theta.T]
    return {
        "hps": {
            hp: {"value": number(float(value)), "low": number(low), "high": number(high)}
            for hp, value, (low, high) in zip(arm.hps, x, ends, strict=True)
        },
        "expected_regret": {
            "mean": number(float(finite.mean())) if len(finite) else None,
            "low": number(quantile(regret, 0.05)),
            "high": number(quantile(regret, 0.95)),
        },
    }


def _nearest_cliff(arm: ArmSurfaces, hp: str) -> float:
    distances = [basin.cliff_distance for basin in arm.basins(hp).values()]
    return min((distance for distance in distances if distance is not None), default=np.inf)
