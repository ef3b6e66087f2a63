"""Verdict and intervals against planted truth: 144 arms, and slow, 2,000 of each cell."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from hptransfer.analysis.answer.verdict import Verdict
from hptransfer.analysis.laws.law import LawName
from tests.support import planted, planted_arms

STEPS = (0.5, 1.0)
SEEDS = (3, 5, 10)
SLOW_REPEATS = 2000
SLACK = 0.015  # two standard errors of a share of 0.9 in 2,000 arms


def wrong(found: dict[str, Any], classed: str = "verdicts") -> tuple[float, float]:
    """Return the shares of `drifts` where little is lost and of `transfers` where much is."""
    return found[classed]["low"]["drifts"], found[classed]["high"]["transfers"]


@pytest.fixture(scope="module")
def pooled() -> dict[str, Any]:
    """The summary of 24 arms of each shape at three seeds and one octave."""
    cells = [planted.Cell(3, 1.0, shape) for shape in planted.SHAPES]
    return planted_arms.summary([o for cell in cells for o in planted_arms.outcomes(cell, 24)])


def test_the_verdict_is_rarely_wrong_and_mostly_commits(pooled: dict[str, Any]) -> None:
    assert min(pooled["verdicts"][name]["n"] for name in ("low", "high")) > 15
    assert max(wrong(pooled)) <= 0.02
    assert max(wrong(pooled, "by_true_limit")) <= 0.02
    assert pooled["inconclusive"] <= 0.2


def test_the_regret_at_the_target_lies_in_its_interval(pooled: dict[str, Any]) -> None:
    assert 0.85 <= pooled["regret"]["coverage"] <= 0.995
    assert 0.82 <= pooled["regret"]["strictly"] <= 0.98  # 0.90 ± three standard errors
    assert pooled["regret"]["median_width"] < 1.0
    assert pooled["theta"]["coverage"] >= 0.85


def test_a_regret_near_zero_counts_as_covered_only_beside_a_low_end() -> None:
    found = [outcome(0.015, (0.04, 0.2)), outcome(0.015, (0.06, 0.2)), outcome(0.03, (0.04, 0.2))]
    regret = planted_arms.summary(found)["regret"]
    assert (regret["coverage"], regret["strictly"]) == (0.3333, 0.0)
    assert (regret["below"], regret["above"]) == (0.6667, 0.0)


def outcome(regret: float, ends: tuple[float, float]) -> planted_arms.Outcome:
    """An arm whose δ is one."""
    verdict = Verdict.transfers
    return planted_arms.Outcome(LawName.constant, verdict, 1.0, 1.0, regret, -6.0, ends, None)


def test_planted_arms_cost_what_they_should() -> None:
    cell, rng = planted.Cell(3, 1.0, "quadratic"), np.random.default_rng(0)
    for law in LawName:
        arms = [planted_arms.plant(cell, law, rng) for _ in range(40)]
        ratios = []
        for arm in arms:
            optima = [arm.truth.optimum(width) for width in cell.widths]
            assert np.ptp(optima) <= 2 * planted_arms.HALF_RANGE + 1e-9
            assert abs(np.mean([min(optima), max(optima)]) - planted.CENTRE) < 1e-9
            ratios.append(arm.truth.regret(arm.target, float(np.mean(optima))) / arm.limit)
        assert max(ratios) <= planted_arms.FARTHEST + 0.1
        assert (max(ratios) > 0.5) == (law is not LawName.constant)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "step"), [*product(SEEDS, STEPS), (1, 1.0), (2, 1.0), (3, 2.0)])
@pytest.mark.parametrize("shape", planted.SHAPES)
def test_a_cell_holds_what_it_promises(seeds: int, step: float, shape: str) -> None:
    cell = planted.Cell(seeds, step, shape)
    found = planted_arms.summary(planted_arms.outcomes(cell, SLOW_REPEATS, seed=1))
    assert max(wrong(found)) <= 0.02
    assert found["regret"]["coverage"] >= 0.85 - SLACK
    assert found["theta"]["coverage"] >= 0.85 - SLACK
    if seeds in SEEDS and step in STEPS:
        most = 0.99 if shape == "asymmetric" else 0.97  # wider than nominal: see docs/verdicts.md
        assert found["regret"]["strictly"] <= most + SLACK
    if seeds == 3 and step in STEPS:
        assert found["inconclusive"] <= 0.2
