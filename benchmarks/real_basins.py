"""Predicted against realised on recorded rows: seeds left out, and widths left out.

    python -m benchmarks.real_basins [--out FILE]

The rows are those of results/studies (four families, three seeds, one-octave grid, widths 24, 48
and 96, and the target's own rows of width 192 under µP) and, for the finer grid, those half-way
between (results/benchmarks/half_octave).

Seeds left out: each seed in turn. Two seeds on the one-octave grid are fitted, and the seed left
out is fitted by itself on the half-octave grid; counted is how often the two optima differ by no
more than 1.645 times the root of the sum of their variances, as their 90 % intervals say.

Widths left out: under µP each of 48, 96 and 192 in turn. The other three widths predict its
optimum and what the emitted value will cost there; its own rows then say. Counted is how often the
optima agree as above, and how often the realised regret of the emitted value lies at or below the
upper end of the predicted one.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import measure
from benchmarks.refine import AXIS, RESULTS, STUDIES
from hptransfer.analysis.answer.estimates import estimate
from hptransfer.analysis.answer.realised import realised_regret
from hptransfer.results.ledger_rows import read_ledger
from hptransfer.results.table import rows_table

COLUMNS = ("left out", "family", "arm", "width", "predicted", "its own", "regret", "upper end")
SEEDS, LEFT_OUT = (0, 1, 2), (48, 96, 192)
SDS = 2 * 1.645  # of a normal's 90 % interval

Interval = dict[str, Any]  # estimate, low, high


def rows_of(family: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a family's rows on the one-octave grid, the target's own too, and those between."""
    study = RESULTS / "studies" / STUDIES[family]
    between = read_ledger(RESULTS / "benchmarks" / "half_octave" / f"{family}.jsonl").rows
    return rows_table([*read_ledger(study).rows, *read_ledger(study / "target").rows]), rows_table(
        between
    )


def fitted(rows: pd.DataFrame, *, target_width: int | None = None) -> dict[str, dict[str, Any]]:
    """Return the arms of a fit by their label."""
    answer = estimate(rows, sweep_name="real", axes=[AXIS], target_width=target_width)
    return {arm["parametrization"]: arm for arm in answer["arms"]}


def seeds_left_out(family: str) -> Iterator[dict[str, Any]]:
    """Compare each seed's own optima with those of the two others."""
    coarse, between = rows_of(family)
    fine = pd.concat([coarse, between], ignore_index=True)
    for seed in SEEDS:
        others = fitted(coarse.loc[(coarse.seed != seed) & (coarse.width < 192)])
        own = fitted(fine.loc[(fine.seed == seed) & (fine.width < 192)])
        for arm in others:
            pairs = zip(others[arm]["optima"], own[arm]["optima"], strict=True)
            for theirs, its in pairs:
                found = {"left_out": f"seed {seed}", "family": family, "arm": arm}
                yield {**found, "width": its["width"], **_compared(_of(theirs), _of(its))}


def widths_left_out(family: str) -> Iterator[dict[str, Any]]:
    """Compare each width's own optimum and regret with what the others predict."""
    coarse, _ = rows_of(family)
    coarse = coarse.loc[coarse.parametrization.isin(["mup", "shared"])]
    for width in LEFT_OUT:
        arm = fitted(coarse.loc[coarse.width != width], target_width=width)["mup"]
        target, own_rows = arm["target"], coarse.loc[coarse.width == width]
        found = {"left_out": "width", "family": family, "arm": "mup", "width": width}
        its = realised_regret(
            own_rows,
            transferred=target["emitted"],
            predicted=target["expected_regret"],
            hp=AXIS,
            width=width,
        )
        yield {
            **found,
            **_compared(_of(target), _of(its["optimum"])),
            "regret": its["regret"],
            "upper_end": target["expected_regret"]["high"],
        }


def _of(entry: dict[str, Any]) -> Interval:
    return {"estimate": entry["optimum"], "low": entry["low"], "high": entry["high"]}


def _compared(predicted: Interval, own: Interval) -> dict[str, Any]:
    """Return both optima, and whether they differ by no more than their intervals allow."""
    both = {"predicted": predicted, "own": own}
    if None in (predicted["low"], own["low"]):
        return {**both, "agree": None}
    sds = [(entry["high"] - entry["low"]) / SDS for entry in (predicted, own)]
    gap = abs(predicted["estimate"] - own["estimate"])
    return {**both, "gap": round(gap, 4), "agree": bool(gap <= 1.645 * math.hypot(*sds))}


def summary(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count the cases that agree, by what was left out."""
    counted = {}
    for name, chosen in (
        ("seeds", [case for case in cases if case["left_out"] != "width"]),
        ("widths", [case for case in cases if case["left_out"] == "width"]),
    ):
        known = [case for case in chosen if case["agree"] is not None]
        counted[name] = {
            "cases": len(chosen),
            "with_intervals": len(known),
            "agree": sum(case["agree"] for case in known),
            "gap": measure.spread([case["gap"] for case in known]),
        }
    judged = [
        case
        for case in cases
        if case.get("upper_end") is not None and case["regret"]["estimate"] is not None
    ]
    below = [case["regret"]["estimate"] <= case["upper_end"] for case in judged]
    return {**counted, "regret": {"cases": len(judged), "within": sum(below)}}


def _cells(case: dict[str, Any]) -> list[str]:
    regret = case.get("regret", {}).get("estimate")
    return [
        *(case[name] for name in ("left_out", "family", "arm")),
        str(case["width"]),
        *(_interval(case[name]) for name in ("predicted", "own")),
        "-" if regret is None else f"{regret:.4f}",
        "-" if case.get("upper_end") is None else f"{case['upper_end']:.4f}",
    ]


def _interval(entry: Interval) -> str:
    if entry["low"] is None:
        return f"{entry['estimate']:.2f}"
    return f"{entry['estimate']:.2f} ({entry['low']:.2f} to {entry['high']:.2f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print the table and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_basins", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "benchmarks" / "real_basins.json")
    arguments = parser.parse_args(argv)
    cases = [case for f in STUDIES for case in (*seeds_left_out(f), *widths_left_out(f))]
    answer = measure.record("real_basins", {"seeds": len(SEEDS)}, measure.machine())
    answer |= {"summary": summary(cases), "cases": cases}
    measure.publish(answer, COLUMNS, [_cells(case) for case in cases], arguments.out)
    print(answer["summary"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
