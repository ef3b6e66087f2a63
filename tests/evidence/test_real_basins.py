"""Recorded basins: what some rows predict, the others must bear out."""

from __future__ import annotations

from benchmarks.real_basins import seeds_left_out, summary, widths_left_out
from benchmarks.refine import STUDIES


def test_seeds_and_widths_that_were_left_out_agree_with_the_rest() -> None:
    found = summary([case for f in STUDIES for case in (*seeds_left_out(f), *widths_left_out(f))])
    assert found["seeds"]["with_intervals"] >= 40
    assert found["seeds"]["agree"] >= 0.85 * found["seeds"]["with_intervals"]
    assert found["widths"]["agree"] >= found["widths"]["with_intervals"] - 1 >= 9
    assert found["regret"]["within"] >= found["regret"]["cases"] - 2 >= 8
