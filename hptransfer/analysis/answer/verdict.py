"""The verdict on a transfer: `extend`, `transfers`, `drifts` or `inconclusive`.

`transfers` needs the `sure` quantiles (95 %) of both regrets within the limit δ. `drifts` needs the
opposite quantile (5 %) of one of them above δ, or a drift whose 90 % interval excludes zero and a
`likely` quantile (25 %) of the deciding regret above δ; the second way finds more real drifts.
docs/verdicts.md counts how often planted arms get a wrong verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from hptransfer.analysis.basins.basin import Basin, Censoring
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.numbers import quantile
from hptransfer.analysis.laws.regret import ArmOptima
from hptransfer.config.sweep import VerdictConfig


class Verdict(Enum):
    """The rule's four answers."""

    transfers = "transfers"
    drifts = "drifts"
    inconclusive = "inconclusive"
    extend = "extend"


@dataclass(frozen=True)
class Evidence:
    """What the verdict rests on. Regrets have shape (draw,)."""

    basins: dict[int, Basin]
    arm_optima: ArmOptima | None
    has_noise: bool
    limit: float | None
    held_out: Floats | None
    at_target: Floats | None  # None where no target was named
    drift: Floats | None  # octaves per width doubling

    @property
    def measured(self) -> list[tuple[str, Floats]]:
        """The regrets at hand, the deciding one last, each with its name."""
        named = [("the widest width (held out)", self.held_out), ("the target", self.at_target)]
        return [(name, regret) for name, regret in named if regret is not None]


@dataclass(frozen=True)
class Decision:
    """The verdict and, in plain words, why and what to do next."""

    verdict: Verdict
    reasons: tuple[str, ...]


def decide(evidence: Evidence, rule: VerdictConfig, *, hp: str) -> Decision:
    """Apply the rule: extend, then what is missing, then drifts, transfers, inconclusive."""
    edges = _edges(evidence.basins, hp, rule.edge_share)
    if edges:
        return Decision(Verdict.extend, edges)
    gap = _gap(evidence)
    if gap:
        return Decision(Verdict.inconclusive, (gap,))
    measured, limit = evidence.measured, evidence.limit
    assert measured and limit is not None, "three usable widths and a limit give a regret"
    drifting = _drifting(evidence, limit, rule)
    if drifting:
        return Decision(Verdict.drifts, drifting)
    open_questions = [(name, r) for name, r in measured if quantile(r, rule.sure) > limit]
    if not open_questions:
        fine = f"within the limit {limit:.3g}"
        return Decision(Verdict.transfers, tuple(f"{_cost(m, rule)}, {fine}." for m in measured))
    between = f"the limit {limit:.3g} lies between"
    reasons = tuple(f"{_cost(m, rule)}; {between}." for m in open_questions)
    action = _action(evidence, only_target=open_questions[0][0] == "the target")
    return Decision(Verdict.inconclusive, (*reasons, action))


def _drifting(evidence: Evidence, limit: float, rule: VerdictConfig) -> tuple[str, ...]:
    """Return why the transfer fails, if it does."""
    worse = [(name, r) for name, r in evidence.measured if quantile(r, 1.0 - rule.sure) > limit]
    if worse:
        return tuple(f"{_cost(m, rule)}, more than the limit {limit:.3g}." for m in worse)
    assert evidence.drift is not None, "two usable widths give a drift"
    low, high = _ends(evidence.drift, rule)
    name, regret = evidence.measured[-1]
    if low <= 0 <= high or quantile(regret, rule.likely) <= limit:
        return ()
    return (
        f"The optimum moves by {low:.2f} to {high:.2f} octaves per width doubling, and at {name} "
        f"a constant value costs more than the limit {limit:.3g} in "
        f"{float((regret > limit).mean()):.0%} of draws.",
    )


def _edges(basins: dict[int, Basin], hp: str, share: float) -> tuple[str, ...]:
    reasons: list[str] = []
    for width, basin in sorted(basins.items()):
        lowest, highest = basin.grid.theta[0], basin.grid.theta[-1]
        reach = 2.0 * basin.grid.step
        if basin.edge_low > share:
            reasons.append(
                f"At width {width} the minimum is at the low end of the grid in "
                f"{basin.edge_low:.0%} of draws: extend {hp} from {lowest:.4g} down to "
                f"{lowest - reach:g}."
            )
        if basin.edge_high > share:
            reasons.append(
                f"At width {width} the minimum is at the high end of the grid in "
                f"{basin.edge_high:.0%} of draws: extend {hp} from {highest:.4g} up to "
                f"{highest + reach:g}."
            )
    return tuple(reasons)


def _gap(evidence: Evidence) -> str | None:
    count = 0 if evidence.arm_optima is None else len(evidence.arm_optima.widths)
    if count < 3:
        return f"A verdict needs three usable widths, but the sweep has {count}: add widths."
    if not evidence.has_noise:
        return "There is no noise estimate: add seeds (two or more), or points near the minimum."
    if evidence.arm_optima is not None and not evidence.arm_optima.high_side_seen:
        return (
            "Above the minimum every trial failed at every width, so what a value too high costs "
            "is unknown: refine the grid between the best point and the first failed one."
        )
    if evidence.limit is None:
        return "Neither run-to-run noise nor the gain of width gives a limit: set a largest regret."
    return None


def _action(evidence: Evidence, *, only_target: bool) -> str:
    arm_optima = evidence.arm_optima
    assert arm_optima is not None
    bracketed = [w for w, b in evidence.basins.items() if b.censored is Censoring.divergence]
    if bracketed:
        return f"Do next: refine the grid below the first failed point at width {bracketed[-1]}."
    if only_target:
        return "Do next: add a width nearer to the target; the extrapolation is what is uncertain."
    if arm_optima.fit_sd > arm_optima.model_sd:
        return "Do next: add seeds; noise is the larger part of the optima's errors."
    return "Do next: refine the grid; its step is the larger part of the optima's errors."


def _ends(draws: Floats, rule: VerdictConfig) -> tuple[float, float]:
    return quantile(draws, 1.0 - rule.sure), quantile(draws, rule.sure)


def _cost(measured: tuple[str, Floats], rule: VerdictConfig) -> str:
    name, regret = measured
    low, high = _ends(regret, rule)
    if np.isinf(low):
        return f"At {name} a constant value lies beyond the cliff: an infinite regret"
    highest = "beyond the cliff" if np.isinf(high) else format(high, ".3g")
    return f"At {name} a constant value costs {low:.3g} to {highest}"
