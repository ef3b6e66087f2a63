"""Basins as text: within the width, in the right column, plain where the terminal is plain."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hptransfer.reporting.figures.basins import basins_data
from hptransfer.reporting.text.basins import MARGIN, basins_text
from tests.support.figure_records import bare, many_widths, noiseless, over_depth, study

ESCAPE = re.compile(r"\x1b\[\d*m")


def drawn(*arms: dict[str, Any], columns: int = 80, **changes: Any) -> list[str]:
    settings = {"unicode": True, "colour": False} | changes
    return basins_text({"arms": list(arms)}, columns=columns, **settings).split("\n")


def mup() -> dict[str, Any]:
    """The µP arm of the quickstart."""
    return study()["arms"][0]


def column(theta: float, columns: int = 80) -> int:
    """The column of a point on the axis of the quickstart's rates, -10.35 to -2.65."""
    return MARGIN + round((theta + 10.35) / 7.7 * (columns - MARGIN - 1))


@pytest.mark.parametrize("columns", [40, 80, 81, 100, 137])
@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("colour", [True, False])
def test_no_line_is_longer_than_the_terminal(columns: int, unicode: bool, colour: bool):
    arms = [a for told in (study(), many_widths(), bare(), noiseless()) for a in told["arms"]]
    text = basins_text({"arms": arms}, columns=columns, unicode=unicode, colour=colour)
    lengths = [len(ESCAPE.sub("", line)) for line in text.split("\n")]
    assert max(lengths) <= columns
    assert max(lengths) > columns - 4  # and all of it is used


@pytest.mark.parametrize("columns", [80, 100])
def test_optima_intervals_and_the_targets_value_are_in_their_columns(columns: int):
    arm = mup()
    lines = drawn(arm, columns=columns)
    bar = next(line for line in lines if line.startswith("B 48"))
    told = arm["optima"][1]
    assert bar.index("●") == column(told["optimum"], columns)
    assert bar.index("├") == column(told["low"], columns)
    assert bar.index("┤") == column(told["high"], columns)
    target = next(line for line in lines if line.startswith("T 192"))
    assert target.index("□") == column(arm["target"]["emitted"], columns)
    dots = [line.index("●") for line in lines if "│" in line[:MARGIN] and "●" in line]
    assert sorted(dots) == sorted(column(o["optimum"], columns) for o in arm["optima"])


def test_lower_losses_are_further_down_and_the_axis_says_theta():
    lines = drawn(mup())
    rows = [i for i, line in enumerate(lines) if "│" in line[:MARGIN] and "●" in line]
    bottom = next(i for i, line in enumerate(lines) if "└" in line)
    assert len(rows) == 3 and all(row < bottom for row in rows)
    narrowest = next(
        i for i in rows if lines[i].index("●") == column(mup()["optima"][0]["optimum"])
    )
    assert narrowest == rows[0]  # the narrowest loses most
    ticks = [i for i, character in enumerate(lines[bottom]) if character == "┴"]
    assert ticks == [column(float(t)) for t in range(-10, -2)]
    assert lines[bottom + 1].split() == [f"−{t}" for t in range(10, 2, -1)]


def test_failed_points_and_points_above_are_in_the_line_of_their_width():
    arms = study()["arms"]
    lines = drawn(*arms)
    widest = [line for line in lines if line.startswith("C 96")][-1]  # of the standard arm
    assert [i for i, c in enumerate(widest) if c == "×"] == [column(-4.0), column(-3.0)]
    narrowest = [line for line in lines if line.startswith("A 24")][-1]
    panel = basins_data({"arms": arms})[1]
    above = [column(theta) for theta in panel.curves[0].above]
    assert above
    assert [i for i, c in enumerate(narrowest) if c == "▲"] == above


def test_points_of_several_widths_at_one_place_are_a_star():
    same = mup()
    same["optima"] = [{**same["optima"][0], "width": width} for width in (24, 48, 96)]
    lines = drawn(same)
    stars = [line for line in lines if "│" in line[:MARGIN] and "*" in line[MARGIN:]]
    assert stars and not any(re.search("[A-Z]", line[MARGIN:]) for line in stars)


def test_a_plain_terminal_gets_ascii_and_no_escapes():
    arms = [*study()["arms"], *bare()["arms"]]
    text = "\n".join(drawn(*arms, unicode=False))
    assert text.isascii() and "\x1b" not in text
    told = mup()["optima"][0]
    assert "uP: transfers" in text
    assert f"{told['optimum']:.2f} ({told['low']:.2f} to {told['high']:.2f})" in text
    assert "\x1b" not in "\n".join(drawn(*arms))


def test_a_panel_stands_below_the_arms_headline() -> None:
    lines = drawn(*study()["arms"], columns=60)
    for arm, name in zip(study()["arms"], ("µP", "standard"), strict=True):
        (title,) = [i for i, line in enumerate(lines) if line.startswith(f"{name}: ")]
        said = " ".join(lines[:title])
        assert said.endswith(" ".join(arm["headline"].split()))


def test_colours_change_nothing_but_the_colour():
    plain, coloured = drawn(mup()), drawn(mup(), colour=True)
    assert [ESCAPE.sub("", line) for line in coloured] == plain
    assert any(f"\x1b[{code}mA" in line for line in coloured for code in (34, 36, 32))


def test_a_censored_optimum_is_marked_and_said():
    lines = drawn(*bare()["arms"])
    assert any("width 64: −10.00 (no interval)" in line for line in lines)
    assert any("on the grid's lower edge" in line for line in lines)
    assert any("◇" in line and line.startswith("A 64") for line in lines)


def test_control_characters_of_an_imported_label_do_not_reach_the_terminal():
    arm = {**mup(), "parametrization": "\x1b]0;evil\x07mine\n"}
    text = "\n".join(drawn(arm))
    assert "\x1b" not in text and "\x07" not in text
    assert "evil?mine?" in text


def test_nothing_to_draw_is_said():
    assert drawn() == ["There is nothing to draw yet, because no width has a fitted curve."]
    assert drawn({**mup(), "optima": []}) == [
        "There is nothing to draw yet, because no width has a fitted curve."
    ]


def test_an_answer_along_the_depth_names_depths() -> None:
    lines = drawn(*over_depth()["arms"])
    assert any(line.startswith("B 4 ") for line in lines)
    assert any(line.startswith(" B depth 4: ") for line in lines)
