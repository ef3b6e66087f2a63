"""Numbers and durations as text."""

from __future__ import annotations

import pytest

from hptransfer.system.text import count_text, duration, percent_text, rounded


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.04 s"),
        (1.0, "1 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (80, "80 s"),
        (125, "2.1 min"),
        (2700, "45 min"),
        (5430, "1 h 30 min"),
        (7265, "2 h 01 min"),
    ],
)
def test_a_duration_has_two_or_three_digits(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(808.701, 2, "810"), (0.012345, 2, "0.012"), (1234.5, 2, "1200"), (2.66667, 3, "2.67")],
)
def test_a_rounded_number_has_no_exponent(value: float, digits: int, text: str) -> None:
    assert rounded(value, digits) == text


def test_percentages_have_two_digits_and_counts_three() -> None:
    assert percent_text(808.701) == "810 %"
    assert [count_text(n) for n in (999, 1234, 999_999, 12_345_678)] == [
        *("999", "1.23 K", "1000 K", "12.3 M")
    ]
