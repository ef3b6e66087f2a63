"""Basins as text: within the width, in the right column, plain where the terminal is plain."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hptransfer.reporting.text.basins import MARGIN, basins_text
from tests.support.figure_extras import full_estimates
from tests.support.figure_records import bare_arm, many_widths, mup_arm, noiseless_arm, quickstart

ESCAPE = re.compile(r"\x1b\[\d*m")


def drawn(*arms: dict[str, Any], columns: int = 80, **changes: Any) -> list[str]:
    settings = {"unicode": True, "colour": False} | changes
    return basins_text({"arms": list(arms)}, columns=columns, **settings).split("\n")


def column(theta: float, columns: int = 80) -> int:
    """The column of a θ on the axis of the quickstart's records, -10.35 to -2.65."""
    return MARGIN + round((theta + 10.35) / 7.7 * (columns - MARGIN - 1))


@pytest.mark.parametrize("columns", [40, 80, 81, 100, 137])
@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("colour", [True, False])
def test_no_line_is_longer_than_the_terminal(columns: int, unicode: bool, colour: bool):
    arms = [*full_estimates()["arms"], many_widths(), bare_arm(), noiseless_arm()]
    text = basins_text({"arms": arms}, columns=columns, unicode=unicode, colour=colour)
    lengths = [len(ESCAPE.sub("", line)) for line in text.split("\n")]
    assert max(lengths) <= columns
    assert max(lengths) > columns - 4  # and all of it is used


@pytest.mark.parametrize("columns", [80, 100])
def test_optima_intervals_and_the_targets_value_are_in_their_columns(columns: int):
    lines = drawn(mup_arm(), columns=columns)
    bar = next(line for line in lines if line.startswith("B 48"))
    assert bar.index("●") == column(-5.5, columns)
    assert bar.index("├") == column(-5.72, columns)
    assert bar.index("┤") == column(-5.33, columns)
    target = next(line for line in lines if line.startswith("T 192"))
    assert target.index("□") == column(-5.6, columns)
    dots = [line.index("●") for line in lines if "│" in line[:MARGIN] and "●" in line]
    assert sorted(dots) == sorted(column(t, columns) for t in (-5.7, -5.5, -5.6))


def test_lower_losses_are_further_down_and_the_axis_says_theta():
    lines = drawn(mup_arm())
    rows = [i for i, line in enumerate(lines) if "│" in line[:MARGIN] and "●" in line]
    bottom = next(i for i, line in enumerate(lines) if "└" in line)
    assert len(rows) == 3 and all(row < bottom for row in rows)
    narrowest = next(i for i in rows if lines[i].index("●") == column(-5.7))
    assert narrowest == rows[0]  # the narrowest loses most
    ticks = [i for i, character in enumerate(lines[bottom]) if character == "┴"]
    assert ticks == [column(float(t)) for t in range(-10, -2)]
    assert lines[bottom + 1].split() == [f"−{t}" for t in range(10, 2, -1)]


def test_failed_points_and_points_above_are_in_the_line_of_their_width():
    lines = drawn(*quickstart()["arms"])
    widest = [line for line in lines if line.startswith("C 96")][-1]  # of the standard arm
    assert [i for i, c in enumerate(widest) if c == "×"] == [column(-4.0), column(-3.0)]
    narrowest = [line for line in lines if line.startswith("A 24")][-1]
    above = [column(theta) for theta in (-10.0, -9.0, -8.0, -4.0)]
    assert [i for i, c in enumerate(narrowest) if c == "▲"] == above


def test_points_of_several_widths_at_one_place_are_a_star():
    same = mup_arm()
    same["optima"] = [{**same["optima"][0], "width": width} for width in (24, 48, 96)]
    lines = drawn(same)
    stars = [line for line in lines if "│" in line[:MARGIN] and "*" in line[MARGIN:]]
    assert stars and not any(re.search("[A-Z]", line[MARGIN:]) for line in stars)


def test_a_plain_terminal_gets_ascii_and_no_escapes():
    arms = [*quickstart()["arms"], bare_arm()]
    text = "\n".join(drawn(*arms, unicode=False))
    assert text.isascii() and "\x1b" not in text
    assert "uP: transfers" in text and "-5.70 (-5.92 to -5.53)" in text
    assert "\x1b" not in "\n".join(drawn(*arms))


def test_colours_change_nothing_but_the_colour():
    plain, coloured = drawn(mup_arm()), drawn(mup_arm(), colour=True)
    assert [ESCAPE.sub("", line) for line in coloured] == plain
    assert any(f"\x1b[{code}mA" in line for line in coloured for code in (34, 36, 32))


def test_a_censored_optimum_is_marked_and_said():
    lines = drawn(bare_arm())
    assert any("width 64: −10.00 (no interval)" in line for line in lines)
    assert any("on the grid's lower edge" in line for line in lines)
    assert any("◇" in line and line.startswith("A 64") for line in lines)


def test_control_characters_of_an_imported_label_do_not_reach_the_terminal():
    arm = {**mup_arm(), "parametrization": "\x1b]0;evil\x07mine\n"}
    text = "\n".join(drawn(arm))
    assert "\x1b" not in text and "\x07" not in text
    assert "evil?mine?" in text


def test_nothing_to_draw_is_said():
    assert drawn() == ["No arm has a basin to draw yet."]
    assert drawn({**mup_arm(), "optima": []}) == ["No arm has a basin to draw yet."]
