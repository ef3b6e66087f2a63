"""What a transferred HP costs: regret, its limit, and the value to emit.

    R_T(x) = k_low·(θ_T - x)² below the optimum θ_T, k_high·(x - θ_T)² above, ∞ past the cliff

k_low and k_high are what the basin rises one octave below and above its optimum. Each goes as a
power of the width: kept constant it overstates the regret at a target wider than the widths, where
a smaller loss has shallower basins. Its 90 % interval covers at least 93 % (docs/verdicts.md).

Which shape basins have is unknown, and the same at every width: errors of the optima that come from
it do not average out over widths. A share of them is added to the target's optimum as one error;
docs/verdicts.md compares it with other ways to draw that error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.basins.basin import Basin
from hptransfer.analysis.basins.curve import Curves, Floats
from hptransfer.analysis.basins.numbers import quantile
from hptransfer.analysis.laws.law import MIN_WIDTHS, LawName, Optima, fit_drift, fit_law
from hptransfer.config.sweep import VerdictConfig

CLIFF_RISK = 0.01  # the emitted value passes the cliff in at most this share of draws
COMMON = 0.25  # share of the variance between shapes that no number of widths averages out


@dataclass(frozen=True)
class ArmOptima(Optima):
    """An arm's usable optima over width, with what a regret needs."""

    k_low: Floats  # (draw, width), loss at one octave below the optimum minus loss there
    k_high: Floats
    high_side_seen: bool  # False if no basin has a sound point above its minimum
    cliffs: Floats  # (width,) octaves from the optimum, +inf where no point failed
    fit_sd: float  # the larger of the widths' fit errors
    model_sd: float
    common_sd: float = 0.0  # of the error that all widths and the target share, octaves
    widest: Curves | None = None  # the widest width's draws; None where no curve was fitted


def arm_optima_of(basins: dict[int, Basin]) -> ArmOptima | None:
    """Collect the usable basins; None if there is none."""
    usable = {width: basin for width, basin in sorted(basins.items()) if basin.usable}
    if not usable:
        return None
    chosen = list(usable.values())
    draws = np.stack([b.theta_draws for b in chosen if b.theta_draws is not None], axis=1)
    k_low = np.stack([_rises(basin, -1.0, len(draws)) for basin in chosen], axis=1)
    k_high = np.stack([_rises(basin, +1.0, len(draws)) for basin in chosen], axis=1)
    seen = ~np.isnan(k_high[0])
    above = k_high[:, seen].mean(axis=1) if seen.any() else k_low.mean(axis=1)
    return ArmOptima(
        widths=np.array(list(usable), dtype=float),
        optima=np.array([basin.optimum for basin in chosen]),
        variances=draws.var(axis=0),
        theta_draws=draws,
        k_low=k_low,
        k_high=np.where(seen[None, :], k_high, above[:, None]),
        high_side_seen=bool(seen.any()),
        cliffs=np.array([_cliff(basin) for basin in chosen]),
        fit_sd=max(basin.fit_sd or 0.0 for basin in chosen),
        model_sd=max(basin.model_sd for basin in chosen),
        common_sd=_common_sd(chosen),
        widest=chosen[-1].curve_draws,
    )


def _common_sd(basins: Sequence[Basin]) -> float:
    fitted = [basin.model_sd for basin in basins if basin.curve_draws is not None]
    return float(np.sqrt(COMMON * np.mean(np.square(fitted)))) if fitted else 0.0


def _cliff(basin: Basin) -> float:
    return np.inf if basin.cliff_distance is None else basin.cliff_distance


def _rises(basin: Basin, octaves: float, draws: int) -> Floats:
    """Return the rise at `octaves` from the optimum per draw; NaN above a bracketed optimum."""
    if basin.curve_draws is not None:
        return basin.curve_draws.rise(np.array([octaves]))[:, 0]
    if octaves > 0:
        return np.full(draws, np.nan)
    left, at = basin.grid.sound[-2:]
    means = basin.grid.losses[:, [left, at]].mean(axis=0)
    distance = basin.grid.theta[at] - basin.grid.theta[left]
    return np.full(draws, (means[0] - means[1]) / distance**2)


def regret_draws(
    x: Floats | float, theta: Floats, *, k_low: Floats, k_high: Floats, cliff: float
) -> Floats:
    """Return R_T(x) for each draw of the optimum `theta`; +inf at and past the cliff."""
    distance = np.asarray(x) - theta
    finite = np.where(distance < 0, k_low, k_high) * distance**2
    return np.where(distance >= cliff, np.inf, finite)


