"""Numbers and durations as text."""

from __future__ import annotations

import pytest

from hptransfer.system.text import duration


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
