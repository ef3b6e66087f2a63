"""How good a transfer is as width grows: whether it is useful, how forgiving the basin stays.

Useful transfer (arXiv 2512.22768, where fast and useful transfer are shown to be the same): the
regret, at infinite width, of a width's own optimum shrinks faster than the gap between the width's
loss and the limit's. With θ_n = θ_∞ + b·n^-β and L_n = L_∞ + B·n^-α it is k·b²·n^-2β, hence
transfer is useful if 2β > α. An exponent at the lowest of those tried counts as zero: nothing is
seen to converge.

Robustness: what one octave off costs, the mean of k_low and k_high, goes as n^ρ; ρ > 0 means that
wider models forgive less.

Below five widths nothing is answered: three coefficients and noise need more than three points.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hptransfer.analysis.basins.basin import Basin
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import interval, quantile
from hptransfer.analysis.laws.law import (
    EXPONENTS,
    POWER_WIDTHS,
    LawName,
    Optima,
    fit_drift,
    fit_law,
)
from hptransfer.analysis.laws.loss_law import has_intervals, loss_levels
from hptransfer.analysis.laws.regret import ArmOptima, known_curvatures

TOO_FEW = "Not assessable below five widths; here {count} can be used."
NO_NOISE = "Not assessable without a noise estimate: add seeds."


def transfer_quality(
    basins: dict[int, Basin], arm_optima: ArmOptima | None, *, rng: np.random.Generator
) -> dict[str, Any]:
    """Return whether transfer is useful and the robustness exponent, each with a sentence.

    An answer or exponent is null where the widths or the noise do not allow one; the sentence
    then says why.
    """
    return {
        "useful_transfer": _useful(
            loss_levels(basins, rng=rng), arm_optima, noisy=has_intervals(basins)
        ),
        "robustness": _robustness(arm_optima, noisy=has_intervals(basins)),
    }


def _useful(levels: Optima | None, arm_optima: ArmOptima | None, *, noisy: bool) -> dict[str, Any]:
    count = 0 if levels is None else len(levels.widths)
    if levels is None or arm_optima is None or count < POWER_WIDTHS:
        return _useful_entry(None, TOO_FEW.format(count=count))
    if not noisy:
        return _useful_entry(None, NO_NOISE)
    fitted = np.isin(arm_optima.widths, levels.widths)  # a bracketed optimum has no loss
    regret = 2.0 * exponent_draws(arm_optima.at(fitted))
    loss = exponent_draws(levels)
    answer, sentence = _faster(regret - loss, _moves(arm_optima), _falls(levels))
    return _useful_entry(answer, sentence, regret=regret, loss=loss)


def exponent_draws(optima: Optima) -> Floats:
    """Return each draw's exponent of the power law, zero at the lowest tried, shape (draw,)."""
    exponents = fit_law(LawName.power, optima).coefficient_draws[:, 2]
    return np.where(exponents <= EXPONENTS[0], 0.0, exponents)


def _moves(optima: Optima) -> bool:
    """Return whether the narrowest and the widest optimum differ by more than noise."""
    change = optima.theta_draws[:, -1] - optima.theta_draws[:, 0]
    return not quantile(change, 0.05) <= 0.0 <= quantile(change, 0.95)


def _falls(levels: Optima) -> bool:
    return quantile(levels.theta_draws[:, 0] - levels.theta_draws[:, -1], 0.05) > 0.0


def _faster(lead: Floats, moves: bool, falls: bool) -> tuple[bool | None, str]:
    """Say whether the regret's exponent exceeds the loss gap's by `lead` (draw,)."""
    if not falls:
        return None, "The loss does not fall measurably with width, so there is no gap to compare."
    if not moves:
        return None, (
            "The optimum does not move measurably with width: its regret is too small for an "
            "exponent, which is what a good transfer looks like."
        )
    low, high = quantile(lead, 0.05), quantile(lead, 0.95)
    if low > 0:
        return True, "The regret shrinks faster with width than the loss gap: transfer is useful."
    if high < 0:
        return False, (
            "The regret shrinks more slowly with width than the loss gap: tuning at the target is "
            "worth more, the wider the target is."
        )
    return None, (
        f"The regret's exponent exceeds the loss gap's by {low:.2g} to {high:.2g}: the widths do "
        "not tell which is faster."
    )


def _useful_entry(
    answer: bool | None,
    sentence: str,
    *,
    regret: Floats | None = None,
    loss: Floats | None = None,
) -> dict[str, Any]:
    return {
        "answer": answer,
        "regret_exponent": interval(regret),
        "loss_gap_exponent": interval(loss),
        "sentence": sentence,
    }


def _robustness(arm_optima: ArmOptima | None, *, noisy: bool) -> dict[str, Any]:
    if arm_optima is None or len(arm_optima.widths) < POWER_WIDTHS:
        count = 0 if arm_optima is None else len(arm_optima.widths)
        return {"exponent": interval(None), "sentence": TOO_FEW.format(count=count)}
    both = (arm_optima.k_low + arm_optima.k_high) / 2.0
    known = known_curvatures(arm_optima, both)
    if not noisy:
        return {"exponent": interval(None), "sentence": NO_NOISE}
    law = fit_drift(known) if len(known.widths) >= POWER_WIDTHS else None
    if law is None:
        sentence = TOO_FEW.format(count=len(known.widths))
        return {"exponent": interval(None), "sentence": sentence}
    draws = law.coefficient_draws[:, 1]
    return {"exponent": interval(draws), "sentence": _forgiving(draws)}


def _forgiving(exponent: Floats) -> str:
    low, high = quantile(exponent, 0.05), quantile(exponent, 0.95)
    said = f"What one octave off costs goes as width to the power {low:.2g} to {high:.2g}"
    if low > 0:
        return f"{said}: wider models forgive less."
    if high < 0:
        return f"{said}: wider models forgive more."
    return f"{said}: no trend beyond noise."