def held_out_regret(arm_optima: ArmOptima) -> Floats | None:
    """Return the widest width's regret of the constant law fitted without it, shape (draw,).

    It is read off the width's own curves, where it has some: beside a wall they cover 92 % of
    planted truths, k·d² 81 %.
    None below three widths: one alone gives no law to hold against the next.
    """
    if len(arm_optima.widths) < MIN_WIDTHS:
        return None
    x, theta = constant_value(arm_optima.without_widest()), arm_optima.theta_draws[:, -1]
    cliff = float(arm_optima.cliffs[-1])
    if arm_optima.widest is None:
        k_low, k_high = arm_optima.k_low[:, -1], arm_optima.k_high[:, -1]
        return regret_draws(x, theta, k_low=k_low, k_high=k_high, cliff=cliff)
    distance = x - theta
    rise = arm_optima.widest.rise(distance[:, None])[:, 0]
    return np.where(distance >= cliff, np.inf, rise)


def target_curvatures(arm_optima: ArmOptima, width: float) -> tuple[Floats, Floats]:
    """Return k_low and k_high at a width, each of shape (draw,).

    Each is a power of the width, or the widths' mean where fewer than three widths' curvatures are
    known with an error.
    """
    return _at_width(arm_optima, arm_optima.k_low, width), _at_width(
        arm_optima, arm_optima.k_high, width
    )


def _at_width(arm_optima: ArmOptima, k: Floats, width: float) -> Floats:
    known = known_curvatures(arm_optima, k)
    law = fit_drift(known) if len(known.widths) >= MIN_WIDTHS else None
    return k.mean(axis=1) if law is None else np.exp2(law.draws_at(np.array([width]))[:, 0])


def known_curvatures(arm_optima: ArmOptima, k: Floats) -> Optima:
    """Return log2 k (draw, width) of the widths whose draws all rise and differ.

    All have the same variance, their mean: a rise that noise makes small has a large error in
    log2, and weights by such errors would favour the rises that noise makes large.
    """
    known = (k > 0).all(axis=0) & (np.ptp(k, axis=0) > 0)
    logs = np.log2(k[:, known])
    variances = np.full(logs.shape[1], logs.var(axis=0).mean() if known.any() else 0.0)
    return Optima(arm_optima.widths[known], np.median(logs, axis=0), variances, logs)


def target_regret(arm_optima: ArmOptima, x: float, theta: Floats, *, width: float) -> Floats:
    """Return R_T(x) at the target for the draws `theta` of its optimum, shape (draw,)."""
    k_low, k_high = target_curvatures(arm_optima, width)
    return regret_draws(x, theta, k_low=k_low, k_high=k_high, cliff=float(arm_optima.cliffs.min()))


def constant_value(optima: Optima) -> float:
    """Return the constant law's value."""
    return float(fit_law(LawName.constant, optima).coefficients[0])


def emitted_value(arm_optima: ArmOptima, theta: Floats, *, width: float) -> float:
    """Return argmin E[R_T] (an expectile of θ_T) among values with P(past the cliff) <= 1 %."""
    k_low, k_high = target_curvatures(arm_optima, width)
    x = float(np.mean(theta))
    for _ in range(50):  # fixed point of the first-order condition; it contracts
        weight = np.where(theta > x, k_low, k_high)
        if not weight.sum() > 0:
            break
        x = float((weight * theta).sum() / weight.sum())
    return min(x, quantile(theta, CLIFF_RISK) + float(arm_optima.cliffs.min()))


def regret_limit(gain: float | None, run_sd: float | None, rule: VerdictConfig) -> float | None:
    """Return δ = max(s, share of G), or the rule's own; None if neither s nor G is known."""
    if rule.max_regret is not None:
        return rule.max_regret
    parts = [run_sd, None if gain is None else rule.gain_share * gain]
    known = [part for part in parts if part is not None and part > 0]
    return max(known) if known else None


def gain_of_doubling(widths: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return G, by how much the loss fell over the last width doubling; None below two widths."""
    if len(widths) < 2:
        return None
    return float((losses[-2] - losses[-1]) / np.log2(widths[-1] / widths[-2]))


def gain_draws(levels: Optima) -> Floats | None:
    """Return G for every draw of the losses at the optima, shape (draw,)."""
    if len(levels.widths) < 2:
        return None
    doublings = np.log2(levels.widths[-1] / levels.widths[-2])
    return (levels.theta_draws[:, -2] - levels.theta_draws[:, -1]) / doublings
